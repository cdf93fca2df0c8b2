package posix

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/integration/harness"
)

// stress does random operations to a tree in mounts and to a local one, and
// compares what they answer and leave. With several mounts of one service any
// of them does the next operation and any is looked at; what was written is
// synced then, since until that another mount need not show it.
type stress struct {
	r      *rand.Rand
	mounts []string
	local  string
	open   []*pair
	trace  []string
	step   int
}

// pair is one file open in a mount and in the local tree.
type pair struct {
	mount        int
	there, local int // descriptors
	flags        int
	ino          uint64 // of the local file
}

const (
	maxOpen   = 8
	maxSize   = 300000
	traceTail = 60
)

func runStress(seed uint64, limit time.Duration, dirs []string) error {
	unix.Umask(0o022)
	s := &stress{r: rand.New(rand.NewPCG(seed, 1)), mounts: dirs[:len(dirs)-1], local: dirs[len(dirs)-1]}
	for end := time.Now().Add(limit); time.Now().Before(end); s.step++ {
		if err := s.one(); err != nil {
			return fmt.Errorf("seed %d, step %d: %w\nthe last steps:\n%s", seed, s.step, err, strings.Join(s.trace[max(0, len(s.trace)-traceTail):], "\n"))
		}
	}
	for _, p := range s.open {
		_, _ = unix.Close(p.there), unix.Close(p.local)
	}
	s.open = nil
	for i := range s.mounts {
		if err := s.compareTrees(i); err != nil {
			return fmt.Errorf("seed %d, at the end: %w", seed, err)
		}
	}
	fmt.Println(s.step)
	return nil
}

// operations are chosen among, as often as they are in the list.
var operations = []func(*stress) error{
	(*stress).doOpen, (*stress).doOpen, (*stress).doOpen, (*stress).doOpen, (*stress).doClose,
	(*stress).doWrite, (*stress).doWrite, (*stress).doWrite, (*stress).doWrite, (*stress).doRead, (*stress).doRead,
	(*stress).doTruncate, (*stress).doFallocate, (*stress).doMap, (*stress).doCopy, (*stress).doSync,
	(*stress).doPath, (*stress).doPath, (*stress).doPath, (*stress).doPath, (*stress).doRename, (*stress).doRename,
	(*stress).doUnlink, (*stress).doLink, (*stress).doTmpfile, (*stress).doSeek,
}

func (s *stress) one() error {
	if err := operations[s.r.IntN(len(operations))](s); err != nil {
		return err
	}
	i := s.r.IntN(len(s.mounts))
	if s.step%50 == 49 {
		return s.compareTrees(i)
	}
	name := s.path()
	return s.same("lstat "+name, s.lstat(s.mounts[i]+"/"+name), s.lstat(s.local+"/"+name))
}

// same notes an operation and its outcome.
func (s *stress) same(what, got, want string) error {
	s.trace = append(s.trace, fmt.Sprintf("%6d %s = %s", s.step, what, want))
	if got != want {
		return fmt.Errorf("%s: %s in the mount, %s locally", what, got, want)
	}
	return nil
}

// both does one thing to each tree.
func (s *stress) both(what string, mount int, do func(root string) error) error {
	got, want := do(s.mounts[mount]), do(s.local)
	return s.same(fmt.Sprintf("m%d %s", mount, what), result("ok", got), result("ok", want))
}

func (s *stress) lstat(name string) string {
	var st unix.Stat_t
	err := unix.Lstat(name, &st)
	return result(describeShort(st), err)
}

// describeShort leaves out what a file system may see in its own way: st_blocks.
func describeShort(st unix.Stat_t) string {
	text, _, _ := strings.Cut(describe(st), ",")
	return text
}

func (s *stress) mount() int { return s.r.IntN(len(s.mounts)) }

// path is one of few, so that they often meet: files and directories have the
// same names.
func (s *stress) path() string {
	var parts []string
	for s.r.IntN(3) == 0 && len(parts) < 3 {
		parts = append(parts, string(rune('p'+s.r.IntN(3))))
	}
	return strings.Join(append(parts, []string{"a", "b", "c", "d", "p", "q", "r"}[s.r.IntN(7)]), "/")
}

