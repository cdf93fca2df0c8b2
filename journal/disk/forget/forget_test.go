package forget_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"

	"tpcfs/journal/disk"
	"tpcfs/journal/disk/forget"
)

func rng(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, f disk.File, b []byte, at int64) {
	t.Helper()
	_, err := f.WriteAt(b, at)
	must(t, err)
}

func create(t *testing.T, f disk.FS, name string) disk.File {
	t.Helper()
	h, err := f.Create(name)
	must(t, err)
	return h
}

func contents(t *testing.T, f disk.FS, name string) []byte {
	t.Helper()
	h, err := f.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	must(t, err)
	size, err := h.Size()
	must(t, err)
	b := make([]byte, size)
	if _, err := h.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	must(t, h.Close())
	return b
}

func names(t *testing.T, f disk.FS, dir string) string {
	t.Helper()
	list, err := f.ReadDir(dir)
	must(t, err)
	s := ""
	for _, e := range list {
		s += e.Name + " "
	}
	return s
}

// What was synced is always there; of the rest, any sectors.
func TestCrashKeepsSyncedAndAnyOfTheRest(t *testing.T) {
	f := forget.New(1)
	must(t, f.MkdirAll("/a/b"))
	h := create(t, f, "/a/b/x")
	old, young := bytes.Repeat([]byte{1}, 8192), bytes.Repeat([]byte{2}, 8192)
	write(t, h, old, 0)
	must(t, h.Sync())
	must(t, f.SyncDir("/a/b"))
	write(t, h, young, 0)
	var none, all, mixed, torn int
	for seed := range uint64(200) {
		got := contents(t, f.Crash(rng(seed)), "/a/b/x")
		if len(got) != 8192 {
			t.Fatalf("%d bytes left", len(got))
		}
		pages := 0
		for at := 0; at < len(got); at += 512 {
			s := got[at : at+512]
			if !bytes.Equal(s, old[:512]) && !bytes.Equal(s, young[:512]) {
				t.Fatal("a sector is torn")
			}
			if at%4096 != 0 && s[0] != got[at/4096*4096] {
				pages++
			}
		}
		switch {
		case bytes.Equal(got, old):
			none++
		case bytes.Equal(got, young):
			all++
		default:
			mixed++
		}
		if pages > 0 {
			torn++
		}
	}
	if none == 0 || all == 0 || mixed == 0 || torn == 0 {
		t.Fatalf("outcomes: %d nothing, %d everything, %d mixed, %d within a page", none, all, mixed, torn)
	}
	if _, err := h.WriteAt(old, 0); !errors.Is(err, forget.ErrCrashed) {
		t.Fatalf("write after the crash: %v", err)
	}
}

// Crash is a function of its generator.
func TestCrashIsReproducible(t *testing.T) {
	image := func(seed uint64) []byte {
		f := forget.New(7)
		h := create(t, f, "x")
		must(t, f.SyncDir("/"))
		for i := range 50 {
			write(t, h, bytes.Repeat([]byte{byte(i)}, 700), int64(i*333))
		}
		must(t, h.StartWriteback(0, 9000))
		return contents(t, f.Crash(rng(seed)), "x")
	}
	for seed := range uint64(20) {
		if !bytes.Equal(image(seed), image(seed)) {
			t.Fatalf("seed %d: two outcomes", seed)
		}
	}
}

// What a crash would leave is what it leaves; neither the file system nor what
// was imagined changes by what becomes of the other.
func TestImagine(t *testing.T) {
	for seed := range uint64(40) {
		play := func(from, to int, f *forget.FS, h disk.File) {
			for i := from; i < to; i++ {
				r := rng(seed<<8 | uint64(i))
				switch r.IntN(8) {
				case 0:
					must(t, h.Sync())
				case 1:
					must(t, f.SyncDir("/"))
				case 2:
					must(t, h.Truncate(int64(r.IntN(20_000))))
				case 3:
					must(t, h.StartWriteback(0, 20_000))
				default:
					write(t, h, bytes.Repeat([]byte{byte(i)}, 1+r.IntN(9000)), int64(r.IntN(3)*4096+r.IntN(2)*100))
				}
			}
		}
		const steps, at = 30, 20
		imagining, plain := forget.New(seed), forget.New(seed)
		h, g := create(t, imagining, "x"), create(t, plain, "x")
		must(t, imagining.SyncDir("/"))
		must(t, plain.SyncDir("/"))
		play(0, at, imagining, h)
		imagined := imagining.Imagine(rng(seed))
		play(at, steps, imagining, h)
		after := contents(t, imagining, "x")
		other, err := imagined.Open("x")
		must(t, err)
		got := contents(t, imagined, "x")
		play(0, 5, imagined, other)
		if !bytes.Equal(contents(t, imagining, "x"), after) {
			t.Errorf("seed %d: work on what was imagined shows in the file system", seed)
		}
		play(0, at, plain, g)
		if !bytes.Equal(got, contents(t, plain.Crash(rng(seed)), "x")) {
			t.Errorf("seed %d: what was imagined is not what a crash leaves", seed)
		}
		plain.Restart()
		if g, err = plain.Open("x"); err != nil {
			t.Fatal(err)
		}
		play(at, steps, plain, g)
		if !bytes.Equal(contents(t, imagining.Crash(rng(9)), "x"), contents(t, plain.Crash(rng(9)), "x")) {
			t.Errorf("seed %d: the file system has been changed", seed)
		}
	}
}

