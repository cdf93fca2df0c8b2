package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"tpcfs/journal/disk"
	"tpcfs/journal/disk/forget"
)

func open(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A journal on a real disk, with everything at its largest.
func TestLimits(t *testing.T) {
	o := Options{FS: disk.New(), Dir: t.TempDir() + "/a/journal"}
	l := open(t, o)
	if l.First() != 1 || l.End() != 0 || l.Synced() != 0 || l.MaxRecord() != MaxRecord {
		t.Fatalf("%+v", l.Stats())
	}
	m := newModel()
	for range 9 { // more than two blocks
		ok(t, m.append(l, MaxRecord))
	}
	if _, err := l.Append(make([]byte, MaxRecord+1)); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("one more byte: %v", err)
	}
	ok(t, m.append(l, 0))
	ok(t, m.flush(l))
	if s := l.Stats(); s.Blocks != 3 || s.Syncs != 1 || s.Records != 10 || s.PendingBytes != 0 {
		t.Errorf("%+v", s)
	}
	ok(t, l.Close())
	ok(t, l.Close())
	if _, err := l.Append(nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	l = open(t, o)
	ok(t, m.check(l))
	ok(t, l.Close())
	for _, bad := range []Options{
		{Dir: "x"}, {FS: o.FS}, {FS: o.FS, Dir: "x", SegmentSize: 4096}, {FS: o.FS, Dir: "x", SegmentSize: 9000},
		{FS: o.FS, Dir: "x", SegmentSize: 2 << 30}, {FS: o.FS, Dir: "x", Spare: -1}, {FS: o.FS, Dir: "x", Spare: 3, MaxSpare: 2},
		{FS: o.FS, Dir: "x", MaxPending: -1},
	} {
		if _, err := Open(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// The smallest segments take their largest record, and no larger.
func TestSmallestSegments(t *testing.T) {
	f := forget.New(1)
	o := Options{FS: f, Dir: "j", SegmentSize: MinSegmentSize}
	l, m := open(t, o), newModel()
	for range 5 {
		ok(t, m.append(l, l.MaxRecord()))
		ok(t, m.append(l, 1))
		ok(t, m.flush(l))
	}
	if _, err := l.Append(make([]byte, l.MaxRecord()+1)); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	ok(t, l.Close())
	o.SegmentSize = 64 << 10 // keeps what it was made with
	l = open(t, o)
	if l.Stats().SegmentBytes != MinSegmentSize {
		t.Fatal(l.Stats().SegmentBytes)
	}
	ok(t, m.check(l))
}

func TestReplay(t *testing.T) {
	f := forget.New(1)
	l, m := open(t, smallOptions(f)), newModel()
	for i := range 60 {
		ok(t, m.append(l, i*50))
		if i%3 == 0 {
			ok(t, m.flush(l))
		}
	}
	ok(t, m.flush(l))
	ok(t, l.Cut(30))
	first := l.First()
	if first < 2 || first > 30 {
		t.Fatalf("first is %d", first)
	}
	for from := LSN(1); from <= 62; from++ {
		next := max(from, first)
		err := l.Replay(from, func(lsn LSN, r []byte) error {
			if lsn != next || !bytes.Equal(r, m.records[lsn]) {
				return fmt.Errorf("%d, want %d", lsn, next)
			}
			next++
			return nil
		})
		if from < first && !errors.Is(err, ErrCut) {
			t.Fatalf("from %d: %v", from, err)
		}
		if from >= first && (err != nil || next != max(61, from)) {
			t.Fatalf("from %d: up to %d, %v", from, next, err)
		}
	}
	stop := errors.New("stop")
	if err := l.Replay(0, func(LSN, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
}

// Cut never gives up the segment with the last durable record, nor a record at
// or above its argument.
func TestCutKeepsTheEnd(t *testing.T) {
	f := forget.New(1)
	l, m := open(t, smallOptions(f)), newModel()
	for range 8 {
		ok(t, m.append(l, 30000))
		ok(t, m.flush(l))
	}
	ok(t, l.NewSegment())
	ok(t, l.Cut(1000))
	if l.First() != 8 {
		t.Fatalf("first is %d", l.First())
	}
	ok(t, m.append(l, 10))
	ok(t, l.Cut(1000)) // record 9 is not durable: 8 stays
	if l.First() != 8 {
		t.Fatalf("first is %d", l.First())
	}
	ok(t, m.flush(l))
	if s := l.Stats(); s.Segments != 2 || s.Spares != 1 {
		t.Fatalf("%+v", s)
	}
	ok(t, l.Cut(9))
	if l.First() != 9 || l.Stats().Spares != 2 {
		t.Fatalf("%+v", l.Stats())
	}
	m.cut = 9
	l = open(t, smallOptions(f))
	ok(t, m.check(l))
}

// An empty newest segment, made for the seal of a full one, holds no numbers:
// the full one stays.
func TestCutKeepsTheEndBeforeAnEmptySegment(t *testing.T) {
	f := forget.New(1)
	l, m := open(t, smallOptions(f)), newModel()
	for range 2 {
		ok(t, m.append(l, 30000)) // fills a segment
		ok(t, m.flush(l))
	}
	ok(t, l.Seal())
	if l.active().first != 0 || l.promise != 2 {
		t.Fatal("the seal found room")
	}
	ok(t, l.Cut(3))
	if l.First() != 2 {
		t.Fatalf("first is %d", l.First())
	}
	m.cut = 2
	for range 2 {
		l = open(t, smallOptions(f))
		ok(t, m.check(l))
		ok(t, m.append(l, 30000))
		ok(t, m.flush(l))
	}
}

func TestNewSegmentAndFull(t *testing.T) {
	f := forget.New(1)
	l, m := open(t, smallOptions(f)), newModel()
	ok(t, l.NewSegment()) // of an empty one: nothing
	ok(t, m.append(l, 10))
	ok(t, m.flush(l))
	if l.Stats().Segments != 1 || l.SegmentFull() {
		t.Fatalf("%+v", l.Stats())
	}
	ok(t, m.append(l, 25000))
	if !l.SegmentFull() {
		t.Fatal("not full")
	}
	ok(t, l.NewSegment())
	if l.SegmentFull() {
		t.Fatal("full after NewSegment")
	}
	ok(t, m.append(l, 10))
	if l.SegmentFull() {
		t.Fatal("full after NewSegment and a record")
	}
	ok(t, m.flush(l))
	if s := l.Stats(); s.Segments != 2 || s.Full || l.segs[1].first != 3 {
		t.Fatalf("%+v", s)
	}
	ok(t, m.append(l, 30000))
	ok(t, m.flush(l))
	if l.Stats().Segments != 3 || !l.SegmentFull() {
		t.Fatal("a segment that began by itself is not reported")
	}
}

// A full disk costs the spare first; then Flush says so, keeps everything, and
// goes on when there is room (S6).
func TestFullDisk(t *testing.T) {
	f := forget.New(1)
	l, m := open(t, smallOptions(f)), newModel()
	ok(t, m.append(l, 20000))
	ok(t, m.flush(l))
	if l.Stats().Spares != 1 {
		t.Fatal("no spare")
	}
	f.SetCapacity(1)
	ok(t, m.append(l, 20000))
	ok(t, m.flush(l)) // into the spare
	if s := l.Stats(); s.Spares != 0 || s.SpareError == "" {
		t.Fatalf("%+v", s)
	}
	ok(t, m.append(l, 3000)) // fits
	ok(t, m.append(l, 20000))
	before := m.synced
	for range 3 {
		err := m.flush(l)
		var full *FullError
		if !errors.As(err, &full) || !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	if l.Synced() != before || l.Stats().PendingBytes == 0 {
		t.Fatalf("%+v", l.Stats())
	}
	ok(t, m.append(l, 20000))
	f.SetCapacity(0) // the owner has freed its ballast
	ok(t, m.flush(l))
	ok(t, l.Seal())
	if s := l.Stats(); s.Spares != 1 || s.SpareError != "" || s.Synced != 5 {
		t.Fatalf("%+v", s)
	}
	l = open(t, smallOptions(f.Crash(rand.New(rand.NewPCG(1, 1)))))
	ok(t, m.check(l))
}

// Space that runs out under a sync is no reason to go on (P12): errors.Is does
// not find ENOSPC.
func TestFullUnderSync(t *testing.T) {
	f := forget.New(1)
	l, m := open(t, smallOptions(f)), newModel()
	ok(t, m.append(l, 100))
	f.SetHook(func(op forget.Op) error {
		if op.Kind == forget.Sync {
			return syscall.ENOSPC
		}
		return nil
	})
	err := m.flush(l)
	var failure *FailedError
	if !errors.As(err, &failure) || errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "no space") {
		t.Fatal(err)
	}
	f.SetHook(nil)
	if again := l.Flush(); !errors.Is(again, err) {
		t.Fatal(again)
	}
	if again := l.Close(); !errors.Is(again, err) {
		t.Fatal(again)
	}
}

// A new journal on a full disk is not made, and is made when there is room.
func TestMakeOnFullDisk(t *testing.T) {
	f := forget.New(1)
	for capacity := int64(1); capacity < smallSegment+2*pageSize; capacity += pageSize {
		f.SetCapacity(capacity)
		var full *FullError
		l, err := Open(smallOptions(f))
		if err == nil {
			ok(t, l.Close())
			continue
		}
		if !errors.As(err, &full) {
			t.Fatal(err)
		}
	}
	f.SetCapacity(0)
	l, m := open(t, smallOptions(f)), newModel()
	ok(t, m.append(l, 1))
	ok(t, m.flush(l))
}

// A start on a full disk goes without the copy of the torn tail.
func TestTornTailOnFullDisk(t *testing.T) {
	f := forget.New(1)
	l, m := open(t, smallOptions(f)), newModel()
	ok(t, m.append(l, 1))
	ok(t, m.flush(l))
	ok(t, m.append(l, 1))
	ok(t, l.Flush())
	ok(t, f.FlipBit(l.path(segmentName(1)), (pageSize+headerSize)*8))
	f.SetCapacity(1)
	l = open(t, smallOptions(f))
	if r := l.Recovery(); r.CopyError == "" || r.Copy != "" || r.TornBytes != pageSize {
		t.Fatalf("%+v", r)
	}
	ok(t, m.check(l))
	ok(t, m.append(l, 1))
	ok(t, m.flush(l))
}

// Small records never pay for compression that saves no page; large ones are
// compressed when that saves one.
func TestCompression(t *testing.T) {
	tests := []struct {
		name   string
		record []byte
		stored uint64
	}{
		{"small", make([]byte, 3000), pageSize},
		{"large", make([]byte, 100000), pageSize},
		{"random", randomBytes(100000), uint64(roundUp(100000 + headerSize + 3))},
	}
	for _, tt := range tests {
		f := forget.New(1)
		l := open(t, Options{FS: f, Dir: "j", SegmentSize: 1 << 20})
		_, err := l.Append(tt.record)
		ok(t, err)
		ok(t, l.Flush())
		if s := l.Stats(); s.StoredBytes != tt.stored {
			t.Errorf("%s: %d bytes stored, want %d", tt.name, s.StoredBytes, tt.stored)
		}
		err = l.Replay(1, func(_ LSN, r []byte) error {
			if !bytes.Equal(r, tt.record) {
				return errors.New("differs")
			}
			return nil
		})
		ok(t, err)
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// Verify and Dump tell what is there and change nothing (J7).
func TestVerifyAndDump(t *testing.T) {
	f, m := damaged(t, true)
	ops := f.Ops()
	report, err := Verify(f, "data/journal")
	ok(t, err)
	if report.Corrupt != nil || !report.Sealed || report.Last != m.end || report.First != m.cut || len(report.Segments) < 3 || len(report.Torn) != 0 {
		t.Fatalf("%+v", report)
	}
	next := report.First
	err = Dump(f, "data/journal", func(b BlockInfo) error {
		if b.First != next || b.Synced >= b.First {
			return fmt.Errorf("block %+v, want %d", b, next)
		}
		for _, r := range b.Records {
			if r.LSN != next || !bytes.Equal(r.Data, m.records[next]) {
				return fmt.Errorf("record %d, want %d", r.LSN, next)
			}
			next++
		}
		return nil
	})
	ok(t, err)
	if next != m.end+1 || f.Ops() != ops {
		t.Fatalf("dumped up to %d of %d, %d changes", next-1, m.end, f.Ops()-ops)
	}
	stop := errors.New("stop")
	if err := Dump(f, "data/journal", func(BlockInfo) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	ok(t, f.FlipBit("data/journal/"+segmentName(4), (headerSize+5)*8))
	var corrupt *CorruptError
	if err := Dump(f, "data/journal", func(BlockInfo) error { return nil }); !errors.As(err, &corrupt) {
		t.Fatal(err)
	}
	if report, err = Verify(f, "data/journal"); err != nil || report.Corrupt == nil || len(report.Segments) == 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	if _, err := Verify(f, "data"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if _, err := Verify(f, "nowhere"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// A torn tail is in the report before the next Open cuts it.
func TestVerifyTorn(t *testing.T) {
	f := forget.New(1)
	l, m := open(t, smallOptions(f)), newModel()
	ok(t, m.append(l, 10))
	ok(t, m.flush(l))
	ok(t, m.append(l, 10))
	ok(t, l.Flush())
	ok(t, f.FlipBit(l.path(segmentName(1)), (pageSize+headerSize)*8))
	report, err := Verify(f, "data/journal")
	ok(t, err)
	if len(report.Torn) != 1 || report.Torn[0].Offset != pageSize || report.Corrupt != nil || report.Last != 1 || report.Sealed {
		t.Fatalf("%+v", report)
	}
}

// The same calls give the same bytes: a simulation can be repeated.
func TestDeterministic(t *testing.T) {
	image := func() []byte {
		f := forget.New(1)
		ok(t, runScript(f, newModel()))
		var all []byte
		list, err := f.ReadDir("data/journal")
		ok(t, err)
		for _, e := range list {
			file, err := f.Open("data/journal/" + e.Name)
			ok(t, err)
			b := make([]byte, e.Size)
			_, err = file.ReadAt(b, 0)
			ok(t, err)
			all = append(append(all, e.Name...), b...)
		}
		return all
	}
	if !bytes.Equal(image(), image()) {
		t.Fatal("two runs differ")
	}
}

// Nothing else in the directory is touched; a directory of another kind is
// not taken for a journal.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	ok(t, os.WriteFile(dir+"/notes.txt", []byte("mine"), 0o600))
	ok(t, os.WriteFile(dir+"/x.tmp", []byte("mine"), 0o600))
	o := Options{FS: disk.New(), Dir: dir, SegmentSize: smallSegment}
	ok(t, open(t, o).Close())
	ok(t, os.WriteFile(dir+"/"+segmentName(2)+tmpSuffix, []byte("half made"), 0o600))
	ok(t, open(t, o).Close())
	if _, err := os.Stat(dir + "/" + segmentName(2) + tmpSuffix); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a half made segment stays")
	}
	for _, name := range []string{"notes.txt", "x.tmp"} {
		if b, err := os.ReadFile(dir + "/" + name); err != nil || string(b) != "mine" {
			t.Error(name, err)
		}
	}
}

// Random calls, faults, kills and power losses in any order.
func TestRandomSchedules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		rng := rand.New(rand.NewPCG(seed, 0))
		f := forget.New(seed)
		m := newModel()
		for life := range rapid.IntRange(1, 4).Draw(t, "lives") {
			if err := oneLife(t, f, m, rng); err != nil {
				t.Fatalf("life %d: %v", life, err)
			}
			if rapid.Bool().Draw(t, "power loss") {
				f = f.Crash(rng)
			} else {
				f.SetHook(nil)
				f.SetCapacity(0)
				f.Restart()
			}
		}
		f.SetCapacity(0)
		if err := reopen(f, m); err != nil {
			t.Fatal(err)
		}
	})
}

// oneLife runs random steps until it is killed, fails, or has enough.
func oneLife(t *rapid.T, f *forget.FS, m *model, rng *rand.Rand) error {
	f.SetCapacity(0)
	l, err := Open(smallOptions(f))
	if err != nil {
		return err
	}
	if err := m.check(l); err != nil {
		return err
	}
	switch rapid.IntRange(0, 3).Draw(t, "fate") {
	case 0:
		f.CrashAt(f.Ops() + 1 + rng.IntN(60))
	case 1:
		at := f.Ops() + 1 + rng.IntN(60)
		f.SetHook(func(op forget.Op) error {
			if op.N >= at && op.Kind != forget.Read {
				return syscall.EIO
			}
			return nil
		})
	case 2:
		f.SetCapacity(rng.Int64N(8) * smallSegment)
	}
	for range rapid.IntRange(0, 25).Draw(t, "steps") {
		err := randomStep(t, l, m, rng)
		var full *FullError
		var failure *FailedError
		switch {
		case errors.As(err, &full):
		case errors.As(err, &failure):
			return nil // sticky; what is left is looked at later
		case err != nil:
			return err
		}
	}
	return nil
}

func randomStep(t *rapid.T, l *Log, m *model, rng *rand.Rand) error {
	switch rapid.IntRange(0, 7).Draw(t, "step") {
	case 0, 1:
		return m.append(l, rng.IntN(100))
	case 2:
		return m.append(l, rng.IntN(l.MaxRecord()+1))
	case 3, 4:
		return m.flush(l)
	case 5:
		return l.Seal()
	case 6:
		return l.NewSegment()
	default:
		return cutStep(LSN(rng.IntN(5)))(l, m)
	}
}