func (s *stress) bytes() []byte {
	b := make([]byte, []int{1, 10, 4096, 5000, s.r.IntN(70000) + 1}[s.r.IntN(5)])
	x := byte(s.r.IntN(255) + 1)
	for i := range b {
		b[i] = x + byte(i/512)
	}
	return b
}

func (s *stress) offset() int64 {
	off := int64(s.r.IntN(maxSize))
	if s.r.IntN(3) == 0 {
		off &^= 4095
	}
	return off
}

// pick is an open file, nil if there is none.
func (s *stress) pick() *pair {
	if len(s.open) == 0 {
		return nil
	}
	return s.open[s.r.IntN(len(s.open))]
}

func (s *stress) label(p *pair) string { return fmt.Sprintf("m%d fd%d", p.mount, p.local) }

// on does something to both descriptors; what was changed others see at once.
func (s *stress) on(p *pair, what string, do func(fd int) string) error {
	got, want := do(p.there), do(p.local)
	if err := s.same(s.label(p)+" "+what, got, want); err != nil {
		return err
	}
	if len(s.mounts) > 1 && p.flags&(unix.O_ACCMODE|unix.O_TRUNC) != unix.O_RDONLY {
		if err := unix.Fsync(p.there); err != nil {
			return fmt.Errorf("fsync: %w", err)
		}
	}
	var a, b unix.Stat_t
	x, y := unix.Fstat(p.there, &a), unix.Fstat(p.local, &b)
	return s.same(s.label(p)+" fstat", result(describeShort(a), x), result(describeShort(b), y))
}

func (s *stress) doOpen() error {
	if len(s.open) >= maxOpen {
		return s.doClose()
	}
	name, m := s.path(), s.mount()
	flags := []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_RDWR}[s.r.IntN(4)]
	for _, f := range []int{unix.O_CREAT, unix.O_CREAT, unix.O_TRUNC, unix.O_APPEND, unix.O_EXCL, unix.O_NOFOLLOW} {
		if s.r.IntN(3) == 0 && (f != unix.O_EXCL || flags&unix.O_CREAT != 0) {
			flags |= f
		}
	}
	p := &pair{mount: m, flags: flags}
	var a, b error
	p.there, a = unix.Open(s.mounts[m]+"/"+name, flags|unix.O_CLOEXEC, 0o640)
	p.local, b = unix.Open(s.local+"/"+name, flags|unix.O_CLOEXEC, 0o640)
	if err := s.same(fmt.Sprintf("m%d open %s %s", m, name, flagNames(flags)), result("ok", a), result("ok", b)); err != nil || b != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(p.local, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		_, _ = unix.Close(p.there), unix.Close(p.local)
		return nil
	}
	p.ino = st.Ino
	s.open = append(s.open, p)
	return s.on(p, "opened", func(int) string { return fmt.Sprint(p.local) })
}

