package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tpcfs/journal/disk"
)

// directDirs are directories on file systems that can write past the page cache,
// and on those that cannot.
func directDirs(t *testing.T) map[string]string {
	t.Helper()
	dirs := map[string]string{"here": t.TempDir()}
	if shm, err := os.MkdirTemp("/dev/shm", "tpcfs-direct"); err == nil {
		t.Cleanup(func() { os.RemoveAll(shm) })
		dirs["tmpfs"] = shm
	}
	return dirs
}

func create(t testing.TB, name string) disk.File {
	t.Helper()
	f, err := disk.New().Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestDirect: what is written past the page cache, by one or several, is what a reader of the same descriptor and of another one sees,
// also where pages of it were in the cache.
func TestDirect(t *testing.T) {
	for on, dir := range directDirs(t) {
		t.Run(on, func(t *testing.T) {
			const size = 4 << 20
			name := filepath.Join(dir, "f")
			f := create(t, name)
			want := make([]byte, size)
			write := func(b []byte, at int) {
				copy(want[at:], b)
				if _, err := f.WriteAt(b, int64(at)); err != nil {
					t.Error(err)
				}
			}
			write(make([]byte, size), 0)
			if err := errors.Join(f.Sync(), f.Direct(), f.Direct()); err != nil {
				t.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(1, 1))
			random := func(n int) []byte {
				b := make([]byte, n+8)
				for i := range b {
					b[i] = byte(rng.Uint32())
				}
				return b[rng.IntN(8):][:n] // aligned or not
			}
			for i := range 60 {
				n := disk.Unit * (1 + rng.IntN(4))
				if i%20 == 19 {
					n = 3 << 19 // more than goes at once
				}
				write(random(n), disk.Unit*rng.IntN((size-n)/disk.Unit))
			}
			for range 30 {
				at := rng.IntN(size)
				got := make([]byte, 1+rng.IntN(size-at))
				if n, err := f.ReadAt(got, int64(at)); n != len(got) || err != nil || !bytes.Equal(got, want[at:][:n]) {
					t.Fatalf("read %d of %d bytes at %d: %v", n, len(got), at, err)
				}
			}
			if n, err := f.ReadAt(make([]byte, 100), size-10); n != 10 || err == nil {
				t.Fatalf("behind the end: %d bytes, %v", n, err)
			}
			got, err := os.ReadFile(name)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("another descriptor reads something else (%v)", err)
			}
			var wg sync.WaitGroup
			for i := range 8 {
				b := random(disk.Unit)
				wg.Go(func() { write(b, i*disk.Unit) })
			}
			wg.Wait()
			if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("written by eight: another descriptor reads something else (%v)", err)
			}
		})
	}
}

// TestDirectUnits: what is not whole units is refused, as it is where the file system
// cannot write past its cache, and nothing is written.
func TestDirectUnits(t *testing.T) {
	for on, dir := range directDirs(t) {
		t.Run(on, func(t *testing.T) {
			f := create(t, filepath.Join(dir, "f"))
			if err := f.Direct(); err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				n  int
				at int64
			}{{100, 0}, {disk.Unit, 100}, {disk.Unit + 512, 0}} {
				b := make([]byte, c.n)
				if _, err := f.WriteAt(b, c.at); !errors.Is(err, syscall.EINVAL) {
					t.Errorf("WriteAt of %d bytes at %d: %v", c.n, c.at, err)
				}
			}
			if n, err := f.Size(); n != 0 || err != nil {
				t.Fatalf("%d bytes were written, %v", n, err)
			}
		})
	}
}

// TestDirectPassesTheCache: where the file system can, no page of what was written
// is in the cache.
func TestDirectPassesTheCache(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	f := create(t, name)
	probe, err := unix.Open(name, unix.O_RDONLY|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		t.Logf("%s: no file system with O_DIRECT; that is TestDirect's", name)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(probe)
	cached := func() int {
		t.Helper()
		m, err := unix.Mmap(probe, 0, 16*disk.Unit, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Munmap(m) //nolint:errcheck // the test ends
		in := make([]byte, 16)
		if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&in[0]))); errno != 0 {
			t.Fatal(errno)
		}
		n := 0
		for _, b := range in {
			n += int(b & 1)
		}
		return n
	}
	all := make([]byte, 16*disk.Unit)
	if _, err := f.WriteAt(all, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if n := cached(); n != 16 {
		t.Fatalf("%d of 16 pages are in the cache before", n)
	}
	if err := f.Direct(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(all, 0); err != nil {
		t.Fatal(err)
	}
	// Some take O_DIRECT and go through the cache all the same: those do so here, too.
	got := cached()
	raw, err := unix.Open(name, unix.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(raw) //nolint:errcheck // the test ends
	m, err := unix.Mmap(-1, 0, len(all), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m) //nolint:errcheck // likewise
	if _, err := unix.Pwrite(raw, m, 0); err != nil {
		t.Fatal(err)
	}
	if want := cached(); got != want {
		t.Fatalf("%d of 16 pages are in the cache after, %d where the system is asked for the same", got, want)
	}
}

// BenchmarkDirect: a page written and made durable through the page cache and past
// it, in turns, one file and three at once. cpu-us is the processor time of one
// round, us its median time.
func BenchmarkDirect(b *testing.B) {
	for _, files := range []int{1, 3} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) { benchDirect(b, files) })
	}
}

func benchDirect(b *testing.B, files int) {
	const size = 8 << 20
	ways := []string{"cached", "direct"}
	var list [2][]disk.File
	for w, way := range ways {
		dir := b.TempDir()
		for i := range files {
			f := create(b, filepath.Join(dir, strconv.Itoa(i)))
			_, err := f.WriteAt(make([]byte, size), 0)
			if err = errors.Join(err, f.Sync()); err == nil && way == "direct" {
				err = f.Direct()
			}
			if err != nil {
				b.Fatal(err)
			}
			list[w] = append(list[w], f)
		}
	}
	page := make([]byte, disk.Unit)
	var times [2][]time.Duration
	var cpu [2]time.Duration
	for i := range b.N {
		w := i / 50 % len(ways)
		before, start := used(b), time.Now()
		var wg sync.WaitGroup
		for _, f := range list[w] {
			wg.Go(func() {
				_, err := f.WriteAt(page, int64(i*disk.Unit%size))
				if err = errors.Join(err, f.Sync()); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
		times[w] = append(times[w], time.Since(start))
		cpu[w] += used(b) - before
	}
	for w, way := range ways {
		if n := len(times[w]); n > 0 {
			slices.Sort(times[w])
			b.ReportMetric(float64(times[w][n/2].Nanoseconds())/1e3, way+"-us")
			b.ReportMetric(float64(cpu[w].Nanoseconds())/1e3/float64(n), way+"-cpu-us")
		}
	}
}

// used is the processor time of this process so far.
func used(t testing.TB) time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
