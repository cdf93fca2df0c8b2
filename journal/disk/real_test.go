package disk_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tpcfs/journal/disk"
)

// A second process is told who has the data directory (S4).
func TestLock(t *testing.T) {
	if name := os.Getenv("TPCFS_TEST_LOCK"); name != "" {
		_, err := disk.New().Lock(name)
		var locked *disk.LockedError
		if !errors.As(err, &locked) || locked.PID != os.Getppid() {
			t.Fatalf("got %v, want a lock held by %d", err, os.Getppid())
		}
		if !strings.Contains(err.Error(), "in use by process") {
			t.Fatal(err)
		}
		return
	}
	name := filepath.Join(t.TempDir(), "lock")
	l, err := disk.New().Lock(name)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestLock$")
	child.Env = append(os.Environ(), "TPCFS_TEST_LOCK="+name)
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err = disk.New().Lock(name)
	if err != nil {
		t.Fatalf("after the holder has closed it: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if (&disk.LockedError{Name: "x"}).Error() == "" {
		t.Fatal("no text")
	}
}

func TestFreeAndModes(t *testing.T) {
	d := disk.New()
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := d.MkdirAll(dir); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Dir(dir)); err != nil || st.Mode().Perm() != 0o700 {
		t.Fatal(st.Mode(), err)
	}
	if free, err := d.Free(dir); err != nil || free == 0 {
		t.Fatal(free, err)
	}
	if _, err := d.Free(dir + "/none"); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := d.SyncDir(dir + "/none"); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	f, err := d.Create(dir + "/x")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Allocate(1 << 20); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Size(); err != nil || n != 1<<20 {
		t.Fatal(n, err)
	}
	if st, err := os.Stat(dir + "/x"); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatal(st.Mode(), err)
	}
}
