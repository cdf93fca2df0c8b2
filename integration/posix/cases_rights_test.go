package posix

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// rightCases change modes and owners, and do what they forbid.
var rightCases = []tableCase{
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
}
