package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"tpcfs/coordinator/commit"
	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// cluster is a coordinator with three nodes on a file system that forgets.
type cluster struct {
	t     *testing.T
	fs    *forget.FS
	nodes []*node
	o     Options
	c     *Coordinator
	me    wire.SessionID
	link  uint64
	seq   uint64
}

func newCluster(t *testing.T) *cluster {
	k := &cluster{t: t, fs: forget.New(1), me: wire.SessionID{7}}
	// All are needed: most tests are about what waits for who is missing.
	k.o = Options{Dir: "/coordinator", FS: k.fs, SegmentSize: 64 << 10, Root: &wire.Root{Mode: 0o755}, MinInSync: 3}
	for i, name := range []string{"a", "b", "c"} {
		k.nodes = append(k.nodes, newNode(name, byte(i+1)))
		k.o.Participants = append(k.o.Participants, Peer{Name: name, Addr: name})
	}
	k.o.Dial = func(_ context.Context, p Peer) (wire.Replica, error) {
		return k.nodes[slices.IndexFunc(k.nodes, func(n *node) bool { return n.name == p.Name })].dial()
	}
	return k
}

func (k *cluster) open() *cluster {
	k.t.Helper()
	c, err := Open(k.o)
	if err != nil {
		k.t.Fatal(err)
	}
	k.c = c
	k.t.Cleanup(func() { c.Close() })
	return k
}

func (k *cluster) serve() *cluster {
	k.t.Helper()
	k.open()
	select {
	case <-k.c.Ready():
	case <-k.c.Done():
		k.t.Fatalf("stopped: %v", k.c.Err())
	}
	k.attach()
	return k
}

func (k *cluster) attach() {
	k.t.Helper()
	a, err := k.c.Attach(ctx, wire.Attach{Session: k.me})
	if err != nil {
		k.t.Fatal(err)
	}
	k.link = a.Link
}

func (k *cluster) close() {
	k.t.Helper()
	if err := k.c.Close(); err != nil {
		k.t.Fatal(err)
	}
}

func write(name string, data []byte) wire.Mutation {
	return wire.Mutation{Kind: wire.MutWriteFile, At: wire.At{Dir: wire.RootIno, Path: name}, Content: wire.Content{Size: int64(len(data)), Sum: wire.Sum(data)}}
}

func (k *cluster) request(wait time.Duration, muts ...wire.Mutation) wire.Transact {
	k.seq++
	return wire.Transact{Op: wire.OpID{Session: k.me, Seq: k.seq}, Link: k.link, Wait: wait.Milliseconds(), Mutations: muts}
}

func (k *cluster) put(name string, data []byte) wire.Outcome {
	k.t.Helper()
	r, err := k.c.Transact(ctx, k.request(0, write(name, data)), data)
	if err != nil {
		k.t.Fatalf("put %s: %v", name, err)
	}
	return r.Outcome
}

// contents gathers pieces; one at the beginning starts anew.
type contents struct {
	data     []byte
	versions []wire.ID
	fail     error
}

func (w *contents) WritePiece(p wire.Piece) error {
	if w.fail != nil {
		return w.fail
	}
	if p.Offset == 0 {
		w.data = nil
	}
	if int64(len(w.data)) != p.Offset || wire.Sum(p.Data) != p.Sum {
		return fmt.Errorf("a bad piece at %d after %d", p.Offset, len(w.data))
	}
	w.data = append(w.data, p.Data...)
	if !slices.Contains(w.versions, p.Version) {
		w.versions = append(w.versions, p.Version)
	}
	return nil
}

func readReq(name string) wire.Read {
	return wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: wire.RootIno, Path: name}, Length: -1}
}

func (k *cluster) get(name string) []byte {
	k.t.Helper()
	var w contents
	if _, err := k.c.Read(ctx, readReq(name), &w); err != nil {
		k.t.Fatalf("get %s: %v", name, err)
	}
	return w.data
}

func (k *cluster) wantGet(name string, want []byte) {
	k.t.Helper()
	if got := k.get(name); !bytes.Equal(got, want) {
		k.t.Fatalf("%s holds %d bytes, want %d, or others", name, len(got), len(want))
	}
}

