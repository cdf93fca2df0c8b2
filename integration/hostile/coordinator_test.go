package hostile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"tpcfs/journal/disk/forget"
	"tpcfs/participant"
	"tpcfs/wire"
	"tpcfs/wire/rpc"
)

// reign is a coordinator's side of one epoch at a participant that is called
// without sockets: a good one's.
type reign struct {
	p       *participant.Participant
	replica wire.Replica
	epoch   wire.Epoch
	stream  wire.TxStream
	index   uint64
	resync  string // why it is not in sync
}

func newReign(p *participant.Participant, number uint64) (*reign, error) {
	r := &reign{p: p, replica: p.Replica(), epoch: wire.Epoch{Number: number, Run: wire.UUID{7}}}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	g, s, err := r.replica.Greet(ctx, wire.Greet{Epoch: r.epoch, Name: "a"})
	r.stream, r.index, r.resync = s, g.Position.Index, g.Resync
	return r, err
}

// put sends an entry and waits until it is durable.
func (r *reign) put(e wire.Entry) (wire.Up, error) {
	r.index++
	e.Index = r.index
	if err := r.stream.Send(wire.Down{Entry: &e}); err != nil {
		return wire.Up{}, err
	}
	var votes []wire.Vote
	for {
		up, err := r.stream.Recv()
		votes = append(votes, up.Votes...)
		if err != nil || up.Durable >= r.index {
			up.Votes = votes
			return up, err
		}
	}
}

// begin is the start of a cluster's first reign.
func (r *reign) begin() error {
	_, err := r.put(wire.Entry{Kind: wire.EntryConfig, Root: &wire.Root{Mode: 0o755, Time: 1},
		Config: &wire.Config{ID: wire.ConfigID{Epoch: r.epoch.Number, Counter: 1}, Cluster: wire.UUID{9}}})
	if err == nil {
		_, err = r.put(wire.Entry{Kind: wire.EntryOpen})
	}
	return err
}

// write commits a file.
func (r *reign) write(counter uint64, name string, data []byte) error {
	tx := wire.MakeID(r.epoch.Number, counter)
	m := wire.Mutation{Kind: wire.MutWriteFile, At: wire.At{Dir: wire.RootIno, Path: name}, Mode: 0o644, Content: wire.Content{Size: int64(len(data)), Sum: wire.Sum(data)}}
	up, err := r.put(wire.Entry{Kind: wire.EntryPrepare, Payload: data, Prepare: &wire.Prepare{Tx: tx,
		Config: wire.ConfigID{Epoch: r.epoch.Number, Counter: 1}, Op: wire.OpID{Session: wire.SessionID{3}, Seq: counter}, Lowest: 1, Sent: 1, Time: 1, ServiceTime: 1, Mutations: []wire.Mutation{m}}})
	if err == nil && (len(up.Votes) != 1 || up.Votes[0].Verdict != wire.VoteYes) {
		err = fmt.Errorf("it votes %+v", up.Votes)
	}
	if err == nil {
		_, err = r.put(wire.Entry{Kind: wire.EntryCommit, Tx: tx})
	}
	return err
}

func (r *reign) close() error { return errors.Join(r.stream.Close(), r.replica.Close()) }

// digest of a participant that has come to rest; "" while something is in doubt,
// or it is in between.
func digest(t testing.TB, p *participant.Participant) string {
	t.Helper()
	var st wire.ReplicaStatus
	eventually(t, func() bool {
		var err error
		if st, err = p.Status(t.Context(), wire.StatusRequest{Digest: true}); err != nil {
			t.Fatal(err)
		}
		return st.Handled == st.Durable
	}, func() any { return st })
	return st.Digest
}

// alone is a participant that serves coordinators.
type alone struct {
	*service
	fs *forget.FS
	p  *participant.Participant
}

func newAlone(t testing.TB) *alone {
	t.Helper()
	s := &service{tb: t, participants: map[string]*participant.Participant{}}
	s.dir = t.TempDir()
	a := &alone{service: s, fs: forget.New(1)}
	a.p = openParticipant(t, a.fs, &s.log)
	s.closers = append(s.closers, a.p.Close)
	r, err := newReign(a.p, 1)
	if err == nil {
		err = r.begin()
	}
	if err == nil {
		err = r.write(2, "f", []byte("what is there"))
	}
	if err = errors.Join(err, r.close()); err != nil {
		t.Fatal(err)
	}
	s.serve("a", rpc.ServerOptions{Replica: a.p.Replica()})
	return a
}

