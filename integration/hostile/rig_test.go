package hostile

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"tpcfs/coordinator"
	"tpcfs/journal/disk"
	"tpcfs/journal/disk/forget"
	"tpcfs/participant"
	"tpcfs/participant/store"
	"tpcfs/wire"
	"tpcfs/wire/client"
	"tpcfs/wire/rpc"
)

// patience bounds every wait that is to end by itself.
const patience = 30 * time.Second

// watcher is a log that keeps what says that a handler has panicked.
type watcher struct {
	mu  sync.Mutex // guards bad
	bad string
}

func (*watcher) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (w *watcher) WithAttrs([]slog.Attr) slog.Handler         { return w }
func (w *watcher) WithGroup(string) slog.Handler              { return w }

func (w *watcher) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "panic") {
		text := r.Message
		r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
		w.mu.Lock()
		w.bad = text
		w.mu.Unlock()
	}
	return nil
}

func (w *watcher) check(t testing.TB) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bad != "" {
		t.Fatal(w.bad)
	}
}

// service is a cluster in this process on disks in memory, whose parts talk
// through sockets.
type service struct {
	tb           testing.TB
	dir          string
	log          watcher
	coordinator  *coordinator.Coordinator
	participants map[string]*participant.Participant
	closers      []func() error // in the order of their use
}

func (s *service) addr(name string) string { return "unix:" + filepath.Join(s.dir, name) }

func (s *service) serve(name string, o rpc.ServerOptions) {
	l, err := rpc.Listen(s.addr(name), false)
	if err != nil {
		s.tb.Fatal(err)
	}
	o.Logger, o.CloseTimeout = slog.New(&s.log), 100*time.Millisecond
	server := rpc.NewServer(o)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	s.closers = append(s.closers, func() error { return errors.Join(server.Close(), <-done) })
}

func openParticipant(tb testing.TB, fsys *forget.FS, log slog.Handler) *participant.Participant {
	tb.Helper()
	p, err := participant.Open(participant.Options{
		Dir: "/data", FS: fsys, Ballast: -1, Workers: 1, SegmentSize: 256 << 10, QuietForce: time.Millisecond, Logger: slog.New(log),
		OpenKV: func(fsys disk.FS, dir string) (store.KV, error) { return store.NewModelKV(fsys, dir) },
	})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// newService starts the participants a, b, c and the coordinator. via, if not
// nil, tells where the coordinator finds a participant.
func newService(tb testing.TB, change func(*coordinator.Options), via func(s *service, name string) string) *service {
	tb.Helper()
	dir, err := os.MkdirTemp("", "tpcfs-h-") // short, for the sockets' names
	if err != nil {
		tb.Fatal(err)
	}
	s := &service{tb: tb, dir: dir, participants: map[string]*participant.Participant{}}
	s.closers = append(s.closers, func() error { return os.RemoveAll(dir) })
	o := coordinator.Options{Dir: "/coordinator", FS: forget.New(9), SegmentSize: 256 << 10, Root: &wire.Root{Mode: 0o755}, Logger: slog.New(&s.log)}
	for i, name := range []string{"a", "b", "c"} {
		p := openParticipant(tb, forget.New(uint64(i+1)), &s.log)
		s.participants[name] = p
		s.closers = append(s.closers, p.Close)
		s.serve(name, rpc.ServerOptions{Replica: p.Replica()})
		addr := s.addr(name)
		if via != nil {
			addr = via(s, name)
		}
		o.Participants = append(o.Participants, coordinator.Peer{Name: name, Addr: addr})
	}
	o.Dial = func(ctx context.Context, p coordinator.Peer) (wire.Replica, error) {
		return rpc.DialReplica(ctx, p.Addr, rpc.DialOptions{})
	}
	if change != nil {
		change(&o)
	}
	if s.coordinator, err = coordinator.Open(o); err != nil {
		tb.Fatal(err)
	}
	s.serve("coordinator", rpc.ServerOptions{Service: s.coordinator})
	s.closers = append(s.closers, s.coordinator.Close)
	return s
}

// ready waits until the coordinator serves.
func (s *service) ready() {
	select {
	case <-s.coordinator.Ready():
	case <-s.coordinator.Done():
		s.tb.Fatal("the coordinator has ended: ", s.coordinator.Err())
	case <-time.After(patience):
		s.tb.Fatal("the coordinator does not serve")
	}
}

// close ends everything; what is wrong then is the result.
func (s *service) close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	return errors.Join(errs...)
}

func (s *service) client(tb testing.TB) *client.Client {
	tb.Helper()
	c, err := client.New(context.Background(), func(ctx context.Context) (client.Conn, error) {
		return rpc.DialService(ctx, s.addr("coordinator"), rpc.DialOptions{})
	}, client.Options{Wait: patience})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// digests waits until those participants have the same digest.
func (s *service) digests(t testing.TB, names ...string) {
	t.Helper()
	var got map[string]string
	eventually(t, func() bool {
		same := true
		got = map[string]string{}
		for _, name := range names {
			st, err := s.participants[name].Status(t.Context(), wire.StatusRequest{Digest: true})
			if err != nil {
				t.Fatal(name, err)
			}
			got[name] = st.Digest
			same = same && st.Digest != "" && st.Digest == got[names[0]]
		}
		return same
	}, func() any { return got })
}

// eventually waits for what comes by itself; instead tells what is in place of it.
func eventually(t testing.TB, ok func() bool, instead func() any) {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for tick := time.Duration(100 * time.Microsecond); !ok(); tick = min(2*tick, 20*time.Millisecond) {
		select {
		case <-time.After(tick):
		case <-late.C:
			t.Fatal("it does not happen; now: ", instead())
		}
	}
}

// settled waits until no more goroutines are left than there were.
func settled(t testing.TB, before int) {
	t.Helper()
	eventually(t, func() bool { return runtime.NumGoroutine() <= before }, func() any {
		buf := make([]byte, 1<<20)
		return string(buf[:runtime.Stack(buf, true)])
	})
}

// heap is what the process holds, in bytes.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
