package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tpcfs/journal/disk"
	"tpcfs/journal/disk/forget"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watcher collects what a Writer reports.
type watcher struct {
	mu     sync.Mutex
	synced []LSN
	errs   []error
	seen   chan struct{} // capacity 1: something was reported
}

func newWatcher() *watcher { return &watcher{seen: make(chan struct{}, 1)} }

func (w *watcher) onSynced(up LSN, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.errs = append(w.errs, err)
	} else {
		w.synced = append(w.synced, up)
	}
	select {
	case w.seen <- struct{}{}:
	default:
	}
}

// wait waits until a report makes done true.
func (w *watcher) wait(done func() bool) {
	for {
		w.mu.Lock()
		d := done()
		w.mu.Unlock()
		if d {
			return
		}
		<-w.seen
	}
}

// gate holds up operations of a kind until it is opened.
type gate struct {
	kind    forget.Kind
	arrived chan struct{}
	open    chan struct{}
}

func newGate(kind forget.Kind) *gate {
	return &gate{kind: kind, arrived: make(chan struct{}, 100), open: make(chan struct{})}
}

func (g *gate) hook(op forget.Op) error {
	if op.Kind == g.kind {
		g.arrived <- struct{}{}
		<-g.open
	}
	return nil
}

// until waits for what the Writer does without telling.
func until(t *testing.T, w *Writer, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		ok(t, w.Err())
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %+v", w.Stats())
		}
		runtime.Gosched()
	}
}

// waitSpare waits until the spares are made.
func waitSpare(t *testing.T, w *Writer, n int) {
	t.Helper()
	until(t, w, func() bool { return w.Stats().Spares >= n })
}

// What waits while a sync is under way becomes one block with one sync (J2).
func TestGroupCommit(t *testing.T) {
	f := forget.New(1)
	watch := newWatcher()
	w := NewWriter(open(t, smallOptions(f)), watch.onSynced)
	waitSpare(t, w, 1)
	g := newGate(forget.Sync)
	f.SetHook(g.hook)
	last, err := w.Append([][]byte{[]byte("first")}, true)
	if err != nil || last != 1 {
		t.Fatal(last, err)
	}
	<-g.arrived
	for i := range 20 {
		last, err = w.Append([][]byte{[]byte("a"), []byte("b")}, i%2 == 0)
		if err != nil || last != LSN(3+2*i) {
			t.Fatal(last, err)
		}
	}
	if w.Synced() != 0 || w.End() != 41 {
		t.Fatal("synced before the sync has ended")
	}
	close(g.open)
	ok(t, w.Sync(context.Background()))
	if s := w.Stats(); s.Synced != 41 || f.Count(forget.Write) < 2 {
		t.Fatalf("%+v", s)
	}
	ok(t, w.Close())
	if fmt.Sprint(watch.synced) != "[1 41]" || len(watch.errs) > 0 {
		t.Fatal(watch.synced, watch.errs)
	}
}

// A lazy record waits for Force, or rides along.
func TestLazy(t *testing.T) {
	f := forget.New(1)
	watch := newWatcher()
	w := NewWriter(open(t, smallOptions(f)), watch.onSynced)
	_, err := w.Append([][]byte{[]byte("lazy")}, false)
	ok(t, err)
	ok(t, w.Seal()) // not idle: nothing
	waitSpare(t, w, 1)
	if w.Synced() != 0 {
		t.Fatal("a lazy record was synced by itself")
	}
	w.Force()
	watch.wait(func() bool { return len(watch.synced) == 1 })
	w.Force() // nothing to do
	_, err = w.Append([][]byte{[]byte("lazy")}, false)
	ok(t, err)
	_, err = w.Append([][]byte{[]byte("forced")}, true)
	ok(t, err)
	watch.wait(func() bool { return len(watch.synced) == 2 && watch.synced[1] == 3 })
	ok(t, w.Sync(context.Background())) // nothing to do
	ok(t, w.Close())
	if l := open(t, smallOptions(f)); l.End() != 3 {
		t.Fatal(l.End())
	}
}