// A name is durable after SyncDir only, and a rename happens or does not.
func TestDirectories(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(200) {
		f := forget.New(1)
		must(t, f.MkdirAll("d"))
		for _, n := range []string{"d/old", "d/gone"} {
			must(t, create(t, f, n).Close())
		}
		must(t, f.SyncDir("d"))
		must(t, f.Rename("d/old", "d/new"))
		must(t, f.Remove("d/gone"))
		must(t, create(t, f, "d/tmp").Close())
		must(t, f.Rename("d/tmp", "d/made"))
		seen[names(t, f.Crash(rng(seed)), "d")]++
	}
	for s := range seen {
		old, young := bytes.Contains([]byte(s), []byte("old ")), bytes.Contains([]byte(s), []byte("new "))
		if old == young {
			t.Errorf("after a rename: %q", s)
		}
	}
	for _, want := range []string{"gone old ", "made new ", "new ", "gone new ", "new tmp "} {
		if seen[want] == 0 {
			t.Errorf("never saw %q in %v", want, seen)
		}
	}
}

// Mkdir leaves a directory, and what is in it, to the syncs of whoever made it.
func TestMkdir(t *testing.T) {
	f := forget.New(1)
	must(t, f.Mkdir("d"))
	for name, want := range map[string]error{"d": fs.ErrExist, "none/d": fs.ErrNotExist} {
		if err := f.Mkdir(name); !errors.Is(err, want) {
			t.Errorf("mkdir %s: %v, want %v", name, err, want)
		}
	}
	must(t, create(t, f, "d/f").Close())
	must(t, f.SyncDir("d"))
	seen := map[string]int{}
	for seed := range uint64(50) {
		seen[names(t, f.Crash(rng(seed)), "/")]++
	}
	if len(seen) != 2 || seen[""] == 0 || seen["d "] == 0 {
		t.Errorf("before its parent is synced: %v", seen)
	}
	g := forget.New(1)
	must(t, g.Mkdir("d"))
	must(t, create(t, g, "d/f").Close())
	must(t, g.SyncDir("/"))
	must(t, g.SyncDir("d"))
	for seed := range uint64(50) {
		if got := names(t, g.Crash(rng(seed)), "d"); got != "f " {
			t.Fatalf("after all syncs: %q", got)
		}
	}
}

func TestRenameOverAndAcrossDirectories(t *testing.T) {
	for seed := range uint64(100) {
		f := forget.New(1)
		must(t, f.MkdirAll("a"))
		must(t, f.MkdirAll("b"))
		put := func(name, s string) {
			h := create(t, f, name)
			write(t, h, []byte(s), 0)
			must(t, h.Sync())
			must(t, h.Close())
		}
		put("a/x", "one")
		put("b/y", "two")
		must(t, f.SyncDir("a"))
		must(t, f.SyncDir("b"))
		must(t, f.Rename("a/x", "b/y"))
		must(t, f.SyncDir("b"))
		g := f.Crash(rng(seed))
		if s := string(contents(t, g, "b/y")); s != "one" {
			t.Fatalf("b/y is %q", s)
		}
		if s := string(contents(t, g, "a/x")); s != "" && s != "one" {
			t.Fatalf("a/x is %q", s)
		}
		f.Restart()
		must(t, f.SyncDir("a"))
		if s := names(t, f.Crash(rng(seed)), "a"); s != "" {
			t.Fatalf("a holds %q", s)
		}
	}
}

