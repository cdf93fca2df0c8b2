package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

// Client is one session with the service, as *client.Client is.
type Client interface {
	WriteFile(ctx context.Context, name string, content client.Content, o client.WriteOptions) (wire.Result, error)
	ReadFile(ctx context.Context, name string) ([]byte, error)
	DeleteFile(ctx context.Context, name string) error
}

// Options say what a load is. What is chosen follows from Seed alone: the i-th
// client's n-th operation is always the same one.
type Options struct {
	Clients  []Client
	Ops      int64         // all clients together; 0: until Duration is over
	Duration time.Duration // 0: until Ops are done
	Mix      [3]int        // weights of Write, Read and Delete
	Names    int           // files that the clients choose from
	MinSize  int64         // bytes of what is written
	MaxSize  int64
	Seed     uint64
	Check    bool
	Dir      string // an empty directory of the service, for the files

	UID, GID uint32             // of new files
	Tick     func(now Snapshot) // called every second; may be nil
}

func (o *Options) validate() error {
	least := int64(0)
	if o.Check {
		least = MinChecked
	}
	switch {
	case len(o.Clients) == 0 || len(o.Clients) > 1<<16:
		return fmt.Errorf("%d clients: want 1 to %d", len(o.Clients), 1<<16)
	case o.Ops < 0 || o.Duration < 0 || o.Ops == 0 && o.Duration == 0:
		return errors.New("no end: want a number of operations or a duration")
	case o.Mix[Write] < 0 || o.Mix[Read] < 0 || o.Mix[Delete] < 0 || o.Mix[Write]+o.Mix[Read]+o.Mix[Delete] == 0:
		return fmt.Errorf("a mix of %v: want weights of writes, reads and deletes, not all 0", o.Mix)
	case o.Names < 1 || o.Names > 1_000_000:
		return fmt.Errorf("%d names: want 1 to 1000000", o.Names)
	case o.MinSize < least || o.MaxSize < o.MinSize || o.MaxSize > MaxSize:
		return fmt.Errorf("sizes of %d to %d bytes: want %d to %d, the lesser first", o.MinSize, o.MaxSize, least, MaxSize)
	}
	return nil
}

// load is one run.
type load struct {
	Options
	run     uint64
	start   time.Time
	stats   stats
	history *history // nil: not recorded
}

// Run lets the clients work. When ctx ends, so does the load, early. Wrong
// answers and errors of the service are in the report; the error is about the
// options only.
func Run(ctx context.Context, o Options) (Report, error) {
	if err := o.validate(); err != nil {
		return Report{}, err
	}
	l := &load{Options: o, run: rand.Uint64(), start: time.Now()}
	l.stats.errors = map[wire.Code]int64{}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	more := ctx // new operations begin until this ends
	if o.Duration > 0 {
		var over context.CancelFunc
		more, over = context.WithTimeout(ctx, o.Duration)
		defer over()
	}
	if o.Check {
		l.history = newHistory(o.Names, l.start, stop)
	}
	var clients sync.WaitGroup
	for i, c := range o.Clients {
		ops := int64(-1)
		if o.Ops > 0 {
			ops = o.Ops / int64(len(o.Clients))
			if int64(i) < o.Ops%int64(len(o.Clients)) {
				ops++
			}
		}
		w := &worker{load: l, n: i + 1, c: c, rnd: rand.New(rand.NewPCG(o.Seed, uint64(i)))}
		clients.Go(func() { w.work(ctx, more, ops) })
	}
	done := make(chan struct{})
	var ticker sync.WaitGroup
	ticker.Go(func() { l.tick(done) })
	clients.Wait()
	elapsed := time.Since(l.start)
	close(done)
	ticker.Wait()
	report := l.stats.report(elapsed)
	report.Clients, report.Names, report.Seed = len(o.Clients), o.Names, o.Seed
	if l.history != nil {
		l.readAll(ctx)
		check := l.history.close()
		report.Check = &check
	}
	return report, nil
}

// tick tells every second how far it is.
func (l *load) tick(done <-chan struct{}) {
	if l.Tick == nil {
		return
	}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			l.Tick(l.stats.snapshot(time.Since(l.start)))
		case <-done:
			return
		}
	}
}

