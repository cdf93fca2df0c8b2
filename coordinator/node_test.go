package coordinator

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"sync"

	"tpcfs/wire"
)

// node is a participant in memory, whose disk never forgets and never waits.
// Tests tell it to hang, to lose its connections, or to fail its reads.
type node struct {
	name    string
	storage wire.UUID

	mu      sync.Mutex // guards everything below
	down    bool       // connections are refused
	hang    bool       // streams say nothing any more
	stuck   bool       // reads get no answer
	resync  string
	fence   wire.Epoch
	config  wire.Config
	pos     wire.Position
	w       wire.Position
	svc     int64
	txs     map[wire.ID]*nodeTx
	ops     map[wire.OpID]*wire.Outcome
	files   map[string]nodeFile
	staged  map[wire.ID][]byte
	links   map[*nodeLink]bool
	heard   []wire.Entry // all entries of all epochs
	unstage []wire.ID
	full    bool    // votes NO with CodeNoSpace
	inodes  *uint64 // left on its disk; nil: none told
	takes   int     // after so many pieces of a stage it says and takes nothing more; 0: as usual
	greets  int
	moved   chan struct{} // closed and replaced when an entry was handled

	// Hooks; called without mu held. nil: nothing special.
	onRead    func(req wire.PositionedRead, w wire.PieceWriter) (reply wire.ReadReply, done bool, err error)
	onStage   func(pieces wire.PieceReader) (reply wire.StageReply, done bool, err error)
	onStatus  func(ctx context.Context) error
	onHandle  func(e *wire.Entry)
	onResync  func(req wire.Resync) error
	onDonate  func(req wire.Donate) (wire.Donated, []byte, error) // blocks
	onVerify  func(req wire.Verify) (wire.Verified, error)
	onCompare func(req wire.Compare) (wire.Compared, []byte, error)
	onRepair  func(req wire.Repair, body []byte) (wire.Repaired, error)
	donors    func(name string) *node // by whom a copy is donated
	copied    *node                   // what a round has brought
	lacks     bool                    // ... but for a block
}

type nodeTx struct {
	wire.Testimony
	p       *wire.Prepare
	payload []byte
}

type nodeFile struct {
	data    []byte
	version wire.ID
}

// nodeLink is a connection to a node.
type nodeLink struct {
	n   *node
	ctx context.Context
	end context.CancelFunc

	// Of its stream:
	pending []wire.Down // while the node hangs; guarded by n.mu
	mu      sync.Mutex
	up      []wire.Up
	signal  chan struct{}
}

func newNode(name string, n byte) *node {
	return &node{name: name, storage: wire.UUID{n}, txs: map[wire.ID]*nodeTx{}, ops: map[wire.OpID]*wire.Outcome{},
		files: map[string]nodeFile{}, staged: map[wire.ID][]byte{}, links: map[*nodeLink]bool{}, moved: make(chan struct{})}
}

// dial is Options.Dial for this node.
func (n *node) dial() (wire.Replica, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down {
		return nil, &wire.Error{Code: wire.CodeUnavailable, Text: "connection refused", Lost: true}
	}
	l := &nodeLink{n: n, signal: make(chan struct{}, 1)}
	l.ctx, l.end = context.WithCancel(context.Background())
	n.links[l] = true
	return l, nil
}

// kill ends all connections, and refuses new ones until revive.
func (n *node) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = true
	for l := range n.links {
		l.end()
	}
	clear(n.links)
}

func (n *node) revive() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = false
}

