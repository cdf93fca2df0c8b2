//go:build linux && !race

package rpc

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// direct reads and writes a socket, which never blocks, without telling the
// scheduler that a system call begins: told so, it wakes its monitor thread in a
// process that was idle, two switches of threads for each message that comes.
// (With the race detector there is none: that follows what is passed by the
// ordinary calls.)
//
// One goroutine may read while another writes.
type direct struct {
	c   net.Conn
	raw syscall.RawConn

	in, out       transfer
	tryIn, tryOut func(fd uintptr) bool // methods of the two, made once
}

// transfer is one read or write.
type transfer struct {
	call uintptr // its number
	all  bool    // until nothing is left
	b    []byte
	n    int
	err  syscall.Errno
}

// newDirect is nil if c is no socket of the kernel's.
func newDirect(c net.Conn) *direct {
	switch c.(type) {
	case *net.UnixConn, *net.TCPConn:
	default:
		return nil
	}
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	d := &direct{c: c, raw: raw, in: transfer{call: syscall.SYS_READ}, out: transfer{call: syscall.SYS_WRITE, all: true}}
	d.tryIn, d.tryOut = d.in.try, d.out.try
	return d
}

// try does what can be done without waiting; false: it is to be called again
// when there is more.
func (t *transfer) try(fd uintptr) bool {
	for {
		n, _, err := syscall.RawSyscall(t.call, fd, uintptr(unsafe.Pointer(&t.b[t.n])), uintptr(len(t.b)-t.n))
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return false
		case err != 0:
			t.err = err
			return true
		}
		if t.n += int(n); n == 0 || !t.all || t.n == len(t.b) {
			return true
		}
	}
}

// do makes one transfer of b, as try does it when wait calls it.
func (d *direct) do(t *transfer, op string, b []byte, wait func(func(fd uintptr) bool) error, try func(fd uintptr) bool) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	t.b, t.n, t.err = b, 0, 0
	err := wait(try)
	n := t.n
	t.b = nil
	if e, ok := err.(*net.OpError); ok { //nolint:errorlint // RawConn returns it as it is
		e.Op = op
	} else if err == nil && t.err != 0 {
		err = &net.OpError{Op: op, Net: d.c.LocalAddr().Network(), Source: d.c.LocalAddr(), Addr: d.c.RemoteAddr(), Err: os.NewSyscallError(op, t.err)}
	}
	return n, err
}

func (d *direct) read(b []byte) (int, error) {
	n, err := d.do(&d.in, "read", b, d.raw.Read, d.tryIn)
	if n == 0 && err == nil && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

func (d *direct) write(b []byte) (int, error) {
	return d.do(&d.out, "write", b, d.raw.Write, d.tryOut)
}