// After a failed sync, the cache shows what the disk may lack, and says that
// it is clean.
func TestFailedSync(t *testing.T) {
	f := forget.New(3)
	h := create(t, f, "x")
	write(t, h, make([]byte, 64<<10), 0)
	must(t, h.Sync())
	must(t, f.SyncDir("."))
	write(t, h, bytes.Repeat([]byte{9}, 64<<10), 0)
	f.SetHook(func(op forget.Op) error {
		if op.Kind == forget.Sync {
			return syscall.EIO
		}
		return nil
	})
	if err := h.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	f.SetHook(nil)
	must(t, h.Sync()) // succeeds: nothing is dirty
	if got := contents(t, f, "x"); !bytes.Equal(got, bytes.Repeat([]byte{9}, 64<<10)) {
		t.Fatal("the cache no longer shows what was written")
	}
	must(t, h.DropCache())
	got := contents(t, f, "x")
	if n := bytes.Count(got, []byte{9}); n == 0 || n == 64<<10 {
		t.Fatalf("the disk has %d bytes of a failed sync, want some", n)
	}
	if !bytes.Equal(contents(t, f.Crash(rng(1)), "x"), got) {
		t.Fatal("DropCache did not show what a crash leaves")
	}
}

func TestLyingSyncAndShortWrite(t *testing.T) {
	f := forget.New(3)
	h := create(t, f, "x")
	must(t, f.SyncDir("."))
	f.SetHook(func(op forget.Op) error {
		switch op.Kind {
		case forget.Sync:
			return forget.Lie
		case forget.Write:
			return &forget.ShortWrite{N: 3, Err: syscall.ENOSPC}
		default:
			return nil
		}
	})
	if n, err := h.WriteAt([]byte("abcdef"), 0); n != 3 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(n, err)
	}
	must(t, h.Sync())
	if s := contents(t, f, "x"); string(s) != "abc" {
		t.Fatalf("%q", s)
	}
	lost := 0
	for seed := range uint64(20) {
		if len(contents(t, f.Crash(rng(seed)), "x")) == 0 {
			lost++
		}
	}
	if lost == 0 {
		t.Fatal("a lying sync was honest")
	}
}

// A crash at an operation leaves everything before it, and nothing of it.
func TestCrashAt(t *testing.T) {
	run := func(f *forget.FS) error {
		h, err := f.Create("x")
		if err != nil {
			return err
		}
		return errors.Join(
			func() error { _, err := h.WriteAt([]byte("hello"), 0); return err }(),
			h.Sync(), f.SyncDir("/"), f.Remove("x"), f.SyncDir("/"))
	}
	whole := forget.New(1)
	must(t, run(whole))
	if whole.Ops() != 6 || whole.Count(forget.SyncDir) != 2 {
		t.Fatalf("%d operations, %d directory syncs", whole.Ops(), whole.Count(forget.SyncDir))
	}
	for k := 1; k <= 6; k++ {
		f := forget.New(1)
		f.CrashAt(k)
		if err := run(f); !errors.Is(err, forget.ErrCrashed) {
			t.Fatalf("crash at %d: %v", k, err)
		}
		if f.Ops() != k-1 {
			t.Fatalf("crash at %d: %d operations happened", k, f.Ops())
		}
		got := string(contents(t, f.Crash(rng(1)), "x"))
		if k == 5 && got != "hello" {
			t.Fatalf("synced with its name, but %q is left", got)
		}
	}
}

func TestCapacity(t *testing.T) {
	f := forget.New(1)
	f.SetCapacity(16 << 10)
	h := create(t, f, "x")
	must(t, h.Allocate(12<<10))
	if free, err := f.Free("/"); err != nil || free != 4<<10 {
		t.Fatal(free, err)
	}
	g := create(t, f, "y")
	if err := g.Allocate(8 << 10); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	write(t, g, []byte{1}, 0)
	if _, err := g.WriteAt([]byte{1}, 4096); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	must(t, f.Remove("x"))
	if free, _ := f.Free("/"); free != 0 {
		t.Fatal("an open file gave back its space")
	}
	must(t, h.Close())
	if free, _ := f.Free("/"); free != 12<<10 {
		t.Fatalf("%d free", free)
	}
}

