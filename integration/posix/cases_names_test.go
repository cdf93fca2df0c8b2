package posix

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// nameCases make, change, list and remove names.
var nameCases = []tableCase{
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
	{"an open fifo without a name", func(p *probe) {
		p.mknod("p", unix.S_IFIFO|0o640, 0)
		fd := p.open("p", unix.O_RDWR, 0)
		p.unlink("p")
		p.do("fchmod", unix.Fchmod(fd, 0o600))
		p.fstat(fd)
		p.write(fd, "through")
		p.read(fd, 10)
		p.close(fd)
		p.ls(".")
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
}