func (s *stress) doTmpfile() error {
	if len(s.open) >= maxOpen {
		return s.doClose()
	}
	p := &pair{mount: s.mount(), flags: unix.O_RDWR}
	var a, b error
	p.there, a = unix.Open(s.mounts[p.mount], unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	p.local, b = unix.Open(s.local, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err := s.same(fmt.Sprintf("m%d O_TMPFILE %d", p.mount, p.local), result("ok", a), result("ok", b)); err != nil {
		return err
	}
	var st unix.Stat_t
	err := unix.Fstat(p.local, &st)
	p.ino = st.Ino
	s.open = append(s.open, p)
	return err
}

func (s *stress) doClose() error {
	p := s.pick()
	if p == nil {
		return nil
	}
	s.open = slices.DeleteFunc(s.open, func(o *pair) bool { return o == p })
	return s.same(s.label(p)+" close", result("ok", unix.Close(p.there)), result("ok", unix.Close(p.local)))
}

func (s *stress) doWrite() error {
	p := s.pick()
	if p == nil {
		return s.doOpen()
	}
	b, off := s.bytes(), s.offset()
	if p.flags&unix.O_APPEND != 0 {
		if size, err := unix.Seek(p.local, 0, unix.SEEK_END); err != nil || size > maxSize {
			return err
		}
	}
	return s.on(p, fmt.Sprintf("pwrite %d at %d", len(b), off), func(fd int) string {
		n, err := unix.Pwrite(fd, b, off)
		return result(n, err)
	})
}

func sum(b []byte) string { return fmt.Sprintf("%d bytes %08x", len(b), crc32.ChecksumIEEE(b)) }

func (s *stress) doRead() error {
	p := s.pick()
	if p == nil {
		return s.doOpen()
	}
	off, n := s.offset(), len(s.bytes())
	if s.r.IntN(3) == 0 {
		off, n = 0, 2*maxSize
	}
	return s.on(p, fmt.Sprintf("pread %d at %d", n, off), func(fd int) string {
		b := make([]byte, n)
		k, err := unix.Pread(fd, b, off)
		return result(sum(b[:max(k, 0)]), err)
	})
}

func (s *stress) doTruncate() error {
	size := s.offset()
	if s.r.IntN(4) == 0 {
		size = 0
	}
	if p := s.pick(); p != nil && s.r.IntN(3) > 0 {
		return s.on(p, fmt.Sprint("ftruncate ", size), func(fd int) string { return result("ok", unix.Ftruncate(fd, size)) })
	}
	name := s.path()
	return s.both(fmt.Sprintf("truncate %s %d", name, size), s.mount(), func(root string) error { return unix.Truncate(root+"/"+name, size) })
}

func (s *stress) doFallocate() error {
	p := s.pick()
	if p == nil {
		return s.doOpen()
	}
	mode, off, n := []uint32{0, 1, 3, 3, 0x10, 0x11}[s.r.IntN(6)], s.offset(), int64(len(s.bytes()))
	return s.on(p, fmt.Sprintf("fallocate %#x %d at %d", mode, n, off), func(fd int) string { return result("ok", unix.Fallocate(fd, mode, off, n)) })
}

// doMap reads and writes a few bytes of a mapping, which is synced.
func (s *stress) doMap() error {
	p := s.pick()
	if p == nil || p.flags&unix.O_ACCMODE != unix.O_RDWR {
		return s.doRead()
	}
	var st unix.Stat_t
	if err := unix.Fstat(p.local, &st); err != nil || st.Size == 0 {
		return err
	}
	at, mark, flags := s.r.Int64N(st.Size), byte(s.r.IntN(256)), unix.MAP_SHARED
	if s.r.IntN(4) == 0 {
		flags = unix.MAP_PRIVATE
	}
	return s.on(p, fmt.Sprintf("mmap %d, byte %d becomes %#x", flags, at, mark), func(fd int) string {
		if err := unix.Fstat(fd, &st); err != nil {
			return result("", err)
		}
		b, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, flags)
		if err != nil {
			return result("", err)
		}
		b[at] = mark
		text := sum(b)
		if err := unix.Msync(b, unix.MS_SYNC); err != nil {
			text = result("", err)
		}
		return text + result("", unix.Munmap(b))
	})
}

func (s *stress) doCopy() error {
	p, q := s.pick(), s.pick()
	if p == nil || p.mount != q.mount {
		return nil
	}
	from, to, n := s.offset(), s.offset(), len(s.bytes())
	do := func(a, b int) string {
		x, y := from, to
		k, err := unix.CopyFileRange(a, &x, b, &y, n, 0)
		return result(k, err)
	}
	got, want := do(p.there, q.there), do(p.local, q.local)
	return s.on(q, fmt.Sprintf("copy_file_range of fd%d %d at %d to %d", p.local, n, from, to), func(fd int) string {
		if fd == q.there {
			return got
		}
		return want
	})
}

func (s *stress) doSync() error {
	p := s.pick()
	if p == nil {
		return nil
	}
	return s.on(p, "fsync", func(fd int) string { return result("ok", unix.Fsync(fd)) })
}

// doSeek: data begins where a hole does not. Where a hole is may be told less
// exactly than locally, never wrongly.
func (s *stress) doSeek() error {
	p := s.pick()
	if p == nil {
		return nil
	}
	off := s.offset()
	hole, err := unix.Seek(p.there, off, unix.SEEK_HOLE)
	var st unix.Stat_t
	if e := unix.Fstat(p.local, &st); e != nil {
		return e
	}
	if want := off >= st.Size; want != (err == unix.ENXIO) || err == nil && (hole < off || hole > st.Size) {
		return fmt.Errorf("%s SEEK_HOLE from %d of %d bytes: %d, %v", s.label(p), off, st.Size, hole, err)
	}
	if err != nil || hole == st.Size || p.flags&unix.O_ACCMODE == unix.O_WRONLY {
		return nil
	}
	data, err := unix.Seek(p.there, hole, unix.SEEK_DATA)
	if err == unix.ENXIO {
		data, err = st.Size, nil
	}
	if err != nil {
		return err
	}
	b := make([]byte, data-hole)
	if _, err := unix.Pread(p.local, b, hole); err != nil {
		return err
	}
	if bytes.ContainsFunc(b, func(r rune) bool { return r != 0 }) {
		return fmt.Errorf("%s has data in the hole from %d to %d", s.label(p), hole, data)
	}
	return nil
}

// doPath are changes by name that take no file's name away.
func (s *stress) doPath() error {
	name, m := s.path(), s.mount()
	mode := uint32(s.r.IntN(0o1000)) | 0o700
	at := func(root string) string { return root + "/" + name }
	switch s.r.IntN(8) {
	case 0, 1:
		return s.both("mkdir "+name, m, func(root string) error { return unix.Mkdir(at(root), mode) })
	case 2:
		return s.both("rmdir "+name, m, func(root string) error { return unix.Rmdir(at(root)) })
	case 3:
		target := s.path()
		return s.both("symlink "+target+" "+name, m, func(root string) error { return unix.Symlink(target, at(root)) })
	case 4:
		return s.both(fmt.Sprintf("chmod %s %o", name, mode), m, func(root string) error { return unix.Chmod(at(root), mode) })
	case 5:
		uid := s.r.IntN(3)
		return s.both(fmt.Sprintf("lchown %s %d", name, uid), m, func(root string) error { return unix.Lchown(at(root), uid, uid) })
	case 6:
		value := s.bytes()
		value = value[:min(len(value), 100)]
		flags := s.r.IntN(3)
		return s.both(fmt.Sprintf("setxattr %s %d", name, flags), m, func(root string) error { return unix.Lsetxattr(at(root), "user.x", value, flags) })
	}
	ts := []unix.Timespec{{Sec: s.r.Int64N(1 << 31), Nsec: s.r.Int64N(1e9)}, {Sec: s.r.Int64N(1 << 31), Nsec: s.r.Int64N(1e9)}}
	return s.both("utimens "+name, m, func(root string) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, at(root), ts, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// holder is the mount that may take a file's name away: another mount's open
// files do not outlive that yet. Not ok: several have it open.
func (s *stress) holder(names ...string) (mount int, ok bool) {
	holders := map[int]bool{}
	for _, name := range names {
		var st unix.Stat_t
		if unix.Lstat(s.local+"/"+name, &st) != nil {
			continue
		}
		for _, p := range s.open {
			if p.ino == st.Ino {
				holders[p.mount], mount = true, p.mount
			}
		}
	}
	if len(holders) == 0 {
		mount = s.mount()
	}
	return mount, len(holders) < 2
}

func (s *stress) doUnlink() error {
	name := s.path()
	m, ok := s.holder(name)
	if !ok {
		return nil
	}
	return s.both("unlink "+name, m, func(root string) error { return unix.Unlink(root + "/" + name) })
}

func (s *stress) doRename() error {
	a, b := s.path(), s.path()
	m, ok := s.holder(a, b)
	if !ok {
		return nil
	}
	flags := []uint{0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[s.r.IntN(4)]
	return s.both(fmt.Sprintf("rename %s %s %d", a, b, flags), m, func(root string) error {
		rename := func() error {
			return unix.Renameat2(unix.AT_FDCWD, root+"/"+a, unix.AT_FDCWD, root+"/"+b, flags)
		}
		err := rename()
		if err == unix.ESTALE && len(s.mounts) > 1 {
			// A directory in use here that the other mount has moved: the kernel takes
			// it to its new name only where it is looked up outside a rename.
			_, _ = s.lstat(root+"/"+a), s.lstat(root+"/"+b)
			err = rename()
		}
		return err
	})
}

func (s *stress) doLink() error {
	name := s.path()
	if p := s.pick(); p != nil && s.r.IntN(2) == 0 { // gives one without a name its first
		link := func(fd int, root string) error {
			return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, root+"/"+name, unix.AT_SYMLINK_FOLLOW)
		}
		return s.same(s.label(p)+" link "+name, result("ok", link(p.there, s.mounts[p.mount])), result("ok", link(p.local, s.local)))
	}
	old := s.path()
	return s.both("link "+old+" "+name, s.mount(), func(root string) error { return unix.Link(root+"/"+old, root+"/"+name) })
}

// tree describes all that is below a directory.
func tree(root string) (list []string, err error) {
	err = filepath.WalkDir(root, func(name string, d os.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		line := name[len(root)+1:] + " " + describeShort(st)
		attr := make([]byte, 1000)
		if n, err := unix.Lgetxattr(name, "user.x", attr); err == nil {
			line += " user.x " + sum(attr[:n])
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			line += " " + sum(b)
		case unix.S_IFLNK:
			to, err := os.Readlink(name)
			if err != nil {
				return err
			}
			line += " to " + to
		}
		list = append(list, line)
		return nil
	})
	return list, err
}

func (s *stress) compareTrees(mount int) error {
	got, err := tree(s.mounts[mount])
	if err != nil {
		return err
	}
	want, err := tree(s.local)
	if err != nil {
		return err
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			return fmt.Errorf("the trees differ from line %d on, in mount %d\n%s\nlocally\n%s", i, mount, strings.Join(got[min(i, len(got)):min(i+3, len(got))], "\n"), strings.Join(want[min(i, len(want)):min(i+3, len(want))], "\n"))
		}
	}
	return nil
}

// testStress goes on for TPCFS_TEST_STRESSTIME.
func testStress(t *testing.T, mounts int, env ...string) {
	t.Helper()
	limit, err := harness.Duration("TPCFS_TEST_STRESSTIME", 8*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience+limit)
	defer cancel()
	w := newWorld(t, ctx, raced, mounts, env...)
	seed := rand.Uint64()
	if s := os.Getenv("TPCFS_TEST_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("TPCFS_TEST_SEED: %v", err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"helper", "stress", fmt.Sprint(seed), limit.String()}, append(w.mounts, t.TempDir())...)
	r := harness.Run(ctx, nil, nil, self, args...)
	t.Logf("seed %d: %s steps", seed, strings.TrimSpace(r.Out))
	if r.Code != 0 {
		t.Errorf("exit %d: %s", r.Code, r.Err)
	}
}

// TestStress compares a mount and a local directory after each of many random
// operations. TPCFS_TEST_SEED=N does those of a seed again, and
// TPCFS_TEST_STRESSTIME=1h goes on for longer.
func TestStress(t *testing.T) { testStress(t, 1, "GOMAXPROCS=2") }

// TestStressOfTwoMounts does the operations in either of two mounts, and looks
// at what they have left in either.
func TestStressOfTwoMounts(t *testing.T) { testStress(t, 2, "GOMAXPROCS=1") }

// stressArgs are those of the helper.
func stressArgs(args []string) error {
	seed, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return err
	}
	limit, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	if len(args) < 4 {
		return syscall.EINVAL
	}
	return runStress(seed, limit, args[2:])
}