func TestTruncateAndFlip(t *testing.T) {
	f := forget.New(1)
	h := create(t, f, "x")
	write(t, h, bytes.Repeat([]byte{7}, 10000), 0)
	must(t, h.Truncate(5000))
	must(t, h.Truncate(9000))
	got := contents(t, f, "x")
	if bytes.Count(got[:5000], []byte{7}) != 5000 || bytes.Count(got[5000:], []byte{0}) != 4000 {
		t.Fatal("what was cut off came back")
	}
	must(t, h.Sync())
	must(t, f.FlipBit("x", 8*100+3))
	must(t, f.SyncDir("/"))
	if b := contents(t, f.Crash(rng(1)), "x"); b[100] != 7^8 || b[99] != 7 {
		t.Fatal("wrong bit")
	}
	if err := f.FlipBit("x", 8*9000); err == nil {
		t.Fatal("flipped a bit behind the end")
	}
}

// TestMend: whatever happens to flipped bits, after Mend a file system is what
// its twin is, which had none.
func TestMend(t *testing.T) {
	for seed := uint64(1); seed <= 300; seed++ {
		r := rng(seed)
		twins := [2]*forget.FS{forget.New(seed), forget.New(seed)}
		both := func(fn func(f *forget.FS, h disk.File)) {
			for _, f := range twins {
				h, err := f.Open("x")
				must(t, err)
				fn(f, h)
				must(t, h.Close())
			}
		}
		for _, f := range twins {
			h := create(t, f, "x")
			write(t, h, bytes.Repeat([]byte{7}, 9000), 0)
			must(t, h.Sync())
			must(t, f.SyncDir("/"))
			must(t, h.Close())
		}
		for range 30 {
			at, n, val := int64(r.IntN(9000)), 1+r.IntN(1500), byte(r.IntN(256))
			switch r.IntN(9) {
			case 0, 1, 2: // past the end: an error
				_ = twins[0].FlipBit("x", 8*at+int64(val%8))
			case 3, 4:
				both(func(_ *forget.FS, h disk.File) { write(t, h, bytes.Repeat([]byte{val}, n), at) })
			case 5:
				both(func(f *forget.FS, h disk.File) { must(t, h.Sync()) })
			case 6:
				both(func(f *forget.FS, h disk.File) {
					f.SetHook(func(op forget.Op) error {
						if op.Kind == forget.Sync {
							return syscall.EIO
						}
						return nil
					})
					_ = h.Sync()
					f.SetHook(nil)
					must(t, h.DropCache())
				})
			case 7:
				both(func(_ *forget.FS, h disk.File) { must(t, h.Truncate(at)) })
			default:
				crash := r.Uint64()
				for i := range twins {
					twins[i] = twins[i].Crash(rng(crash))
				}
			}
		}
		image := twins[0].Image(1) // has its own copies
		twins[0].Mend()
		image.Mend()
		want := contents(t, twins[1], "x")
		if !bytes.Equal(contents(t, twins[0], "x"), want) || !bytes.Equal(contents(t, image, "x"), want) || twins[0].Rotten() != 0 {
			t.Fatalf("seed %d: what is mended differs", seed)
		}
		if !bytes.Equal(contents(t, twins[0].Crash(rng(seed)), "x"), contents(t, twins[1].Crash(rng(seed)), "x")) {
			t.Fatalf("seed %d: what is mended differs on the disk", seed)
		}
	}
}

// TestWriteBack: afterwards a crash takes nothing, whatever the syncs said.
func TestWriteBack(t *testing.T) {
	for seed := uint64(1); seed <= 40; seed++ {
		f := forget.New(seed)
		f.SetHook(func(op forget.Op) error {
			if op.Kind == forget.Sync || op.Kind == forget.SyncDir {
				return forget.Lie
			}
			return nil
		})
		must(t, f.MkdirAll("/d"))
		h := create(t, f, "/d/x")
		write(t, h, []byte("abc"), 5000)
		must(t, h.Sync())
		must(t, f.Rename("/d/x", "/y"))
		f.WriteBack()
		g := f.Crash(rng(seed))
		if b := contents(t, g, "/y"); string(b[5000:]) != "abc" {
			t.Fatalf("seed %d: %q", seed, b[5000:])
		}
		if list, err := g.ReadDir("/d"); err != nil || len(list) != 0 {
			t.Fatalf("seed %d: %v, %v", seed, list, err)
		}
	}
}

// TestSetFull: who writes to a full disk is told of.
func TestSetFull(t *testing.T) {
	f := forget.New(1)
	h := create(t, f, "x")
	f.SetCapacity(4096)
	var told []string
	f.SetFull(func(op forget.Op) { told = append(told, string(op.Kind)+" "+op.Name) })
	_, err := h.WriteAt(make([]byte, 8192), 0)
	if !errors.Is(err, syscall.ENOSPC) || !slices.Equal(told, []string{"write x"}) {
		t.Fatalf("%v, %v", err, told)
	}
}