// readAll reads every file once more: what it holds at the end is a part of the
// history. These reads are not counted.
func (l *load) readAll(ctx context.Context) {
	var readers sync.WaitGroup
	var next atomic.Int64
	for i, c := range l.Clients[:min(len(l.Clients), 16)] {
		w := &worker{load: l, n: i + 1, c: c}
		readers.Go(func() {
			for n := int(next.Add(1)) - 1; n < l.Names && ctx.Err() == nil; n = int(next.Add(1)) - 1 {
				f, call := l.history.begin(n)
				o, _, _ := w.do(ctx, f.name, choice{kind: Read})
				o.Call = call
				l.history.end(n, f, o)
			}
		})
	}
	readers.Wait()
}

// worker is a client at work.
type worker struct {
	*load
	n   int // from 1
	c   Client
	rnd *rand.Rand
	ops uint64
}

// choice is what an operation shall be.
type choice struct {
	kind  Kind
	name  int
	value Value
	size  int64
}

// choose draws the next operation, always by the same draws, whatever came of
// those before.
func (w *worker) choose() choice {
	w.ops++
	c := choice{value: Value{w.n, w.ops}}
	switch n := w.rnd.IntN(w.Mix[Write] + w.Mix[Read] + w.Mix[Delete]); {
	case n < w.Mix[Write]:
		c.kind = Write
	case n < w.Mix[Write]+w.Mix[Read]:
		c.kind = Read
	default:
		c.kind = Delete
	}
	c.name = w.rnd.IntN(w.Names)
	c.size = w.MinSize + w.rnd.Int64N(w.MaxSize-w.MinSize+1)
	return c
}

// work does that many operations, or until more ends if it is negative.
func (w *worker) work(ctx, more context.Context, ops int64) {
	for ; ops != 0 && more.Err() == nil; ops-- {
		choice := w.choose()
		name := fmt.Sprintf("f%06d", choice.name)
		var f *file
		var call time.Duration
		if w.history != nil {
			f, call = w.history.begin(choice.name)
			name = f.name
		}
		start := time.Now()
		o, size, err := w.do(ctx, name, choice)
		if err != nil {
			w.stats.fail(err)
		} else {
			w.stats.add(choice.kind, o.Outcome == Missing, size, time.Since(start))
		}
		if w.history != nil {
			o.Call = call
			w.history.end(choice.name, f, o)
		}
	}
}

// do carries one operation out. size is that of the contents; err is what the
// service could not do, for the statistics.
func (w *worker) do(ctx context.Context, name string, c choice) (o Op, size int64, err error) {
	o = Op{Client: w.n, Kind: c.kind, Value: c.value}
	path := w.Dir + "/" + name
	switch c.kind {
	case Write:
		_, err = w.c.WriteFile(ctx, path, client.Bytes(contents(w.run, c.value, c.size)), client.WriteOptions{UID: w.UID, GID: w.GID})
		size = c.size
	case Delete:
		o.Value = Absent
		err = w.c.DeleteFile(ctx, path)
	default:
		o.Value = Absent
		var b []byte
		if b, err = w.c.ReadFile(ctx, path); err == nil && w.Check {
			var wrong error
			if o.Value, wrong = valueOf(w.run, b); wrong != nil {
				o.Outcome, o.Text = Garbled, wrong.Error()
			}
		}
		size = int64(len(b))
	}
	switch code := wire.CodeOf(err); {
	case err == nil:
	case code == wire.CodeNotExist && c.kind != Write:
		o.Outcome, err = Missing, nil
	case c.kind == Read || tells(err):
		o.Outcome, o.Text = Failed, code.String()
	default:
		o.Outcome, o.Text = Unknown, code.String()
	}
	return o, size, err
}

// tells reports whether an error says that nothing has happened (G6).
func tells(err error) bool {
	var e *wire.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case wire.CodeUnknownOutcome, wire.CodeProtocol, wire.CodeIO, wire.CodeCorrupt:
		return false
	default:
		return true
	}
}
