package posix

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// attributeCases look at times, extended attributes and the file system, and change them.
var attributeCases = []tableCase{
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
	{"times to come", func(p *probe) {
		p.mkdir("d", 0o755)
		p.mkdir("e", 0o755)
		p.file("d/f", "abcdef")
		p.file("from", "other bytes")
		later := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: 7_000_000_000, Nsec: 5}}
		set := func(names ...string) {
			for _, name := range names {
				p.do("utimensat", unix.UtimesNanoAt(unix.AT_FDCWD, name, later, 0), name)
			}
		}
		after := func(what string, call func(), names ...string) {
			set(names...)
			p.times(what, call, names...)
			for _, name := range names {
				var st unix.Stat_t
				err := unix.Lstat(name, &st)
				p.say("mtime is ctime of "+name, result(fmt.Sprint(st.Mtim == st.Ctim), err))
			}
		}
		fd := p.open("d/f", unix.O_RDWR, 0)
		fallocate := func(mode uint32, off, n int64) { p.do("fallocate", unix.Fallocate(fd, mode, off, n), mode, off, n) }
		for _, synced := range []bool{false, true} {
			does := func(what string, call func()) {
				after(what, func() {
					call()
					if synced {
						p.fsync(fd)
					}
				}, "d/f")
			}
			does("write", func() { p.pwrite(fd, "x", 0) })
			does("write of nothing", func() { p.pwrite(fd, "", 0) })
			does("truncate to less", func() { p.truncate("d/f", 3) })
			does("truncate to more", func() { p.truncate("d/f", 9000) })
			does("ftruncate to the same", func() { p.ftruncate(fd, 9000) })
			does("fallocate", func() { fallocate(0, 0, 20000) })
			does("fallocate beyond the end", func() { fallocate(unix.FALLOC_FL_KEEP_SIZE, 20000, 10000) })
			does("punch", func() { fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 4096) })
			does("zero", func() { fallocate(unix.FALLOC_FL_ZERO_RANGE, 0, 100) })
			does("chmod", func() { p.chmod("d/f", 0o600) })
			does("chown", func() { p.chown("d/f", 1, 1) })
			does("setxattr", func() { p.setxattr("d/f", "user.a", fmt.Sprint(synced), 0) })
			does("link", func() { p.link("d/f", "e/link"); p.unlink("e/link") })
			does("copy_file_range", func() {
				from := p.open("from", unix.O_RDONLY, 0)
				n, err := unix.CopyFileRange(from, nil, fd, nil, 5, 0)
				p.num("copy_file_range", int64(n), err)
				p.close(from)
			})
			does("O_TRUNC", func() { p.close(p.open("d/f", unix.O_RDWR|unix.O_TRUNC, 0)) })
		}
		p.pwrite(fd, "gathered", 0)
		after("write over what is gathered", func() { p.pwrite(fd, "more", 0); p.fsync(fd) }, "d/f")
		after("truncate of what is gathered", func() { p.pwrite(fd, "more", 0); p.ftruncate(fd, 2) }, "d/f")
		p.close(fd)
		after("create", func() { p.file("d/g", "") }, "d")
		after("mkdir", func() { p.mkdir("d/s", 0o755) }, "d")
		after("symlink", func() { p.symlink("x", "d/l") }, "d")
		after("mknod", func() { p.mknod("d/p", unix.S_IFIFO|0o644, 0) }, "d")
		after("link", func() { p.link("d/g", "d/h") }, "d", "d/g")
		after("rename", func() { p.rename("d/g", "e/g") }, "d", "e", "d/h")
		after("rename in it", func() { p.rename("d/h", "d/i") }, "d")
		after("exchange", func() { p.renameat2("d/i", "e/g", unix.RENAME_EXCHANGE) }, "d", "e")
		after("chmod", func() { p.chmod("d", 0o700) }, "d")
		after("unlink", func() { p.unlink("d/i") }, "d")
		after("rmdir", func() { p.rmdir("d/s") }, "d")
		after("rename of itself", func() { p.rename("d", "e/d") }, "e")
		set("e/d")
		p.times("rename of itself", func() { p.rename("e/d", "d") }, "e")
		after("two in a row", func() { p.unlink("d/l"); p.unlink("d/p") }, "d")
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
}
