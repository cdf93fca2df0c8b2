package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
	"tpcfs/wire/rpc"
)

// Participants that go and come back while clients write.

const (
	evictAfter   = 3 * time.Second // of the coordinator: its default
	stallRounds  = 3
	changedFiles = 1000
	wipedBytes   = 256 << 20
	scrubBytes   = 512 << 20
	writers      = 4
)

// stay is a cluster of processes of which one participant may be away.
type stay struct {
	*harness.Cluster
	conn wire.Service
}

func newStay(ctx context.Context, bin string, o options) (s *stay, closes func() error, err error) {
	c, err := o.newCluster(bin)
	if err != nil {
		return nil, nil, err
	}
	c.Evicts = []string{"--evict-after", evictAfter.String()}
	if err := c.Start(ctx, c.All()...); err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	conn, err := rpc.DialService(ctx, c.Addr(harness.Coordinator), rpc.DialOptions{})
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return &stay{c, conn}, func() error { return errors.Join(conn.Close(), c.Close()) }, nil
}

// until asks how a participant is until that is so.
func (s *stay) until(ctx context.Context, name string, ok func(m wire.MemberStatus) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := s.conn.Status(ctx, wire.StatusRequest{})
		if err != nil {
			return err
		}
		for _, m := range st.Members {
			if m.Name == name && ok(m) {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("participant %s never was as it should be: %+v", name, st.Members)
		}
	}
}

func isIn(m wire.MemberStatus) bool  { return m.State == "in sync" && m.InSync }
func isOut(m wire.MemberStatus) bool { return !m.InSync }

// working are clients that write 4 KiB again and again, each to a file of its own.
type working struct {
	stop chan struct{}
	wg   sync.WaitGroup

	mu    sync.Mutex // guards what follows
	done  int
	worst time.Duration
	err   error
}

func (s *stay) work(ctx context.Context, n int) (*working, error) {
	w := &working{stop: make(chan struct{})}
	for i := range n {
		c, err := s.Client(ctx, 0)
		if err != nil {
			return nil, errors.Join(err, w.end())
		}
		w.wg.Go(func() {
			defer func() { _ = c.Close() }() // all is answered
			data := make([]byte, block)
			for {
				select {
				case <-w.stop:
					return
				default:
				}
				began := time.Now()
				_, err := c.WriteFile(ctx, fmt.Sprintf("work%d", i), client.Bytes(data), client.WriteOptions{Mode: 0o644})
				w.wrote(time.Since(began), err)
				if err != nil {
					return
				}
			}
		})
	}
	return w, nil
}

func (w *working) wrote(took time.Duration, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.err = errors.Join(w.err, err)
		return
	}
	w.done++
	w.worst = max(w.worst, took)
}

// since tells how many writes there were since the last time, and the longest.
func (w *working) since() (done int, worst time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	done, worst = w.done, w.worst
	w.done, w.worst = 0, 0
	return done, worst
}

// end stops them; the error is that of a write that failed.
func (w *working) end() error {
	close(w.stop)
	w.wg.Wait()
	return w.err
}

// stalls is the longest that a write takes when a participant is killed, or hangs.
func stalls(ctx context.Context, bin, _ string, o options) (rows []row, err error) {
	s, closes, err := newStay(ctx, bin, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closes()) }()
	w, err := s.work(ctx, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.end()) }()
	var killed, hung time.Duration
	for range stallRounds {
		took, err := s.stall(ctx, w, func() error { return s.Kill("b") }, func() error { return s.Start(ctx, "b") })
		if err != nil {
			return nil, err
		}
		killed = max(killed, took)
	}
	for range stallRounds - 1 {
		took, err := s.stall(ctx, w, func() error { return s.Proc("b").Signal(syscall.SIGSTOP) }, func() error { return s.Proc("b").Signal(syscall.SIGCONT) })
		if err != nil {
			return nil, err
		}
		hung = max(hung, took)
	}
	return []row{
		{"a participant is killed -9: the longest a write takes", killed.Seconds(), "s", 1, 0.3, true, fmt.Sprintf("%d times, none fails", stallRounds)},
		{"a participant hangs: the longest a write takes", hung.Seconds(), "s", (evictAfter + time.Second).Seconds(), evictAfter.Seconds() + 0.2, true,
			fmt.Sprintf("--evict-after %s, %d times, none fails", evictAfter, stallRounds-1)},
	}, nil
}

