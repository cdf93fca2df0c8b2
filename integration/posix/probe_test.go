package posix

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probe makes system calls in its working directory and writes down what they
// answer, a line each: "call(arguments) = outcome".
type probe struct {
	out bytes.Buffer
	fds map[int]string // the descriptors' names in the lines
}

// runTable runs every case in a directory of its own below dir, and prints
// the lines of each after a line with its name.
func runTable(dir string) error {
	signal.Ignore(syscall.SIGXFSZ)
	unix.Umask(0o022)
	for _, c := range cases {
		sub := dir + "/" + strings.ReplaceAll(c.name, " ", "-")
		if err := unix.Mkdir(sub, 0o755); err != nil {
			return fmt.Errorf("%s: %w", sub, err)
		}
		if err := unix.Chdir(sub); err != nil {
			return err
		}
		p := &probe{fds: map[int]string{}}
		c.run(p)
		fmt.Printf("## %s\n%s", c.name, p.out.Bytes())
		for fd := range p.fds {
			_ = unix.Close(fd)
		}
	}
	return unix.Chdir("/")
}

func result(v any, err error) string {
	if err == nil {
		return fmt.Sprint(v)
	}
	if errno, ok := err.(syscall.Errno); ok {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// say writes a line down.
func (p *probe) say(call, outcome string) { fmt.Fprintf(&p.out, "%s = %s\n", call, outcome) }

func short(args []any) string {
	var list []string
	for _, a := range args {
		s := fmt.Sprint(a)
		if len(s) > 60 {
			s = fmt.Sprintf("%s...%d", s[:20], len(s))
		}
		list = append(list, s)
	}
	return strings.Join(list, ", ")
}

// do writes down a call that has no answer but its error.
func (p *probe) do(call string, err error, args ...any) (ok bool) {
	p.say(fmt.Sprintf("%s(%s)", call, short(args)), result("ok", err))
	return err == nil
}

// num writes down a call that answers a number.
func (p *probe) num(call string, n int64, err error, args ...any) int64 {
	p.say(fmt.Sprintf("%s(%s)", call, short(args)), result(n, err))
	return n
}

// name is a descriptor's, whose number may differ from run to run: the test may leave
// this process one of another's.
func (p *probe) name(fd int) string {
	switch name, ok := p.fds[fd]; {
	case ok:
		return "<" + name + ">"
	case fd >= 0:
		return "<closed>"
	default:
		return fmt.Sprint(fd)
	}
}

var openFlags = []struct {
	flag int
	name string
}{
	{unix.O_TMPFILE, "TMPFILE"}, {unix.O_WRONLY, "WRONLY"}, {unix.O_RDWR, "RDWR"}, {unix.O_CREAT, "CREAT"}, {unix.O_EXCL, "EXCL"}, {unix.O_TRUNC, "TRUNC"},
	{unix.O_APPEND, "APPEND"}, {unix.O_DIRECTORY, "DIRECTORY"}, {unix.O_NOFOLLOW, "NOFOLLOW"}, {unix.O_PATH, "PATH"}, {unix.O_SYNC, "SYNC"},
	{unix.O_DIRECT, "DIRECT"}, {unix.O_NOATIME, "NOATIME"}, {unix.O_NONBLOCK, "NONBLOCK"},
}

func flagNames(flags int) string {
	var list []string
	for _, f := range openFlags {
		if flags&f.flag == f.flag {
			list = append(list, f.name)
			flags &^= f.flag
		}
	}
	if len(list) == 0 {
		return "RDONLY"
	}
	return strings.Join(list, "|")
}

const procFD = "/proc/self/fd/"

func (p *probe) open(name string, flags int, mode uint32) int {
	fd, err := unix.Open(name, flags|unix.O_CLOEXEC, mode)
	if rest, ok := strings.CutPrefix(name, procFD); ok {
		if n, err := strconv.Atoi(rest); err == nil {
			name = procFD + p.name(n)
		}
	}
	p.do("open", err, name, flagNames(flags), fmt.Sprintf("%#o", mode))
	if err != nil {
		return -1
	}
	p.fds[fd] = name
	return fd
}

func (p *probe) close(fd int) {
	p.do("close", unix.Close(fd), p.name(fd))
	delete(p.fds, fd)
}

// file makes a file with contents, without a line.
func (p *probe) file(name, contents string) {
	if err := os.WriteFile(name, []byte(contents), 0o644); err != nil {
		p.do("make", err, name)
	}
}

func (p *probe) mkdir(name string, mode uint32) {
	p.do("mkdir", unix.Mkdir(name, mode), name, fmt.Sprintf("%#o", mode))
}
func (p *probe) rmdir(name string)   { p.do("rmdir", unix.Rmdir(name), name) }
func (p *probe) unlink(name string)  { p.do("unlink", unix.Unlink(name), name) }
func (p *probe) rename(a, b string)  { p.do("rename", unix.Rename(a, b), a, b) }
func (p *probe) link(a, b string)    { p.do("link", unix.Link(a, b), a, b) }
func (p *probe) symlink(a, b string) { p.do("symlink", unix.Symlink(a, b), a, b) }
func (p *probe) chmod(name string, mode uint32) {
	p.do("chmod", unix.Chmod(name, mode), name, fmt.Sprintf("%#o", mode))
}
func (p *probe) chown(name string, uid, gid int) {
	p.do("chown", unix.Chown(name, uid, gid), name, uid, gid)
}
func (p *probe) truncate(name string, n int64) { p.do("truncate", unix.Truncate(name, n), name, n) }
func (p *probe) ftruncate(fd int, n int64)     { p.do("ftruncate", unix.Ftruncate(fd, n), p.name(fd), n) }
func (p *probe) access(name string, mode uint32) {
	p.do("access", unix.Access(name, mode), name, mode)
}
func (p *probe) fsync(fd int) { p.do("fsync", unix.Fsync(fd), p.name(fd)) }
func (p *probe) mknod(name string, mode uint32, dev uint64) {
	p.do("mknod", unix.Mknod(name, mode, int(dev)), name, fmt.Sprintf("%#o", mode), dev)
}
func (p *probe) renameat2(a, b string, flags uint) {
	p.do("renameat2", unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, flags), a, b, flags)
}

func (p *probe) readlink(name string) {
	b := make([]byte, 8192)
	n, err := unix.Readlink(name, b)
	p.say("readlink("+short([]any{name})+")", result(short([]any{string(b[:max(n, 0)])}), err))
}

func (p *probe) write(fd int, s string) {
	n, err := unix.Write(fd, []byte(s))
	p.num("write", int64(n), err, p.name(fd), s)
}

func (p *probe) pwrite(fd int, s string, off int64) {
	n, err := unix.Pwrite(fd, []byte(s), off)
	p.num("pwrite", int64(n), err, p.name(fd), s, off)
}

func (p *probe) read(fd, n int) {
	b := make([]byte, n)
	n, err := unix.Read(fd, b)
	p.say("read("+p.name(fd)+")", result(fmt.Sprintf("%q", b[:max(n, 0)]), err))
}

func (p *probe) pread(fd, n int, off int64) {
	b := make([]byte, n)
	n, err := unix.Pread(fd, b, off)
	p.say(fmt.Sprintf("pread(%s, %d)", p.name(fd), off), result(fmt.Sprintf("%q", b[:max(n, 0)]), err))
}

func (p *probe) lseek(fd int, off int64, whence int) {
	n, err := unix.Seek(fd, off, whence)
	p.num("lseek", n, err, p.name(fd), off, whence)
}

// contents is what a file has.
func (p *probe) contents(name string) {
	b, err := os.ReadFile(name)
	if e, ok := err.(*os.PathError); ok {
		err = e.Err
	}
	p.say("contents("+name+")", result(short([]any{fmt.Sprintf("%q", b)}), err))
}

var types = map[uint32]string{unix.S_IFREG: "file", unix.S_IFDIR: "dir", unix.S_IFLNK: "link", unix.S_IFIFO: "fifo", unix.S_IFSOCK: "socket", unix.S_IFCHR: "char", unix.S_IFBLK: "block"}

func describe(st unix.Stat_t) string {
	s := fmt.Sprintf("%s %04o n%d %d:%d", types[st.Mode&unix.S_IFMT], st.Mode&0o7777, st.Nlink, st.Uid, st.Gid)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		s += fmt.Sprintf(" %d bytes", st.Size)
		if st.Size >= 1<<20 && st.Blocks*512 < st.Size/2 { // smaller ones differ in what is a block
			s += ", sparse"
		}
	case unix.S_IFLNK:
		s += fmt.Sprintf(" %d bytes", st.Size)
	case unix.S_IFCHR, unix.S_IFBLK:
		s += fmt.Sprintf(" %d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	return s
}

// stat shows attributes, those of a link itself.
func (p *probe) stat(names ...string) {
	for _, name := range names {
		var st unix.Stat_t
		err := unix.Lstat(name, &st)
		p.say("lstat("+short([]any{name})+")", result(describe(st), err))
	}
}

func (p *probe) follow(name string) {
	var st unix.Stat_t
	err := unix.Stat(name, &st)
	p.say("stat("+short([]any{name})+")", result(describe(st), err))
}

func (p *probe) fstat(fd int) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	p.say("fstat("+p.name(fd)+")", result(describe(st), err))
}

// ls shows the names in a directory.
func (p *probe) ls(dir string) {
	list, err := os.ReadDir(dir)
	var names []string
	for _, e := range list {
		names = append(names, e.Name()+":"+e.Type().String()[:1])
	}
	if e, ok := err.(*os.PathError); ok {
		err = e.Err
	}
	p.say("ls("+dir+")", result(names, err))
}

// same tells whether two names are one file.
func (p *probe) same(a, b string) {
	var x, y unix.Stat_t
	if err := unix.Lstat(a, &x); err == nil {
		err = unix.Lstat(b, &y)
		p.say(fmt.Sprintf("same(%s, %s)", a, b), result(x.Ino == y.Ino && x.Dev == y.Dev, err))
	} else {
		p.do("same", err, a, b)
	}
}

// tick waits until the clock that file systems take their times from has
// moved on: what is done before and after has different times.
func tick() {
	var then, now unix.Timespec
	for range 3 {
		for _ = unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &then); ; time.Sleep(time.Millisecond) {
			_ = unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now)
			if now != then {
				break
			}
		}
	}
}