func wantCode(t *testing.T, err error, code wire.Code, words ...string) {
	t.Helper()
	if wire.CodeOf(err) != code {
		t.Fatalf("got %v, want code %v", err, code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v: does not say %q", err, w)
		}
	}
}

// A commit forces nothing at the coordinator: the participants' syncs are all
// that a client waits for.
func TestNoForcedSyncs(t *testing.T) {
	k := newCluster(t)
	k.o.Tick = time.Hour
	k.serve()
	before := k.fs.Count(forget.Sync)
	data := make([]byte, 4096)
	for i := range 200 {
		k.put(fmt.Sprint("f", i), data)
	}
	if n := k.fs.Count(forget.Sync) - before; n != 0 {
		t.Errorf("%d syncs of the coordinator's journal for 200 commits", n)
	}
	k.wantGet("f3", data)
}

func TestRestart(t *testing.T) {
	k := newCluster(t).serve()
	k.put("x", []byte("one"))
	epoch, name := k.c.Epoch(), k.c.Cluster()
	k.close()
	wantCode(t, k.c.Detach(ctx, k.me), wire.CodeUnavailable)
	k.o.Participants = nil // only addresses, and they have not changed
	k.serve()
	if e := k.c.Epoch(); e.Number != epoch.Number+1 || e.Run == epoch.Run || k.c.Cluster() != name {
		t.Errorf("epoch %v after %v", e, epoch)
	}
	k.wantGet("x", []byte("one"))
	k.put("y", []byte("two"))
	// A retry of what was done before the restart (G5).
	k.seq = 0
	again := k.request(0, write("x", []byte("one")))
	r, err := k.c.Transact(ctx, again, []byte("one"))
	if err != nil || r.Outcome.Tx != wire.MakeID(1, 2) {
		t.Errorf("%v, %v", r, err)
	}
}

// The coordinator's machine loses its power before every operation of its
// disk: the next one serves, and what was acknowledged is there.
func TestCrashAnywhere(t *testing.T) {
	script := func(k *cluster) (acked []string) {
		k.o.Tick = time.Millisecond
		c, err := Open(k.o)
		if err != nil {
			return nil
		}
		k.c = c
		defer c.Close()
		select {
		case <-c.Ready():
		case <-c.Done():
			return nil
		}
		a, err := c.Attach(ctx, wire.Attach{Session: k.me})
		if err != nil {
			return nil
		}
		k.link = a.Link
		for i := range 40 {
			name := fmt.Sprint("f", i)
			if _, err := c.Transact(ctx, k.request(0, write(name, []byte(name))), []byte(name)); err != nil {
				return acked
			}
			acked = append(acked, name)
			if i%10 == 0 { // let the disk have what is lazy
				if err := c.ledger.w.Sync(ctx); err != nil {
					return acked
				}
			}
		}
		return acked
	}
	k := newCluster(t)
	k.o.SegmentSize = 8 << 10
	if acked := script(k); len(acked) != 40 {
		t.Fatalf("%d done without a crash", len(acked))
	}
	total := k.fs.Ops()
	rng := rand.New(rand.NewPCG(1, 1))
	for at := 1; at <= total; at++ {
		k := newCluster(t)
		k.o.SegmentSize = 8 << 10
		k.fs.CrashAt(at)
		acked := script(k)
		k.fs = k.fs.Crash(rng)
		k.o.FS = k.fs
		k.serve()
		for _, name := range acked {
			k.wantGet(name, []byte(name))
		}
		k.seq = 1000
		k.put("after", []byte("all"))
		k.close()
	}
	t.Logf("%d crashes", total)
}

// The journal begins new segments with a SNAPSHOT and cuts the old (P13).
func TestSegments(t *testing.T) {
	k := newCluster(t)
	k.o.SegmentSize = 8 << 10
	k.o.Tick = time.Millisecond
	k.serve()
	segments := func() int { return k.c.ledger.w.Stats().Segments }
	for deadline := time.Now().Add(20 * time.Second); k.c.ledger.w.Stats().First < 100; {
		k.put("x", []byte("y"))
		if time.Now().After(deadline) {
			t.Fatalf("nothing is cut: %+v", k.c.ledger.w.Stats())
		}
	}
	if n := segments(); n > 4 {
		t.Errorf("%d segments", n)
	}
	k.close()
	k.serve()
	k.wantGet("x", []byte("y"))
	k.put("x", []byte("z"))
}

