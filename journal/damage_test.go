package journal

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"tpcfs/journal/disk/forget"
)

// damaged makes a journal with small blocks, large ones, recycled segments
// with stale blocks, and an end that is sealed or not.
func damaged(t *testing.T, sealed bool) (*forget.FS, *model) {
	t.Helper()
	f := forget.New(1)
	m := newModel()
	l, err := Open(smallOptions(f))
	if err != nil {
		t.Fatal(err)
	}
	steps := []step{appendStep(30000), flushStep, appendStep(30000), flushStep, appendStep(10), flushStep, cutStep(0),
		appendStep(20000), flushStep, appendStep(25000), flushStep, appendStep(9000), flushStep, appendStep(100, 200), flushStep, appendStep(7000), flushStep}
	for _, s := range steps {
		if err := s(l, m); err != nil {
			t.Fatal(err)
		}
	}
	if len(l.segs) != 3 || l.segs[0].number != 3 {
		t.Fatalf("%d segments, the oldest is number %d: nothing was recycled", len(l.segs), l.segs[0].number)
	}
	if sealed {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return f, m
}

// flips gives the bits to flip: one in every sector, and many in the first of
// every page, where headers are.
func flips(size int64, rng *rand.Rand) []int64 {
	var bits []int64
	for at := int64(0); at < size; at += 512 {
		bits = append(bits, (at+rng.Int64N(512))*8+rng.Int64N(8))
		if at%pageSize == 0 {
			for range 5 {
				bits = append(bits, (at+rng.Int64N(headerSize))*8+rng.Int64N(8))
			}
		}
	}
	return bits
}

// A flipped bit anywhere is either of no consequence or refused: no record of
// a sealed journal is ever silently dropped or changed. Without the seal, the
// last block may go.
func TestFlipAnywhere(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		f, m := damaged(t, sealed)
		rng := rand.New(rand.NewPCG(1, 1))
		list, err := f.ReadDir("data/journal")
		if err != nil {
			t.Fatal(err)
		}
		refused, fine, shorter := 0, 0, 0
		for _, e := range list {
			bits := flips(e.Size, rng)
			if e.Name == identName {
				bits = nil
				for bit := range e.Size * 8 {
					bits = append(bits, bit)
				}
			}
			for _, bit := range bits {
				g := f.Crash(rand.New(rand.NewPCG(1, 1)))
				if err := g.FlipBit("data/journal/"+e.Name, bit); err != nil {
					t.Fatal(err)
				}
				lost, err := afterDamage(g, m.clone())
				switch {
				case err != nil:
					t.Fatalf("sealed %v: bit %d of byte %d of %s: %v", sealed, bit%8, bit/8, e.Name, err)
				case lost == -1:
					refused++
				case lost == 0:
					fine++
				case sealed || lost > 1:
					t.Fatalf("sealed %v: bit %d of byte %d of %s: %d records are silently gone", sealed, bit%8, bit/8, e.Name, lost)
				default:
					shorter++
				}
			}
		}
		t.Logf("sealed %v: %d refused, %d of no consequence, %d cost the last block", sealed, refused, fine, shorter)
		if refused == 0 || fine == 0 || (shorter == 0) != sealed {
			t.Error("the flips did not reach everything")
		}
	}
}

// afterDamage opens a damaged journal: -1 if it is refused, else how many
// acknowledged records are gone. It then appends and opens again.
func afterDamage(g *forget.FS, m *model) (int, error) {
	changes := func() int { return g.Ops() - g.Count(forget.Sync) - g.Count(forget.SyncDir) }
	before := changes()
	l, err := Open(smallOptions(g))
	report, verifyErr := Verify(g, "data/journal")
	if verifyErr != nil {
		return 0, fmt.Errorf("verify: %w", verifyErr)
	}
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		if n := changes() - before; n != 0 {
			return 0, fmt.Errorf("refused, but after %d changes", n)
		}
		if report.Corrupt == nil || report.Corrupt.Error() != corrupt.Error() {
			return 0, fmt.Errorf("Open says %v, Verify %v", corrupt, report.Corrupt)
		}
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	if report.Corrupt != nil || report.Last != l.End() || report.First != l.First() {
		return 0, fmt.Errorf("opened with %d to %d, verify says %+v", l.First(), l.End(), report)
	}
	lost := int(m.synced - min(l.End(), m.synced))
	m.synced = 0
	if err := m.check(l); err != nil {
		return 0, err
	}
	return lost, reopenTwice(g, m)
}

func reopenTwice(g *forget.FS, m *model) error {
	if err := reopen(g, m); err != nil {
		return err
	}
	return reopen(g.Crash(rand.New(rand.NewPCG(2, 2))), m)
}

