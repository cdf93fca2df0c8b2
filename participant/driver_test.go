package participant

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tpcfs/journal"
	"tpcfs/journal/disk"
	"tpcfs/journal/disk/forget"
	"tpcfs/participant/store"
	"tpcfs/wire"
)

func TestMain(m *testing.M) {
	compress()
	goleak.VerifyTestMain(m)
}

// compress lets the journal's encoder begin outside of all bubbles: what it
// makes at its first use serves all tests.
func compress() {
	l, err := journal.Open(journal.Options{FS: forget.New(1), Dir: "warm"})
	if err == nil {
		_, err = l.Append(make([]byte, 64<<10))
	}
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		panic(err)
	}
}

const dataDir = "data"

// testOptions are those of a participant on a file system in memory.
func testOptions(fsys disk.FS) Options {
	return Options{
		Dir: dataDir, FS: fsys, Ballast: -1, Workers: 1, UUID: wire.UUID{7}, SegmentSize: 1 << 20, QuietForce: time.Millisecond,
		OpenKV: func(fsys disk.FS, dir string) (store.KV, error) { return store.NewModelKV(fsys, dir) },
	}
}

// link is a scripted coordinator's stream to a participant: it sends what the
// test says and keeps what comes up.
type link struct {
	s    wire.TxStream
	done chan struct{} // the receiver is gone

	mu      sync.Mutex // guards everything below
	votes   map[uint64]wire.Vote
	up      wire.Up // greatest
	ups     int     // messages
	err     error
	changed chan struct{}
}

func newLink(s wire.TxStream) *link {
	l := &link{s: s, done: make(chan struct{}), votes: map[uint64]wire.Vote{}, changed: make(chan struct{})}
	go l.receive()
	return l
}

func (l *link) receive() {
	defer close(l.done)
	for {
		up, err := l.s.Recv()
		l.mu.Lock()
		for _, v := range up.Votes {
			l.votes[v.Index] = v
		}
		l.up.Handled, l.up.Durable = max(l.up.Handled, up.Handled), max(l.up.Durable, up.Durable)
		l.ups++
		if err == nil && up.Durable > up.Handled {
			err = fmt.Errorf("%d entries are durable and %d handled", up.Durable, up.Handled)
		}
		l.err = err
		close(l.changed)
		l.changed = make(chan struct{})
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// patience is how long a test waits for what has to come by itself.
const patience = 20 * time.Second

var errTimeout = errors.New("timeout")

// wait waits until ok, called with mu held, says so; the stream's error if it ends first.
func (l *link) wait(ok func() bool) error {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		l.mu.Lock()
		good, err, changed := ok(), l.err, l.changed
		l.mu.Unlock()
		switch {
		case good:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-changed:
		case <-timeout.C:
			return fmt.Errorf("%w; up %+v", errTimeout, l.up)
		}
	}
}

func (l *link) close() {
	_ = l.s.Close()
	<-l.done
}

func (l *link) vote(index uint64) (wire.Vote, error) {
	var v wire.Vote
	err := l.wait(func() bool { var ok bool; v, ok = l.votes[index]; return ok })
	return v, err
}

func (l *link) durable(index uint64) error {
	return l.wait(func() bool { return l.up.Durable >= index })
}

// rig is a participant under test with the coordinator's side of one epoch.
type rig struct {
	t     testing.TB
	fs    *forget.FS
	p     *Participant
	epoch wire.Epoch
	link  *link
	next  uint64 // index of the next entry
	seq   uint64

	attempt uint64 // of catching up, when it has begun
}

// spare waits until the journal has made a spare segment: in the background,
// with syncs of its own.
func (r *rig) spare() {
	for r.p.writer.Stats().Spares == 0 {
		runtime.Gosched()
	}
}

func newRig(t testing.TB, fsys *forget.FS, change func(*Options)) *rig {
	t.Helper()
	o := testOptions(fsys)
	if change != nil {
		change(&o)
	}
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, fs: fsys, p: p}
	t.Cleanup(r.close)
	return r
}

func (r *rig) close() {
	if r.link != nil {
		r.link.close()
	}
	_ = r.p.Close() // the test has looked at what matters
}

// greet opens epoch n's stream.
func (r *rig) greet(n uint64) wire.Greeting {
	r.t.Helper()
	g, err := r.tryGreet(n)
	if err != nil {
		r.t.Fatal(err)
	}
	return g
}

func (r *rig) tryGreet(n uint64) (wire.Greeting, error) {
	r.epoch = wire.Epoch{Number: n, Run: wire.UUID{byte(n)}}
	g, s, err := r.p.Greet(context.Background(), wire.Greet{Epoch: r.epoch, Name: "a"})
	if err != nil {
		return g, err
	}
	if r.link != nil {
		r.link.close()
	}
	r.link = newLink(s)
	r.next = g.Position.Index + 1
	return g, nil
}

// begin greets, bootstraps and opens the epoch.
func (r *rig) begin(n uint64) {
	r.t.Helper()
	r.greet(n)
	r.send(configEntry(n))
	r.send(&wire.Entry{Kind: wire.EntryOpen})
}

func configEntry(epoch uint64) *wire.Entry {
	return &wire.Entry{Kind: wire.EntryConfig, Root: &wire.Root{Mode: 0o755, Time: 1},
		Config: &wire.Config{ID: wire.ConfigID{Epoch: epoch, Counter: 1}, Cluster: wire.UUID{9}}}
}

// send puts an entry on the stream and returns its index.
func (r *rig) send(e *wire.Entry) uint64 {
	r.t.Helper()
	e.Index = r.next
	r.next++
	if err := r.link.s.Send(wire.Down{Entry: e}); err != nil {
		r.t.Fatal(err)
	}
	return e.Index
}

