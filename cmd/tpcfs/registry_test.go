package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/wire"
)

// TestRegistry: who finds a mount's file unlocked ends its session, if it was on this
// machine, since its boot, and of the same service; a file stays while that has not
// come about, and of others until it is old.
func TestRegistry(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	own := registration{Boot: "b", Cluster: wire.UUID{1}, Session: wire.UUID{9}, Mountpoint: "/mnt"}
	mount := func(n byte, change func(r *registration)) *registered {
		r := own
		if r.Session = (wire.UUID{n}); change != nil {
			change(&r)
		}
		file, err := r.write(dir)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	dies := func(r *registered) { // as the kernel does it
		if err := r.file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	lives := mount(1, nil)
	dies(mount(2, nil))
	dies(mount(3, func(r *registration) { r.Boot = "another" }))
	dies(mount(4, func(r *registration) { r.Cluster = wire.UUID{2} }))
	old := mount(5, func(r *registration) { r.Cluster = wire.UUID{2} })
	dies(old)
	past := time.Now().Add(-2 * mountFileOld)
	if err := errors.Join(os.Chtimes(old.name, past, past), os.WriteFile(filepath.Join(dir, "garbled.mount"), []byte("{"), 0o600),
		os.WriteFile(filepath.Join(dir, "other"), nil, 0o600), os.Symlink("/dev/zero", filepath.Join(dir, "link.mount"))); err != nil {
		t.Fatal(err)
	}
	var ended []wire.SessionID
	away := true
	end := func(_ context.Context, s wire.SessionID) error {
		if ended = append(ended, s); away {
			return io.ErrUnexpectedEOF
		}
		return nil
	}
	want := func(when string, files int, sessions ...wire.SessionID) {
		t.Helper()
		ended = nil
		own.endDead(t.Context(), log, dir, end)
		if !slices.Equal(ended, sessions) {
			t.Errorf("%s %v are ended, want %v", when, ended, sessions)
		}
		if list, err := os.ReadDir(dir); err != nil || len(list) != files {
			t.Errorf("%s there are %v, %v; want %d", when, list, err, files)
		}
	}
	want("while the coordinator is away", 7, wire.SessionID{2})
	away = false
	want("when it is there", 6, wire.SessionID{2})
	want("then", 6)
	dies(lives)
	want("when one more has died", 5, wire.SessionID{1})
	r := mount(6, nil)
	want("while one lives", 6)
	text, err := os.ReadFile(r.name)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "copy.mount"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	want("while one lives whose file was copied", 7)
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, filepath.Base(r.name)), text, 0o600); err != nil {
		t.Fatal(err)
	}
	ended = nil
	if own.endDead(t.Context(), log, other, end); ended != nil {
		t.Errorf("%v are ended by a copy of the directory", ended)
	}
	if err := os.Remove(filepath.Join(dir, "copy.mount")); err != nil {
		t.Fatal(err)
	}
	r.leave()
	want("when it has ended", 5)
	(&registered{}).leave()
}

// TestMountsDir: a directory that others may use is not used.
func TestMountsDir(t *testing.T) {
	base := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", base)
	dir, err := mountsDir()
	if err != nil || dir != base+"/tpcfs" {
		t.Fatal(dir, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || st.Mode&0o777 != 0o700 {
		t.Errorf("mode %o, %v", st.Mode, err)
	}
	if err := os.Chmod(dir, 0o770); err != nil {
		t.Fatal(err)
	}
	if _, err := mountsDir(); err == nil {
		t.Error("one that others may use is used")
	}
	if err := errors.Join(os.Remove(dir), os.Symlink(base, dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := mountsDir(); err == nil {
		t.Error("a link to one is used")
	}
}