// No crash makes a file shorter or longer: that is refused too.
func TestCutAnywhere(t *testing.T) {
	f, m := damaged(t, true)
	list, err := f.ReadDir("data/journal")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		step := max(e.Size/200, 1)
		for size := int64(0); size <= e.Size+step; size += step {
			if size == e.Size {
				continue
			}
			g := f.Crash(rand.New(rand.NewPCG(1, 1)))
			file, err := g.Open("data/journal/" + e.Name)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(file.Truncate(size), file.Sync()); err != nil {
				t.Fatal(err)
			}
			if lost, err := afterDamage(g, m.clone()); err != nil || lost != -1 {
				t.Fatalf("%s cut to %d bytes: %d records lost, %v", e.Name, size, lost, err)
			}
		}
		g := f.Crash(rand.New(rand.NewPCG(1, 1)))
		if err := g.Remove("data/journal/" + e.Name); err != nil {
			t.Fatal(err)
		}
		lost, err := afterDamage(g, m.clone())
		last := list[len(list)-2].Name // a spare; the identity file is behind it
		if e.Name == segmentName(3) {
			continue // the owner's to notice (Log.First)
		}
		if err != nil || (lost != -1) != (e.Name == last && lost == 0) {
			t.Fatalf("%s removed: %d records lost, %v", e.Name, lost, err)
		}
	}
}

// In a torn block any sectors may be missing. Nothing acknowledged goes with
// it, the torn bytes are kept aside, and nothing of it ever comes back.
func TestTornTail(t *testing.T) {
	f, m := damaged(t, false)
	l, err := Open(smallOptions(f.Crash(rand.New(rand.NewPCG(1, 1)))))
	if err != nil {
		t.Fatal(err)
	}
	at := l.active().used
	name := l.path(segmentName(l.active().number))
	for n := range int64(5) { // the sector that did not arrive
		g := f.Crash(rand.New(rand.NewPCG(1, 1)))
		l, err := Open(smallOptions(g))
		if err != nil {
			t.Fatal(err)
		}
		future := m.clone()
		if err := future.append(l, 1500); err != nil {
			t.Fatal(err)
		}
		if err := future.flush(l); err != nil {
			t.Fatal(err)
		}
		future.synced = m.synced // suppose that the sync never returned
		file, err := g.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(make([]byte, 512), at+n*512); err != nil {
			t.Fatal(err)
		}
		if err := file.Sync(); err != nil {
			t.Fatal(err)
		}
		l, err = Open(smallOptions(g))
		if err != nil {
			t.Fatalf("without sector %d: %v", n, err)
		}
		r := l.Recovery()
		// The block has 1574 bytes. Without its header nothing tells that it
		// was there; without its padding it is whole.
		wantEnd, wantTorn := m.end, n > 0
		if n == 4 {
			wantEnd, wantTorn = m.end+1, false
		}
		if l.End() != wantEnd || (r.TornFile != "") != wantTorn {
			t.Fatalf("without sector %d: ends with %d, recovery %+v", n, l.End(), r)
		}
		if r.Copy != "" {
			kept, err := g.Open(r.Copy)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, r.TornBytes)
			if _, err := kept.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			if string(b[:4]) != blockMagic {
				t.Error("the copy is not the torn block")
			}
		}
		if err := reopenTwice(g, future); err != nil {
			t.Fatalf("without sector %d: %v", n, err)
		}
	}
}

// Copies of torn tails do not pile up.
func TestTornCopiesAreBounded(t *testing.T) {
	f := forget.New(1)
	o := smallOptions(f)
	for i := range 3 * keepTorn {
		l, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := l.Append([]byte("record")); err != nil {
				t.Fatal(err)
			}
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		// The second block never came whole.
		name := l.path(segmentName(l.active().number))
		if err := f.FlipBit(name, (l.active().used-pageSize+headerSize+2)*8); err != nil {
			t.Fatal(err)
		}
		if l, err = Open(o); err != nil {
			t.Fatal(i, err)
		}
		if l.Recovery().TornBytes != pageSize || l.End() != LSN(i+1) {
			t.Fatalf("%d: %+v", i, l.Recovery())
		}
	}
	n, err := (&files{fs: f, dir: o.Dir}).list()
	if err != nil || len(n.torn) != keepTorn {
		t.Fatalf("%d copies are kept, %v", len(n.torn), err)
	}
}