// attack lets a hostile coordinator, of the first reign or of the next, do what
// an input says.
func (a *alone) attack(input []byte) {
	p := &peer{addr: a.addr("a"), role: wire.RoleCoordinator, s: &script{input}, wait: stepWait}
	p.k = known{epoch: wire.Epoch{Number: 1, Run: wire.UUID{7}}, counter: 100, config: wire.ConfigID{Epoch: 1, Counter: 1}}
	if p.s.byte() >= 128 {
		p.k.epoch, p.k.config = wire.Epoch{Number: 2, Run: wire.UUID{8}}, wire.ConfigID{Epoch: 2}
	}
	binary.LittleEndian.PutUint64(p.k.session[:], 5)
	p.run(coordinatorCalls)
	p.close()
}

// FuzzCoordinator: whatever a coordinator says to a participant, only its own
// session ends. The participant goes on, answers the next one, and holds the
// same after it has started again.
func FuzzCoordinator(f *testing.F) {
	inputs := 0
	f.Fuzz(func(t *testing.T, input []byte) {
		before := runtime.NumGoroutine()
		a := newAlone(t)
		a.attack(input)
		a.startsAgain(t, a.goesOn(t))
		settled(t, before)
		if inputs++; inputs%100 == 0 {
			if n := heap(); n > maxHeap {
				t.Errorf("%d MiB are held", n>>20)
			}
		}
	})
}

// goesOn: a good coordinator of a later epoch is answered. whole: the participant
// is in sync; what it has before it is may be gone after a restart.
func (a *alone) goesOn(t *testing.T) (whole bool) {
	t.Helper()
	select {
	case <-a.p.Done():
		t.Fatal("the participant has ended: ", a.p.Err())
	default:
	}
	a.log.check(t)
	var r *reign
	for { // what the hostile one has said last may be handled between the two calls
		st, err := a.p.Status(t.Context(), wire.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if st.Epoch.Number > 1<<62 { // as high as it was told: nothing comes after that
			return false
		}
		if r, err = newReign(a.p, st.Epoch.Number+1); err == nil {
			break
		}
		now, later := a.p.Status(t.Context(), wire.StatusRequest{})
		if wire.CodeOf(err) != wire.CodeStaleEpoch || later != nil || now.Epoch == st.Epoch {
			t.Fatal("a good coordinator is not served: ", err, later)
		}
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	return r.resync == ""
}

// startsAgain: what it held it holds after a restart.
func (a *alone) startsAgain(t *testing.T, whole bool) {
	t.Helper()
	want := digest(t, a.p)
	if err := a.close(); err != nil {
		t.Fatal("the participant ends with ", err)
	}
	a.log.check(t)
	p := openParticipant(t, a.fs, &a.log)
	if got := digest(t, p); whole && got != want {
		t.Errorf("after a restart its digest is %q, it was %q", got, want)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// A coordinator that spoils nothing is followed.
func TestScriptsReachTheParticipant(t *testing.T) {
	a := newAlone(t)
	p := &peer{addr: a.addr("a"), role: wire.RoleCoordinator, s: &script{}, wait: patience}
	p.k = known{epoch: wire.Epoch{Number: 2, Run: wire.UUID{8}}, counter: 100, config: wire.ConfigID{Epoch: 2}}
	p.k.session[0] = 1
	p.connect()
	p.request(coordinatorCalls)
	p.receive()
	for _, kind := range []byte{3, 4, 0} { // CONFIG, OPEN, PREPARE of a file
		d := wire.Down{Entry: &wire.Entry{}}
		p.s.b = []byte{0, 0, kind}
		body := p.down(&d)
		p.frame(wire.FrameDown, 0, wire.Marshal(d), body)
		p.write(p.last)
	}
	var st wire.ReplicaStatus
	eventually(t, func() bool {
		st, _ = a.p.Status(t.Context(), wire.StatusRequest{})
		return st.Handled == wire.Position{Epoch: 2, Index: 3} && st.InDoubt == 1
	}, func() any { return fmt.Sprintf("%+v", st) })
	p.close()
	a.goesOn(t)
	if err := a.close(); err != nil {
		t.Error(err)
	}
}