// greetHook is told of each greeting before the participant is.
type greetHook struct {
	wire.Replica
	told func(wire.Greet)
}

func (r *greetHook) Greet(ctx context.Context, g wire.Greet) (wire.Greeting, wire.TxStream, error) {
	r.told(g)
	return r.Replica.Greet(ctx, g)
}

func isJournalSync(op forget.Op) bool {
	return op.Kind == forget.Sync && strings.Contains(op.Name, "/journal/")
}

// P6: nobody is greeted before the epoch is durable: after a power loss at the
// first greeting its number is not given again.
func TestEpochOutlivesAPowerLoss(t *testing.T) {
	for seed := range uint64(4) { // what is not synced may be there all the same
		synctest.Test(t, func(t *testing.T) { lostAtGreeting(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func lostAtGreeting(t *testing.T, rng *rand.Rand) {
	k := newCluster(t)
	k.fs.SetHook(func(op forget.Op) error {
		if isJournalSync(op) {
			time.Sleep(time.Second) // a greeting that does not wait comes first
		}
		return nil
	})
	dial := k.o.Dial
	greeted := make(chan wire.Epoch, 1)
	var once sync.Once
	var after *forget.FS
	k.o.Dial = func(ctx context.Context, p Peer) (wire.Replica, error) {
		r, err := dial(ctx, p)
		return &greetHook{r, func(g wire.Greet) {
			once.Do(func() {
				after = k.fs.Crash(rng)
				greeted <- g.Epoch
			})
		}}, err
	}
	k.open()
	first := <-greeted
	_ = k.c.Close() // its disk is gone
	k.fs, k.o.FS, k.o.Dial = after, after, dial
	k.open()
	if e := k.c.Epoch(); e.Number <= first.Number {
		t.Errorf("after a power loss the epoch is %d, and %d had been told", e.Number, first.Number)
	}
	k.close()
}

// P8: nobody is sent the config before it is durable here.
func TestDurableFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t)
		told := func() (greets, entries int) {
			for _, n := range k.nodes {
				n.set(func() { greets, entries = greets+n.greets, entries+len(n.heard) })
			}
			return greets, entries
		}
		for _, n := range k.nodes {
			n.kill()
		}
		k.open()
		gate := make(chan struct{})
		k.fs.SetHook(func(op forget.Op) error {
			if isJournalSync(op) {
				<-gate
			}
			return nil
		})
		for _, n := range k.nodes {
			n.revive()
		}
		time.Sleep(time.Second)
		if g, e := told(); g != 3 || e != 0 {
			t.Errorf("%d greeted, %d entries sent before the config was durable", g, e)
		}
		close(gate)
		<-k.c.Ready()
		k.close()
	})
}

// A SNAPSHOT of as many decisions as may be above W is one record.
func TestSnapshotFits(t *testing.T) {
	d := commit.Decision{Tx: 1<<63 - 1, Prepared: wire.Position{Epoch: 1 << 63, Index: 1 << 63}, Commit: true}
	if n := len(wire.Marshal(d)); n > maxDecision {
		t.Errorf("a decision takes %d bytes", n)
	}
}

// The reply waits for votes, not for the decision's way to the participants;
// a read that follows it does (P5).
func TestReadAfterWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		gate := make(chan struct{})
		for _, n := range k.nodes {
			n.set(func() {
				n.onHandle = func(e *wire.Entry) {
					if e.Kind == wire.EntryCommit {
						<-gate
					}
				}
			})
		}
		k.put("x", []byte("1"))
		got := make(chan []byte, 1)
		go func() { got <- k.get("x") }()
		time.Sleep(time.Second)
		select {
		case b := <-got:
			t.Errorf("read %q before any participant had the decision", b)
			got <- b
		default:
		}
		close(gate)
		if b := <-got; string(b) != "1" {
			t.Errorf("read %q", b)
		}
		k.close()
	})
}