// Very many lazy bytes are not kept in memory.
func TestLazyBytesAreBounded(t *testing.T) {
	watch := newWatcher()
	w := NewWriter(open(t, Options{FS: forget.New(1), Dir: "j", SegmentSize: 8 << 20}), watch.onSynced)
	for range 5 {
		_, err := w.Append([][]byte{make([]byte, 400<<10)}, false)
		ok(t, err)
	}
	watch.wait(func() bool { return len(watch.synced) > 0 })
	ok(t, w.Close())
}

// Many goroutines append, cut, seal, and begin segments at once; LSNs follow
// the order of calls, and everything is there afterwards.
func TestConcurrentWriters(t *testing.T) {
	for name, o := range map[string]Options{
		"forget": smallOptions(forget.New(1)),
		"real":   {FS: disk.New(), Dir: t.TempDir(), SegmentSize: 64 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			w := NewWriter(open(t, o), nil)
			var mu sync.Mutex
			want := map[LSN][]byte{}
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					for j := range 40 {
						r := make([]byte, 16+100*i)
						binary.LittleEndian.PutUint64(r, uint64(i))
						binary.LittleEndian.PutUint64(r[8:], uint64(j))
						last, err := w.Append([][]byte{r, []byte("second")}, j%3 > 0)
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						want[last-1] = r
						mu.Unlock()
						switch j % 8 {
						case 0:
							err = w.Sync(context.Background())
							if w.Synced() < last {
								t.Error("Sync returned too early")
							}
						case 2:
							err = w.Seal()
						case 4:
							err = w.Cut(w.Synced() / 2)
						case 6:
							err = w.NewSegment()
						}
						if err != nil {
							t.Error(err)
						}
						w.SegmentFull()
						w.Stats()
						w.Room()
					}
				})
			}
			wg.Wait()
			ok(t, w.Close())
			ok(t, w.Close())
			if _, err := w.Append(nil, true); !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
			l := open(t, o)
			defer l.Close()
			if l.End() != 640 || l.First() > 321 {
				t.Fatalf("%d to %d", l.First(), l.End())
			}
			ok(t, l.Replay(0, func(lsn LSN, r []byte) error {
				if w := want[lsn]; w == nil && string(r) != "second" || w != nil && !bytes.Equal(r, w) {
					return fmt.Errorf("record %d is another", lsn)
				}
				return nil
			}))
		})
	}
}

// With a ready spare, no sync ever waits for a segment to be made.
func TestSegmentsAreMadeAside(t *testing.T) {
	f := forget.New(1)
	w := NewWriter(open(t, smallOptions(f)), nil)
	waitSpare(t, w, 1)
	g := newGate(forget.Create)
	f.SetHook(g.hook)
	for range 2 { // the second one goes into the spare
		_, err := w.Append([][]byte{make([]byte, 8000), randomBytes(20000)}, true)
		ok(t, err)
		ok(t, w.Sync(context.Background()))
	}
	<-g.arrived // another is being made
	for range 3 {
		_, err := w.Append([][]byte{[]byte("small")}, true)
		ok(t, err)
		ok(t, w.Sync(context.Background()))
	}
	close(g.open)
	ok(t, w.Close())
}

// A segment cut by the Writer is used again, not made anew.
func TestCutRecyclesAside(t *testing.T) {
	f := forget.New(1)
	o := smallOptions(f)
	w := NewWriter(open(t, o), nil)
	for range 30 {
		ok(t, w.NewSegment())
		last, err := w.Append([][]byte{randomBytes(20000)}, true)
		ok(t, err)
		ok(t, w.Sync(context.Background()))
		ok(t, w.Cut(last))
		waitSpare(t, w, 1)
	}
	if n := f.Count(forget.Create); n > 6 {
		t.Errorf("%d files made for 30 segments", n)
	}
	if s := w.Stats(); s.Segments > 2 || s.Spares > o.MaxSpare {
		t.Errorf("%+v", s)
	}
	ok(t, w.Close())
}

