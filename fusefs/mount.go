package fusefs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"tpcfs/wire"
)

const (
	fuseDevice = "/dev/fuse"
	fsType     = "fuse.tpcfs"
	maxWrite   = 1 << 20 // bytes of a READ or WRITE
	probeWait  = 3 * time.Second
	leaveWait  = 3 * time.Second // for the kernel to end the connection of what is unmounted and not in use
)

// Mounted is a mount that is being served.
type Mounted struct {
	fs       *fileSystem
	server   *fuse.Server
	point    string
	device   string        // major:minor
	aborter  *os.File      // ends the connection; nil: that cannot be had
	readonly bool          // nothing to flush
	done     chan struct{} // closed when all goroutines are gone
	served   atomic.Bool   // the kernel's connection is gone

	mu       sync.Mutex // guards detached; held while the mount point is unmounted
	detached bool
}

// Mount mounts the service's tree at an existing directory and serves it. It
// returns when the mount point is usable by other processes; this process
// must not touch it. Errors are *wire.Error.
func Mount[C Content](mountpoint string, c Client[C], o Options) (*Mounted, error) {
	return mount(mountpoint, adapter[C]{c}, o)
}

func mount(mountpoint string, c service, o Options) (*Mounted, error) {
	point, err := checkPoint(mountpoint)
	if err != nil {
		return nil, err
	}
	if err := o.validate(point); err != nil {
		return nil, err
	}
	if err := checkDevice(); err != nil {
		return nil, err
	}
	if o.UID != nil || o.GID != nil {
		c = owned{c, o.UID, o.GID}
	}
	m := &Mounted{fs: newFileSystem(c, o), point: point, readonly: o.ReadOnly, done: make(chan struct{})}
	watch, err := m.attach(o)
	if err != nil {
		m.fs.abandon()
		return nil, err
	}
	m.device = deviceOf(point)
	m.aborter = openAborter(m.device)
	m.fs.lendTo(m.server)
	m.raiseReadAhead()
	m.fs.start()
	if watch >= 0 {
		m.fs.wg.Go(func() { m.watch(watch) })
	}
	go m.serve()
	return m, nil
}

// serve owns every goroutine of the mount: when it ends, all have.
func (m *Mounted) serve() {
	defer close(m.done)
	m.server.Serve()
	m.served.Store(true)
	m.fs.finish()
	if m.aborter != nil {
		_ = m.aborter.Close()
	}
}

// watch tells the handlers when the kernel's end is gone, so that one that
// waits for an absent service does not keep the mount alive.
func (m *Mounted) watch(fd int) {
	for !m.served.Load() {
		list := []unix.PollFd{{Fd: int32(fd)}}
		if n, err := unix.Poll(list, 200); n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = unix.Close(fd)
	m.fs.disconnect()
}

// attach mounts and answers the kernel's first request. It returns a
// descriptor that shows the end of the connection, or -1.
func (m *Mounted) attach(o Options) (watch int, err error) {
	options := serverOptions(m.fs, o)
	if os.Geteuid() != 0 {
		if o.ReadOnly {
			options.Options = append(options.Options, "ro")
		}
		if o.NoExec {
			options.Options = append(options.Options, "noexec")
		}
		m.server, err = fuse.NewServer(m.fs, m.point, options)
		if err != nil {
			return -1, mountError(wire.CodeIO, m.point, "mounting with fusermount3 failed: "+err.Error())
		}
		return -1, nil
	}
	fd, err := mountDirect(m.point, o)
	if err != nil {
		return -1, err
	}
	watch, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		// F8: /dev/fd/N, without DirectMount, is "already mounted on N".
		m.server, err = fuse.NewServer(m.fs, fmt.Sprintf("/dev/fd/%d", fd), options)
	}
	if err != nil {
		err = mountError(wire.CodeIO, m.point, "the kernel's first request failed: "+err.Error())
		return -1, errors.Join(err, detach(m.point, true))
	}
	return watch, nil
}

func serverOptions(f *fileSystem, o Options) *fuse.MountOptions {
	level := slog.LevelWarn
	if o.Debug {
		level = slog.LevelDebug
	}
	return &fuse.MountOptions{
		Name: "tpcfs", FsName: "tpcfs", AllowOther: o.AllowOther, Options: []string{"default_permissions"},
		MaxWrite: maxWrite, MaxReadAhead: maxWrite, MaxBackground: o.MaxBackground,
		DisableSplice: true, EnableLocks: true,
		ExtraCapabilities: fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_HANDLE_KILLPRIV_V2,
		Logger:            slog.NewLogLogger(o.Logger.Handler(), level), Debug: o.Debug,
		PanicHandler: f.panicked,
	}
}