// P5: whoever hears of a reply reads what it says: reads know of the decision
// before the reply is given.
func TestReadPointComesBeforeTheReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		before := k.c.readPoint.Load()
		w := &call{make(chan commit.Reply)} // of no capacity: the owner waits in the middle of giving it
		data := []byte("1")
		r := &commit.Request{Transact: k.request(0, write("x", data)), Payload: data, Token: w}
		k.c.post(func() { k.c.m.Submit(r) })
		time.Sleep(time.Second)
		if point := k.c.readPoint.Load(); point == before {
			t.Errorf("a reply is given while reads know of position %d only", point)
		}
		select {
		case reply := <-w.done:
			if reply.Err != nil {
				t.Error(reply.Err)
			}
		case <-time.After(time.Minute):
			t.Error("no reply")
		}
		k.close()
	})
}

func TestJournalFails(t *testing.T) {
	k := newCluster(t).serve()
	k.put("x", nil)
	broken := errors.New("disk on fire")
	k.fs.SetHook(func(op forget.Op) error {
		if op.Kind == forget.Sync {
			return broken
		}
		return nil
	})
	<-k.c.Done() // the tick syncs what is lazy
	wantCode(t, k.c.Err(), wire.CodeIO, "disk on fire", "/coordinator")
	_, err := k.c.Transact(ctx, k.request(0, write("y", nil)), nil)
	wantCode(t, err, wire.CodeUnavailable)
	_, err = k.c.Read(ctx, readReq("x"), &contents{})
	wantCode(t, err, wire.CodeUnavailable)
}

func TestBadOptions(t *testing.T) {
	k := newCluster(t)
	for _, change := range []func(o *Options){
		func(o *Options) { o.Dir = "" },
		func(o *Options) { o.Dial = nil },
		func(o *Options) { o.Tick = 1 },
		func(o *Options) { o.MaxStages = -1 },
		func(o *Options) { o.Participants = nil },
		func(o *Options) { o.Participants = append(o.Participants, o.Participants[0]) },
		func(o *Options) { o.SegmentSize = 17 },
	} {
		o := k.o
		o.Participants = slices.Clone(o.Participants)
		change(&o)
		if c, err := Open(o); err == nil {
			c.Close()
			t.Errorf("%+v was taken", o)
		}
	}
	k.serve() // none of them has left anything behind that matters
}

// A participant that may not testify stops the start; it is named.
func TestStartStops(t *testing.T) {
	k := newCluster(t)
	k.nodes[1].resync = "its journal was damaged"
	k.open()
	<-k.c.Done()
	wantCode(t, k.c.Err(), wire.CodeCorrupt, "participant b", "its journal was damaged")
	k.nodes[1].resync = ""
	k.fs.Restart()
	k.serve()
	k.close()

	// Another coordinator's journal, or none.
	k.o.Dir = "/elsewhere"
	k.open()
	<-k.c.Done()
	if err := k.c.Err(); wire.CodeOf(err) != wire.CodeCorrupt && wire.CodeOf(err) != wire.CodeStaleEpoch {
		t.Errorf("stopped with %v", err)
	}
}

// Without one participant a restarted coordinator serves nothing and says for
// whom it waits; one that is back is found within 100 ms.
func TestWaitsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		k.put("x", []byte("1"))
		k.close()
		k.nodes[2].kill()
		k.open()
		synctest.Wait()
		k.attach()
		s, err := k.c.Status(ctx, wire.StatusRequest{})
		if err != nil || s.Serving || strings.Join(s.WaitsFor, " ") != "c" {
			t.Errorf("%+v, %v", s, err)
		}
		if m := s.Members[2]; m.State != stateUnreachable || !strings.Contains(m.Error, "refused") {
			t.Errorf("%+v", m)
		}
		req := readReq("x")
		req.Wait = 1000
		_, err = k.c.Read(ctx, req, &contents{})
		wantCode(t, err, wire.CodeUnavailable, "readFile x", "waits for participants c")
		_, err = k.c.Transact(ctx, k.request(time.Second, write("x", nil)), nil)
		wantCode(t, err, wire.CodeUnavailable, "writeFile x", "participant c", "nothing changed")
		_, err = k.c.Stage(ctx, k.me, wire.StageRequest{Size: 1, Link: k.link, Wait: 1000, Name: "big"}, pieces([]byte("x")))
		wantCode(t, err, wire.CodeUnavailable, "big", "participant c")
		time.Sleep(time.Minute)
		k.nodes[2].revive()
		began := time.Now()
		k.wantGet("x", []byte("1"))
		if d := time.Since(began); d > 100*time.Millisecond {
			t.Errorf("found after %v", d)
		}
		k.close()
	})
}

