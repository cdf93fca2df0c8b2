package store

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// A flipped bit in an object is noticed by the read of that block and of no
// other; the error names object and place; the store stays sound.
func TestRottenObject(t *testing.T) {
	f := real(t)
	data := fill(300_000, 1)
	ino := f.create("a", data)
	f.checkpoint()
	name := f.objectFile(ino)
	flip(t, name, 2*wire.BlockSize+17)
	if got, err := f.read("a", 0, 2*wire.BlockSize); err != nil || !bytes.Equal(got, data[:2*wire.BlockSize]) {
		t.Fatalf("the sound part: %v", err)
	}
	_, err := f.read("a", 2*wire.BlockSize+100, 10)
	if wire.CodeOf(err) != wire.CodeCorrupt || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "131072") ||
		!strings.Contains(err.Error(), f.UUID().String()) || !strings.Contains(err.Error(), "readFile a") {
		t.Fatalf("the rotten block: %v", err)
	}
	if f.Damaged() != "" {
		t.Fatal("a rotten object made the store damaged")
	}
	// A truncation there never blesses it (S5).
	tail, err := tailOf(f.Store, ino, 2*wire.BlockSize+50)
	if err != nil || tail == nil || !tail.Bad {
		t.Fatalf("tail %v, error %v", tail, err)
	}
	f.apply(nil, vote.Bound{Kind: wire.MutSetattr, Ino: ino, Set: wire.SetSize, Size: 2*wire.BlockSize + 50, Tail: tail})
	flip(t, name, 2*wire.BlockSize+17) // sound again, but who knows
	if _, err := f.read("a", 0, -1); wire.CodeOf(err) != wire.CodeCorrupt {
		t.Fatalf("after a cut in the rotten block: %v", err)
	}
	f.apply(nil, vote.Bound{Kind: wire.MutSetattr, Ino: ino, Set: wire.SetSize, Size: 70_000, Tail: mustTail(f, ino, 70_000)})
	f.wantFile("a", data[:70_000])
	// A lost or short file is rot too.
	if err := os.Truncate(name, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := f.read("a", 0, -1); wire.CodeOf(err) != wire.CodeCorrupt {
		t.Fatalf("a short object: %v", err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := f.read("a", 0, -1); wire.CodeOf(err) != wire.CodeCorrupt {
		t.Fatalf("a missing object: %v", err)
	}
}

func mustTail(f *fixture, ino wire.Ino, size int64) *vote.Tail {
	f.t.Helper()
	tail, err := tailOf(f.Store, ino, size)
	if err != nil {
		f.t.Fatal(err)
	}
	return tail
}

func flip(t testing.TB, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// A bit flipped anywhere in bbolt's file is never answered as data: reads are
// right, or the store says that it is damaged, and then answers nothing.
func TestDamagedKV(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "p")
	f := openFixture(t, Options{Dir: dir, Ballast: -1, Fanout: 1})
	want := map[string][]byte{}
	for i := range 40 {
		name := fmt.Sprintf("file%d", i)
		want[name] = fill(200+i*10, byte(i))
		f.create(name, want[name])
	}
	f.checkpoint()
	f.reopen()
	if err := f.Store.Close(); err != nil {
		t.Fatal(err)
	}
	sound, err := os.ReadFile(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.WriteFile(filepath.Join(dir, "meta.db"), sound, 0o600); err != nil {
			t.Fatal(err)
		}
	}()
	var used []int64 // places of bytes that mean something
	for i := 8192; i < len(sound); i++ {
		if sound[i] != 0 {
			used = append(used, int64(i))
		}
	}
	noticed := 0
	for i := range 60 {
		at := used[i*len(used)/60]
		flip(t, filepath.Join(dir, "meta.db"), at)
		if readAllSound(t, f.o, want, sound, int(at)) {
			noticed++
		}
		flip(t, filepath.Join(dir, "meta.db"), at)
	}
	if noticed < 15 {
		t.Errorf("of 60 flips %d were noticed", noticed)
	}
}

// readAllSound returns true if damage was reported.
func readAllSound(t *testing.T, o Options, want map[string][]byte, meta []byte, at int) bool {
	s, err := Open(o)
	if err != nil {
		if wire.CodeOf(err) != wire.CodeCorrupt {
			t.Fatalf("flip at %d: %v", at, err)
		}
		return true
	}
	defer s.Close()
	for name, data := range want {
		var w pieces
		_, err := s.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: name}, Length: -1}, &w)
		switch {
		case wire.CodeOf(err) == wire.CodeCorrupt && s.Damaged() != "":
			if _, err := s.Lookup(1, name); wire.CodeOf(err) != wire.CodeCorrupt {
				t.Fatalf("flip at %d: a damaged store answers %v", at, err)
			}
			return true
		case (wire.CodeOf(err) == wire.CodeNotExist || wire.CodeOf(err) == wire.CodeStale) && leads(meta, at):
		case err != nil || !bytes.Equal(w.data, data):
			t.Fatalf("flip at %d: %s has %d bytes, error %v", at, name, len(w.data), err)
		}
	}
	return false
}
