package powerloss

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/journal/disk"
)

func TestMain(m *testing.M) {
	if Serve() {
		return
	}
	os.Exit(m.Run())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, names ...string) (*Machines, string) {
	t.Helper()
	dir := t.TempDir()
	m, err := Start(dir, names...)
	must(t, err)
	t.Cleanup(func() { must(t, m.Close()) })
	return m, dir
}

// lose cuts the power of machines that nobody uses.
func lose(t *testing.T, m *Machines, seed uint64, names ...string) {
	t.Helper()
	must(t, m.Freeze(names...))
	must(t, m.Drop(seed, names...))
	must(t, m.Mount(names...))
}

// put makes a file with what is synced and what is not, by the calls of the journal and the store.
func put(t *testing.T, name string, synced, unsynced []byte) {
	t.Helper()
	f, err := disk.New().Create(name)
	must(t, err)
	_, err = f.WriteAt(synced, 0)
	must(t, err)
	must(t, f.Sync())
	_, err = f.WriteAt(unsynced, 0)
	must(t, err)
	must(t, f.Close())
}

// What was synced is there after each loss; each file that was not, each
// directory entry that was not, sometimes is and sometimes is not; and what was
// read before shows nothing that the disk does not have.
func TestLosses(t *testing.T) {
	d := disk.New()
	m, dir := start(t, "a", "b")
	old, young := bytes.Repeat([]byte("old"), 10_000), bytes.Repeat([]byte("new"), 10_000)
	seen := map[string]int{}
	for seed := range uint64(24) {
		for _, at := range []string{filepath.Join(dir, "a", fmt.Sprint(seed)), filepath.Join(dir, "b", fmt.Sprint(seed))} {
			must(t, d.MkdirAll(at))
			put(t, at+"/f", old, young)
			must(t, d.SyncDir(at))
			put(t, at+"/g", old, nil)
			if b, err := os.ReadFile(at + "/f"); err != nil || !bytes.Equal(b, young) {
				t.Fatal("before the loss:", len(b), err)
			}
		}
		lose(t, m, seed, "a")
		at := filepath.Join(dir, "a", fmt.Sprint(seed))
		switch b, err := os.ReadFile(at + "/f"); {
		case err != nil || len(b) != len(old):
			t.Fatal("what was synced is lost:", len(b), err)
		case bytes.Equal(b, old):
			seen["old"]++
		case bytes.Equal(b, young):
			seen["new"]++
		default:
			seen["torn"]++
		}
		switch b, err := os.ReadFile(at + "/g"); {
		case errors.Is(err, fs.ErrNotExist):
			seen["no name"]++
		case err != nil || !bytes.Equal(b, old):
			t.Fatal("a name without its synced contents:", len(b), err)
		default:
			seen["name"]++
		}
		// The other machine has not noticed.
		if b, err := os.ReadFile(filepath.Join(dir, "b", fmt.Sprint(seed), "f")); err != nil || !bytes.Equal(b, young) {
			t.Fatal("the other machine:", len(b), err)
		}
	}
	for _, want := range []string{"old", "new", "torn", "no name", "name"} {
		if seen[want] == 0 {
			t.Errorf("never saw %q: %v", want, seen)
		}
	}
}

// While a machine is frozen nothing ends that needs its disk; after Drop it fails.
func TestFrozen(t *testing.T) {
	m, dir := start(t, "a", "b")
	f, err := disk.New().Create(filepath.Join(dir, "a", "f"))
	must(t, err)
	must(t, m.Freeze("a"))
	ended := make(chan error, 1)
	go func() {
		_, err := f.WriteAt([]byte("late"), 0)
		ended <- err
	}()
	put(t, filepath.Join(dir, "b", "f"), []byte("now"), nil)
	select {
	case err := <-ended:
		t.Fatal("a write to a frozen disk ended:", err)
	case <-time.After(20 * time.Millisecond): // long enough that a write which does not wait ends here at least sometimes
	}
	must(t, m.Drop(1, "a"))
	if err := <-ended; !errors.Is(err, unix.EIO) {
		t.Error("the write ended with", err)
	}
	must(t, f.Close())
	must(t, m.Mount("a"))
	if b, err := os.ReadFile(filepath.Join(dir, "a", "f")); err == nil && len(b) > 0 {
		t.Errorf("what was written to a frozen disk is there: %q", b)
	}
}