func (n *node) set(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

var errLost = &wire.Error{Code: wire.CodeUnavailable, Text: "connection lost", Lost: true}

func (l *nodeLink) Greet(_ context.Context, g wire.Greet) (wire.Greeting, wire.TxStream, error) {
	n := l.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.ctx.Err() != nil {
		return wire.Greeting{}, nil, errLost
	}
	n.greets++
	held := n.fence
	if g.Outside && n.resync == "" {
		n.resync = "out of sync"
		n.txs = map[wire.ID]*nodeTx{}
	}
	if g.Epoch.Number < held.Number || g.Epoch.Number == held.Number && g.Epoch.Run != held.Run {
		return wire.Greeting{}, nil, wire.NewError(wire.CodeStaleEpoch, "a newer coordinator was here")
	}
	if g.Epoch != held {
		n.fence = g.Epoch
		n.pos = wire.Position{Epoch: g.Epoch.Number}
	}
	a := n.standingLocked()
	a.Held = held
	var again wire.Up
	for _, id := range slices.Sorted(maps.Keys(n.txs)) {
		t := n.txs[id]
		a.Known = append(a.Known, t.Testimony)
		if t.State == wire.TxPrepared && t.Prepared.Epoch == n.fence.Number {
			again.Votes = append(again.Votes, wire.Vote{Index: t.Prepared.Index, Tx: id, Verdict: wire.VoteYes, Outcome: t.Outcome})
		}
	}
	again.Handled, again.Durable = n.pos.Index, n.pos.Index
	l.say(again)
	return a, l, nil
}

func (n *node) standingLocked() wire.Greeting {
	return wire.Greeting{Storage: n.storage, Held: n.fence, Config: n.config, Position: n.pos, W: n.w, ServiceTime: n.svc, Resync: n.resync}
}

func (l *nodeLink) say(up wire.Up) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up = append(l.up, up)
	select {
	case l.signal <- struct{}{}:
	default:
	}
}

func (l *nodeLink) Recv() (wire.Up, error) {
	for {
		l.mu.Lock()
		if len(l.up) > 0 && l.ctx.Err() == nil {
			up := l.up[0]
			l.up = l.up[1:]
			l.mu.Unlock()
			return up, nil
		}
		l.mu.Unlock()
		select {
		case <-l.signal:
		case <-l.ctx.Done():
			return wire.Up{}, errLost
		}
	}
}

func (l *nodeLink) Send(batch ...wire.Down) error {
	for _, d := range batch {
		if err := l.handle(d); err != nil {
			return err
		}
	}
	return nil
}

