package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"tpcfs/journal/disk/forget"
)

// model is what a journal must hold.
type model struct {
	records map[LSN][]byte
	end     LSN
	synced  LSN // acknowledged
	cut     LSN // records below may be gone
	salt    uint64
}

func newModel() *model { return &model{records: map[LSN][]byte{}} }

// record makes contents that no other record ever had.
func (m *model) record(size int) []byte {
	m.salt++
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], m.salt)
	b := bytes.Repeat([]byte{byte(m.salt)}, size) // compresses
	if m.salt%3 > 0 {
		_, _ = rand.NewChaCha8(key).Read(b) // cannot fail
	}
	if size >= 8 {
		binary.LittleEndian.PutUint64(b, m.salt)
	}
	return b
}

func (m *model) append(l *Log, size int) error {
	r := m.record(size)
	lent := bytes.Clone(r)
	lsn, err := l.Append(lent)
	clear(lent) // Append has copied it
	if err != nil {
		return err
	}
	if lsn != m.end+1 {
		return fmt.Errorf("appended as %d, want %d", lsn, m.end+1)
	}
	m.end = lsn
	m.records[lsn] = r
	return nil
}

func (m *model) flush(l *Log) error {
	err := l.Flush()
	m.synced = max(m.synced, l.Synced())
	return err
}

// check compares a reopened journal with the model, and takes over what it
// says of records that were not acknowledged.
func (m *model) check(l *Log) error {
	switch {
	case l.End() < m.synced:
		return fmt.Errorf("record %d was acknowledged, and the journal ends with %d", m.synced, l.End())
	case l.End() > m.end:
		return fmt.Errorf("record %d was never appended", l.End())
	case l.Synced() != l.End():
		return fmt.Errorf("opened with %d of %d synced", l.Synced(), l.End())
	case l.First() > max(m.cut, 1):
		return fmt.Errorf("oldest record is %d, cut was %d", l.First(), m.cut)
	}
	next := l.First()
	err := l.Replay(0, func(lsn LSN, record []byte) error {
		if lsn != next {
			return fmt.Errorf("replayed %d, want %d", lsn, next)
		}
		if !bytes.Equal(record, m.records[lsn]) {
			return fmt.Errorf("record %d is not what was appended", lsn)
		}
		next++
		return nil
	})
	if err != nil {
		return err
	}
	if next != l.End()+1 {
		return fmt.Errorf("replayed up to %d of %d", next-1, l.End())
	}
	m.end, m.synced = l.End(), l.End()
	return nil
}

const smallSegment = 32 << 10

func smallOptions(f *forget.FS) Options {
	return Options{FS: f, Dir: "data/journal", SegmentSize: smallSegment, ID: [16]byte{1, 2, 3}, MaxSpare: 2}
}

// step is a step of a script.
type step func(l *Log, m *model) error

func appendStep(sizes ...int) step {
	return func(l *Log, m *model) error {
		for _, n := range sizes {
			if err := m.append(l, n); err != nil {
				return err
			}
		}
		return nil
	}
}

func flushStep(l *Log, m *model) error      { return m.flush(l) }
func sealStep(l *Log, _ *model) error       { return l.Seal() }
func newSegmentStep(l *Log, _ *model) error { return l.NewSegment() }

func cutStep(back LSN) step {
	return func(l *Log, m *model) error {
		if m.synced > back {
			m.cut = max(m.cut, m.synced-back)
		}
		return l.Cut(m.cut)
	}
}

// script goes through everything that changes the disk: blocks of one page
// and many, a flush of several blocks, seals, segments that fill up and
// segments begun early, cuts that recycle and cuts that remove.
var script = []step{
	appendStep(10), flushStep, appendStep(5000, 0, 100), flushStep, sealStep,
	appendStep(3000), flushStep, sealStep, sealStep,
	appendStep(20000), flushStep, appendStep(20000), flushStep, appendStep(30000, 30000), flushStep,
	cutStep(2), sealStep, newSegmentStep, appendStep(50), flushStep, appendStep(1, 2, 3), flushStep,
	newSegmentStep, newSegmentStep, appendStep(40), flushStep, cutStep(0), sealStep,
	appendStep(28000), flushStep, appendStep(28000), flushStep, sealStep, appendStep(4000), flushStep,
	newSegmentStep, appendStep(24500), flushStep, appendStep(4000), flushStep, sealStep, // full to the last page
	cutStep(1), appendStep(9), flushStep, sealStep, cutStep(0),
}

// runScript runs it on a file system until something fails.
func runScript(f *forget.FS, m *model) error {
	l, err := Open(smallOptions(f))
	if err != nil {
		return err
	}
	if err := m.check(l); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	for _, s := range script {
		if err := s(l, m); err != nil {
			return err
		}
	}
	return l.Close()
}