// mountDirect opens the device and calls mount(2). The descriptor is closed
// in children: one that kept it would keep a dead mount's callers waiting.
func mountDirect(point string, o Options) (int, error) {
	fd, err := unix.Open(fuseDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, mountError(wire.CodeIO, fuseDevice, "cannot be opened: "+err.Error()+"; load the module (modprobe fuse), or give the container the device")
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,max_read=%d,default_permissions",
		fd, os.Geteuid(), os.Getegid(), maxWrite)
	if o.AllowOther {
		data += ",allow_other"
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if o.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	if o.NoExec {
		flags |= unix.MS_NOEXEC
	}
	if err := unix.Mount("tpcfs", point, fsType, flags, data); err != nil {
		_ = unix.Close(fd)
		text := "mount(2): " + err.Error()
		if errors.Is(err, unix.EPERM) {
			text += ": mounting as root needs CAP_SYS_ADMIN; in a container, add it"
		}
		return -1, mountError(wire.CodePermission, point, text)
	}
	return fd, nil
}

// Done is closed when the mount has ended: unmounted by whomever, everything
// gathered committed or given up, all goroutines gone.
func (m *Mounted) Done() <-chan struct{} { return m.done }

// Wait waits for Done.
func (m *Mounted) Wait() { <-m.done }

// Panics counts the requests whose handlers panicked and were answered EIO.
func (m *Mounted) Panics() uint64 { return m.fs.panics.Load() }

// Requests counts what the kernel has asked, but what it only tells (Forget) and
// what is answered from memory (opendir).
func (m *Mounted) Requests() uint64 { return m.fs.requests.Load() }

// Unmount commits what is gathered, for up to FlushWait, and unmounts; lazily
// if somebody is in the tree: the mount point is free then, and the serving
// goes on until they have left, or the last copy of the mount in another mount
// namespace has gone (Done). An error names files whose writes could not
// be committed: serving them goes on too (Done) unless Close gives them up.
func (m *Mounted) Unmount() error {
	ctx, cancel := context.WithTimeout(context.Background(), m.fs.o.FlushWait)
	defer cancel()
	unsaved := m.fs.commitAll(ctx)
	lazy, err := m.detach()
	if err != nil {
		return err
	}
	if unsaved == nil && !lazy {
		select {
		case <-m.done:
		case <-time.After(leaveWait): // another mount namespace has a copy
		}
	}
	return unsaved
}

// Close unmounts, ends the kernel's connection at once (open files answer
// ENOTCONN), gives up what is not committed and waits for all goroutines. An
// error says how much was given up since Mount. After a successful Unmount, or
// Done, there is nothing left to do but to tell that.
func (m *Mounted) Close() error {
	m.mu.Lock()
	if !m.abort() && !m.detached && deviceOf(m.point) == m.device {
		_ = unix.Unmount(m.point, unix.MNT_FORCE) // ends the connection; fails with EBUSY all the same
	}
	m.mu.Unlock()
	_, err := m.detach()
	m.fs.giveUp()
	<-m.done
	return errors.Join(err, m.fs.lossError())
}

// abort ends the connection, if that is still there; false: it cannot be. It works for a
// mount that was detached while busy, too, for which MNT_FORCE comes too late.
func (m *Mounted) abort() bool {
	if m.aborter == nil {
		return m.served.Load()
	}
	_, err := m.aborter.Write([]byte("1"))
	return err == nil || m.served.Load()
}

// openAborter opens the control file of a mount's connection. It is named by the
// device's number, which is another mount's when this one has gone: opened
// now it is this connection's for good, and does nothing after its end.
func openAborter(device string) *os.File {
	_, minor, _ := strings.Cut(device, ":")
	if minor == "" {
		return nil
	}
	name := filepath.Join(minor, "abort")
	f, err := os.OpenFile(filepath.Join("/sys/fs/fuse/connections", name), os.O_WRONLY, 0)
	if err == nil || os.Geteuid() != 0 {
		return f
	}
	dir, err := os.MkdirTemp("", "tpcfs-fusectl-*") // the control file system is not mounted everywhere
	if err != nil {
		return nil
	}
	if unix.Mount("fusectl", dir, "fusectl", 0, "") == nil {
		f, _ = os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
	_ = os.Remove(dir)
	return f
}

// detach unmounts once, lazily when busy.
func (m *Mounted) detach() (lazy bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.detached || deviceOf(m.point) != m.device {
		return false, nil // done, by whomever
	}
	err = detach(m.point, false)
	if err != nil {
		lazy, err = true, detach(m.point, true)
	}
	m.detached = err == nil
	return lazy, err
}

// Unmount unmounts a tpcfs mount point, of this process or another's. When
// somebody is in the tree it is an error unless lazy is set.
func Unmount(mountpoint string, lazy bool) error {
	point, err := resolve(mountpoint)
	if err != nil {
		return unmountError(wire.CodeNotExist, mountpoint, err.Error())
	}
	on, ok := topmost(mounts(), point)
	if !ok || on.fsType != fsType {
		return unmountError(wire.CodeInvalid, mountpoint, "is not a tpcfs mount point")
	}
	return detach(point, lazy)
}

func detach(point string, lazy bool) error {
	if os.Geteuid() != 0 {
		args := []string{"-u", point}
		if lazy {
			args = []string{"-u", "-z", point}
		}
		out, err := exec.Command("fusermount3", args...).CombinedOutput()
		if err != nil {
			return unmountError(wire.CodeBusy, point, strings.TrimSpace(string(out)+" ("+err.Error()+")"))
		}
		return nil
	}
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	if err := unix.Unmount(point, flags); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return unmountError(wire.CodeBusy, point, "somebody is in it: leave it, or unmount lazily")
		}
		return unmountError(wire.CodeIO, point, err.Error())
	}
	return nil
}

