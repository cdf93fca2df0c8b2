package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"tpcfs/wire"
)

// Fake is a coordinator in memory: one tree, op ids, stages and links as the
// real one has them. Its connections can be made to fail.
type Fake struct {
	// fault, if set, is asked before each call what goes wrong with it. It is set
	// before the client is made or between its calls: it connects beside New.
	fault func(call string) fault
	// piece, if set, sees each piece of a read and may change it; an error
	// ends the connection.
	piece func(p *wire.Piece) error
	// wrong is told what a client must never do.
	wrong func(format string, args ...any)

	mu      sync.Mutex // guards what follows
	nodes   map[wire.Ino]*fakeNode
	lastID  uint64
	links   map[wire.SessionID]uint64
	done    map[wire.OpID]wire.Outcome
	sent    map[wire.OpID]int64
	lowest  map[wire.SessionID]uint64
	stages  map[wire.ID][]byte
	runs    map[wire.OpID]int // how often each was carried out
	tries   map[wire.OpID]int // ... and sent
	behind  []*wire.Behind    // of each try
	now     int64             // service time, ms
	epoch   uint64
	staged  int64 // bytes that came to be staged
	asked   int   // reads of an operation
	dials   int
	detachs int
}

// fault is what goes wrong with a call.
type fault int

const (
	fine       fault = iota
	lostBefore       // the connection is lost before the call arrives
	lostAfter        // ... when it has been carried out, before its answer
	unreachable
	replaced
	stageLost
	unavailable // the coordinator's own word
	conflict
	canceled
	hang    // no answer until the caller gives up
	garbled // a stage says that it got something else
)

type fakeNode struct {
	attr    wire.Attr
	data    []byte
	target  string
	entries map[string]wire.Ino
	xattrs  map[string][]byte
}

// NewFake makes an empty one.
func NewFake() *Fake {
	return &Fake{
		nodes:  map[wire.Ino]*fakeNode{wire.RootIno: {attr: wire.Attr{Ino: wire.RootIno, Mode: wire.ModeDir | 0o755}, entries: map[string]wire.Ino{}}},
		lastID: 1, links: map[wire.SessionID]uint64{}, done: map[wire.OpID]wire.Outcome{}, sent: map[wire.OpID]int64{},
		lowest: map[wire.SessionID]uint64{}, stages: map[wire.ID][]byte{}, runs: map[wire.OpID]int{}, tries: map[wire.OpID]int{},
		epoch: 1, now: 1000, wrong: func(format string, args ...any) { panic(fmt.Sprintf(format, args...)) },
	}
}

// Dial is what New takes.
func (f *Fake) Dial(context.Context) (Conn, error) {
	f.mu.Lock()
	f.dials++
	f.mu.Unlock()
	if f.next("dial") != fine {
		return nil, &wire.Error{Code: wire.CodeUnavailable, Text: "connection refused", Lost: true}
	}
	return &fakeConn{f: f}, nil
}

func (f *Fake) next(call string) fault {
	if f.fault == nil {
		return fine
	}
	return f.fault(call)
}

type fakeConn struct {
	f *Fake

	mu     sync.Mutex // guards closed
	closed bool
}

func (c *fakeConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

var (
	errGarbled = errors.New("garbled")
	errEnough  = errors.New("a read ends here, as if that were all") // of Fake.piece
)

var errLost = &wire.Error{Code: wire.CodeUnavailable, Text: "the connection was lost", Lost: true}

// before says what becomes of a call: an error in its place, or whether its
// answer will be lost.
func (c *fakeConn) before(ctx context.Context, call string, effect bool) (loseAnswer bool, err error) {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return false, errLost
	}
	if ctx.Err() != nil {
		return false, wire.NewError(wire.CodeCanceled, "the caller gave up")
	}
	switch c.f.next(call) {
	case lostBefore:
		_ = c.Close()
		return false, lostError(effect)
	case lostAfter:
		_ = c.Close()
		return true, nil
	case unreachable:
		_ = c.Close()
		return false, errLost
	case replaced:
		return false, wire.NewError(wire.CodeReplaced, "")
	case stageLost:
		return false, wire.NewError(wire.CodeStageLost, "")
	case unavailable:
		return false, wire.NewError(wire.CodeUnavailable, "a participant is not there")
	case conflict:
		return false, wire.NewError(wire.CodeConflict, "somebody else came first")
	case canceled:
		return false, &wire.Error{Code: wire.CodeUnavailable, Text: "shutting down", Lost: true}
	case garbled:
		return false, errGarbled
	case hang:
		<-ctx.Done()
		if effect {
			return false, wire.NewError(wire.CodeUnknownOutcome, "the caller did not wait for the answer")
		}
		return false, wire.NewError(wire.CodeCanceled, "the caller gave up")
	default:
		return false, nil
	}
}