// prepare sends a PREPARE.
func (r *rig) prepare(counter uint64, payload []byte, muts ...wire.Mutation) uint64 {
	r.t.Helper()
	r.seq++
	return r.send(prepareEntry(r.epoch.Number, counter, r.seq, payload, muts...))
}

func prepareEntry(epoch, counter, seq uint64, payload []byte, muts ...wire.Mutation) *wire.Entry {
	return &wire.Entry{Kind: wire.EntryPrepare, Payload: payload, Prepare: &wire.Prepare{Tx: wire.MakeID(epoch, counter),
		Config: wire.ConfigID{Epoch: epoch, Counter: 1}, Op: wire.OpID{Session: wire.SessionID{3}, Seq: seq}, Lowest: 1, Sent: 1, Time: int64(counter), ServiceTime: 1, Mutations: muts}}
}

func (r *rig) commit(counter uint64) uint64 {
	r.t.Helper()
	return r.send(&wire.Entry{Kind: wire.EntryCommit, Tx: wire.MakeID(r.epoch.Number, counter)})
}

// want waits for a vote.
func (r *rig) want(index uint64, verdict wire.Verdict) wire.Vote {
	r.t.Helper()
	v, err := r.link.vote(index)
	if err != nil {
		r.t.Fatalf("no vote on entry %d: %v", index, err)
	}
	if v.Verdict != verdict {
		r.t.Fatalf("vote on entry %d is %d (%v), want %d", index, v.Verdict, v.Err, verdict)
	}
	return v
}

// ended waits for a participant to end by itself.
func (r *rig) ended() {
	r.t.Helper()
	select {
	case <-r.p.Done():
		if r.p.Err() == nil {
			r.t.Error("Err says nothing")
		}
	case <-time.After(patience):
		r.t.Error("it does not end")
	}
}

func (r *rig) durable(index uint64) {
	r.t.Helper()
	if err := r.link.durable(index); err != nil {
		r.t.Fatalf("entry %d does not become durable: %v", index, err)
	}
}

// write commits a file.
func (r *rig) write(counter uint64, name, data string) {
	r.t.Helper()
	r.want(r.prepare(counter, []byte(data), writeOf(name, data)), wire.VoteYes)
	r.commit(counter)
}

// read returns a file's contents as of the last entry sent.
func (r *rig) read(name string) (string, error) {
	var c collect
	_, err := r.p.Read(context.Background(), wire.PositionedRead{Epoch: r.epoch, Index: r.next - 1,
		Read: wire.Read{Kind: wire.ReadFile, At: at(name), Length: -1}}, &c)
	return string(c), err
}

func (r *rig) wantFile(name, want string) {
	r.t.Helper()
	if got, err := r.read(name); err != nil || got != want {
		r.t.Fatalf("%s holds %.40q (%v), want %.40q", name, got, err, want)
	}
}

func (r *rig) wantNone(name string) {
	r.t.Helper()
	if got, err := r.read(name); wire.CodeOf(err) != wire.CodeNotExist {
		r.t.Fatalf("%s holds %.40q (%v), want none", name, got, err)
	}
}

func (r *rig) digest() string {
	r.t.Helper()
	st, err := r.p.Status(context.Background(), wire.StatusRequest{Digest: true})
	if err != nil || st.Digest == "" {
		r.t.Fatalf("no digest: %v, %+v", err, st)
	}
	return st.Digest
}

func at(name string) wire.At { return wire.At{Dir: wire.RootIno, Path: name} }

func writeOf(name, data string) wire.Mutation {
	return wire.Mutation{Kind: wire.MutWriteFile, At: at(name), Mode: 0o644, Content: wire.Content{Size: int64(len(data)), Sum: wire.Sum([]byte(data))}}
}

func deleteOf(name string) wire.Mutation {
	return wire.Mutation{Kind: wire.MutDeleteFile, At: at(name)}
}

// collect keeps a file's contents.
type collect []byte

func (c *collect) WritePiece(p wire.Piece) error {
	if wire.Sum(p.Data) != p.Sum || p.Offset != int64(len(*c)) {
		return fmt.Errorf("a piece at %d after %d bytes, or with a wrong checksum", p.Offset, len(*c))
	}
	*c = append(*c, p.Data...)
	return nil
}

// pieces gives data as wire.PieceReader does.
type pieces struct {
	data []byte
	at   int64
	err  error // in place of io.EOF
}

func (p *pieces) ReadPiece() (wire.Piece, error) {
	if len(p.data) == 0 {
		if p.err != nil {
			return wire.Piece{}, p.err
		}
		return wire.Piece{}, io.EOF
	}
	n := min(len(p.data), wire.PieceSize)
	piece := wire.Piece{Offset: p.at, Sum: wire.Sum(p.data[:n]), Data: p.data[:n]}
	p.data, p.at = p.data[n:], p.at+int64(n)
	return piece, nil
}

func (r *rig) stage(counter uint64, data []byte) (wire.StageReply, error) {
	return r.p.Stage(context.Background(), wire.StageRequest{Epoch: r.epoch, ID: wire.MakeID(r.epoch.Number, counter), Size: int64(len(data))}, &pieces{data: data})
}

func stagedOf(name string, s wire.StageReply) wire.Mutation {
	return wire.Mutation{Kind: wire.MutWriteFile, At: at(name), Mode: 0o600, Content: wire.Content{Size: s.Size, Stage: s.ID, Sum: s.Sum}}
}

// isJournal tells whether an operation is about a segment of the journal.
func isJournal(op forget.Op) bool { return path.Base(path.Dir(op.Name)) == "journal" }