// While the coordinator lives, a lost participant stops writes, not reads.
func TestLostParticipant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		k.put("x", []byte("1"))
		k.nodes[0].kill()
		synctest.Wait()
		k.wantGet("x", []byte("1"))
		_, err := k.c.Transact(ctx, k.request(time.Second, write("x", nil)), nil)
		wantCode(t, err, wire.CodeUnavailable, "participant a")

		cctx, cancel := context.WithTimeout(ctx, time.Second)
		_, err = k.c.Transact(cctx, k.request(0, write("x", nil)), nil)
		cancel()
		wantCode(t, err, wire.CodeUnavailable, "participant a")
		cctx, cancel = context.WithCancel(ctx)
		time.AfterFunc(time.Second, cancel)
		_, err = k.c.Transact(cctx, k.request(0, write("x", nil)), nil)
		wantCode(t, err, wire.CodeCanceled)

		done := make(chan wire.Outcome)
		req := k.request(0, write("x", []byte("2")))
		go func() {
			r, err := k.c.Transact(ctx, req, []byte("2"))
			if err != nil {
				t.Error(err)
			}
			done <- r.Outcome
		}()
		time.Sleep(time.Minute)
		k.nodes[0].revive()
		<-done
		k.wantGet("x", []byte("2"))
		k.close()
	})
}

// A participant that says nothing loses its connection; what was put then
// becomes unknown, and is done when it is back.
func TestSilentParticipant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		k.nodes[1].set(func() { k.nodes[1].hang = true })
		began := time.Now()
		_, err := k.c.Transact(ctx, k.request(time.Second, write("x", []byte("1"))), []byte("1"))
		wantCode(t, err, wire.CodeUnknownOutcome, "b")
		if d := time.Since(began); d < time.Second || d > 1100*time.Millisecond {
			t.Errorf("unknown after %v", d)
		}
		if s, _ := k.c.Status(ctx, wire.StatusRequest{}); len(s.InDoubt) != 1 || strings.Join(s.InDoubt[0].Missing, " ") != "b" || s.Changes.Failed != 1 {
			t.Errorf("%+v, changes %+v", s.InDoubt, s.Changes)
		}
		time.Sleep(2500 * time.Millisecond)
		k.nodes[1].set(func() {
			if k.nodes[1].greets != 2 {
				t.Errorf("%d connections after %v", k.nodes[1].greets, time.Since(began))
			}
		})
		k.nodes[1].set(func() { k.nodes[1].hang = false })
		again := k.request(0, write("x", []byte("1")))
		again.Op.Seq--
		if _, err := k.c.Transact(ctx, again, []byte("1")); err != nil {
			t.Error(err)
		}
		k.wantGet("x", []byte("1"))
		k.close()
	})
}