// A journal's image inside records, even at its own offset, is never taken
// for the journal.
func TestRecordsThatLookLikeBlocks(t *testing.T) {
	f := forget.New(1)
	o := smallOptions(f)
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	m := newModel()
	if err := appendStep(100, 50)(l, m); err != nil {
		t.Fatal(err)
	}
	if err := m.flush(l); err != nil {
		t.Fatal(err)
	}
	image := make([]byte, 3*pageSize-headerSize)
	file, err := f.Open(l.path(segmentName(1)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.ReadAt(image[pageSize-headerSize-2:], 0); err != nil {
		t.Fatal(err)
	}
	lsn, err := l.Append(image)
	if err != nil {
		t.Fatal(err)
	}
	m.records[lsn], m.end = image, lsn
	if err := l.Flush(); err != nil { // unacknowledged in the model
		t.Fatal(err)
	}
	if err := f.FlipBit(l.path(segmentName(1)), (pageSize+headerSize+9)*8); err != nil {
		t.Fatal(err)
	}
	g := f.Crash(rand.New(rand.NewPCG(1, 1)))
	if err := reopenTwice(g, m); err != nil {
		t.Fatal(err)
	}
}

// Every reason to refuse says where and why.
func TestRefusals(t *testing.T) {
	f, _ := damaged(t, true)
	dir := "data/journal/"
	tests := []struct {
		name   string
		damage func(g *forget.FS) error
		file   string
		reason string
	}{
		{"no identity", func(g *forget.FS) error { return g.Remove(dir + identName) }, identName, "identity file is missing"},
		{"gap", func(g *forget.FS) error { return g.Remove(dir + segmentName(4)) }, segmentName(4), "segment is missing"},
		{"rot", func(g *forget.FS) error { return g.FlipBit(dir+segmentName(3), 8*(headerSize+1)) }, segmentName(3), "payload checksum is wrong"},
		{"rotten header", func(g *forget.FS) error { return g.FlipBit(dir+segmentName(3), 8*40) }, segmentName(3), "header checksum is wrong"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := f.Crash(rand.New(rand.NewPCG(1, 1)))
			if err := tt.damage(g); err != nil {
				t.Fatal(err)
			}
			_, err := Open(smallOptions(g))
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) {
				t.Fatal(err)
			}
			if !strings.HasSuffix(corrupt.File, tt.file) || !strings.Contains(corrupt.Reason, tt.reason) {
				t.Errorf("%v; want %s, %q", err, tt.file, tt.reason)
			}
		})
	}
}

// What a torn tail leaves behind never follows what is appended before it,
// also where lengths and numbers fit.
func TestCutTailNeverComesBack(t *testing.T) {
	f := forget.New(1)
	o := Options{FS: f, Dir: "j"}
	l, m := open(t, o), newModel()
	for range 5 { // two blocks, of three records and two
		ok(t, m.append(l, MaxRecord))
	}
	ok(t, l.Flush()) // the machine dies before the sync: only the second arrives
	if l.Stats().Blocks != 2 {
		t.Fatal(l.Stats().Blocks)
	}
	ok(t, f.FlipBit("j/"+segmentName(1), (headerSize+77)*8))
	l = open(t, o)
	ok(t, m.check(l))
	if l.End() != 0 || l.Recovery().TornBytes <= 4*MaxRecord {
		t.Fatalf("%d, %+v", l.End(), l.Recovery())
	}
	for range 3 {
		ok(t, m.append(l, MaxRecord))
	}
	ok(t, m.flush(l))
	l = open(t, o)
	ok(t, m.check(l))
	if l.End() != 3 {
		t.Fatalf("ends with %d: old records came back", l.End())
	}
}

// Where older segments were cut, an oldest one without a record is no empty
// journal.
func TestOldestBlockIsLost(t *testing.T) {
	f := forget.New(1)
	l, m := open(t, smallOptions(f)), newModel()
	ok(t, m.append(l, 30000))
	ok(t, m.flush(l))
	ok(t, l.NewSegment())
	ok(t, m.append(l, 10))
	ok(t, m.flush(l))
	ok(t, l.Cut(2))
	name := l.path(segmentName(2))
	for _, bit := range []int64{0, 33 * 8, (headerSize + 3) * 8} {
		g := f.Crash(rand.New(rand.NewPCG(1, 1)))
		ok(t, g.FlipBit(name, bit))
		var corrupt *CorruptError
		if _, err := Open(smallOptions(g)); !errors.As(err, &corrupt) || corrupt.File != name {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
}

// The first record of the first segment is number 1.
func TestFirstSegmentBeginsWithOne(t *testing.T) {
	f := forget.New(1)
	o := smallOptions(f)
	ok(t, open(t, o).Close())
	file, err := f.Open("data/journal/" + segmentName(1))
	ok(t, err)
	_, err = file.WriteAt(build(place{id: o.ID, segment: 1}, 5, 0, false, []byte("five")), 0)
	ok(t, err)
	if l, err := Open(o); err == nil && l.End() != 0 {
		t.Fatalf("records %d to %d of a journal that begins", l.First(), l.End())
	}
}