// checkPoint resolves a mount point and clears what a dead mount left there.
func checkPoint(mountpoint string) (string, error) {
	point, err := resolve(mountpoint)
	if err != nil {
		return "", mountError(wire.CodeNotExist, mountpoint, err.Error())
	}
	if on, ok := topmost(mounts(), point); ok && strings.HasPrefix(on.fsType, "fuse.") {
		if err := clearStale(point, on); err != nil {
			return "", err
		}
	}
	info, err := os.Lstat(point)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", mountError(wire.CodeNotExist, mountpoint, "make the directory first: mkdir -p "+mountpoint)
	case err != nil:
		return "", mountError(wire.CodeIO, mountpoint, err.Error())
	case !info.IsDir():
		return "", mountError(wire.CodeNotDir, mountpoint, "a mount point is a directory")
	}
	return point, nil
}

// clearStale unmounts what a process that died left mounted (F6); a mount
// that is alive is an error. One whose service does not answer is alive: the
// probe's goroutine ends when it does.
func clearStale(point string, on mounted) error {
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answer <- unix.Statfs(point, &st) // the kernel knows no answer of its own, as to stat(2)
	}()
	var err error
	timer := time.NewTimer(probeWait)
	defer timer.Stop()
	select {
	case err = <-answer:
	case <-timer.C:
	}
	if !errors.Is(err, unix.ENOTCONN) {
		return mountError(wire.CodeBusy, point, "something is mounted there already ("+on.fsType+"): unmount it, or choose another directory")
	}
	if on.fsType != fsType {
		return mountError(wire.CodeBusy, point, "a dead mount of another file system ("+on.fsType+") is there: unmount it first (umount -l "+point+")")
	}
	return detach(point, true)
}

// resolve makes a mount point absolute and free of symbolic links without a
// question to what is mounted at it.
func resolve(mountpoint string) (string, error) {
	if mountpoint == "" {
		return "", errors.New("no mount point is named")
	}
	abs, err := filepath.Abs(mountpoint)
	if err != nil {
		return "", err
	}
	if _, ok := topmost(mounts(), abs); ok {
		return abs, nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", err
	}
	point := filepath.Join(dir, filepath.Base(abs))
	if _, ok := topmost(mounts(), point); ok {
		return point, nil
	}
	if real, err := filepath.EvalSymlinks(point); err == nil {
		return real, nil
	}
	return point, nil // what is wrong with it shows later
}

func mounts() []mounted {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil // no /proc: nothing is known to be mounted, mount(2) will tell
	}
	return parseMountinfo(string(text))
}

func deviceOf(point string) string {
	on, _ := topmost(mounts(), point)
	return on.device
}

func checkDevice() error {
	if _, err := os.Stat(fuseDevice); err != nil {
		return mountError(wire.CodeNotExist, fuseDevice, "this machine has no FUSE: install it (apt install fuse3) and load the module (modprobe fuse); a container needs --device /dev/fuse")
	}
	if os.Geteuid() != 0 {
		if _, err := exec.LookPath("fusermount3"); err != nil {
			return mountError(wire.CodeNotExist, "fusermount3", "mounting without root needs it: apt install fuse3")
		}
	}
	return nil
}

// raiseReadAhead lifts the kernel's 128 KiB (F8). Only root may: without it
// sequential reads are slower, nothing else.
func (m *Mounted) raiseReadAhead() {
	if m.device == "" || os.Geteuid() != 0 {
		return
	}
	name := "/sys/class/bdi/" + m.device + "/read_ahead_kb"
	if err := os.WriteFile(name, []byte(fmt.Sprint(maxWrite>>10)), 0); err != nil {
		m.fs.log.Debug("read-ahead stays as it is", "err", err)
	}
}

// panicked is called in the handler's goroutine.
func (f *fileSystem) panicked(what any) fuse.Status {
	f.panics.Add(1)
	f.log.Error("a request's handler panicked; it is answered EIO", "panic", what, "stack", string(debug.Stack()))
	return fuse.Status(syscall.EIO)
}

func mountError(code wire.Code, name, text string) *wire.Error {
	return &wire.Error{Code: code, Op: "mount", Name: name, Text: text}
}

func unmountError(code wire.Code, name, text string) *wire.Error {
	return &wire.Error{Code: code, Op: "unmount", Name: name, Text: text}
}