// reopen opens what a crash left, checks it, appends, and checks again.
func reopen(f *forget.FS, m *model) error {
	l, err := Open(smallOptions(f))
	if err != nil {
		return err
	}
	if err := m.check(l); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	for _, n := range []int{7, 5000, 20000} {
		if err := m.append(l, n); err != nil {
			return err
		}
		if err := m.flush(l); err != nil {
			return err
		}
	}
	return nil
}

// clone copies a model, so that several futures can be tried.
func (m *model) clone() *model {
	c := *m
	c.records = make(map[LSN][]byte, len(m.records))
	for k, v := range m.records {
		c.records[k] = v
	}
	return &c
}

// A power loss before every operation loses nothing that was acknowledged, and
// the journal goes on; nor does a second one before every operation of the
// recovery.
func TestCrashBeforeEveryOperation(t *testing.T) {
	whole := forget.New(1)
	if err := runScript(whole, newModel()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d operations, %d syncs, %d directory syncs", whole.Ops(), whole.Count(forget.Sync), whole.Count(forget.SyncDir))
	for k := 1; k <= whole.Ops()+1; k += forget.OneIn {
		for seed := range uint64(3) {
			if err := crashAt(k, seed); err != nil {
				t.Fatalf("crash before operation %d, seed %d: %v", k, seed, err)
			}
		}
	}
}

func crashAt(k int, seed uint64) error {
	f := forget.New(seed)
	f.CrashAt(k)
	m := newModel()
	if err := runScript(f, m); err != nil && !errors.Is(err, forget.ErrCrashed) {
		return err
	}
	left := func() *forget.FS { return f.Crash(rand.New(rand.NewPCG(seed, uint64(k)))) }
	g := left()
	first := m.clone()
	if err := reopen(g, first); err != nil {
		return fmt.Errorf("reopen: %w", err)
	}
	if err := reopen(g.Crash(rand.New(rand.NewPCG(seed, 7))), first); err != nil {
		return fmt.Errorf("reopen twice: %w", err)
	}
	if (uint64(k)+seed)%3 > 0 {
		return nil
	}
	// Now the same with a second crash: at each of the first operations of
	// the recovery and of what is appended after it.
	for j := 1; j <= min(g.Ops(), 12); j++ {
		h := left()
		h.CrashAt(j)
		second := m.clone()
		if err := reopen(h, second); !errors.Is(err, forget.ErrCrashed) {
			return fmt.Errorf("second crash at %d: %w", j, err)
		}
		h = h.Crash(rand.New(rand.NewPCG(seed, uint64(j))))
		if err := reopen(h, second); err != nil {
			return fmt.Errorf("after a second crash at %d: %w", j, err)
		}
	}
	return nil
}

// A process killed before any operation leaves names and pages that are not
// durable: what the next one builds upon them must outlive a power loss.
func TestKillThenPowerLoss(t *testing.T) {
	whole := forget.New(1)
	if err := runScript(whole, newModel()); err != nil {
		t.Fatal(err)
	}
	for k := 1; k <= whole.Ops(); k += forget.OneIn {
		for seed := range uint64(2) {
			f := forget.New(seed)
			f.CrashAt(k)
			m := newModel()
			if err := runScript(f, m); !errors.Is(err, forget.ErrCrashed) {
				t.Fatalf("killed before %d: %v", k, err)
			}
			f.Restart()
			if err := reopen(f, m); err != nil {
				t.Fatalf("killed before %d, seed %d: reopen: %v", k, seed, err)
			}
			if err := reopen(f.Crash(rand.New(rand.NewPCG(seed, 3))), m); err != nil {
				t.Fatalf("killed before %d, seed %d: after the power loss: %v", k, seed, err)
			}
		}
	}
}

// The same for a spare whose name is not durable yet: it must be before a
// record in it is acknowledged.
func TestKillBeforeNameIsDurable(t *testing.T) {
	found := 0
	for k := 1; k <= 60; k++ {
		f := forget.New(1)
		name := forget.SyncDir
		f.SetHook(func(op forget.Op) error {
			if op.N == k {
				name = op.Kind
			}
			return nil
		})
		l, m := open(t, smallOptions(f)), newModel()
		f.CrashAt(k + 1)
		for range 3 {
			if m.append(l, 30000) != nil || m.flush(l) != nil {
				break
			}
		}
		if name != forget.Rename || !f.Crashed() {
			continue
		}
		found++
		f.Restart()
		l = open(t, smallOptions(f))
		ok(t, m.check(l))
		f.SetHook(func(op forget.Op) error { // nothing but records from here on
			if op.Kind == forget.Create {
				return syscall.ENOSPC
			}
			return nil
		})
		ok(t, m.append(l, 30000))
		ok(t, m.flush(l))
		for seed := range uint64(8) {
			l := open(t, smallOptions(f.Crash(rand.New(rand.NewPCG(seed, 1)))))
			ok(t, m.clone().check(l))
		}
	}
	if found < 2 {
		t.Fatalf("%d spares", found)
	}
}

// After a failed sync at any place, the error is sticky, nothing more is
// reported durable, and the next start believes the disk, not the page cache
// (P12, J3).
func TestFailedSyncAnywhere(t *testing.T) {
	for _, kind := range []forget.Kind{forget.Sync, forget.SyncDir, forget.Write} {
		whole := forget.New(1)
		if err := runScript(whole, newModel()); err != nil {
			t.Fatal(err)
		}
		for n := 1; n <= whole.Count(kind); n += forget.OneIn {
			for seed := range uint64(4) {
				if err := failAt(kind, n, seed); err != nil {
					t.Fatalf("%s number %d fails, seed %d: %v", kind, n, seed, err)
				}
			}
		}
	}
}

func failAt(kind forget.Kind, n int, seed uint64) error {
	f := forget.New(seed)
	count := 0
	f.SetHook(func(op forget.Op) error {
		if op.Kind == kind {
			if count++; count == n {
				return syscall.EIO
			}
		}
		return nil
	})
	m := newModel()
	l, err := Open(smallOptions(f))
	for i := 0; err == nil && i < len(script); i++ {
		err = script[i](l, m)
	}
	if err == nil {
		err = l.Close() // seals
	} else if l != nil {
		var failure *FailedError
		synced := l.Synced()
		_, appendErr := l.Append(nil)
		for _, again := range []error{err, appendErr, l.Flush(), l.Seal(), l.Cut(1), l.NewSegment(), l.Replay(0, nil)} {
			if !errors.As(again, &failure) || !errors.Is(again, syscall.EIO) {
				return fmt.Errorf("not sticky: %w", again)
			}
		}
		if l.Synced() != synced || synced > m.synced {
			return fmt.Errorf("synced %d after the failure, acknowledged %d", l.Synced(), m.synced)
		}
	}
	if !errors.Is(err, syscall.EIO) {
		return fmt.Errorf("not noticed: %w", err)
	}
	f.SetHook(nil)
	f.Restart()
	if err := reopen(f, m); err != nil {
		return fmt.Errorf("reopen: %w", err)
	}
	if err := reopen(f.Crash(rand.New(rand.NewPCG(seed, 5))), m); err != nil {
		return fmt.Errorf("after the power loss: %w", err)
	}
	return nil
}

// When the disk lies about syncs, a power loss may cost anything; but what is
// there is what was appended, and a hole is never passed over.
func TestLyingDisk(t *testing.T) {
	refused, shorter := 0, 0
	for seed := uint64(0); seed < 300; seed += forget.OneIn {
		f := forget.New(seed)
		m := newModel()
		lies := int(seed%40) + 10
		f.SetHook(func(op forget.Op) error {
			if op.Kind == forget.Sync && f.Count(forget.Sync) > lies {
				return forget.Lie
			}
			return nil
		})
		f.CrashAt(100 + int(seed*7%140))
		if err := runScript(f, m); err != nil && !errors.Is(err, forget.ErrCrashed) {
			t.Fatal(err)
		}
		l, err := Open(smallOptions(f.Crash(rand.New(rand.NewPCG(seed, 1)))))
		var corrupt *CorruptError
		if errors.As(err, &corrupt) {
			refused++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if l.End() < m.synced {
			shorter++
		}
		m.synced = 0
		if err := m.check(l); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	t.Logf("%d refused, %d ended earlier", refused, shorter)
	if refused == 0 {
		t.Error("no loss was ever noticed")
	}
}

// Segments are removed from the old end only, on the disk too: after a power
// loss at any moment of a cut no segment is missing between others (J6).
func TestCutOverPowerLoss(t *testing.T) {
	for k := 1; ; k++ {
		f := forget.New(1)
		o := smallOptions(f)
		o.MaxSpare = 1
		l, m := open(t, o), newModel()
		for range 12 {
			ok(t, m.append(l, 30000))
			ok(t, m.flush(l))
		}
		f.CrashAt(f.Ops() + k)
		err := l.Cut(10)
		if whole := err == nil && !f.Crashed(); whole {
			if k < 8 {
				t.Fatalf("a cut of %d operations removes too little for this test", k-1)
			}
			return
		}
		for seed := range uint64(16) {
			o := smallOptions(f.Crash(rand.New(rand.NewPCG(seed, uint64(k)))))
			if first := open(t, o).First(); first > 10 {
				t.Fatalf("record %d is the first, 10 was to stay", first)
			}
		}
	}
}