// A failed sync is reported once, sticks, and nothing is durable after it
// (P12).
func TestWriterFails(t *testing.T) {
	for _, kind := range []forget.Kind{forget.Sync, forget.Write} {
		f := forget.New(1)
		watch := newWatcher()
		w := NewWriter(open(t, smallOptions(f)), watch.onSynced)
		_, err := w.Append([][]byte{[]byte("good")}, true)
		ok(t, err)
		ok(t, w.Sync(context.Background()))
		waitSpare(t, w, 1)
		f.SetHook(func(op forget.Op) error {
			if op.Kind == kind {
				return syscall.EIO
			}
			return nil
		})
		_, err = w.Append([][]byte{[]byte("lost")}, true)
		ok(t, err)
		var failure *FailedError
		if err := w.Sync(context.Background()); !errors.As(err, &failure) {
			t.Fatal(err)
		}
		f.SetHook(nil)
		_, appendErr := w.Append([][]byte{[]byte("more")}, true)
		for _, err := range []error{appendErr, w.Seal(), w.Cut(2), w.NewSegment(), w.Err(), w.Sync(context.Background()), w.Close(), w.Close()} {
			if !errors.As(err, &failure) {
				t.Errorf("%s: %v", kind, err)
			}
		}
		w.Force()
		if fmt.Sprint(watch.synced) != "[1]" || len(watch.errs) != 1 || w.Synced() != 1 {
			t.Errorf("%s: %v, %v", kind, watch.synced, watch.errs)
		}
	}
}