func lostError(effect bool) error {
	e := *errLost
	if effect {
		e.Code = wire.CodeUnknownOutcome
	}
	return &e
}

func (c *fakeConn) Attach(ctx context.Context, req wire.Attach) (wire.Attached, error) {
	lose, err := c.before(ctx, "attach", false)
	if err != nil {
		return wire.Attached{}, err
	}
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	f.links[req.Session]++
	if lose {
		return wire.Attached{}, lostError(false)
	}
	return wire.Attached{Link: f.links[req.Session], ServiceTime: f.now, Epoch: f.epoch}, nil
}

// restart makes the coordinator another one: what was staged is gone, links
// and sessions are.
func (f *Fake) restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch++
	clear(f.stages)
	clear(f.links)
}

func (c *fakeConn) Detach(ctx context.Context, session wire.SessionID) error {
	lose, err := c.before(ctx, "detach", false)
	if err != nil {
		return err
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.f.detachs++
	delete(c.f.links, session)
	if lose {
		return lostError(false)
	}
	return nil
}

func (c *fakeConn) Watch(ctx context.Context, req wire.Watch) (wire.Watched, error) {
	if _, err := c.before(ctx, "watch", false); err != nil {
		return wire.Watched{}, err
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	if req.Session == (wire.SessionID{}) || c.f.links[req.Session] != req.Link {
		return wire.Watched{}, wire.NewError(wire.CodeReplaced, "")
	}
	return wire.Watched{Epoch: 1, Number: req.Number + 1}, nil
}

func (c *fakeConn) Scrub(context.Context, wire.ScrubRequest) (wire.ScrubReport, error) {
	return wire.ScrubReport{}, nil
}

func (c *fakeConn) Statfs(ctx context.Context) (wire.Statfs, error) {
	if _, err := c.before(ctx, "statfs", false); err != nil {
		return wire.Statfs{}, err
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	return wire.Statfs{Total: 100, ServiceTime: c.f.now}, nil
}

func (c *fakeConn) Members(context.Context, wire.MembersRequest) (wire.MembersReply, error) {
	return wire.MembersReply{}, wire.NewError(wire.CodeUnsupported, "no participants")
}

func (c *fakeConn) Status(ctx context.Context, _ wire.StatusRequest) (wire.Status, error) {
	if _, err := c.before(ctx, "status", false); err != nil {
		return wire.Status{}, err
	}
	return wire.Status{Serving: true}, nil
}

func (c *fakeConn) Stage(ctx context.Context, session wire.SessionID, req wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
	lose, err := c.before(ctx, "stage", false)
	bad := err == errGarbled
	if err != nil && !bad {
		return wire.StageReply{}, err
	}
	var data []byte
	sum := wire.NewObjectSum(req.Skew)
	for {
		p, err := pieces.ReadPiece()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return wire.StageReply{}, err
		}
		if p.Offset != int64(len(data)) || wire.Sum(p.Data) != p.Sum || len(p.Data) > wire.PieceSize || len(p.Data) == 0 {
			c.f.wrong("a garbled piece at %d", p.Offset)
		}
		data = append(data, p.Data...)
		c.f.mu.Lock()
		c.f.staged += int64(len(p.Data))
		c.f.mu.Unlock()
		_, _ = sum.Write(p.Data)
	}
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if req.Link != f.links[session] {
		return wire.StageReply{}, wire.NewError(wire.CodeReplaced, "")
	}
	f.lastID++
	id := wire.MakeID(f.epoch, f.lastID)
	f.stages[id] = data
	reply := wire.StageReply{ID: id, Size: int64(len(data)), Sum: sum.Sum()}
	if lose {
		return wire.StageReply{}, lostError(false)
	}
	if bad {
		reply.Sum++
	}
	return reply, nil
}

func (c *fakeConn) Transact(ctx context.Context, req wire.Transact, payload []byte) (reply wire.TransactReply, err error) {
	c.f.note(req)
	defer func() {
		if wire.CodeOf(err) == wire.CodeStageLost { // who says so has found no outcome: the time counts anew
			c.f.mu.Lock()
			delete(c.f.sent, req.Op)
			c.f.mu.Unlock()
		}
	}()
	lose, err := c.before(ctx, "transact", true)
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.done[req.Op]; err != nil && (!ok || wire.CodeOf(err) != wire.CodeConflict) {
		return wire.TransactReply{}, err // participants look the op id up before they find a conflict (P2)
	}
	outcome, err := f.transactLocked(req, payload)
	if lose {
		return wire.TransactReply{}, lostError(true)
	}
	f.now++
	return wire.TransactReply{Outcome: outcome, ServiceTime: f.now}, err
}

// note checks what a request must hold, whether it arrives or not.
func (f *Fake) note(req wire.Transact) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if sent, ok := f.sent[req.Op]; ok && sent != req.Sent {
		f.wrong("%v was first sent at %d, now it says %d", req.Op, sent, req.Sent)
	}
	f.sent[req.Op] = req.Sent
	f.tries[req.Op]++
	f.behind = append(f.behind, req.Behind)
	if req.Sent > f.now || req.Sent < f.now-10*60*1000 {
		f.wrong("%v sent at %d, it is %d", req.Op, req.Sent, f.now)
	}
	if req.Lowest > req.Op.Seq || req.Op.Seq == 0 {
		f.wrong("%v says that the lowest is %d", req.Op, req.Lowest)
	}
}

func (f *Fake) transactLocked(req wire.Transact, payload []byte) (wire.Outcome, error) {
	s := req.Op.Session
	if req.Link != f.links[s] {
		return wire.Outcome{}, wire.NewError(wire.CodeReplaced, "")
	}
	if req.Op.Seq < f.lowest[s] {
		f.wrong("%v comes after the client said that it has its answer", req.Op)
	}
	f.lowest[s] = max(f.lowest[s], req.Lowest)
	maps.DeleteFunc(f.done, func(op wire.OpID, _ wire.Outcome) bool { return op.Session == s && op.Seq < f.lowest[s] })
	if outcome, ok := f.done[req.Op]; ok {
		return outcome, nil
	}
	first := f.lastID + 1
	f.lastID += uint64(len(req.Mutations))
	outcome := wire.Outcome{Tx: wire.ID(first)}
	old := map[wire.Ino]*fakeNode{}
	for ino, n := range f.nodes {
		copied := *n
		copied.entries = maps.Clone(n.entries)
		old[ino] = &copied
	}
	for i, m := range req.Mutations {
		result, err := f.mutateLocked(m, wire.Ino(first)+wire.Ino(i), wire.ID(first), &payload)
		if err != nil {
			f.nodes = old
			err.Mutation = i
			return wire.Outcome{}, err
		}
		outcome.Results = append(outcome.Results, result)
	}
	if len(payload) > 0 {
		f.wrong("%d bytes of payload are left over", len(payload))
	}
	f.done[req.Op] = outcome
	f.runs[req.Op]++
	return outcome, nil
}

// walkLocked finds what at names: the directory, the last name and the node.
func (f *Fake) walkLocked(at wire.At) (dir *fakeNode, name string, n *fakeNode, err *wire.Error) {
	if err := wire.CheckPath(at.Path); err != nil {
		f.wrong("%v crossed the wire", err)
	}
	n = f.nodes[at.Dir]
	names := wire.SplitPath(at.Path)
	for i := range names {
		if n == nil {
			return nil, "", nil, &wire.Error{Code: wire.CodeNotExist, Name: at.String()}
		}
		if n.attr.Mode&wire.ModeType == wire.ModeSymlink {
			return nil, "", nil, &wire.Error{Code: wire.CodeSymlink, Prefix: strings.Join(names[:i], "/"), Target: n.target, Rest: strings.Join(names[i:], "/")}
		}
		if n.entries == nil {
			return nil, "", nil, &wire.Error{Code: wire.CodeNotDir, Name: at.String()}
		}
		dir, name = n, names[i]
		n = f.nodes[dir.entries[name]]
	}
	return dir, name, n, nil
}

func (f *Fake) mutateLocked(m wire.Mutation, ino wire.Ino, tx wire.ID, payload *[]byte) (wire.Result, *wire.Error) {
	dir, name, n, err := f.walkLocked(m.At)
	if err != nil {
		return wire.Result{}, err
	}
	fail := func(code wire.Code) (wire.Result, *wire.Error) {
		return wire.Result{}, &wire.Error{Code: code, Name: m.At.String()}
	}
	add := func(mode uint32) wire.Result {
		f.nodes[ino] = &fakeNode{attr: wire.Attr{Ino: ino, Mode: mode, UID: m.UID, GID: m.GID, Version: tx}}
		dir.entries[name] = ino
		return wire.Result{Ino: ino, Created: true}
	}
	switch {
	case n == nil && (m.Kind == wire.MutDeleteFile || m.Kind == wire.MutRmdir || m.Kind == wire.MutRename || m.Kind == wire.MutSetattr):
		return fail(wire.CodeNotExist)
	case n != nil && (m.Kind == wire.MutMkdir || m.Kind == wire.MutSymlink):
		return fail(wire.CodeExist)
	}
	switch m.Kind {
	case wire.MutWriteFile:
		return f.writeLocked(m, n, add, tx, payload)
	case wire.MutMkdir:
		r := add(wire.ModeDir | m.Mode)
		f.nodes[ino].entries = map[string]wire.Ino{}
		return r, nil
	case wire.MutSymlink:
		r := add(wire.ModeSymlink | 0o777)
		f.nodes[ino].target = m.Target
		return r, nil
	case wire.MutSetattr:
		n.attr.Mode = n.attr.Mode&wire.ModeType | m.Mode
		return wire.Result{Ino: n.attr.Ino}, nil
	case wire.MutRename, wire.MutLink:
		to, toName, old, err := f.walkLocked(m.To)
		if err != nil {
			return wire.Result{}, err
		}
		if old != nil && m.Rename == wire.RenameNoReplace || old != nil && m.Kind == wire.MutLink {
			return wire.Result{}, &wire.Error{Code: wire.CodeExist, Name: m.To.String()}
		}
		to.entries[toName] = n.attr.Ino
		if m.Kind == wire.MutLink {
			return wire.Result{Ino: n.attr.Ino}, nil
		}
		if m.Rename == wire.RenameExchange {
			dir.entries[name] = old.attr.Ino
			return wire.Result{Ino: n.attr.Ino}, nil
		}
	case wire.MutMknod:
		return add(m.Mode), nil
	case wire.MutCreateUnlinked:
		f.nodes[ino] = &fakeNode{attr: wire.Attr{Ino: ino, Mode: wire.ModeRegular | m.Mode, UID: m.UID, GID: m.GID, Version: tx}}
		return wire.Result{Ino: ino, Created: true}, nil
	case wire.MutSetxattr, wire.MutRemovexattr:
		if n.xattrs == nil {
			n.xattrs = map[string][]byte{}
		}
		if delete(n.xattrs, m.Name); m.Kind == wire.MutSetxattr {
			n.xattrs[m.Name] = m.Value
		}
		return wire.Result{Ino: n.attr.Ino}, nil
	case wire.MutDeleteFile:
		delete(f.nodes, n.attr.Ino)
	}
	delete(dir.entries, name)
	return wire.Result{Ino: n.attr.Ino}, nil
}

func (f *Fake) writeLocked(m wire.Mutation, n *fakeNode, add func(uint32) wire.Result, tx wire.ID, payload *[]byte) (wire.Result, *wire.Error) {
	fail := func(code wire.Code) (wire.Result, *wire.Error) {
		return wire.Result{}, &wire.Error{Code: code, Name: m.At.String()}
	}
	var data []byte
	at := int64(-1) // where one extent goes; others the fake does not know
	if len(m.Extents) == 1 {
		e := m.Extents[0]
		at, m.Content = e.Offset, wire.Content{Size: e.Size, Stage: e.Stage, Sum: e.Sum}
	}
	if m.Content.Stage != 0 {
		var ok bool
		if data, ok = f.stages[m.Content.Stage]; !ok {
			return fail(wire.CodeStageLost)
		}
		delete(f.stages, m.Content.Stage)
		sum := wire.NewObjectSum(max(at, 0) % wire.BlockSize)
		if _, _ = sum.Write(data); sum.Sum() != m.Content.Sum || int64(len(data)) != m.Content.Size {
			f.wrong("%v: the contents staged are not those meant", m.At)
		}
	} else {
		data, *payload = (*payload)[:m.Content.Size], (*payload)[m.Content.Size:]
		if wire.Sum(data) != m.Content.Sum {
			return fail(wire.CodeCorrupt)
		}
	}
	switch {
	case n == nil && m.Create == wire.MustExist:
		return fail(wire.CodeNotExist)
	case n != nil && n.attr.Mode&wire.ModeType == wire.ModeSymlink:
		return wire.Result{}, &wire.Error{Code: wire.CodeSymlink, Prefix: m.At.Path, Target: n.target}
	case n != nil && m.Create == wire.MustNotExist:
		return fail(wire.CodeExist)
	case n != nil && m.IfVersion != 0 && n.attr.Version != m.IfVersion:
		return fail(wire.CodeVersion)
	}
	var r wire.Result
	if n == nil {
		r = add(wire.ModeRegular | m.Mode)
		n = f.nodes[r.Ino]
	} else {
		r = wire.Result{Ino: n.attr.Ino}
	}
	if at >= 0 {
		whole := append(slices.Clone(n.data), make([]byte, max(0, int(at)+len(data)-len(n.data)))...)
		copy(whole[at:], data)
		data = whole
	}
	n.data, n.attr.Size, n.attr.Version = slices.Clone(data), int64(len(data)), tx
	return r, nil
}

func (c *fakeConn) Read(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	lose, err := c.before(ctx, "read", false)
	if err != nil {
		return wire.ReadReply{}, err
	}
	reply, data, err := c.f.look(req)
	if err != nil {
		return reply, err
	}
	for at := req.Offset; len(data) > 0; {
		p := wire.Piece{Version: reply.Attr.Version, Offset: at, Data: slices.Clone(data[:min(len(data), wire.PieceSize)])}
		data = data[len(p.Data):]
		at += int64(len(p.Data))
		p.Sum = wire.Sum(p.Data)
		if c.f.piece != nil {
			if err := c.f.piece(&p); err == errEnough {
				return reply, nil
			} else if err != nil {
				_ = c.Close()
				return reply, err
			}
		}
		if err := w.WritePiece(p); err != nil {
			return reply, err
		}
	}
	if lose {
		return wire.ReadReply{}, lostError(false)
	}
	return reply, nil
}

func (f *Fake) look(req wire.Read) (wire.ReadReply, []byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var reply wire.ReadReply
	if req.Kind == wire.ReadOp {
		f.asked++
		if outcome, ok := f.done[req.Op]; ok {
			reply.Outcome = &outcome
		} else {
			delete(f.sent, req.Op) // the client knows that it has not happened: the time counts anew
		}
		return reply, nil, nil
	}
	_, _, n, err := f.walkLocked(req.At)
	switch {
	case err != nil:
		return reply, nil, err
	case n == nil:
		return reply, nil, &wire.Error{Code: wire.CodeNotExist, Name: req.At.String()}
	}
	reply.Attr = n.attr
	link := n.attr.Mode&wire.ModeType == wire.ModeSymlink
	switch req.Kind {
	case wire.ReadGetxattr:
		if reply.Value = n.xattrs[req.Name]; reply.Value == nil {
			return reply, nil, wire.NewError(wire.CodeNoAttr, "")
		}
	case wire.ReadListxattr:
		reply.Names = slices.Sorted(maps.Keys(n.xattrs))
	case wire.ReadLink:
		reply.Target = n.target
		if !link {
			return reply, nil, wire.NewError(wire.CodeInvalid, "")
		}
	case wire.ReadFile, wire.ReadList:
		if link {
			return reply, nil, &wire.Error{Code: wire.CodeSymlink, Prefix: req.At.Path, Target: n.target}
		}
	}
	switch dir := n.entries != nil; {
	case req.Kind == wire.ReadFile && dir:
		return reply, nil, &wire.Error{Code: wire.CodeIsDir, Name: req.At.String()}
	case req.Kind == wire.ReadList && !dir:
		return reply, nil, &wire.Error{Code: wire.CodeNotDir, Name: req.At.String()}
	}
	if req.Kind == wire.ReadList {
		names := slices.Sorted(maps.Keys(n.entries))
		for _, name := range names {
			switch {
			case name <= req.After && req.After != "":
			case len(reply.Entries) == 3: // a small page
				reply.More = true
			default:
				reply.Entries = append(reply.Entries, wire.DirEntry{Name: name, Attr: f.nodes[n.entries[name]].attr})
			}
		}
	}
	if req.Kind != wire.ReadFile {
		return reply, nil, nil
	}
	if req.IfVersion != 0 && req.IfVersion != n.attr.Version {
		return reply, nil, wire.NewError(wire.CodeChanged, "")
	}
	data := n.data[min(req.Offset, n.attr.Size):]
	if req.Length >= 0 {
		data = data[:min(int64(len(data)), req.Length)]
	}
	return reply, data, nil
}

// Lock grants everything to everybody: locks are tested against the coordinator.
func (c *fakeConn) Lock(ctx context.Context, req wire.LockRequest) (wire.LockReply, error) {
	if _, err := c.before(ctx, "lock", false); err != nil {
		return wire.LockReply{}, err
	}
	return wire.LockReply{Result: wire.LockDone}, nil
}
