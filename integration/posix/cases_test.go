package posix

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// deviation is what the mount answers where it may answer otherwise than the
// local disk, and why.
type deviation struct{ mount, why string }

const (
	whySetID    = "where nothing but the set-id bits would change the kernel's FUSE sends nothing"
	whySeek     = "the kernel bounds lseek by what FUSE could have, 2^63-1; where there can be no byte write says EFBIG"
	whyCollapse = "the kernel's FUSE knows no ranges that are taken out or put in"
)

// deviations are by case and call.
var deviations = map[string]deviation{
	"chown of nothing: lstat(f6755)":            {"file 6755 n1 0:0 1 bytes", whySetID},
	"chown of nothing: lstat(f4644)":            {"file 4644 n1 0:0 1 bytes", whySetID},
	"chown of nothing: lstat(f2755)":            {"file 2755 n1 0:0 1 bytes", whySetID},
	"chown of nothing: lstat(mine)":             {"file 6755 n1 1000:1000 1 bytes", whySetID},
	"chown of nothing: times of chown of f6755": {"f6755: mtime same, ctime same", whySetID},
	"chown of nothing: times of chown of f4644": {"f4644: mtime same, ctime same", whySetID},
	"chown of nothing: times of chown of f2755": {"f2755: mtime same, ctime same", whySetID},
	"chown of nothing: times of chown of f2644": {"f2644: mtime same, ctime same", whySetID},
	"chown of nothing: times of chown of f0644": {"f0644: mtime same, ctime same", whySetID},

	"large offsets: lseek(<f>, 1, 2)":                   {"17592186040321", whySeek},
	"large offsets: lseek(<f>, 17592186040321, 0)":      {"17592186040321", whySeek},
	"large offsets: lseek(<f>, 4611686018427387904, 0)": {"4611686018427387904", whySeek},

	"fallocate of ranges that go or come: fallocate(8, 0)":  {"ENOTSUP", whyCollapse},
	"fallocate of ranges that go or come: fallocate(8, 1)":  {"ENOTSUP", whyCollapse},
	"fallocate of ranges that go or come: fallocate(32, 0)": {"ENOTSUP", whyCollapse},
	"fallocate of ranges that go or come: fallocate(32, 1)": {"ENOTSUP", whyCollapse},

	"utimensat: times(far)": {"{-9223372037 145224192} {9223372036 854775807}", "times are nanoseconds in 64 bits: 1677 to 2262"},
	"times: times of fsync": {"d/f: mtime same, ctime later", "ctime is when the service had the change"},
}

var (
	name255 = strings.Repeat("n", 255)
	name256 = name255 + "n"
)