// times writes down which times of names (mtime, ctime) a call has moved.
func (p *probe) times(what string, call func(), names ...string) {
	stats := func() map[string]unix.Stat_t {
		m := map[string]unix.Stat_t{}
		for _, name := range names {
			var st unix.Stat_t
			if unix.Lstat(name, &st) == nil {
				m[name] = st
			}
		}
		return m
	}
	tick()
	before := stats()
	call()
	after := stats()
	var list []string
	for _, name := range names {
		a, was := before[name]
		b, is := after[name]
		if !is {
			list = append(list, name+": gone")
			continue
		}
		sign := func(x, y unix.Timespec) string {
			switch {
			case x == y:
				return "same"
			case x.Nano() < y.Nano():
				return "later"
			}
			return "earlier"
		}
		if !was {
			list = append(list, fmt.Sprintf("%s: new, all times one: %v", name, b.Mtim == b.Ctim && b.Atim == b.Mtim))
			continue
		}
		list = append(list, fmt.Sprintf("%s: mtime %s, ctime %s", name, sign(a.Mtim, b.Mtim), sign(a.Ctim, b.Ctim)))
	}
	p.say("times of "+what, strings.Join(list, "; "))
}

// as does something as another user, in a thread of its own.
func (p *probe) as(uid, gid int, groups []uint32, do func()) {
	fmt.Fprintf(&p.out, "as %d:%d %v\n", uid, gid, groups)
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		defer close(done)
		var list unsafe.Pointer
		if len(groups) > 0 {
			list = unsafe.Pointer(&groups[0])
		}
		for _, call := range [][4]uintptr{
			{unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(list), 0},
			{unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)},
			{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
		} {
			if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				p.do("becoming another user", errno)
				return
			}
		}
		do()
	}()
	<-done
	fmt.Fprintln(&p.out, "as root")
}

func (p *probe) setxattr(name, attr, value string, flags int) {
	p.do("setxattr", unix.Lsetxattr(name, attr, []byte(value), flags), name, attr, value, flags)
}

func (p *probe) getxattr(name, attr string, room int) {
	b := make([]byte, room)
	n, err := unix.Lgetxattr(name, attr, b)
	p.say(fmt.Sprintf("getxattr(%s, %s, %d)", name, short([]any{attr}), room), result(fmt.Sprintf("%d %s", n, short([]any{string(b[:min(max(n, 0), room)])})), err))
}

func (p *probe) removexattr(name, attr string) {
	p.do("removexattr", unix.Lremovexattr(name, attr), name, attr)
}

func (p *probe) listxattr(name string, room int) {
	b := make([]byte, room)
	n, err := unix.Llistxattr(name, b)
	list := strings.Split(strings.Trim(string(b[:min(max(n, 0), room)]), "\x00"), "\x00")
	sort.Strings(list)
	p.say(fmt.Sprintf("listxattr(%s, %d)", name, room), result(fmt.Sprint(n, list), err))
}
