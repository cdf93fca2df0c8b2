package hostile

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"tpcfs/coordinator"
	"tpcfs/wire"
	"tpcfs/wire/client"
	"tpcfs/wire/rpc"
)

// liar is a service one of whose participants, b, says what a script says.
type liar struct {
	*service
	b *proxy
}

// newLiar: where minInSync is less than three the liar can be evicted.
func newLiar(t testing.TB, minInSync int) *liar {
	t.Helper()
	l := &liar{}
	l.service = newService(t, func(o *coordinator.Options) {
		o.DrainWait, o.EvictAfter, o.MinInSync = 100*time.Millisecond, time.Second, minInSync
	}, func(s *service, name string) string {
		if name != "b" {
			return s.addr(name)
		}
		addr := s.addr("b-liar")
		var err error
		if l.b, err = newProxy(addr, s.addr("b")); err != nil {
			t.Fatal(err)
		}
		s.closers = append(s.closers, l.b.close)
		return addr
	})
	l.ready()
	return l
}

// FuzzParticipant: whatever a participant answers, its coordinator lives, or says
// why it stops; every client hears something in time; and the others agree.
func FuzzParticipant(f *testing.F) {
	inputs := 0
	f.Fuzz(func(t *testing.T, input []byte) {
		before := runtime.NumGoroutine()
		minInSync := 3
		if len(input) > 0 && input[0]%2 == 1 {
			minInSync = 2
		}
		l := newLiar(t, minInSync)
		l.work(t, patience, nil)
		l.b.turn(input)
		l.work(t, 200*time.Millisecond, func(what string, err error) {
			if wire.CodeOf(err) == wire.CodeNone {
				t.Error(what, "ended without a code:", err)
			}
		})
		l.log.check(t)
		l.end(t)
		settled(t, before)
		if inputs++; inputs%50 == 0 {
			if n := heap(); n > maxHeap {
				t.Errorf("%d MiB are held", n>>20)
			}
		}
	})
}

// work is a client's: each call ends in time, with the answer or an error. failed
// hears of those; nil: there may be none.
func (l *liar) work(t *testing.T, wait time.Duration, failed func(what string, err error)) {
	t.Helper()
	all, end := context.WithTimeout(t.Context(), patience)
	defer end()
	good, err := client.New(all, func(ctx context.Context) (client.Conn, error) {
		return rpc.DialService(ctx, l.addr("coordinator"), rpc.DialOptions{})
	}, client.Options{Wait: wait})
	if err != nil {
		t.Fatal(err)
	}
	defer good.Close()
	small, large := []byte("small"), bytes.Repeat([]byte("large"), 40_000)
	write := func(ctx context.Context, name string, data []byte) error {
		_, err := good.WriteFile(ctx, name, client.Bytes(data), client.WriteOptions{Mode: 0o644})
		return err
	}
	each := patience
	if failed != nil { // contents that one participant never answers for are waited for longer
		each = 400 * time.Millisecond
	}
	for _, step := range []struct {
		what string
		do   func(ctx context.Context) error
	}{
		{"write", func(ctx context.Context) error { return write(ctx, "s", small) }},
		{"stage", func(ctx context.Context) error { return write(ctx, "l", large) }},
		{"read", func(ctx context.Context) error { _, err := good.ReadFile(ctx, "l"); return err }},
		{"stat", func(ctx context.Context) error { _, err := good.Stat(ctx, "s"); return err }},
		{"status", func(ctx context.Context) error { _, err := good.Status(ctx, wire.StatusRequest{}); return err }},
		{"delete", func(ctx context.Context) error { return good.DeleteFile(ctx, "s") }},
	} {
		ctx, cancel := context.WithTimeout(all, each)
		err := step.do(ctx)
		cancel()
		switch {
		case all.Err() != nil:
			t.Fatal(step.what, " does not end: ", err)
		case err == nil:
		case failed == nil:
			t.Fatal(step.what, err)
		default:
			failed(step.what, err)
		}
	}
}

// end closes all; the participants that have not lied agree, where they have
// heard the same.
func (l *liar) end(t *testing.T) {
	t.Helper()
	if err := l.coordinator.Close(); err != nil && wire.CodeOf(err) == wire.CodeNone {
		t.Error("the coordinator has ended with", err)
	}
	var at [2]wire.ReplicaStatus
	for i, name := range []string{"a", "c"} {
		p := l.participants[name]
		select {
		case <-p.Done():
			t.Fatal(name, " has ended: ", p.Err())
		default:
		}
		var err error
		if at[i], err = p.Status(t.Context(), wire.StatusRequest{Digest: true}); err != nil {
			t.Fatal(name, err)
		}
	}
	if at[0].Handled == at[1].Handled && at[0].Digest != at[1].Digest {
		t.Errorf("a and c have handled the same and differ: %+v", at)
	}
	l.closers = l.closers[:len(l.closers)-1] // the coordinator
	if err := l.close(); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	l.log.check(t)
}