// cases are the table: each is run in an empty directory.
var cases = []struct {
	name string
	run  func(p *probe)
}{
	{"open", func(p *probe) {
		p.open("none", unix.O_RDONLY, 0)
		p.open("none/x", unix.O_RDWR|unix.O_CREAT, 0o644)
		fd := p.open("f", unix.O_RDWR|unix.O_CREAT, 0o640)
		p.write(fd, "hello")
		p.open("f", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o644)
		p.open("f", unix.O_RDWR|unix.O_CREAT, 0o777)
		p.stat("f")
		p.open("f/x", unix.O_RDONLY, 0)
		p.open("f/", unix.O_RDONLY, 0)
		p.open("f", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		p.open("f", unix.O_RDONLY|unix.O_NOFOLLOW, 0)
		p.open("", unix.O_RDONLY, 0)
		p.open("g", unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL, 0o400)
		p.stat("g")
		w := p.open("h", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0)
		p.write(w, "written to a file of mode 0")
		p.read(w, 1)
		p.stat("h")
		r := p.open("f", unix.O_RDONLY, 0)
		p.write(r, "x")
		p.ftruncate(r, 0)
		p.read(r, 10)
		p.read(r, 10)
		p.ls(".")
	}},
	{"open of directories", func(p *probe) {
		p.mkdir("d", 0o755)
		fd := p.open("d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		p.read(fd, 10)
		p.pread(fd, 10, 0)
		p.write(fd, "x")
		p.fsync(fd)
		p.do("fdatasync", unix.Fdatasync(fd))
		p.ftruncate(fd, 0)
		p.fstat(fd)
		p.open("d", unix.O_WRONLY, 0)
		p.open("d", unix.O_RDWR, 0)
		p.open("d", unix.O_RDONLY|unix.O_CREAT, 0o644)
		p.open("d", unix.O_RDWR|unix.O_CREAT, 0o644)
		p.open("d", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o644)
		p.open("d", unix.O_RDONLY|unix.O_TRUNC, 0)
		p.open("new/", unix.O_RDWR|unix.O_CREAT, 0o644)
		p.open("d/.", unix.O_RDONLY, 0)
		p.open("d/..", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		p.open("none", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		p.open("d", unix.O_PATH, 0)
		p.truncate("d", 0)
		p.unlink("d")
	}},
	{"open of links", func(p *probe) {
		p.file("f", "abc")
		p.symlink("f", "l")
		p.symlink("none", "dangling")
		p.symlink("loop", "loop")
		p.mkdir("d", 0o755)
		p.symlink("d", "ld")
		p.open("l", unix.O_RDONLY|unix.O_NOFOLLOW, 0)
		p.open("l", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o644)
		p.open("dangling", unix.O_RDONLY, 0)
		p.open("dangling", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o644)
		p.open("dangling", unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW, 0o644)
		p.open("loop", unix.O_RDONLY, 0)
		p.open("loop", unix.O_RDWR|unix.O_CREAT, 0o644)
		p.open("loop/x", unix.O_RDONLY, 0)
		p.open("ld", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		p.open("ld/", unix.O_RDONLY|unix.O_NOFOLLOW, 0)
		p.open("ld", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		fd := p.open("l", unix.O_PATH|unix.O_NOFOLLOW, 0)
		p.fstat(fd)
		fd = p.open("dangling", unix.O_RDWR|unix.O_CREAT, 0o644)
		p.write(fd, "made through a link")
		p.stat("none", "dangling")
		p.open("l", unix.O_WRONLY|unix.O_TRUNC, 0)
		p.stat("f", "l")
	}},
	{"O_TRUNC", func(p *probe) {
		p.file("f", "hello")
		old := p.open("f", unix.O_RDWR, 0)
		fd := p.open("f", unix.O_WRONLY|unix.O_TRUNC, 0)
		p.fstat(old)
		p.read(old, 10)
		p.write(fd, "hi")
		p.pread(old, 10, 0)
		p.open("f", unix.O_RDONLY|unix.O_TRUNC, 0)
		p.stat("f")
		p.times("O_TRUNC of an empty file", func() { p.close(p.open("f", unix.O_WRONLY|unix.O_TRUNC, 0)) }, "f", ".")
		p.open("f", unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC, 0o600)
		p.open("f", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_TRUNC, 0o600)
		p.open("g", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_TRUNC, 0o600)
		p.stat("f", "g")
	}},
	{"O_APPEND", func(p *probe) {
		p.file("f", "hello")
		a, b := p.open("f", unix.O_RDWR|unix.O_APPEND, 0), p.open("f", unix.O_RDWR, 0)
		p.write(a, " a")
		p.pwrite(b, "12345678 b", 0)
		p.write(a, " a")
		p.lseek(a, 0, unix.SEEK_CUR)
		p.pwrite(a, "at the end", 0)
		p.contents("f")
		p.ftruncate(b, 3)
		p.write(a, "!")
		p.contents("f")
		_, err := unix.FcntlInt(uintptr(b), unix.F_SETFL, unix.O_APPEND)
		p.do("F_SETFL", err)
		p.write(b, "?")
		p.contents("f")
	}},
	{"O_TMPFILE", func(p *probe) {
		fd := p.open(".", unix.O_TMPFILE|unix.O_RDWR, 0o640)
		p.fstat(fd)
		p.write(fd, "contents")
		p.fstat(fd)
		p.ls(".")
		p.do("linkat", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, "f", unix.AT_SYMLINK_FOLLOW))
		p.stat("f")
		p.contents("f")
		p.close(fd)
		p.open(".", unix.O_TMPFILE|unix.O_RDONLY, 0o640)
		p.open("f", unix.O_TMPFILE|unix.O_RDWR, 0o640)
		p.open("none", unix.O_TMPFILE|unix.O_RDWR, 0o640)
		fd = p.open(".", unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL, 0o640)
		p.do("linkat", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, "g", unix.AT_SYMLINK_FOLLOW))
	}},
	{"mkdir and rmdir", func(p *probe) {
		p.mkdir("d", 0o700)
		p.stat("d", ".")
		p.mkdir("d", 0o755)
		p.mkdir("d/", 0o755)
		p.mkdir("none/x", 0o755)
		p.file("f", "")
		p.mkdir("f", 0o755)
		p.mkdir("f/x", 0o755)
		p.mkdir("e/", 0o777)
		p.mkdir(".", 0o755)
		p.mkdir("..", 0o755)
		p.mkdir("/", 0o755)
		p.mkdir("", 0o755)
		p.symlink("none", "l")
		p.mkdir("l", 0o755)
		p.mkdir("sticky", 0o1777)
		p.mkdir("setuid", 0o6777)
		p.stat("d", "e", "sticky", "setuid", ".")
		p.file("d/f", "")
		p.rmdir("d")
		p.unlink("d/f")
		p.mkdir("d/e", 0o755)
		p.rmdir("d")
		p.rmdir("d/e/.")
		p.rmdir("d/e/..")
		p.rmdir("f")
		p.rmdir("l")
		p.rmdir("none")
		p.rmdir("f/x")
		p.rmdir("")
		p.symlink("d", "ld")
		p.rmdir("ld")
		p.rmdir("ld/")
		p.rmdir("d/e/")
		p.rmdir("d")
		p.stat("d", ".")
		p.ls(".")
	}},
	{"rmdir of the working directory", func(p *probe) {
		here := p.open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		p.mkdir("d", 0o755)
		p.do("chdir", unix.Chdir("d"))
		p.rmdir("../d")
		p.open("x", unix.O_RDWR|unix.O_CREAT, 0o644)
		p.open("x", unix.O_RDONLY, 0)
		p.open(".", unix.O_TMPFILE|unix.O_RDWR, 0o644)
		p.mkdir("x", 0o755)
		p.symlink("a", "x")
		p.link("../nothing", "x")
		p.stat(".")
		p.ls(".")
		p.chmod(".", 0o700)
		p.stat(".")
		p.rmdir("../d")
		_, err := unix.Getcwd(make([]byte, 4096))
		p.do("getcwd", err)
		p.do("fchdir", unix.Fchdir(here))
		p.stat("d", ".")
	}},
	{"rename over an open directory", func(p *probe) {
		p.mkdir("a", 0o755)
		p.mkdir("b", 0o700)
		b := p.open("b", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		p.rename("a", "b")
		p.fstat(b)
		p.do("openat", func() error { _, err := unix.Openat(b, "x", unix.O_RDWR|unix.O_CREAT, 0o644); return err }(), "x")
		p.do("fchmod", unix.Fchmod(b, 0o711))
		p.fstat(b)
		p.stat("b")
		p.ls(".")
	}},
	{"rename of files", func(p *probe) {
		p.file("a", "A")
		p.file("b", "B")
		p.mkdir("d", 0o755)
		p.mkdir("e", 0o755)
		p.rename("none", "x")
		p.rename("none", "a")
		p.rename("a", "none/x")
		p.rename("a", "b/x")
		p.rename("a", "d")
		p.rename("d", "a")
		p.rename("a", "x/")
		p.rename("a/", "x")
		p.rename("a", "a")
		p.rename("a", "")
		p.rename("a", "b")
		p.stat("a", "b")
		p.contents("b")
		p.link("b", "b2")
		p.rename("b", "b2")
		p.stat("b", "b2")
		p.rename("b", "d/moved")
		p.rename("b2", "./d/../d/moved2")
		p.same("d/moved", "d/moved2")
		p.symlink("target", "l")
		p.rename("l", "l2")
		p.readlink("l2")
		p.file("f", "F")
		p.rename("f", "l2")
		p.stat("l2", "target")
		p.symlink("x", "l3")
		p.rename("l3", "l2")
		p.stat("l2")
		p.ls(".")
		p.ls("d")
	}},
	{"rename of directories", func(p *probe) {
		p.mkdir("a", 0o755)
		p.mkdir("b", 0o755)
		p.mkdir("a/x", 0o755)
		p.file("b/f", "")
		p.rename("a", "b")
		p.rename("a", "a/x/y")
		p.rename("a", "a/x")
		p.rename("a/x", "a")
		p.rename("a", "a/y")
		p.rename("b/f", "b")
		p.rename("a", "b/.")
		p.rename("a/.", "c")
		p.rename("a/..", "c")
		p.rename(".", "c")
		p.unlink("b/f")
		p.stat("a", "b", ".")
		p.rename("a", "b")
		p.stat("a", "b", ".")
		p.rename("b/x", "x")
		p.stat("b", ".", "x")
		p.rename("x", "b/x")
		p.stat("b/x/..", ".")
		p.same("b/x/..", "b")
		p.rename("b", "new/")
		p.rename("new/", "c")
		p.file("f", "")
		p.rename("c", "f")
		p.rename("f", "c")
		p.rename("c", "f/")
		p.ls(".")
	}},
	{"renameat2", func(p *probe) {
		p.file("a", "A")
		p.file("b", "B")
		p.mkdir("d", 0o755)
		p.mkdir("d/s", 0o755)
		p.symlink("none", "l")
		for _, flags := range []uint{unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE, 8, 1 << 20} {
			for _, pair := range [][2]string{{"a", "b"}, {"a", "a"}, {"a", "d"}, {"d", "a"}, {"a", "l"}, {"none", "a"}, {"a", "new"}, {"new", "a"}, {"d", "d/s"}, {"d/s", "d"}, {"d", "d/s/x"}, {"none", "none2"}} {
				p.renameat2(pair[0], pair[1], flags)
			}
			p.stat("a", "b", "d", "l", "new", ".")
		}
		p.renameat2("a", "b", unix.RENAME_WHITEOUT|unix.RENAME_EXCHANGE)
	}},
	{"rename over an open file", func(p *probe) {
		p.file("a", "new")
		p.file("b", "old")
		b := p.open("b", unix.O_RDWR, 0)
		p.pwrite(b, "OL", 0)
		p.rename("a", "b")
		p.fstat(b)
		p.read(b, 10)
		p.pwrite(b, "still here", 0)
		p.pread(b, 20, 0)
		p.contents("b")
		p.close(b)
		p.contents("b")
		p.ls(".")
	}},
	{"rename of an open file", func(p *probe) {
		a := p.open("a", unix.O_RDWR|unix.O_CREAT, 0o644)
		p.write(a, "one ")
		p.mkdir("d", 0o755)
		p.rename("a", "d/b")
		p.write(a, "two ")
		p.fsync(a)
		p.contents("d/b")
		p.write(a, "three")
		p.contents("d/b")
		p.stat("a", "d/b")
	}},
	{"link", func(p *probe) {
		p.file("f", "x")
		p.mkdir("d", 0o755)
		p.link("f", "g")
		p.stat("f", "g")
		p.same("f", "g")
		p.link("f", "g")
		p.link("f", "d")
		p.link("f", "none/x")
		p.link("f", "g/x")
		p.link("none", "x")
		p.link("d", "x")
		p.link("f", "x/")
		p.link("f/", "x")
		p.link("", "x")
		p.symlink("f", "l")
		p.link("l", "l2")
		p.readlink("l2")
		p.do("linkat", unix.Linkat(unix.AT_FDCWD, "l", unix.AT_FDCWD, "followed", unix.AT_SYMLINK_FOLLOW))
		p.stat("f", "l", "l2", "followed")
		p.do("linkat", unix.Linkat(unix.AT_FDCWD, "f", unix.AT_FDCWD, "y", 0x8000))
		fd := p.open("f", unix.O_RDWR, 0)
		p.unlink("f")
		p.stat("g")
		p.unlink("g")
		p.unlink("followed")
		p.fstat(fd)
		p.do("linkat of an unlinked file", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, "again", unix.AT_SYMLINK_FOLLOW))
		p.ls(".")
	}},
	{"symlink", func(p *probe) {
		p.symlink("target", "l")
		p.stat("l")
		p.readlink("l")
		p.symlink("other", "l")
		p.symlink("", "empty")
		p.symlink("x", "none/l")
		p.symlink("x", "l/y")
		p.symlink("x", "dir/")
		p.symlink(strings.Repeat("t", 4095), "long")
		p.stat("long")
		p.readlink("long")
		p.symlink(strings.Repeat("t", 4096), "longer")
		p.symlink("with\nnew line and \xff", "odd")
		p.readlink("odd")
		p.file("f", "")
		p.readlink("f")
		p.readlink("none")
		p.readlink(".")
		p.readlink("f/x")
		p.chmod("l", 0o600)
		p.do("lchown", unix.Lchown("l", 5, 6))
		p.stat("l")
		b := make([]byte, 3)
		n, err := unix.Readlink("l", b)
		p.num("readlink with little room", int64(n), err)
		p.follow("l")
		p.unlink("l")
		p.ls(".")
	}},
	{"symlinks on the way", func(p *probe) {
		p.mkdir("d", 0o755)
		p.file("d/f", "x")
		p.symlink("d", "l0")
		for i := range 45 {
			if err := unix.Symlink(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d", i+1)); err != nil {
				p.do("symlink", err, i)
			}
		}
		p.follow("l39/f")
		p.follow("l40/f")
		p.follow("l41/f")
		p.open("l44", unix.O_RDONLY, 0)
		p.symlink("a", "b")
		p.symlink("b", "a")
		p.follow("a")
		p.open("a", unix.O_RDWR|unix.O_CREAT, 0o644)
		p.truncate("a", 0)
		p.chmod("a", 0o644)
		p.mkdir("a/x", 0o755)
		p.rename("a/x", "y")
		p.link("a/x", "y")
		p.access("a", 0)
		p.symlink("d/../d/./f", "dots")
		p.follow("dots")
	}},
	{"long names", func(p *probe) {
		p.file(name255, "x")
		p.stat(name255, name256)
		p.open(name256, unix.O_RDONLY, 0)
		p.open(name256, unix.O_RDWR|unix.O_CREAT, 0o644)
		p.mkdir(name256, 0o755)
		p.rmdir(name256)
		p.unlink(name256)
		p.symlink("x", name256)
		p.readlink(name256)
		p.link(name255, name256)
		p.link(name256, "x")
		p.rename(name255, name256)
		p.rename(name256, "x")
		p.mknod(name256, unix.S_IFIFO|0o644, 0)
		p.truncate(name256, 0)
		p.chmod(name256, 0o644)
		p.access(name256, 0)
		p.follow(name256 + "/x")
		p.mkdir("d", 0o755)
		long := strings.Repeat("d/../", 818)
		p.follow(long + "d")
		p.open(long+"ddddd", unix.O_RDONLY, 0)
		p.open(long+"dddddd", unix.O_RDONLY, 0)
		p.mkdir(long+"dddddd", 0o755)
		p.rename("d", long+"dddddd")
		p.symlink(long+"d", "deep")
		p.follow("deep")
		p.unlink(name255)
		p.ls(".")
	}},
	{"a deep tree", func(p *probe) {
		here := p.open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		for range 20 {
			if err := unix.Mkdir(name255, 0o755); err != nil {
				p.do("mkdir", err)
			}
			if err := unix.Chdir(name255); err != nil {
				p.do("chdir", err)
			}
		}
		p.file("f", "deep")
		p.contents("f")
		_, err := unix.Getcwd(make([]byte, 4096))
		p.do("getcwd", err)
		p.unlink("f")
		for range 20 {
			if err := unix.Chdir(".."); err != nil {
				p.do("chdir", err)
			}
			if err := unix.Rmdir(name255); err != nil {
				p.do("rmdir", err)
			}
		}
		p.do("fchdir", unix.Fchdir(here))
		p.ls(".")
	}},
	{"unlink", func(p *probe) {
		p.file("f", "x")
		p.unlink("none")
		p.unlink("f/x")
		p.unlink("f/")
		p.unlink("")
		p.unlink(".")
		p.mkdir("d", 0o755)
		p.unlink("d")
		p.unlink("d/")
		p.unlink("none/f")
		p.symlink("f", "l")
		p.unlink("l")
		p.stat("f", "l")
		p.do("unlinkat", unix.Unlinkat(unix.AT_FDCWD, "d", 0x8000))
		p.do("unlinkat", unix.Unlinkat(unix.AT_FDCWD, "f", unix.AT_REMOVEDIR))
		p.do("unlinkat", unix.Unlinkat(unix.AT_FDCWD, "d", unix.AT_REMOVEDIR))
		p.unlink("f")
		p.unlink("f")
		p.ls(".")
	}},
	{"unlink while open", func(p *probe) {
		p.file("f", "contents")
		a, b := p.open("f", unix.O_RDWR, 0), p.open("f", unix.O_RDONLY, 0)
		p.pwrite(a, "C", 0)
		p.unlink("f")
		p.stat("f")
		p.fstat(a)
		p.fstat(b)
		p.pread(b, 20, 0)
		p.pwrite(a, "more", 8)
		p.fsync(a)
		p.pread(b, 20, 0)
		p.ftruncate(a, 4)
		p.fstat(b)
		p.do("fchmod", unix.Fchmod(a, 0o600))
		p.do("fchown", unix.Fchown(a, 1, 2))
		p.fstat(b)
		c := p.open(fmt.Sprintf("/proc/self/fd/%d", b), unix.O_RDWR|unix.O_TRUNC, 0)
		p.fds[c] = "again"
		p.write(c, "through /proc")
		p.pread(b, 20, 0)
		p.file("f", "another")
		p.pread(b, 20, 0)
		p.contents("f")
		p.do("fallocate", unix.Fallocate(a, 0, 0, 100))
		p.fstat(a)
		p.do("fsetxattr", unix.Fsetxattr(a, "user.a", []byte("1"), 0))
		p.close(a)
		p.close(b)
		p.close(c)
		p.ls(".")
	}},
	{"mknod", func(p *probe) {
		p.mknod("f", unix.S_IFREG|0o644, 0)
		p.mknod("zero", 0o600, 0)
		p.mknod("p", unix.S_IFIFO|0o666, 0)
		p.mknod("s", unix.S_IFSOCK|0o755, 0)
		p.mknod("c", unix.S_IFCHR|0o600, unix.Mkdev(1, 3))
		p.mknod("b", unix.S_IFBLK|0o600, unix.Mkdev(259, 70000))
		p.mknod("d", unix.S_IFDIR|0o755, 0)
		p.mknod("l", unix.S_IFLNK|0o755, 0)
		p.mknod("f", unix.S_IFREG|0o644, 0)
		p.mknod("p", unix.S_IFIFO|0o644, 0)
		p.mknod("none/x", unix.S_IFIFO|0o644, 0)
		p.mknod("f/x", unix.S_IFIFO|0o644, 0)
		p.mknod("bits", unix.S_IFREG|0o7777, 0)
		p.stat("f", "zero", "p", "s", "c", "b", "bits")
		p.open("s", unix.O_RDONLY, 0)
		p.open("p", unix.O_WRONLY|unix.O_NONBLOCK, 0)
		fd := p.open("p", unix.O_RDONLY|unix.O_NONBLOCK, 0)
		p.read(fd, 10)
		w := p.open("p", unix.O_WRONLY|unix.O_NONBLOCK, 0)
		p.write(w, "through")
		p.read(fd, 10)
		p.lseek(fd, 0, unix.SEEK_SET)
		p.truncate("p", 0)
		p.as(1000, 1000, nil, func() { p.mknod("x", unix.S_IFCHR|0o600, unix.Mkdev(1, 3)) })
		p.link("p", "p2")
		p.rename("c", "c2")
		p.chmod("c2", 0o644)
		p.stat("p", "p2", "c2")
		p.ls(".")
	}},
	{"chmod", func(p *probe) {
		p.file("f", "x")
		p.mkdir("d", 0o755)
		p.symlink("f", "l")
		for _, mode := range []uint32{0, 0o777, 0o1644, 0o2644, 0o4755, 0o7777, 0o10644} {
			p.chmod("f", mode)
			p.chmod("d", mode)
			p.stat("f", "d")
		}
		p.chmod("l", 0o600)
		p.stat("f", "l")
		p.chmod("none", 0o644)
		p.chmod("f/x", 0o644)
		fd := p.open("f", unix.O_RDONLY, 0)
		p.do("fchmod", unix.Fchmod(fd, 0o640))
		p.fstat(fd)
		p.do("fchmodat2", unix.Fchmodat(unix.AT_FDCWD, "l", 0o600, unix.AT_SYMLINK_NOFOLLOW))
		p.stat("l")
		p.chown("d", 1000, 1000)
		p.chown("f", 1000, 2000)
		p.as(1000, 1000, []uint32{3000}, func() {
			p.chmod("f", 0o2755) // not of the file's group
			p.stat("f")
			p.chmod("d", 0o2755)
			p.stat("d")
			p.chmod("d", 0o1777)
			p.chmod("f", 0o1755)
			p.stat("d", "f")
		})
		p.as(2000, 2000, nil, func() { p.chmod("f", 0o777) })
		p.chown("f", 1000, 3000)
		p.as(1000, 1000, []uint32{3000}, func() { p.chmod("f", 0o2755) })
		p.stat("f")
	}},
	{"chown", func(p *probe) {
		p.file("f", "x")
		p.mkdir("d", 0o755)
		p.symlink("f", "l")
		p.chown("f", 1, 2)
		p.stat("f")
		p.chown("f", -1, 3)
		p.chown("f", 4, -1)
		p.chown("f", -1, -1)
		p.stat("f")
		p.chown("l", 5, 6)
		p.do("lchown", unix.Lchown("l", 7, 8))
		p.stat("f", "l")
		p.chown("none", 1, 1)
		p.chown("f/x", 1, 1)
		for _, mode := range []uint32{0o6755, 0o6644, 0o2644, 0o4644, 0o2755, 0o7777} {
			p.chmod("f", mode)
			p.chown("f", 9, 9)
			p.stat("f")
			p.chmod("d", mode)
			p.chown("d", 9, 9)
			p.stat("d")
		}
		p.chown("f", 4294967294, 4294967294)
		p.stat("f")
		p.chown("f", 1000, 1000)
		p.as(1000, 1000, []uint32{3000}, func() {
			p.chown("f", 1001, -1)
			p.chown("f", -1, 2000)
			p.chmod("f", 0o6755)
			p.chown("f", -1, 3000)
			p.stat("f")
			p.chmod("f", 0o6755)
			p.chown("f", 1000, 1000)
			p.stat("f")
		})
		p.as(2000, 2000, nil, func() { p.chown("f", 2000, -1); p.chown("f", -1, 2000); p.chown("f", -1, -1) })
	}},
	{"chown of nothing", func(p *probe) {
		for _, mode := range []uint32{0o6755, 0o4644, 0o2755, 0o2644, 0o0644} {
			name := fmt.Sprintf("f%04o", mode)
			p.file(name, "x")
			p.chmod(name, mode)
			p.times("chown of "+name, func() { p.chown(name, -1, -1) }, name)
			p.stat(name)
		}
		p.file("mine", "x")
		p.chown("mine", 1000, 1000)
		p.chmod("mine", 0o6755)
		p.as(1000, 1000, nil, func() { p.chown("mine", -1, -1) })
		p.stat("mine")
		p.mkdir("d", 0o755)
		p.chmod("d", 0o6755)
		p.chown("d", -1, -1)
		p.stat("d")
	}},
	{"utimensat", func(p *probe) {
		p.file("f", "x")
		p.symlink("f", "l")
		p.mkdir("d", 0o755)
		show := func(name string) {
			var st unix.Stat_t
			err := unix.Lstat(name, &st)
			p.say("times("+name+")", result(fmt.Sprint(st.Atim, st.Mtim), err))
		}
		set := func(name string, flags int, a, m unix.Timespec) {
			p.do("utimensat", unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{a, m}, flags), name, a, m, flags)
		}
		ts := func(s, ns int64) unix.Timespec { return unix.Timespec{Sec: s, Nsec: ns} }
		now, omit := ts(0, unix.UTIME_NOW), ts(0, unix.UTIME_OMIT)
		for _, name := range []string{"f", "d", "l"} {
			const own = unix.AT_SYMLINK_NOFOLLOW
			set(name, own, ts(1, 2), ts(3, 4))
			show(name)
			set(name, own, ts(1000000000, 999999999), ts(-5, 7))
			show(name)
			set(name, own, omit, ts(6, 0))
			show(name)
			set(name, own, ts(7, 0), omit)
			show(name)
			p.times("UTIME_OMIT of both", func() { set(name, own, omit, omit) }, name)
			p.times("UTIME_OMIT of mtime", func() { set(name, own, ts(9, 9), omit) }, name)
			p.times("UTIME_NOW", func() { set(name, unix.AT_SYMLINK_NOFOLLOW, now, now) }, name)
		}
		set("f", 0, ts(1, 1000000000), ts(1, 0))
		set("f", 0, ts(1, -1), ts(1, 0))
		set("l", 0, ts(15, 0), ts(16, 0))
		show("f")
		set("none", 0, ts(1, 0), ts(1, 0))
		set("f/x", 0, ts(1, 0), ts(1, 0))
		set("f", 0, ts(4294967296, 5), ts(5000000000, 0))
		show("f")
		p.file("far", "")
		set("far", 0, ts(-100000000000, 0), ts(10000000000, 0))
		show("far")
		set("f", 0, ts(-2147483648, 0), ts(-1, 999999999))
		show("f")
		fd := p.open("f", unix.O_RDWR, 0)
		p.write(fd, "gathered")
		set("f", 0, ts(11, 12), ts(13, 14))
		show("f")
		p.fsync(fd)
		show("f")
		p.write(fd, "more")
		p.do("futimens", unix.Futimes(fd, []unix.Timeval{{Sec: 20, Usec: 1}, {Sec: 21, Usec: 2}}))
		p.close(fd)
		show("f")
		p.chmod("f", 0o666)
		p.chown("f", 1000, 1000)
		p.as(2000, 2000, nil, func() {
			set("f", 0, now, now)
			set("f", 0, ts(1, 0), ts(2, 0))
			set("f", 0, now, omit)
			set("f", 0, omit, omit)
		})
		p.chmod("f", 0o444)
		p.as(2000, 2000, nil, func() { set("f", 0, now, now) })
		p.as(1000, 1000, nil, func() { set("f", 0, ts(1, 0), ts(2, 0)); set("f", 0, now, now) })
	}},
	{"set-id bits", func(p *probe) {
		for _, mode := range []uint32{0o6777, 0o2777, 0o4777, 0o2767, 0o6666} {
			p.file("f", "contents")
			p.chmod("f", mode)
			fd := p.open("f", unix.O_RDWR, 0)
			p.write(fd, "root's write")
			p.fsync(fd)
			p.stat("f")
			p.ftruncate(fd, 3)
			p.stat("f")
			p.close(fd)
			change := func(what string, do func()) {
				p.chmod("f", mode)
				p.as(1000, 1000, nil, do)
				p.say(what, "")
				p.stat("f")
			}
			change("write", func() { fd := p.open("f", unix.O_WRONLY, 0); p.write(fd, "x"); p.close(fd) })
			change("write of nothing", func() { fd := p.open("f", unix.O_WRONLY, 0); p.write(fd, ""); p.close(fd) })
			change("truncate", func() { p.truncate("f", 2) })
			change("ftruncate", func() { fd := p.open("f", unix.O_WRONLY, 0); p.ftruncate(fd, 1); p.close(fd) })
			change("O_TRUNC", func() { p.close(p.open("f", unix.O_WRONLY|unix.O_TRUNC, 0)) })
			change("fallocate", func() {
				fd := p.open("f", unix.O_WRONLY, 0)
				p.do("fallocate", unix.Fallocate(fd, 0, 0, 100))
				p.close(fd)
			})
			change("punch", func() {
				fd := p.open("f", unix.O_WRONLY, 0)
				p.do("fallocate", unix.Fallocate(fd, 3, 0, 10))
				p.close(fd)
			})
			change("copy_file_range", func() {
				fd := p.open("f", unix.O_RDWR, 0)
				from, to := int64(0), int64(50)
				n, err := unix.CopyFileRange(fd, &from, fd, &to, 10, 0)
				p.num("copy_file_range", int64(n), err)
				p.close(fd)
			})
			change("a mapping", func() {
				fd := p.open("f", unix.O_RDWR, 0)
				b, err := unix.Mmap(fd, 0, 10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
				if p.do("mmap", err) {
					b[0] = 'x'
					p.do("msync", unix.Msync(b, unix.MS_SYNC))
					p.do("munmap", unix.Munmap(b))
				}
				p.close(fd)
			})
			change("a second write", func() {
				fd := p.open("f", unix.O_WRONLY, 0)
				p.write(fd, "x")
				p.fstat(fd)
				p.write(fd, "x")
				p.close(fd)
			})
			p.unlink("f")
		}
		p.file("f", "")
		p.chown("f", 1000, 1000)
		p.as(1000, 1000, nil, func() {
			fd := p.open("f", unix.O_RDWR, 0)
			p.write(fd, "x")
			p.do("fchmod", unix.Fchmod(fd, 0o6755))
			p.fstat(fd)
			p.write(fd, "y")
			p.fstat(fd)
			p.chmod("f", 0o6755)
			p.write(fd, "z")
			p.fstat(fd)
		})
	}},
	{"sticky directory", func(p *probe) {
		p.mkdir("t", 0o1777)
		p.chmod("t", 0o1777)
		for name, uid := range map[string]int{"t/mine": 1000, "t/other": 2000, "t/dir": 2000, "t/mydir": 1000} {
			if strings.Contains(name, "dir") {
				_ = os.Mkdir(name, 0o777)
			} else {
				p.file(name, "")
			}
			_ = unix.Chown(name, uid, uid)
			_ = unix.Chmod(name, 0o777)
		}
		p.as(1000, 1000, nil, func() {
			p.unlink("t/other")
			p.rename("t/other", "t/x")
			p.rename("t/mine", "t/other")
			p.rename("t/mine", "t/x")
			p.rename("t/x", "t/mine")
			p.link("t/other", "t/l")
			p.rmdir("t/dir")
			p.rename("t/dir", "t/d")
			p.rename("t/mydir", "t/dir")
			p.file("t/dir/f", "")
			p.unlink("t/dir/f")
			p.rename("t/mine", "t/dir/mine")
			p.rename("t/dir/mine", "t/mine")
			p.unlink("t/mine")
			p.rmdir("t/mydir")
			p.renameat2("t/other", "t/dir", unix.RENAME_EXCHANGE)
		})
		p.chown("t", 3000, 3000)
		p.as(3000, 3000, nil, func() { p.unlink("t/other"); p.rmdir("t/dir") })
		p.ls("t")
	}},
	{"set-gid directory", func(p *probe) {
		p.mkdir("g", 0o777)
		p.chown("g", 0, 4000)
		p.chmod("g", 0o2777)
		make := func(x string) {
			p.close(p.open("g/f"+x, unix.O_RDWR|unix.O_CREAT, 0o2755))
			p.mkdir("g/d"+x, 0o755)
			p.symlink("x", "g/l"+x)
			p.mknod("g/p"+x, unix.S_IFIFO|0o2755, 0)
			p.mkdir("g/d"+x+"/e", 0o700)
			fd := p.open("g", unix.O_TMPFILE|unix.O_RDWR, 0o2755)
			p.fstat(fd)
			p.close(fd)
			p.stat("g/f"+x, "g/d"+x, "g/l"+x, "g/p"+x, "g/d"+x+"/e")
		}
		make("root")
		p.as(1000, 1000, nil, func() { make("user") })
		p.as(1000, 1000, []uint32{4000}, func() { make("member") })
		p.chmod("g", 0o777)
		p.as(1000, 1000, []uint32{4000}, func() { make("plain") })
	}},
	{"groups and permissions", func(p *probe) {
		p.file("f", "x")
		p.chown("f", 1000, 4000)
		p.mkdir("d", 0o750)
		p.chown("d", 1000, 4000)
		p.file("d/f", "inside")
		users := []struct {
			uid, gid int
			groups   []uint32
		}{{1000, 1000, nil}, {2000, 4000, nil}, {2000, 2000, []uint32{5, 4000, 6}}, {2000, 2000, nil}}
		for _, mode := range []uint32{0o520, 0o250, 0o007, 0o361, 0o074} {
			p.chmod("f", mode)
			p.chmod("d", mode)
			for _, u := range users {
				p.as(u.uid, u.gid, u.groups, func() {
					p.access("f", unix.R_OK)
					p.access("f", unix.W_OK)
					p.access("f", unix.X_OK)
					p.open("f", unix.O_RDONLY, 0)
					p.open("f", unix.O_WRONLY, 0)
					p.open("f", unix.O_RDWR, 0)
					p.open("f", unix.O_RDONLY|unix.O_TRUNC, 0)
					p.open("f", unix.O_RDWR|unix.O_CREAT, 0o644)
					p.truncate("f", 1)
					p.open("d", unix.O_RDONLY, 0)
					p.follow("d/f")
					p.open("d/new", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o644)
					p.unlink("d/new")
					p.stat("f", "d")
				})
			}
		}
	}},
	{"denials", func(p *probe) {
		p.mkdir("d", 0o755)
		p.file("d/f", "x")
		p.mkdir("d/e", 0o755)
		p.symlink("f", "d/l")
		p.mkdir("mine", 0o777)
		p.chown("mine", 1000, 1000)
		p.as(1000, 1000, nil, func() {
			p.file("mine/f", "")
			p.open("d/new", unix.O_RDWR|unix.O_CREAT, 0o644)
			p.open("d", unix.O_TMPFILE|unix.O_RDWR, 0o644)
			p.mkdir("d/new", 0o755)
			p.mkdir("d/e", 0o755)
			p.mkdir("d/none/x", 0o755)
			p.unlink("d/f")
			p.unlink("d/none")
			p.rmdir("d/e")
			p.symlink("x", "d/new")
			p.mknod("d/new", unix.S_IFIFO|0o644, 0)
			p.link("d/f", "mine/l")
			p.link("mine/f", "d/l2")
			p.rename("d/f", "mine/x")
			p.rename("mine/f", "d/x")
			p.rename("mine/f", "d/f")
			p.rename("d/e", "mine/e")
			p.chmod("d/f", 0o777)
			p.chown("d/f", 1000, 1000)
			p.truncate("d/f", 0)
			p.setxattr("d/f", "user.a", "1", 0)
			p.getxattr("d/f", "user.a", 10)
			p.setxattr("mine/f", "trusted.a", "1", 0)
			p.getxattr("mine/f", "trusted.a", 10)
			p.setxattr("mine/f", "security.a", "1", 0)
			p.setxattr("mine/f", "user.a", "1", 0)
			p.removexattr("d/f", "user.a")
			p.readlink("d/l")
			p.open("d/f", unix.O_RDONLY|unix.O_NOATIME, 0)
			p.open("mine/f", unix.O_RDONLY|unix.O_NOATIME, 0)
			p.do("chroot", unix.Chroot("."))
		})
		p.chmod("d", 0o700)
		p.as(1000, 1000, nil, func() {
			p.follow("d/f")
			p.open("d/f", unix.O_RDONLY, 0)
			p.open("d/none", unix.O_RDONLY, 0)
			p.ls("d")
			p.do("chdir", unix.Chdir("d"))
			p.readlink("d/l")
			p.rename("d/f", "d/g")
			p.access("d/f", 0)
		})
		p.chmod("d", 0o711)
		p.as(1000, 1000, nil, func() {
			p.follow("d/f")
			p.follow("d/none")
			p.ls("d")
			p.open("d", unix.O_PATH, 0)
		})
		p.setxattr("d/f", "trusted.a", "1", 0)
		p.as(1000, 1000, nil, func() { p.listxattr("d/f", 100) })
		p.listxattr("d/f", 100)
	}},
	{"access", func(p *probe) {
		p.file("f", "x")
		p.mkdir("d", 0o755)
		for _, mode := range []uint32{0, 1, 2, 3, 4, 5, 6, 7, 8} {
			p.access("f", mode)
			p.access("d", mode)
			p.do("faccessat2", unix.Faccessat(unix.AT_FDCWD, "f", mode, unix.AT_EACCESS), mode)
		}
		p.chmod("f", 0o100)
		p.access("f", unix.X_OK)
		p.chmod("f", 0)
		p.access("f", 6)
		p.access("f", unix.X_OK)
		p.access("none", 0)
		p.access("f/x", 0)
		p.symlink("none", "l")
		p.access("l", 0)
		p.do("faccessat2", unix.Faccessat(unix.AT_FDCWD, "l", 0, unix.AT_SYMLINK_NOFOLLOW))
		p.access("", 0)
	}},
	{"umask", func(p *probe) {
		for _, mask := range []int{0, 0o022, 0o077, 0o777} {
			old := unix.Umask(mask)
			x := fmt.Sprintf("%o", mask)
			p.close(p.open("f"+x, unix.O_RDWR|unix.O_CREAT, 0o7777))
			p.mkdir("d"+x, 0o7777)
			p.mknod("p"+x, unix.S_IFIFO|0o7777, 0)
			fd := p.open(".", unix.O_TMPFILE|unix.O_RDWR, 0o7777)
			p.fstat(fd)
			unix.Umask(old)
			p.stat("f"+x, "d"+x, "p"+x)
		}
	}},
	{"truncate", func(p *probe) {
		p.file("f", "0123456789")
		p.truncate("f", 4)
		p.contents("f")
		p.truncate("f", 8)
		p.contents("f")
		p.truncate("f", 0)
		p.truncate("f", 100000)
		p.stat("f")
		p.truncate("f", -1)
		p.truncate("none", 0)
		p.truncate("f/x", 0)
		p.truncate(".", 0)
		fd := p.open("f", unix.O_RDWR, 0)
		p.pwrite(fd, "gathered", 50)
		p.ftruncate(fd, 53)
		p.ftruncate(fd, 60)
		p.pread(fd, 20, 50)
		p.ftruncate(fd, -1)
		p.fstat(fd)
		p.close(fd)
		p.ftruncate(fd, 0)
		p.chmod("f", 0)
		p.truncate("f", 1)
		p.stat("f")
		p.symlink("f", "l")
		p.truncate("l", 2)
		p.stat("f")
		p.times("truncate to the same size", func() { p.truncate("f", 2) }, "f")
		p.times("truncate to another size", func() { p.truncate("f", 3) }, "f", ".")
		fd = p.open("f", unix.O_RDWR, 0)
		p.times("ftruncate to the same size", func() { p.ftruncate(fd, 3) }, "f")
		p.times("ftruncate to another size", func() { p.ftruncate(fd, 7) }, "f")
		p.pwrite(fd, "x", 0)
		p.times("ftruncate to the same size of what is gathered", func() { p.ftruncate(fd, 7) }, "f")
	}},
	{"large offsets", func(p *probe) {
		fd := p.open("f", unix.O_RDWR|unix.O_CREAT, 0o644)
		const most = 1<<44 - 4096
		for _, size := range []int64{1 << 31, 1 << 32, 1<<40 + 1, most - 1, most, most + 1, 1 << 44, 1 << 62, 1<<63 - 1} {
			p.ftruncate(fd, size)
			p.truncate("f", size)
			p.fstat(fd)
			p.pread(fd, 5, size)
		}
		p.ftruncate(fd, 0)
		for _, off := range []int64{1 << 31, 1<<32 - 1, most - 5, most - 3, most - 1, most, 1 << 44, 1 << 62, 1<<63 - 4, 1<<63 - 1, -1} {
			p.pwrite(fd, "abcde", off)
			p.fstat(fd)
			p.pread(fd, 5, off)
		}
		p.lseek(fd, -1, unix.SEEK_SET)
		p.lseek(fd, 1, unix.SEEK_END)
		p.lseek(fd, -1<<45, unix.SEEK_END)
		p.lseek(fd, most, unix.SEEK_SET)
		p.write(fd, "x")
		p.write(fd, "")
		p.lseek(fd, most-2, unix.SEEK_SET)
		p.write(fd, "xyz")
		p.lseek(fd, most+1, unix.SEEK_SET)
		p.lseek(fd, 1<<62, unix.SEEK_SET)
		p.lseek(fd, 0, 77)
		a := p.open("f", unix.O_WRONLY|unix.O_APPEND, 0)
		p.write(a, "at the very end")
		p.fsync(fd)
		p.fstat(fd)
		p.do("fallocate", unix.Fallocate(fd, 0, most-10, 20))
		p.do("fallocate", unix.Fallocate(fd, 0, 1<<62, 1<<62))
		p.do("fallocate", unix.Fallocate(fd, 1, 1<<63-10, 20))
		p.do("fallocate", unix.Fallocate(fd, 3, 1<<62, 10))
		p.do("fallocate", unix.Fallocate(fd, 3, most+5, 10))
		p.fstat(fd)
	}},
	{"file size limit", func(p *probe) {
		fd := p.open("f", unix.O_RDWR|unix.O_CREAT, 0o644)
		var old unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_FSIZE, &old)
		_ = unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 8192, Max: old.Max})
		p.pwrite(fd, "abcde", 8190)
		p.pwrite(fd, "abcde", 8192)
		p.ftruncate(fd, 8192)
		p.ftruncate(fd, 8193)
		p.truncate("f", 10000)
		p.do("fallocate", unix.Fallocate(fd, 0, 8000, 1000))
		_ = unix.Setrlimit(unix.RLIMIT_FSIZE, &old)
		p.fstat(fd)
	}},
	{"sparse files", func(p *probe) {
		fd := p.open("f", unix.O_RDWR|unix.O_CREAT, 0o644)
		p.ftruncate(fd, 10<<20)
		p.fstat(fd)
		p.pwrite(fd, strings.Repeat("x", 65536), 1<<20)
		p.fsync(fd)
		p.fstat(fd)
		for _, off := range []int64{0, 1<<20 - 1, 1 << 20, 1<<20 + 65535, 1<<20 + 65536, 10<<20 - 1, 10 << 20, 11 << 20, -1} {
			p.lseek(fd, off, unix.SEEK_DATA)
			p.lseek(fd, off, unix.SEEK_HOLE)
		}
		p.pread(fd, 4, 1<<20-2)
		p.pwrite(fd, strings.Repeat("y", 2<<20), 5<<20)
		p.lseek(fd, 2<<20, unix.SEEK_DATA)
		p.lseek(fd, 5<<20, unix.SEEK_HOLE)
		p.fstat(fd)
		p.ftruncate(fd, 1<<20)
		p.fsync(fd)
		p.lseek(fd, 0, unix.SEEK_DATA)
		p.lseek(fd, 0, unix.SEEK_HOLE)
		empty := p.open("empty", unix.O_RDWR|unix.O_CREAT, 0o644)
		p.lseek(empty, 0, unix.SEEK_DATA)
		p.lseek(empty, 0, unix.SEEK_HOLE)
		p.close(fd)
		p.lseek(fd, 0, unix.SEEK_DATA)
		var st unix.Stat_t
		err := unix.Stat("f", &st)
		p.say("blocks of a hole", result(st.Blocks, err))
	}},
	{"fallocate", func(p *probe) {
		fd := p.open("f", unix.O_RDWR|unix.O_CREAT, 0o644)
		p.write(fd, strings.Repeat("x", 200000))
		fa := func(mode uint32, off, n int64) {
			p.do("fallocate", unix.Fallocate(fd, mode, off, n), mode, off, n)
			p.fstat(fd)
		}
		const keep, punch, zero = 1, 2, 0x10
		fa(0, 0, 0)
		fa(0, -1, 10)
		fa(0, 0, -1)
		fa(punch, 0, 10)
		fa(punch|keep, 0, 0)
		fa(keep, 300000, 1000)
		fa(0, 199990, 20)
		fa(punch|keep, 65536, 65536)
		p.pread(fd, 4, 65534)
		p.pread(fd, 4, 131070)
		fa(punch|keep, 131072, 1<<20)
		fa(punch|keep, 1<<21, 10)
		fa(zero, 10, 20)
		p.pread(fd, 24, 8)
		fa(zero|keep, 250000, 20)
		fa(zero, 250000, 20)
		fa(zero|punch, 0, 10)
		ro := p.open("f", unix.O_RDONLY, 0)
		p.do("fallocate of one that is read only", unix.Fallocate(ro, 0, 0, 10))
		d := p.open(".", unix.O_RDONLY, 0)
		p.do("fallocate of a directory", unix.Fallocate(d, 0, 0, 10))
		p.times("fallocate", func() { fa(0, 0, 300000) }, "f", ".")
		p.times("fallocate of what is there", func() { fa(0, 0, 3000) }, "f", ".")
		p.times("punch", func() { fa(punch|keep, 0, 3000) }, "f")
		a := p.open("f", unix.O_WRONLY|unix.O_APPEND, 0)
		p.do("fallocate of one that appends", unix.Fallocate(a, punch|keep, 0, 10))
		p.do("posix_fallocate", unix.Fallocate(a, 0, 0, 400000))
		p.fstat(fd)
	}},
	{"fallocate of ranges that go or come", func(p *probe) {
		p.file("f", strings.Repeat("x", 20000))
		fd := p.open("f", unix.O_RDWR, 0)
		for _, mode := range []uint32{unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE, 0x80} {
			p.do("fallocate", unix.Fallocate(fd, mode, 0, 4096), mode, 0)
			p.do("fallocate", unix.Fallocate(fd, mode, 1, 4096), mode, 1)
		}
	}},
	{"copy_file_range", func(p *probe) {
		p.file("a", strings.Repeat("0123456789", 1000))
		a, b := p.open("a", unix.O_RDWR, 0), p.open("b", unix.O_RDWR|unix.O_CREAT, 0o644)
		c := func(from int, x int64, to int, y int64, n, flags int) {
			got, err := unix.CopyFileRange(from, &x, to, &y, n, flags)
			p.num("copy_file_range", int64(got), err, p.name(from), x, p.name(to), y, n, flags)
		}
		c(a, 5, b, 0, 20, 0)
		p.pread(b, 30, 0)
		c(a, 0, b, 100, 1<<30, 0)
		p.fstat(b)
		c(a, 10000, b, 0, 10, 0)
		c(a, 20000, b, 0, 10, 0)
		c(a, 0, a, 5, 10, 0)
		c(a, 0, a, 10000, 10, 0)
		p.fstat(a)
		c(a, 0, b, 0, 10, 1)
		c(a, 0, b, 0, 0, 0)
		c(a, 0, b, -1, 5, 0)
		c(a, -1, b, 0, 5, 0)
		ro, wo, ap := p.open("a", unix.O_RDONLY, 0), p.open("b", unix.O_WRONLY, 0), p.open("b", unix.O_WRONLY|unix.O_APPEND, 0)
		c(wo, 0, b, 0, 5, 0)
		c(a, 0, ro, 0, 5, 0)
		c(a, 0, ap, 0, 5, 0)
		d := p.open(".", unix.O_RDONLY, 0)
		c(d, 0, b, 0, 5, 0)
		p.pwrite(a, "gathered", 0)
		c(a, 0, b, 50, 8, 0)
		p.pread(b, 8, 50)
		p.times("copy_file_range", func() { c(a, 0, b, 0, 8, 0) }, "a", "b")
	}},
	{"extended attributes", func(p *probe) {
		p.file("f", "x")
		p.mkdir("d", 0o755)
		p.symlink("f", "l")
		p.mknod("p", unix.S_IFIFO|0o644, 0)
		for _, f := range []string{"f", "d"} {
			p.getxattr(f, "user.a", 10)
			p.setxattr(f, "user.a", "1", unix.XATTR_REPLACE)
			p.setxattr(f, "user.a", "one", unix.XATTR_CREATE)
			p.setxattr(f, "user.a", "two", unix.XATTR_CREATE)
			p.setxattr(f, "user.a", "three", unix.XATTR_REPLACE)
			p.setxattr(f, "user.empty", "", 0)
			p.getxattr(f, "user.empty", 10)
			p.getxattr(f, "user.a", 0)
			p.getxattr(f, "user.a", 4)
			p.getxattr(f, "user.a", 5)
			p.getxattr(f, "user.a", 65536)
			p.listxattr(f, 0)
			p.listxattr(f, 5)
			p.listxattr(f, 1000)
			p.removexattr(f, "user.a")
			p.removexattr(f, "user.a")
			p.setxattr(f, "user.a", "1", 3)
			p.setxattr(f, "user.b", "1", 4)
			p.setxattr(f, "user.", "1", 0)
			p.setxattr(f, "user", "1", 0)
			p.setxattr(f, "", "1", 0)
			p.setxattr(f, "other.x", "1", 0)
			p.getxattr(f, "other.x", 1)
			p.removexattr(f, "other.x")
			p.setxattr(f, "user."+strings.Repeat("n", 250), "1", 0)
			p.setxattr(f, "user."+strings.Repeat("n", 251), "1", 0)
			p.getxattr(f, "user."+strings.Repeat("n", 251), 1)
			p.setxattr(f, "user.large", strings.Repeat("v", 2000), 0)
			p.getxattr(f, "user.large", 100)
			p.setxattr(f, "user.huge", strings.Repeat("v", 65537), 0)
			p.setxattr(f, "trusted.t", "t", 0)
			p.setxattr(f, "security.s", "s", 0)
			p.getxattr(f, "security.s", 5)
			p.listxattr(f, 1000)
			p.times("setxattr", func() { p.setxattr(f, "user.c", "1", 0) }, f, ".")
			p.times("removexattr", func() { p.removexattr(f, "user.c") }, f)
		}
		for _, f := range []string{"l", "p"} {
			p.setxattr(f, "user.a", "1", 0)
			p.getxattr(f, "user.a", 1)
			p.setxattr(f, "trusted.a", "1", 0)
			p.listxattr(f, 100)
		}
		p.setxattr("none", "user.a", "1", 0)
		p.getxattr("none", "user.a", 1)
		p.listxattr("none", 10)
		p.removexattr("none", "user.a")
		p.chmod("f", 0o444)
		p.setxattr("f", "user.ro", "as root", 0)
		p.chown("f", 1000, 1000)
		p.as(1000, 1000, nil, func() { p.setxattr("f", "user.x", "1", 0); p.getxattr("f", "user.ro", 10) })
		p.chmod("f", 0o200)
		p.as(1000, 1000, nil, func() { p.setxattr("f", "user.x", "1", 0); p.getxattr("f", "user.ro", 10); p.listxattr("f", 0) })
		p.mkdir("t", 0o1777)
		p.chmod("t", 0o1777)
		p.as(1000, 1000, nil, func() { p.setxattr("t", "user.x", "1", 0) })
	}},
	{"reading a directory", func(p *probe) {
		p.mkdir("d", 0o755)
		for i := range 100 {
			p.file(fmt.Sprintf("d/file-%03d", i), "")
		}
		fd := p.open("d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		b := make([]byte, 1024)
		seen := map[string]int{}
		type place struct {
			off  int64
			name string
		}
		var places []place
		first := true
		for {
			n, err := unix.Getdents(fd, b)
			if err != nil {
				p.do("getdents", err)
			}
			if n <= 0 {
				break
			}
			for rest := b[:n]; len(rest) > 0; {
				next := int(rest[16]) | int(rest[17])<<8
				name := unix.ByteSliceToString(rest[19:next])
				seen[name]++
				off := int64(0)
				for i := 7; i >= 0; i-- {
					off = off<<8 | int64(rest[8+i])
				}
				places = append(places, place{off, name})
				rest = rest[next:]
			}
			if first { // those that were there and stay are told once, whatever else happens
				first = false
				for i := 0; i < 100; i += 10 {
					p.unlink(fmt.Sprintf("d/file-%03d", i))
					p.file(fmt.Sprintf("d/new-%03d", i), "")
				}
				p.rename("d/file-001", "d/renamed")
			}
		}
		wrong := 0
		for i := range 100 {
			if k := seen[fmt.Sprintf("file-%03d", i)]; i%10 != 0 && i != 1 && k != 1 || k > 1 {
				wrong++
			}
		}
		p.say("names that are not told once", fmt.Sprint(wrong, seen["."], seen[".."]))
		wrong = 0
		for i := len(places) - 2; i >= 0; i -= 7 {
			if _, err := unix.Seek(fd, places[i].off, unix.SEEK_SET); err != nil {
				p.do("seekdir", err)
			}
			if n, err := unix.Getdents(fd, b); err != nil || n <= 0 {
				p.num("getdents", int64(n), err, i)
			} else if name := unix.ByteSliceToString(b[19:]); name != places[i+1].name {
				if _, err := os.Lstat("d/" + places[i+1].name); err == nil {
					wrong++
				}
			}
		}
		p.say("names that are not where they were", fmt.Sprint(wrong))
		p.lseek(fd, 0, unix.SEEK_SET)
		n, err := unix.Getdents(fd, make([]byte, 10))
		p.num("getdents with no room", int64(n), err)
		n, err = unix.Getdents(p.open("d/renamed", unix.O_RDONLY, 0), b)
		p.num("getdents of a file", int64(n), err)
		p.ls("d")
		p.lseek(fd, 0, unix.SEEK_SET)
		for i := range 100 {
			_ = unix.Unlink(fmt.Sprintf("d/file-%03d", i))
			_ = unix.Unlink(fmt.Sprintf("d/new-%03d", i))
		}
		p.unlink("d/renamed")
		p.rmdir("d")
		n, err = unix.Getdents(fd, b)
		p.num("getdents of a removed directory", int64(n), err)
	}},
	{"mappings", func(p *probe) {
		fd := p.open("f", unix.O_RDWR|unix.O_CREAT, 0o644)
		p.write(fd, strings.Repeat("0123456789", 1000))
		ro := p.open("f", unix.O_RDONLY, 0)
		m := func(fd int, prot, flags int) []byte {
			b, err := unix.Mmap(fd, 0, 12288, prot, flags)
			p.do("mmap", err, p.name(fd), prot, flags)
			return b
		}
		shared := m(fd, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		private := m(fd, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		m(ro, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		m(ro, unix.PROT_READ, unix.MAP_SHARED)
		m(p.open("f", unix.O_WRONLY, 0), unix.PROT_WRITE, unix.MAP_SHARED)
		if shared == nil || private == nil {
			return
		}
		p.say("shared", string(shared[:12]))
		copy(shared, "SHARED")
		copy(private[4096:], "PRIVATE")
		p.pread(fd, 10, 0)
		p.pread(fd, 10, 4096)
		p.pwrite(fd, "WRITTEN", 8000)
		p.say("shared", string(shared[7998:8010]))
		p.say("private", string(private[7998:8010]))
		p.do("msync", unix.Msync(shared, unix.MS_SYNC))
		p.contents("f")
		copy(shared[9998:], "past the end is lost")
		p.do("msync", unix.Msync(shared, unix.MS_SYNC))
		p.fstat(fd)
		p.pread(fd, 10, 9995)
		p.ftruncate(fd, 11000)
		p.pread(fd, 10, 9995)
		copy(shared[500:], "written after the close of all")
		p.close(fd)
		p.close(ro)
		p.unlink("f")
		copy(shared[600:], "and after the unlink")
		p.do("msync", unix.Msync(shared, unix.MS_SYNC))
		p.say("shared", string(shared[500:620]))
		p.do("munmap", unix.Munmap(shared))
		p.times("a mapping's write", func() {
			g := p.open("g", unix.O_RDWR|unix.O_CREAT, 0o644)
			p.ftruncate(g, 100)
			b, err := unix.Mmap(g, 0, 100, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			p.do("mmap", err)
			b[50] = 'x'
			p.do("munmap", unix.Munmap(b))
			p.close(g)
		}, ".")
		g := p.open("g", unix.O_RDWR, 0)
		p.pread(g, 3, 49)
		b, err := unix.Mmap(g, 0, 100, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if p.do("mmap", err) {
			p.times("a mapping's write and msync", func() { b[1] = 'y'; p.do("msync", unix.Msync(b, unix.MS_SYNC)) }, "g")
			p.do("munmap", unix.Munmap(b))
		}
	}},
	{"times", func(p *probe) {
		p.mkdir("d", 0o755)
		p.mkdir("e", 0o755)
		p.times("create", func() { p.file("d/f", "") }, "d", "d/f")
		p.times("mkdir", func() { p.mkdir("d/s", 0o755) }, "d", "d/s")
		p.times("symlink", func() { p.symlink("x", "d/l") }, "d", "d/l")
		p.times("mknod", func() { p.mknod("d/p", unix.S_IFIFO|0o644, 0) }, "d", "d/p")
		fd := p.open("d/f", unix.O_RDWR, 0)
		p.times("open", func() { p.close(p.open("d/f", unix.O_RDWR, 0)) }, "d", "d/f")
		p.times("write", func() { p.write(fd, "abc") }, "d", "d/f")
		p.times("fsync", func() { p.fsync(fd) }, "d/f")
		p.times("write of nothing", func() { p.write(fd, "") }, "d/f")
		p.times("read", func() { p.pread(fd, 3, 0) }, "d", "d/f")
		p.times("close", func() { p.close(fd) }, "d/f")
		p.times("chmod", func() { p.chmod("d/f", 0o600) }, "d", "d/f")
		p.times("chmod to the same", func() { p.chmod("d/f", 0o600) }, "d/f")
		p.times("chown", func() { p.chown("d/f", 1, 1) }, "d", "d/f")
		p.times("link", func() { p.link("d/f", "e/f") }, "d", "e", "d/f")
		p.times("unlink of one", func() { p.unlink("e/f") }, "d", "e", "d/f")
		p.times("rename", func() { p.rename("d/f", "d/g") }, "d", "d/g")
		p.times("rename to another directory", func() { p.rename("d/g", "e/g") }, "d", "e", "e/g")
		p.times("rename of a directory", func() { p.rename("d/s", "e/s") }, "d", "e", "e/s")
		p.file("e/h", "")
		p.link("e/h", "e/i")
		p.times("rename over another", func() { p.rename("e/g", "e/h") }, "e", "e/h", "e/i")
		p.times("exchange", func() { p.renameat2("e/h", "d/l", unix.RENAME_EXCHANGE) }, "d", "e", "e/h", "d/l")
		p.times("a failed create", func() { p.open("e/i", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o644) }, "e", "e/i")
		p.times("a failed unlink", func() { p.unlink("e/s") }, "e", "e/s")
		p.times("rmdir", func() { p.rmdir("e/s") }, "e")
		p.times("unlink", func() { p.unlink("e/i") }, "e")
		p.times("readdir", func() { p.ls("e") }, "e")
		p.times("O_TMPFILE", func() { p.open("e", unix.O_TMPFILE|unix.O_RDWR, 0o644) }, "e")
		held := p.open("e/held", unix.O_CREAT|unix.O_RDWR, 0o644)
		p.times("unlink of an open one", func() { p.unlink("e/held") }, "e")
		p.fstat(held)
	}},
	{"many links", func(p *probe) {
		p.file("f", "x")
		for i := range 200 {
			if err := unix.Link("f", fmt.Sprintf("l%d", i)); err != nil {
				p.do("link", err, i)
			}
		}
		p.stat("f")
		for i := range 200 {
			if err := unix.Unlink(fmt.Sprintf("l%d", i)); err != nil {
				p.do("unlink", err, i)
			}
		}
		p.stat("f", ".")
	}},
	{"statfs", func(p *probe) {
		var st unix.Statfs_t
		err := unix.Statfs(".", &st)
		p.do("statfs", err)
		p.say("numbers that cannot be", fmt.Sprint(st.Bsize <= 0, st.Blocks == 0, st.Bfree > st.Blocks, st.Bavail > st.Bfree, st.Ffree > st.Files, st.Namelen))
		p.do("statfs", unix.Statfs("none", &st))
		fd := p.open(".", unix.O_RDONLY, 0)
		p.do("fstatfs", unix.Fstatfs(fd, &st))
		p.do("syncfs", unix.Syncfs(fd))
	}},
	{"names", func(p *probe) {
		for _, name := range []string{"a b", "-x", "ü", "new\nline", "\xff\xfe", "back\\slash", "...", ".hidden", "tab\t", "*?[", "日本語", "A", "a"} {
			p.file(name, name)
			p.contents(name)
		}
		p.ls(".")
		p.follow("..")
		p.follow("./././.")
		p.follow("a//")
		p.follow(".//a")
	}},
	{"fcntl and descriptors", func(p *probe) {
		fd := p.open("f", unix.O_RDWR|unix.O_CREAT, 0o644)
		p.write(fd, "abcdef")
		d, err := unix.Dup(fd)
		p.do("dup", err)
		p.fds[d] = "dup"
		p.lseek(d, 0, unix.SEEK_CUR)
		p.do("close of one of two", unix.Close(d))
		delete(p.fds, d)
		p.write(fd, "ghi")
		p.contents("f")
		p.do("fdatasync", unix.Fdatasync(fd))
		p.do("sync_file_range", unix.SyncFileRange(fd, 0, 0, 7))
		p.do("fadvise", unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED))
		p.do("readahead", func() error { _, _, e := unix.Syscall(unix.SYS_READAHEAD, uintptr(fd), 0, 4096); return result0(e) }())
		n, err := unix.IoctlGetInt(fd, unix.TIOCGWINSZ)
		p.num("ioctl", int64(n), err)
		p.read(fd, 10)
		p.lseek(fd, 2, unix.SEEK_SET)
		p.read(fd, 3)
		p.lseek(fd, 0, unix.SEEK_CUR)
		iov := [][]byte{[]byte("one "), []byte("two "), nil, []byte("three")}
		k, err := unix.Pwritev(fd, iov, 100)
		p.num("pwritev", int64(k), err)
		p.pread(fd, 20, 98)
		s := p.open("s", unix.O_RDWR|unix.O_CREAT|unix.O_SYNC, 0o644)
		p.write(s, "synced")
		dir := p.open("o", unix.O_RDWR|unix.O_CREAT|unix.O_DIRECT, 0o644)
		p.num("write", int64(len(strings.Repeat("x", 4096))), nil)
		p.close(dir)
		p.close(s)
		p.stat("s", "f")
	}},
}

func result0(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}
