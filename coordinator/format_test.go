package coordinator

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tpcfs/journal/disk"
	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// A directory that this user cannot write to is refused with what to do about it, and
// nobody takes it for a broken disk.
func TestUnwritableDirectory(t *testing.T) {
	for _, tt := range []struct {
		kind forget.Kind
		err  error
		code wire.Code
		want string
	}{
		{forget.Mkdir, syscall.EACCES, wire.CodeAccess, fmt.Sprintf("give user %d", os.Geteuid())},
		{forget.Lock, syscall.EACCES, wire.CodeAccess, fmt.Sprintf("give user %d", os.Geteuid())},
		{forget.ReadDir, syscall.EPERM, wire.CodeAccess, fmt.Sprintf("give user %d", os.Geteuid())},
		{forget.Create, syscall.EROFS, wire.CodeReadOnly, "mount it for writing"},
		{forget.Lock, syscall.EIO, wire.CodeIO, "see to its disk"},
	} {
		k := newCluster(t)
		k.fs.SetHook(func(op forget.Op) error {
			if op.Kind == tt.kind && strings.HasPrefix(op.Name, k.o.Dir) {
				return tt.err
			}
			return nil
		})
		_, err := Open(k.o)
		wantCode(t, err, tt.code, k.o.Dir, tt.want)
	}
}

func TestBadDirectories(t *testing.T) {
	dir := t.TempDir()
	k := newCluster(t)
	k.o.FS, k.o.Dir = disk.New(), dir
	k.serve()
	_, err := Open(k.o)
	wantCode(t, err, wire.CodeBusy, "in use by process", fmt.Sprint(os.Getpid()), dir)
	k.close()

	format := filepath.Join(dir, "FORMAT")
	good, err := os.ReadFile(format)
	if err != nil {
		t.Fatal(err)
	}
	for bad, words := range map[string]string{
		"":  "not the FORMAT of a coordinator",
		"{": "not the FORMAT of a coordinator",
		strings.Replace(string(good), `"version":1`, `"version":2`, 1):           "reads format 1",
		strings.Replace(string(good), "coordinator", "participant", 1):           "not the FORMAT of a coordinator",
		string(good[:len(good)-10]) + `"}`:                                       "damaged",
		strings.Replace(string(good), `"cluster":"`, `"cluster":"00`, 1):         "damaged",
		strings.Replace(string(good), k.c.Cluster().String()[:8], "ffffffff", 1): k.o.Dir + ": corrupt data: the journal is of cluster",
		strings.Repeat("x", maxFormat+1):                                         "cannot be read",
	} {
		if err := os.WriteFile(format, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(k.o); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("FORMAT %.40q: %v", bad, err)
		}
	}
	if err := os.Remove(format); err != nil {
		t.Fatal(err)
	}
	_, err = Open(k.o)
	wantCode(t, err, wire.CodeInvalid, "not a coordinator's data directory", "journal")
	if err := os.WriteFile(format, good, 0o600); err != nil {
		t.Fatal(err)
	}
	k.serve()
	k.close()

	// Damage in the journal: which file, and what to do; nothing is dropped.
	segs, err := filepath.Glob(filepath.Join(dir, "journal", "*"))
	if err != nil || len(segs) == 0 {
		t.Fatal(segs, err)
	}
	b, err := os.ReadFile(segs[0])
	if err != nil {
		t.Fatal(err)
	}
	b[70] ^= 1
	if err := os.WriteFile(segs[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(k.o)
	wantCode(t, err, wire.CodeCorrupt, filepath.Base(segs[0]), "Put the data directory back")
}