// A client that gives up after the put hears that it may happen yet (G6).
func TestCancelAfterPut(t *testing.T) {
	k := newCluster(t).serve()
	cctx, cancel := context.WithCancel(ctx)
	k.nodes[2].set(func() {
		k.nodes[2].onHandle = func(e *wire.Entry) {
			if e.Kind == wire.EntryPrepare {
				cancel()
				<-cctx.Done()
			}
		}
		k.nodes[2].hang = true
	})
	payload := []byte("1")
	_, err := k.c.Transact(cctx, k.request(0, write("x", payload)), payload)
	payload[0] = '?' // it is the caller's again
	wantCode(t, err, wire.CodeUnknownOutcome, "writeFile x")
	_, err = k.c.Transact(cctx, k.request(0, write("x", nil)), nil)
	wantCode(t, err, wire.CodeCanceled)
	if s, err := k.c.Status(ctx, wire.StatusRequest{}); err != nil || s.Changes.Failed != 0 {
		t.Errorf("what was given up has failed: %+v, %v", s.Changes, err)
	}
	k.nodes[2].set(func() { k.nodes[2].hang, k.nodes[2].onHandle = false, nil })
	k.nodes[2].kill()
	k.nodes[2].revive()
	again := k.request(0, write("x", []byte("1")))
	again.Op.Seq = 1
	if _, err := k.c.Transact(ctx, again, []byte("1")); err != nil {
		t.Fatal(err)
	}
	k.wantGet("x", []byte("1"))
}

func TestRefusals(t *testing.T) {
	k := newCluster(t).serve()
	data := []byte("data")
	bad := write("x", data)
	bad.Content.Sum++
	_, err := k.c.Transact(ctx, k.request(0, bad), data)
	wantCode(t, err, wire.CodeCorrupt, "writeFile x")
	_, err = k.c.Transact(ctx, k.request(0, write("x", data)), data[:3])
	wantCode(t, err, wire.CodeInvalid, "x")
	_, err = k.c.Transact(ctx, k.request(0, write("x", data)), append(data, 1))
	wantCode(t, err, wire.CodeInvalid, "1 bytes")
	r := k.request(0, write("x", nil))
	r.Link++
	_, err = k.c.Transact(ctx, r, nil)
	wantCode(t, err, wire.CodeReplaced)
	k.nodes[1].set(func() { k.nodes[1].full = true })
	_, err = k.c.Transact(ctx, k.request(0, write("x", data)), data)
	wantCode(t, err, wire.CodeNoSpace, "writeFile x", "participant b")
	var e *wire.Error
	if errors.As(err, &e); e.Who != "b" {
		t.Errorf("who: %q", e.Who)
	}
	st, err := k.c.Status(ctx, wire.StatusRequest{})
	if err != nil || len(st.Warnings) != 1 || !strings.Contains(st.Warnings[0], "participant b is full") {
		t.Errorf("warnings %q, %v", st.Warnings, err)
	}
	_, err = k.c.Read(ctx, readReq("missing"), &contents{})
	wantCode(t, err, wire.CodeNotExist, "missing")
}

