package posix

import (
	"strings"

	"golang.org/x/sys/unix"
)

// contentCases change sizes and bytes.
var contentCases = []tableCase{
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
}