func (l *nodeLink) handle(d wire.Down) error {
	n := l.n
	n.mu.Lock()
	hook := n.onHandle
	n.mu.Unlock()
	if hook != nil && d.Entry != nil {
		hook(d.Entry)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.ctx.Err() != nil {
		return errLost
	}
	l.pending = append(l.pending, d)
	for !n.hang && len(l.pending) > 0 {
		d, l.pending = l.pending[0], l.pending[1:]
		l.take(d)
	}
	return nil
}

// take handles a message and answers it; n.mu is held.
func (l *nodeLink) take(d wire.Down) {
	n := l.n
	up := wire.Up{Free: 1 << 40}
	if n.resync != "" {
		if d.Entry != nil {
			panic(fmt.Sprintf("node %s is out of sync and is sent entry %d", n.name, d.Entry.Index))
		}
		l.say(up)
		return
	}
	if d.Entry != nil {
		if v := n.handle(d.Entry); v != nil {
			up.Votes = []wire.Vote{*v}
		}
		close(n.moved)
		n.moved = make(chan struct{})
	}
	n.svc = max(n.svc, d.ServiceTime)
	if n.w.Before(d.W) {
		n.w = d.W
		for id, t := range n.txs {
			if !n.w.Before(t.Prepared) {
				if t.State == wire.TxPrepared {
					panic(fmt.Sprintf("node %s: W %v passes %v, in doubt", n.name, d.W, id))
				}
				delete(n.txs, id)
			}
		}
	}
	up.Handled, up.Durable = n.pos.Index, n.pos.Index
	l.say(up)
}

// handle takes an entry; it is n's with mu held.
func (n *node) handle(e *wire.Entry) *wire.Vote {
	if e.Index != n.pos.Index+1 {
		panic(fmt.Sprintf("node %s at %v is sent entry %d", n.name, n.pos, e.Index))
	}
	n.pos.Index = e.Index
	n.heard = append(n.heard, *e)
	switch e.Kind {
	case wire.EntryConfig:
		n.config = *e.Config
	case wire.EntryCommit:
		t := n.txs[e.Tx]
		if t == nil || t.State != wire.TxPrepared && t.State != wire.TxCommitted {
			panic(fmt.Sprintf("node %s: COMMIT of %v, which is %+v", n.name, e.Tx, t))
		}
		if t.State == wire.TxPrepared {
			n.commit(t)
		}
	case wire.EntryAbort:
		if t := n.txs[e.Tx]; t != nil {
			t.State = wire.TxAborted
		}
	case wire.EntryPrepare:
		return n.prepare(e)
	case wire.EntryOpen, wire.EntryVoid:
	}
	return nil
}

func (n *node) prepare(e *wire.Entry) *wire.Vote {
	p := e.Prepare
	t := &nodeTx{p: p, payload: e.Payload, Testimony: wire.Testimony{Tx: p.Tx, Op: p.Op, Prepared: n.pos, State: wire.TxRefused}}
	n.txs[p.Tx] = t
	vote := &wire.Vote{Index: e.Index, Tx: p.Tx}
	if o := n.ops[p.Op]; o != nil {
		vote.Verdict, vote.Outcome, t.Outcome = wire.VoteDup, o, o
		return vote
	}
	refuse := func(code wire.Code, text string) *wire.Vote {
		t.Err = wire.NewError(code, text)
		vote.Verdict, vote.Err = wire.VoteNo, t.Err
		return vote
	}
	for _, other := range n.txs {
		for i := range p.Mutations {
			if other.State == wire.TxPrepared && slices.ContainsFunc(other.p.Mutations, func(m wire.Mutation) bool { return m.At == p.Mutations[i].At }) {
				return refuse(wire.CodeConflict, "first wins")
			}
		}
	}
	if n.full {
		return refuse(wire.CodeNoSpace, "the disk is full")
	}
	for i := range p.Mutations {
		if s := p.Mutations[i].Content.Stage; s != 0 && n.staged[s] == nil {
			return refuse(wire.CodeStageLost, "no such stage")
		}
	}
	t.State, t.Outcome = wire.TxPrepared, &wire.Outcome{Tx: p.Tx}
	vote.Verdict, vote.Outcome = wire.VoteYes, t.Outcome
	return vote
}

func (n *node) commit(t *nodeTx) {
	t.State = wire.TxCommitted
	n.ops[t.Op] = t.Outcome
	rest := t.payload
	for _, m := range t.p.Mutations {
		data := n.staged[m.Content.Stage]
		if m.Content.Stage == 0 {
			data, rest = rest[:m.Content.Size], rest[m.Content.Size:]
		}
		n.files[m.At.Path] = nodeFile{data, t.Tx}
	}
}

func (l *nodeLink) Read(ctx context.Context, req wire.PositionedRead, w wire.PieceWriter) (wire.ReadReply, error) {
	n := l.n
	n.mu.Lock()
	hook := n.onRead
	n.mu.Unlock()
	if hook != nil {
		if reply, done, err := hook(req, w); done {
			return reply, err
		}
	}
	want := wire.Position{Epoch: req.Epoch.Number, Index: req.Index}
	n.mu.Lock()
	for n.pos.Epoch == want.Epoch && n.pos.Before(want) && ctx.Err() == nil { // P5
		moved := n.moved
		n.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
		case <-l.ctx.Done():
			return wire.ReadReply{}, errLost
		}
		n.mu.Lock()
	}
	f, ok := n.files[req.Read.At.Path]
	pos, hang := n.pos, n.hang || n.stuck
	n.mu.Unlock()
	switch {
	case hang:
		<-ctx.Done()
		return wire.ReadReply{}, ctx.Err()
	case l.ctx.Err() != nil:
		return wire.ReadReply{}, errLost
	case req.Epoch.Number < pos.Epoch:
		return wire.ReadReply{}, wire.NewError(wire.CodeStaleEpoch, "")
	case pos.Before(want):
		return wire.ReadReply{}, wire.NewError(wire.CodeUnavailable, "behind")
	case req.Read.Kind == wire.ReadOrphans:
		return wire.ReadReply{Position: pos}, nil
	case !ok:
		return wire.ReadReply{}, &wire.Error{Code: wire.CodeNotExist, Name: req.Read.At.Path}
	case req.Read.IfVersion != 0 && req.Read.IfVersion != f.version:
		return wire.ReadReply{}, wire.NewError(wire.CodeChanged, "")
	}
	if err := givePieces(f, req.Read, w, -1); err != nil {
		return wire.ReadReply{}, err
	}
	return wire.ReadReply{Attr: wire.Attr{Size: int64(len(f.data)), Version: f.version}, Position: pos}, nil
}