// Many clients at once, while participants come and go: nothing is lost, all
// replicas are alike.
func TestManyClients(t *testing.T) {
	k := newCluster(t).serve()
	var clients, chaos sync.WaitGroup
	stop := make(chan struct{})
	chaos.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(30 * time.Millisecond):
			}
			n := k.nodes[i%3]
			n.kill()
			n.revive()
		}
	})
	for c := range 8 {
		clients.Go(func() {
			me := wire.SessionID{byte(c + 100)}
			a, err := k.c.Attach(ctx, wire.Attach{Session: me})
			if err != nil {
				t.Error(err)
				return
			}
			for i := range 50 {
				name := fmt.Sprintf("f%d", (c+i)%10)
				data := fmt.Appendf(nil, "%d/%d", c, i)
				req := wire.Transact{Op: wire.OpID{Session: me, Seq: uint64(i + 1)}, Lowest: uint64(i + 1), Link: a.Link, Mutations: []wire.Mutation{write(name, data)}}
				if _, err := k.c.Transact(ctx, req, data); err != nil && wire.CodeOf(err) != wire.CodeConflict {
					t.Errorf("%s: %v", data, err)
					return
				}
				var w contents
				if _, err := k.c.Read(ctx, readReq(name), &w); err != nil && wire.CodeOf(err) != wire.CodeNotExist {
					t.Errorf("read %s: %v", name, err)
				}
			}
		})
	}
	clients.Wait()
	close(stop)
	chaos.Wait()
	k.put("last", []byte("one"))
	k.close()
	for _, n := range k.nodes[1:] {
		if fmt.Sprint(n.files) != fmt.Sprint(k.nodes[0].files) {
			t.Errorf("%s holds %v\n%s holds %v", n.name, n.files, k.nodes[0].name, k.nodes[0].files)
		}
	}
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		k.put("x", nil)
		time.Sleep(time.Second)
		s, err := k.c.Status(ctx, wire.StatusRequest{})
		if err != nil || !s.Serving || s.W != s.Last || s.Sessions != 1 || s.Members[0].State != stateInSync || s.Members[1].Replica.Storage != k.nodes[1].storage {
			t.Errorf("%+v, %v", s, err)
		}
		f, err := k.c.Statfs(ctx)
		if err != nil || f.Total != 1000 || f.Free != 497 || f.Files != 1 || f.ServiceTime == 0 {
			t.Errorf("%+v, %v", f, err)
		}
		if f.FilesLeft != nil || len(s.Warnings) > 0 {
			t.Errorf("of disks without a bound of their own: %+v, %v", f, s.Warnings)
		}
		// A disk that takes no more files is told of, and df -i shows the fullest one.
		for i, left := range []uint64{fewFiles, 1} {
			k.nodes[i].set(func() { k.nodes[i].inodes = &left })
		}
		time.Sleep(2 * time.Second)
		if s, err = k.c.Status(ctx, wire.StatusRequest{}); err != nil || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "participant b has inodes left for 1 files") {
			t.Errorf("%v, %v", s.Warnings, err)
		}
		if f, err = k.c.Statfs(ctx); err != nil || f.FilesLeft == nil || *f.FilesLeft != 1 || f.Free != 497 {
			t.Errorf("%+v, %v", f, err)
		}
		// One that hangs holds nothing up.
		k.nodes[0].set(func() {
			k.nodes[0].onStatus = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		})
		began := time.Now()
		s, err = k.c.Status(ctx, wire.StatusRequest{})
		if err != nil || time.Since(began) > 600*time.Millisecond || s.Members[0].Replica != nil || s.Members[1].Replica == nil {
			t.Errorf("%+v, %v after %v", s, err, time.Since(began))
		}
		time.Sleep(2 * time.Second)
		f, err = k.c.Statfs(ctx)
		if err != nil || f.Free != 497 {
			t.Errorf("%+v, %v", f, err)
		}
		k.close()
		s, err = k.c.Status(ctx, wire.StatusRequest{})
		if err != nil || s.Serving || s.Problem == "" {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

// Close waits for what is under way, but not for ever.
func TestCloseDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		k.nodes[0].set(func() { k.nodes[0].hang = true })
		errs := make(chan error, 2)
		for i, name := range []string{"x", "y"} {
			req := k.request(0, write(name, nil))
			go func() {
				_, err := k.c.Transact(ctx, req, nil)
				errs <- err
			}()
			synctest.Wait()
			if i == 0 {
				k.nodes[2].kill()
				synctest.Wait()
			}
		}
		began := time.Now()
		k.close()
		if d := time.Since(began); d < 2*time.Second || d > 2100*time.Millisecond {
			t.Errorf("closed after %v", d)
		}
		got := []wire.Code{wire.CodeOf(<-errs), wire.CodeOf(<-errs)}
		slices.Sort(got)
		if got[0] != wire.CodeUnknownOutcome || got[1] != wire.CodeUnavailable {
			t.Errorf("%v", got)
		}
	})
}

// piecesOf is a PieceReader of some bytes.
type piecesOf struct {
	rest []byte
	at   int64
	bad  func(*wire.Piece)
}

func pieces(b []byte) *piecesOf { return &piecesOf{rest: b} }

func (p *piecesOf) ReadPiece() (wire.Piece, error) {
	if len(p.rest) == 0 {
		return wire.Piece{}, io.EOF
	}
	n := min(len(p.rest), wire.PieceSize)
	piece := wire.Piece{Offset: p.at, Sum: wire.Sum(p.rest[:n]), Data: p.rest[:n]}
	p.rest, p.at = p.rest[n:], p.at+int64(n)
	if p.bad != nil {
		p.bad(&piece)
	}
	return piece, nil
}