// A failed sync while a spare is made is fatal too.
func TestMakingSpareFails(t *testing.T) {
	f := forget.New(1)
	l := open(t, smallOptions(f))
	f.SetHook(func(op forget.Op) error {
		if op.Kind == forget.SyncDir {
			return syscall.EIO
		}
		return nil
	})
	watch := newWatcher()
	w := NewWriter(l, watch.onSynced)
	watch.wait(func() bool { return len(watch.errs) == 1 })
	if err := w.Close(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
}

// A full disk is told each time, and the records go on when there is room.
func TestWriterFull(t *testing.T) {
	f := forget.New(1)
	watch := newWatcher()
	w := NewWriter(open(t, smallOptions(f)), watch.onSynced)
	waitSpare(t, w, 1)
	f.SetCapacity(1)
	var last LSN
	for range 3 {
		var err error
		last, err = w.Append([][]byte{randomBytes(20000)}, true)
		ok(t, err)
	}
	var full *FullError
	if err := w.Sync(context.Background()); !errors.As(err, &full) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	ok(t, w.Err())
	if s := w.Stats(); s.Spares != 0 || s.SpareError == "" || s.Synced >= last {
		t.Fatalf("%+v", s)
	}
	f.SetCapacity(0)
	w.Force()
	ok(t, w.Sync(context.Background()))
	waitSpare(t, w, 1)
	f.SetCapacity(1)
	for range 3 {
		_, err := w.Append([][]byte{randomBytes(20000)}, false)
		ok(t, err)
	}
	if err := w.Close(); !errors.As(err, &full) {
		t.Fatal(err)
	}
	for _, err := range watch.errs {
		if !errors.As(err, &full) {
			t.Fatal(err)
		}
	}
}

// WaitRoom waits for the disk, and for nothing else.
func TestWaitRoom(t *testing.T) {
	f := forget.New(1)
	o := smallOptions(f)
	o.MaxPending = 1000
	w := NewWriter(open(t, o), nil)
	waitSpare(t, w, 1)
	ok(t, w.WaitRoom(context.Background()))
	g := newGate(forget.Sync)
	f.SetHook(g.hook)
	_, err := w.Append([][]byte{make([]byte, 2000)}, true)
	ok(t, err)
	<-g.arrived
	if w.Room() {
		t.Fatal("room")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.WaitRoom(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := w.Sync(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(g.open)
	ok(t, w.WaitRoom(context.Background()))
	ok(t, w.Close())
}

// An idle Writer seals: the loss of the last record is then noticed (J3).
func TestWriterSeals(t *testing.T) {
	f := forget.New(1)
	o := smallOptions(f)
	w := NewWriter(open(t, o), nil)
	_, err := w.Append([][]byte{[]byte("last")}, true)
	ok(t, err)
	ok(t, w.Sync(context.Background()))
	ok(t, w.Seal())
	until(t, w, func() bool { return w.Stats().Blocks == 2 })
	ok(t, w.Seal()) // is sealed
	ok(t, w.Close())
	if w.Stats().Blocks != 2 {
		t.Errorf("%d blocks", w.Stats().Blocks)
	}
	ok(t, f.FlipBit("data/journal/"+segmentName(1), (headerSize+2)*8))
	var corrupt *CorruptError
	if _, err := Open(o); !errors.As(err, &corrupt) {
		t.Fatal(err)
	}
}

// A power loss at any moment of a busy Writer loses nothing that was reported.
func TestWriterPowerLoss(t *testing.T) {
	for seed := range uint64(60) {
		f := forget.New(seed)
		var mu sync.Mutex
		m := newModel()
		l, err := Open(smallOptions(f))
		ok(t, err)
		w := NewWriter(l, func(up LSN, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				m.synced = up
			}
		})
		f.CrashAt(f.Ops() + 1 + int(seed)*2)
		for i := 0; ; i++ {
			mu.Lock()
			r := m.record(int(seed*131+uint64(i)*977) % 6000)
			mu.Unlock()
			last, err := w.Append([][]byte{r}, i%4 > 0)
			if err != nil {
				break
			}
			mu.Lock()
			m.records[last], m.end = r, last
			synced := m.synced
			mu.Unlock()
			if i%5 == 0 {
				_ = w.Sync(context.Background()) // fails at the end
			}
			if i%17 == 0 {
				m.cut = max(m.cut, synced)
				_ = errors.Join(w.NewSegment(), w.Cut(synced))
			}
			if i%7 == 0 {
				_ = w.Seal()
			}
		}
		if err := w.Close(); !errors.Is(err, forget.ErrCrashed) {
			t.Fatal(err)
		}
		if err := reopen(f.Crash(rand.New(rand.NewPCG(seed, 1))), m); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// NewSegment keeps its place in the order of Appends.
func TestWriterNewSegment(t *testing.T) {
	f := forget.New(1)
	o := smallOptions(f)
	w := NewWriter(open(t, o), nil)
	large := make([]byte, 25000) // as full when it is written as while it waits: not to be compressed
	_, _ = rand.NewChaCha8([32]byte{}).Read(large)
	for i := range 3 {
		_, err := w.Append([][]byte{[]byte("a"), large}, false)
		ok(t, err)
		if !w.SegmentFull() || !w.Stats().Full {
			t.Fatal("not full")
		}
		ok(t, w.NewSegment())
		if w.SegmentFull() {
			t.Fatal("full")
		}
		_, err = w.Append([][]byte{[]byte("snapshot")}, i == 1)
		ok(t, err)
		if w.SegmentFull() {
			t.Fatal("full")
		}
	}
	ok(t, w.Close())
	l := open(t, o)
	var firsts []LSN
	for _, s := range l.segs {
		firsts = append(firsts, s.first)
	}
	if fmt.Sprint(firsts) != "[1 3 6 9]" {
		t.Fatal(firsts)
	}
}

// Nothing is taken that Close will not make durable.
func TestAppendWhileClosing(t *testing.T) {
	f := forget.New(1)
	w := NewWriter(open(t, smallOptions(f)), nil)
	waitSpare(t, w, 1)
	g := newGate(forget.Sync)
	f.SetHook(g.hook)
	_, err := w.Append([][]byte{[]byte("last")}, false)
	ok(t, err)
	closed := make(chan error)
	go func() { closed <- w.Close() }()
	<-g.arrived
	if _, err := w.Append([][]byte{[]byte("too late")}, true); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	close(g.open)
	ok(t, <-closed)
	if l := open(t, smallOptions(f)); l.End() != 1 {
		t.Error(l.End())
	}
}