// stall is how long a write takes at most from when b goes until it is evicted.
func (s *stay) stall(ctx context.Context, w *working, goes, comes func() error) (time.Duration, error) {
	if err := s.until(ctx, "b", isIn); err != nil {
		return 0, err
	}
	w.since()
	if err := goes(); err != nil {
		return 0, err
	}
	if err := s.until(ctx, "b", isOut); err != nil {
		return 0, err
	}
	if err := w.next(ctx); err != nil {
		return 0, err
	}
	_, worst := w.since()
	return worst, comes()
}

// next waits until a write has ended that began later.
func (w *working) next(ctx context.Context) error {
	w.mu.Lock()
	was := w.done
	w.mu.Unlock()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		w.mu.Lock()
		done, err := w.done, w.err
		w.mu.Unlock()
		if done > was+1 || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// returns is what it takes for a participant to be in sync again.
type returns struct {
	took   time.Duration
	bytes  int64
	paused time.Duration // its last round: nothing was put
	worst  time.Duration // that a write has taken meanwhile
	speed  float64       // of writes meanwhile, to that before
}

var caughtUp = regexp.MustCompile(`msg="participant has caught up" name=b .*paused=(\S+)`)

// lastPause is how long the coordinator says that the last round of b has paused changes.
func (s *stay) lastPause() (time.Duration, error) {
	all := caughtUp.FindAllStringSubmatch(s.Proc(harness.Coordinator).Output(), -1)
	if len(all) == 0 {
		return 0, errors.New("the coordinator does not say that b has caught up")
	}
	return time.ParseDuration(all[len(all)-1][1])
}

// comesBack starts b, and measures until it is in sync, with clients that write.
func (s *stay) comesBack(ctx context.Context) (r returns, err error) {
	w, err := s.work(ctx, writers)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, w.end()) }()
	const before = 3 * time.Second
	w.since()
	select {
	case <-time.After(before):
	case <-ctx.Done():
		return r, ctx.Err()
	}
	was, _ := w.since()
	began := time.Now()
	if err := s.Launch("b"); err != nil {
		return r, err
	}
	err = s.until(ctx, "b", func(m wire.MemberStatus) bool {
		if m.CatchUp != nil {
			r.bytes = max(r.bytes, m.CatchUp.Copied)
		}
		return isIn(m)
	})
	if err != nil {
		return r, err
	}
	r.took = time.Since(began)
	n, worst := w.since()
	if r.paused, err = s.lastPause(); err != nil {
		return r, err
	}
	r.worst, r.speed = worst, float64(n)/r.took.Seconds()/(float64(was)/before.Seconds())
	return r, nil
}

