package rpc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/wire"
)

// maxUnixPath is the longest path that a unix socket may have, in bytes (unix(7)).
const maxUnixPath = 107

// splitAddr returns network and address of "HOST:PORT" or "unix:PATH".
func splitAddr(addr string) (network, address string, err error) {
	bad := func(text string) (string, string, error) {
		return "", "", &wire.Error{Code: wire.CodeInvalid, Name: addr, Text: text}
	}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		switch {
		case path == "" || path[0] == '@':
			return bad("want unix:PATH with the path of a socket")
		case len(path) > maxUnixPath:
			return bad(fmt.Sprintf("a unix socket's path may have %d bytes: choose a shorter one", maxUnixPath))
		}
		return "unix", path, nil
	}
	if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
		return bad("not an address: want HOST:PORT or unix:PATH")
	}
	return "tcp", addr, nil
}

// Listen opens a listener on "HOST:PORT" or "unix:PATH". An address that is
// not loopback is refused unless insecure (W4). A socket file that nobody
// listens on is replaced; the new one is for this user only. Errors are
// *wire.Error and say what to do.
func Listen(addr string, insecure bool) (net.Listener, error) {
	network, address, err := splitAddr(addr)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		return listenUnix(addr, address)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &wire.Error{Code: wire.CodeInvalid, Name: addr, Text: err.Error()}
	}
	if !insecure {
		if err := checkLoopback(addr, host); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, listenError(addr, err)
	}
	return l, nil
}

func checkLoopback(addr, host string) error {
	refused := &wire.Error{Code: wire.CodePermission, Name: addr, Text: "not a loopback address: anybody who reaches it could read and write everything; use 127.0.0.1 or unix:PATH, --tls FILE to encrypt and know who calls, or --insecure to open it all the same"}
	if host == "" {
		return refused
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return &wire.Error{Code: wire.CodeInvalid, Name: addr, Text: "cannot find that host: " + err.Error()}
	}
	for _, ip := range ips {
		if !ip.IP.IsLoopback() {
			return refused
		}
	}
	return nil
}

func listenError(addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return &wire.Error{Code: wire.CodeBusy, Op: "listen", Name: addr, Text: "address already in use: stop what listens there, or choose another address"}
	case errors.Is(err, fs.ErrPermission):
		return &wire.Error{Code: wire.CodeAccess, Op: "listen", Name: addr, Text: "choose a port above 1023 or a directory that you may write"}
	case errors.Is(err, fs.ErrNotExist):
		return &wire.Error{Code: wire.CodeNotExist, Op: "listen", Name: addr, Text: "the socket's directory does not exist: make it, or choose another"}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return &wire.Error{Code: wire.CodeInvalid, Op: "listen", Name: addr, Text: "this machine does not have that address"}
	}
	return &wire.Error{Code: wire.CodeIO, Op: "listen", Name: addr, Text: err.Error()}
}

// listenUnix holds a lock on the socket's directory from the look at an old
// socket file to the new one, or two processes that start at once would each
// remove the other's.
func listenUnix(addr, path string) (net.Listener, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, listenError(addr, err)
	}
	defer dir.Close() // only read, and locked
	if err := lockSoon(int(dir.Fd())); err != nil {
		return nil, listenError(addr, err)
	}
	if err := removeStale(addr, path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		// The mode of the socket is, with the umask, that of the file that
		// bind makes: nobody else can connect, not even for a moment.
		if e := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); e != nil {
			return e
		}
		return err
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, listenError(addr, err)
	}
	return l, nil
}

// lockSoon takes a lock that is held for moments only.
func lockSoon(fd int) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for range 200 {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		<-ticker.C
	}
	return errors.New("another process keeps the socket's directory locked")
}

func removeStale(addr, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return listenError(addr, err)
	case info.Mode().Type() != fs.ModeSocket:
		return &wire.Error{Code: wire.CodeExist, Op: "listen", Name: addr, Text: "there is a file of that name that is no socket: remove it, or choose another path"}
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close() // nothing was sent
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return listenError(addr, syscall.EADDRINUSE)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return listenError(addr, err)
	}
	return nil
}
