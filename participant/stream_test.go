package participant

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

func always(*wire.Down) bool { return true }

// Send waits while the participant is behind, by entries and by bytes, and
// goes on when it has caught up; Close ends the wait.
func TestStreamIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, size := range []int{0, 1 << 20} {
			s := newStream(wire.Epoch{Number: 1}, func() {})
			sent := 0
			got := make(chan error)
			go func() {
				for {
					if err := s.Send(wire.Down{Entry: &wire.Entry{Payload: make([]byte, size)}}); err != nil {
						got <- err
						return
					}
					sent++
				}
			}()
			synctest.Wait()
			full := sent
			if size == 0 && full != maxQueued || size > 0 && (full < 7 || full > 8) {
				t.Errorf("entries of %d bytes: %d were taken", size, full)
			}
			for range 3 {
				if _, ok := s.next(always); !ok {
					t.Fatal("nothing is queued")
				}
			}
			synctest.Wait()
			if sent != full+3 {
				t.Errorf("after 3 were handled, %d more were taken", sent-full)
			}
			_ = s.Close()
			if err := <-got; wire.CodeOf(err) != wire.CodeUnavailable {
				t.Errorf("the sender hears %v", err)
			}
			if _, ok := s.next(always); ok {
				t.Error("a closed stream gives entries")
			}
		}
	})
}

// What goes up is joined while nobody receives; nothing comes after the end.
func TestStreamJoins(t *testing.T) {
	s := newStream(wire.Epoch{Number: 1}, func() {})
	s.post(wire.Up{Votes: []wire.Vote{{Index: 3}}, Handled: 3, Durable: 2, Free: 9})
	s.post(wire.Up{Votes: []wire.Vote{{Index: 4}}, Handled: 5, Durable: 4})
	up, err := s.Recv()
	if err != nil || len(up.Votes) != 2 || up.Handled != 5 || up.Durable != 4 || up.Free != 9 {
		t.Fatalf("%+v, %v", up, err)
	}
	s.post(wire.Up{Handled: 6})
	s.end(wire.NewError(wire.CodeStaleEpoch, ""))
	s.end(wire.NewError(wire.CodeIO, ""))
	s.post(wire.Up{Handled: 7})
	if up, err := s.Recv(); wire.CodeOf(err) != wire.CodeStaleEpoch {
		t.Errorf("after the end: %+v, %v", up, err)
	}
	if err := s.Send(wire.Down{}); wire.CodeOf(err) != wire.CodeStaleEpoch {
		t.Errorf("Send after the end: %v", err)
	}
}

// An entry that is not agreed to stays the first.
func TestStreamKeepsWhatMustWait(t *testing.T) {
	s := newStream(wire.Epoch{Number: 1}, func() {})
	for i := range uint64(2) {
		if err := s.Send(wire.Down{Entry: &wire.Entry{Index: i + 1}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := s.next(func(*wire.Down) bool { return false }); ok {
		t.Error("an entry that has to wait was given")
	}
	if d, ok := s.next(always); !ok || d.Entry.Index != 1 {
		t.Errorf("then comes %+v", d)
	}
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, epoch := wire.Epoch{Number: 1}, wire.Epoch{Number: 2}
		g := newGate(old, 5)
		results := map[string]chan error{}
		wait := func(name string, e wire.Epoch, index uint64) {
			c := make(chan error, 1)
			results[name] = c
			go func() { _, err := g.wait(context.Background(), e, index); c <- err }()
			synctest.Wait()
		}
		expect := func(name string, code wire.Code) {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-results[name]:
				if wire.CodeOf(err) != code {
					t.Errorf("%s: %v, want %v", name, err, code)
				}
			default:
				t.Errorf("%s still waits", name)
			}
		}
		wait("there", old, 5)
		expect("there", wire.CodeNone)
		wait("next", old, 6)
		wait("later", old, 8)
		g.advance(6)
		expect("next", wire.CodeNone)
		g.fence(epoch)
		expect("later", wire.CodeStaleEpoch)
		wait("old", old, 1)
		expect("old", wire.CodeStaleEpoch)
		wait("run", wire.Epoch{Number: 2, Run: wire.UUID{1}}, 0)
		expect("run", wire.CodeStaleEpoch)
		wait("new", epoch, 1)
		g.advance(1)
		expect("new", wire.CodeNone)
		wait("end", epoch, 2)
		g.close(errStopping)
		expect("end", wire.CodeUnavailable)
		wait("closed", epoch, 0)
		expect("closed", wire.CodeUnavailable)
		if len(g.waiters) != 0 {
			t.Errorf("%d waiters are left", len(g.waiters))
		}
	})
}

// P8: a participant says something as often as the coordinator that has greeted
// wants to hear it, or it would be given up as silent.
func TestHeartbeatAsOftenAsAsked(t *testing.T) {
	r := newRig(t, forget.New(1), func(o *Options) { o.Heartbeat = time.Hour })
	_, s, err := r.p.Greet(context.Background(), wire.Greet{Epoch: wire.Epoch{Number: 1, Run: wire.UUID{1}}, Name: "a", Heartbeat: 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // it is only ended
	heard := make(chan error, 1)
	go func() {
		var err error
		for n := 0; n < 3 && err == nil; n++ {
			_, err = s.Recv()
		}
		heard <- err
	}()
	select {
	case err := <-heard:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("it says nothing")
	}
}