// catchUps are a participant's ways back: after changes, and on an empty disk.
func catchUps(ctx context.Context, bin, dir string, o options) (rows []row, err error) {
	s, closes, err := newStay(ctx, bin, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closes()) }()
	if err := s.put(ctx, dir, "large", wipedBytes); err != nil {
		return nil, err
	}
	away := func() error {
		// What is not durable there when it dies would have to be brought, too.
		if err := s.until(ctx, "b", func(m wire.MemberStatus) bool { return isIn(m) && m.Lag == 0 }); err != nil {
			return err
		}
		if err := s.Kill("b"); err != nil {
			return err
		}
		return s.until(ctx, "b", isOut)
	}
	if err := away(); err != nil {
		return nil, err
	}
	if err := s.change(ctx); err != nil {
		return nil, err
	}
	changed, err := s.comesBack(ctx)
	if err != nil {
		return nil, err
	}
	if err := away(); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(s.DataDir("b")); err != nil {
		return nil, err
	}
	wiped, err := s.comesBack(ctx)
	if err != nil {
		return nil, err
	}
	size := func(n int64) string { return wire.SizeText(uint64(n)) }
	return []row{
		{fmt.Sprintf("back after %d changed files of 4 KiB, to in sync", changedFiles), changed.took.Seconds(), "s", 10, 2, true, size(changed.bytes) + " brought, its start included"},
		{"... changes pause for its last round", changed.paused.Seconds(), "s", 0.2, 0.1, true,
			fmt.Sprintf("%d clients, the longest write meanwhile took %s", writers, changed.worst.Round(time.Millisecond))},
		{"back on an empty disk: what is brought, to what there is", float64(wiped.bytes) / (wipedBytes + changedFiles*block), "x", 1.2, 1.05, true,
			fmt.Sprintf("%s in %s", size(wiped.bytes), wiped.took.Round(10*time.Millisecond))},
		{"... changes pause for its last round", wiped.paused.Seconds(), "s", 0.2, 0.1, true,
			fmt.Sprintf("%d clients, the longest write meanwhile took %s", writers, wiped.worst.Round(time.Millisecond))},
		{"... writes a second meanwhile, to those before", wiped.speed, "x", 0.7, 0.9, false, fmt.Sprintf("%d clients", writers)},
	}, nil
}

// put stores a large file.
func (s *stay) put(ctx context.Context, dir, name string, size int) error {
	local := filepath.Join(dir, "local")
	if err := os.WriteFile(local, random(size, 1), 0o600); err != nil {
		return err
	}
	if _, err := run(ctx, s.Bin, "put", "--coordinator", s.Addr(harness.Coordinator), local, name); err != nil {
		return err
	}
	return os.Remove(local)
}

// change makes files while a participant is away.
func (s *stay) change(ctx context.Context) error {
	const workers = 16
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for k := range workers {
		wg.Go(func() {
			c, err := s.Client(ctx, 0)
			if err != nil {
				errs[k] = err
				return
			}
			defer func() { _ = c.Close() }() // all is answered
			for i := k; i < changedFiles && errs[k] == nil; i += workers {
				_, errs[k] = c.WriteFile(ctx, fmt.Sprintf("changed%d", i), client.Bytes(random(block, int64(i))), client.WriteOptions{Mode: 0o644})
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// scrubSpeed is a scrub of all without a limit, to the same files read from the disk by
// three at once.
func scrubSpeed(ctx context.Context, bin, dir string, o options) (rows []row, err error) {
	s, closes, err := newStay(ctx, bin, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closes()) }()
	if err := s.put(ctx, dir, "large", scrubBytes); err != nil {
		return nil, err
	}
	var bare, scrub []time.Duration
	for range 3 {
		took, err := s.readObjects()
		if err != nil {
			return nil, err
		}
		bare = append(bare, took)
		if took, err = run(ctx, bin, "scrub", "--rate", "0", "--coordinator", s.Addr(harness.Coordinator)); err != nil {
			return nil, err
		}
		scrub = append(scrub, took)
	}
	b, c := median(bare), median(scrub)
	return []row{{"scrub of all three, to reading their files from the disk at once", b.Seconds() / c.Seconds(), "x", 0.3, 0.6, false,
		fmt.Sprintf("%d MiB each in %s to %s", scrubBytes>>20, c.Round(time.Millisecond), b.Round(time.Millisecond))}}, nil
}

// readObjects is how long it takes to read all participants' objects from the disk.
func (s *stay) readObjects() (time.Duration, error) {
	errs := make([]error, len(s.Names))
	began := time.Now()
	var wg sync.WaitGroup
	for i, name := range s.Names {
		wg.Go(func() {
			errs[i] = filepath.Walk(filepath.Join(s.DataDir(name), "objects"), func(name string, info os.FileInfo, err error) error {
				if err != nil || info.IsDir() {
					return err
				}
				return readFromDisk(name)
			})
		})
	}
	wg.Wait()
	return time.Since(began), errors.Join(errs...)
}

func readFromDisk(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for {
		if _, err := f.Read(buf); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