// givePieces writes what a ReadFile asks for, at most most pieces of it.
func givePieces(f nodeFile, req wire.Read, w wire.PieceWriter, most int) error {
	end := int64(len(f.data))
	if req.Length >= 0 {
		end = min(end, req.Offset+req.Length)
	}
	for at := req.Offset; at < end && most != 0; most-- {
		b := f.data[at:min(end, at+wire.PieceSize)]
		if err := w.WritePiece(wire.Piece{Version: f.version, Offset: at, Sum: wire.Sum(b), Data: b}); err != nil {
			return err
		}
		at += int64(len(b))
	}
	return nil
}

func (l *nodeLink) Stage(ctx context.Context, req wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
	n := l.n
	n.mu.Lock()
	hook, takes := n.onStage, n.takes
	n.mu.Unlock()
	if hook != nil {
		if reply, done, err := hook(pieces); done {
			return reply, err
		}
	}
	data := []byte{}
	for n := 1; ; n++ {
		p, err := pieces.ReadPiece()
		if n == takes {
			<-ctx.Done()
			return wire.StageReply{}, ctx.Err()
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return wire.StageReply{}, err
		}
		if p.Offset != int64(len(data)) || wire.Sum(p.Data) != p.Sum {
			return wire.StageReply{}, wire.NewError(wire.CodeCorrupt, "a bad piece")
		}
		data = append(data, p.Data...)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.ctx.Err() != nil {
		return wire.StageReply{}, errLost
	}
	n.staged[req.ID] = data
	return wire.StageReply{ID: req.ID, Size: int64(len(data)), Sum: crc32.ChecksumIEEE(data)}, nil
}

func (l *nodeLink) Unstage(_ context.Context, _ wire.Epoch, ids []wire.ID) error {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	l.n.unstage = append(l.n.unstage, ids...)
	for _, id := range ids {
		delete(l.n.staged, id)
	}
	return nil
}

func (l *nodeLink) Status(ctx context.Context, req wire.StatusRequest) (wire.ReplicaStatus, error) {
	n := l.n
	n.mu.Lock()
	hook := n.onStatus
	n.mu.Unlock()
	if hook != nil {
		if err := hook(ctx); err != nil {
			return wire.ReplicaStatus{}, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	st := wire.ReplicaStatus{Epoch: l.n.fence, Storage: n.storage, Total: 1000, Free: 500 - uint64(n.storage[0]), Files: uint64(len(n.files))}
	if n.full {
		st.Free = 0
	}
	st.FilesLeft = n.inodes
	if req.Standing {
		standing := n.standingLocked()
		st.Standing = &standing
	}
	return st, nil
}

func (l *nodeLink) Close() error {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	delete(l.n.links, l)
	l.end()
	return nil
}