func TestLockAndRestart(t *testing.T) {
	f := forget.New(1)
	l, err := f.Lock("lock")
	must(t, err)
	var locked *disk.LockedError
	if _, err := f.Lock("lock"); !errors.As(err, &locked) {
		t.Fatal(err)
	}
	h := create(t, f, "x")
	write(t, h, []byte("cached"), 0)
	f.CrashAt(f.Ops() + 1)
	if err := h.Sync(); !errors.Is(err, forget.ErrCrashed) || !f.Crashed() {
		t.Fatal(err)
	}
	f.Restart()
	if err := h.Sync(); !errors.Is(err, forget.ErrCrashed) {
		t.Fatalf("a dead process's handle: %v", err)
	}
	if s := contents(t, f, "x"); string(s) != "cached" {
		t.Fatalf("a dead process's write: %q", s)
	}
	l2, err := f.Lock("lock")
	must(t, err)
	must(t, l.Close()) // the dead one's: no effect
	if _, err := f.Lock("lock"); !errors.As(err, &locked) {
		t.Fatal(err)
	}
	must(t, l2.Close())
}

// The model answers as the real file system does.
func TestSameErrorsAsReal(t *testing.T) {
	for name, f := range map[string]disk.FS{"real": disk.New(), "forget": forget.New(1)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir() + "/d"
			must(t, f.MkdirAll(dir+"/sub/deep"))
			must(t, f.MkdirAll(dir+"/sub/deep"))
			h := create(t, f, dir+"/x")
			_, err := f.Create(dir + "/x")
			check(t, "create twice", err, fs.ErrExist)
			_, err = f.Open(dir + "/none")
			check(t, "open nothing", err, fs.ErrNotExist)
			check(t, "remove nothing", f.Remove(dir+"/none"), fs.ErrNotExist)
			check(t, "rename nothing", f.Rename(dir+"/none", dir+"/x"), fs.ErrNotExist)
			check(t, "rename onto a directory", f.Rename(dir+"/x", dir+"/sub"), fs.ErrExist, syscall.EISDIR)
			check(t, "remove a full directory", f.Remove(dir+"/sub"), syscall.ENOTEMPTY)
			check(t, "make below a file", f.MkdirAll(dir+"/x/y"), syscall.ENOTDIR)
			write(t, h, []byte("abc"), 5)
			must(t, h.Allocate(8192))
			must(t, h.Sync())
			must(t, h.DropCache())
			must(t, h.StartWriteback(0, 4096))
			must(t, f.SyncDir(dir))
			want := make([]byte, 8192)
			copy(want[5:], "abc")
			if !bytes.Equal(contents(t, f, dir+"/x"), want) {
				t.Error("contents differ")
			}
			must(t, h.Truncate(3))
			list, err := f.ReadDir(dir)
			must(t, err)
			if want := []disk.Entry{{Name: "sub", IsDir: true}, {Name: "x", Size: 3}}; !slices.Equal(list, want) {
				t.Errorf("listed %v", list)
			}
			must(t, f.Remove(dir+"/x"))
			b := make([]byte, 3)
			if n, err := h.ReadAt(b, 0); n != 3 || err != nil {
				t.Error("a removed open file is not readable:", err)
			}
			must(t, h.Close())
			check(t, "close twice", h.Close(), fs.ErrClosed)
			_, err = h.ReadAt(b, 0)
			check(t, "read a closed file", err, fs.ErrClosed)
			check(t, "sync a closed file", h.Sync(), fs.ErrClosed)
		})
	}
}

func check(t *testing.T, what string, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if errors.Is(err, w) {
			return
		}
	}
	t.Errorf("%s: %v, want %v", what, err, want)
}

func TestConcurrent(t *testing.T) {
	f := forget.New(1)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := string(rune('a' + i))
			h, err := f.Create(name)
			if err != nil {
				t.Error(err)
				return
			}
			for j := range 50 {
				if _, err := h.WriteAt(make([]byte, 5000), int64(j*100)); err != nil {
					t.Error(err)
				}
				if err := errors.Join(h.Sync(), f.SyncDir("/"), f.Rename(name, name+"x"), f.Rename(name+"x", name)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(names(t, f, "/")); n != 16 {
		t.Fatalf("%d", n)
	}
}