// A disk that is slow ends no sync before its time, of other machines it does; made
// fast again, it lets those go that wait.
func TestSlow(t *testing.T) {
	m, dir := start(t, "a", "b")
	put(t, filepath.Join(dir, "a", "f"), []byte("old"), nil)
	must(t, m.Slow(time.Hour, "a"))
	f, err := disk.New().Open(filepath.Join(dir, "a", "f"))
	must(t, err)
	ended := make(chan error, 2)
	go func() { ended <- f.Sync() }()
	go func() { ended <- disk.New().SyncDir(filepath.Join(dir, "a")) }()
	put(t, filepath.Join(dir, "b", "f"), []byte("now"), nil)
	select {
	case err := <-ended:
		t.Fatal("a sync ended:", err)
	case <-time.After(20 * time.Millisecond): // long enough that one which does not wait ends here at least sometimes
	}
	must(t, m.Slow(0, "a"))
	must(t, <-ended)
	must(t, <-ended)
	must(t, m.Slow(30*time.Millisecond, "a"))
	began := time.Now()
	must(t, f.Sync())
	if took := time.Since(began); took < 30*time.Millisecond {
		t.Error("a sync took", took)
	}
	must(t, f.Close())
}

// The calls that tpcfs's servers make, and a shared map such as bbolt's.
func TestCalls(t *testing.T) {
	d := disk.New()
	_, dir := start(t, "a")
	at := filepath.Join(dir, "a")
	lock, err := d.Lock(at + "/LOCK")
	must(t, err)
	var held *disk.LockedError
	if _, err := d.Lock(at + "/LOCK"); !errors.As(err, &held) || held.PID != os.Getpid() {
		t.Error("a second lock:", err)
	}
	must(t, lock.Close())

	f, err := d.Create(at + "/f")
	must(t, err)
	if _, err := d.Create(at + "/f"); !errors.Is(err, fs.ErrExist) {
		t.Error("made twice:", err)
	}
	must(t, f.Allocate(1<<20))
	must(t, f.AllocateRange(1<<20, 1<<20))
	if size, err := f.Size(); size != 1<<20 || err != nil {
		t.Error("allocated", size, err)
	}
	local, err := os.Open(at + "/f")
	must(t, err)
	m, err := unix.Mmap(int(local.Fd()), 0, 16<<20, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	for i := range 10 {
		_, err := f.WriteAt([]byte{byte(i)}, 5000)
		must(t, err)
		if m[5000] != byte(i) {
			t.Fatal("the map shows", m[5000], "for", i)
		}
	}
	must(t, f.Truncate(6000))
	must(t, f.Truncate(3<<20))
	if m[5000] != 9 || m[6000] != 0 || m[2<<20] != 0 {
		t.Error("after truncations:", m[5000], m[6000], m[2<<20])
	}
	must(t, f.DropCache())
	must(t, f.StartWriteback(0, 6000))
	must(t, unix.Munmap(m))
	must(t, local.Close())

	must(t, d.MkdirAll(at+"/x/y"))
	must(t, d.Rename(at+"/f", at+"/x/y/g"))
	must(t, d.SyncDir(at+"/x/y"))
	if list, err := d.ReadDir(at + "/x/y"); err != nil || len(list) != 1 || list[0] != (disk.Entry{Name: "g", Size: 3 << 20}) {
		t.Error(list, err)
	}
	must(t, d.Remove(at+"/x/y/g"))
	var b [1]byte
	if _, err := f.ReadAt(b[:], 5000); err != nil || b[0] != 9 {
		t.Error("a file without a name:", b, err)
	}
	if size, err := f.Size(); size != 3<<20 || err != nil {
		t.Error("a file without a name:", size, err)
	}
	must(t, f.Close())
	must(t, d.Remove(at+"/x/y"))
	if free, err := d.Free(at); free == 0 || err != nil {
		t.Error(free, err)
	}
}
