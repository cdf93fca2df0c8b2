package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"tpcfs/wire"
)

// stagesAtOnce is how many contents of one transaction are staged at a time.
const stagesAtOnce = 4

// transaction is a Transact on its way: what is needed to send it again.
type transaction struct {
	o        *operation
	muts     []wire.Mutation
	contents []Content
	staged   []int        // mutations whose contents are staged
	parts    []stagedPart // of the only mutation's extents
	payload  []byte
	packed   *packed           // nil: no pack
	sent     []func(at int64)  // how far each staged content is, by staged's index
	report   func(bytes int64) // of staged contents together; may be nil
	behind   *wire.Behind      // nil: it does not wait for another one

	// Of the operation under way.
	op    wire.OpID
	first int64         // service time of the first sending; -1: not sent
	maybe bool          // an attempt may have taken effect and has no answer
	done  *wire.Outcome // its answer
}

// Transact commits the mutations as one, or none of them. Names in them are
// used as they are: a symbolic link on the way is CodeSymlink. contents holds,
// at a mutation's index, what it writes; it may be shorter, and nil where
// nothing is written. The mutations are not changed.
//
// Contents of up to wire.MaxInline bytes together travel with the request,
// the smallest first; others are staged before it.
//
// Of a writeFile with Extents, whose offsets and sizes say what is written, the
// content is that of all of them, one after another. Of several extents it has
// at most wire.MaxInline bytes: a larger one is a mutation of its own.
func (c *Client) Transact(ctx context.Context, muts []wire.Mutation, contents []Content) (wire.Outcome, error) {
	return c.TransactBehind(ctx, nil, muts, contents)
}

// TransactBehind is a Transact that was aborted by a conflict, tried again: it waits
// at the coordinator until the transaction that was in the way is decided, and goes
// before those that come later. Waiting, it is as any change that is not begun.
// behind nil: a Transact.
func (c *Client) TransactBehind(ctx context.Context, behind *wire.Behind, muts []wire.Mutation, contents []Content) (wire.Outcome, error) {
	o, err := c.begin(ctx)
	if err != nil {
		return wire.Outcome{}, err
	}
	defer o.end()
	t, err := o.prepare(muts, contents)
	if err != nil {
		return wire.Outcome{}, describe(err, muts)
	}
	t.behind = behind
	outcome, err := t.commit()
	return outcome, describe(err, muts)
}

// describe says in an error which of the mutations it is about.
func describe(err error, muts []wire.Mutation) error {
	var e *wire.Error
	if !errors.As(err, &e) || e.Mutation < 0 || e.Mutation >= len(muts) {
		return err
	}
	m := &muts[e.Mutation]
	return named(err, kindNames[m.Kind], m.At.String())
}

var kindNames = map[wire.MutationKind]string{
	wire.MutWriteFile: "writeFile", wire.MutDeleteFile: "deleteFile", wire.MutMkdir: "mkdir", wire.MutRmdir: "rmdir",
	wire.MutRename: "rename", wire.MutSymlink: "symlink", wire.MutSetattr: "setattr",
	wire.MutLink: "link", wire.MutMknod: "mknod", wire.MutSetxattr: "setxattr", wire.MutRemovexattr: "removexattr",
	wire.MutCreateUnlinked: "createUnlinked", wire.MutReclaim: "reclaim",
	wire.MutAllocate: "allocate", wire.MutPunchHole: "punchHole", wire.MutZeroRange: "zeroRange",
}

// named completes an error with what was being done and with the file.
func named(err error, op, name string) error {
	var e *wire.Error
	if !errors.As(err, &e) {
		return &wire.Error{Code: wire.CodeIO, Op: op, Name: name, Text: err.Error()}
	}
	if e.Op != "" && e.Name != "" {
		return e
	}
	full := *e
	full.Op, full.Name = cmp.Or(e.Op, op), cmp.Or(e.Name, name)
	return &full
}

// prepare checks a transaction and reads the contents that travel inside it.
func (o *operation) prepare(muts []wire.Mutation, contents []Content) (*transaction, error) {
	if len(contents) > len(muts) {
		return nil, wire.NewError(wire.CodeInvalid, fmt.Sprintf("%d contents for %d changes", len(contents), len(muts)))
	}
	if len(muts) > wire.MaxMutations {
		return nil, wire.NewError(wire.CodeTooMany, fmt.Sprintf("%d changes in one transaction, at most %d are allowed: split it", len(muts), wire.MaxMutations))
	}
	t := &transaction{o: o, muts: slices.Clone(muts)}
	var ahead map[int]staged
	t.contents, ahead = taken(contents)
	for i := range t.muts {
		if err := check(&t.muts[i]); err != nil {
			err.Mutation = i
			return nil, err
		}
	}
	if err := t.checkParts(); err != nil {
		return nil, err
	}
	inline, err := t.plan()
	if err != nil {
		return nil, err
	}
	for _, i := range t.staged {
		if s, ok := ahead[i]; ok {
			s.describe(&t.muts[i])
		}
	}
	for _, i := range inline {
		at := len(t.payload)
		if t.payload, err = readInline(t.payload, t.contents[i]); err != nil {
			return nil, named(err, "writeFile", t.muts[i].At.String())
		}
		describeInline(&t.muts[i], t.payload[at:])
	}
	if t.packed != nil {
		t.packed.inner, t.payload = t.payload, nil
	}
	return t, nil
}

// check refuses names that no participant would take, before anything is sent.
func check(m *wire.Mutation) *wire.Error {
	if err := wire.CheckPath(m.At.Path); err != nil {
		return err
	}
	if err := wire.CheckPath(m.To.Path); err != nil {
		return err
	}
	if m.Kind == wire.MutSymlink && (m.Target == "" || len(m.Target) > wire.MaxPathLen) {
		code := wire.CodeInvalid
		if m.Target != "" {
			code = wire.CodeNameTooLong
		}
		return &wire.Error{Code: code, Name: m.At.String(), Text: fmt.Sprintf("a symbolic link's target has 1 to %d bytes, not %d", wire.MaxPathLen, len(m.Target))}
	}
	switch {
	case len(m.Name) > wire.MaxNameLen:
		return &wire.Error{Code: wire.CodeNameTooLong, Name: m.At.String(), Text: fmt.Sprintf("an extended attribute's name has at most %d bytes, not %d", wire.MaxNameLen, len(m.Name))}
	case len(m.Value) > wire.MaxXattrValue:
		return &wire.Error{Code: wire.CodeTooMany, Name: m.At.String(), Text: fmt.Sprintf("an extended attribute's value has at most %d bytes, not %d", wire.MaxXattrValue, len(m.Value))}
	}
	return nil
}

// plan says which contents travel inline, by mutation; the others are staged.
func (t *transaction) plan() (inline []int, err error) {
	var all []int
	for i, content := range t.contents {
		if content == nil {
			continue
		}
		if n := content.Size(); n < 0 || n > wire.MaxFileSize {
			return nil, &wire.Error{Code: wire.CodeTooLarge, Name: t.muts[i].At.String(), Mutation: i, Text: fmt.Sprintf("%d bytes, at most %d are allowed", n, int64(wire.MaxFileSize))}
		}
		all = append(all, i)
	}
	slices.SortStableFunc(all, func(i, j int) int { return cmp.Compare(t.contents[i].Size(), t.contents[j].Size()) })
	room, n := int64(wire.MaxInline), 0
	for n < len(all) && room >= t.contents[all[n]].Size() {
		room -= t.contents[all[n]].Size()
		n++
	}
	if t.wantsPack(all, n) {
		t.packed = &packed{name: t.muts[0].At.String()}
		slices.SortStableFunc(all, func(i, j int) int { // one stage is one extent's
			return cmp.Compare(min(len(t.muts[j].Extents), 2), min(len(t.muts[i].Extents), 2))
		})
		if n, err = t.inPack(all); err != nil {
			return nil, err
		}
		if n < len(all) && len(t.muts[all[n]].Extents) > 1 {
			return nil, wire.NewError(wire.CodeTooMany, "the small extents of a transaction are more than a pack holds: write them in parts")
		}
	}
	inline, t.staged = all[:n:n], all[n:]
	slices.Sort(inline)
	return inline, nil
}

// commit stages and sends the transaction until it has an answer.
func (t *transaction) commit() (_ wire.Outcome, err error) {
	o := t.o
	t.op, t.first, t.maybe = wire.OpID{}, -1, false
	defer func() { o.c.releaseSeq(t.op.Seq, err) }()
	for restaged := 0; ; {
		l, err := t.ready()
		switch {
		case err != nil && t.maybe:
			return wire.Outcome{}, unknown(err)
		case err != nil:
			return wire.Outcome{}, err
		case t.done == nil:
			err = t.send(l)
		}
		switch {
		case err == nil:
			return *t.done, nil
		case wire.CodeOf(err) == wire.CodeStageLost && restaged < maxRestage:
			// It was looked for and has not happened: what was sent before does
			// not make it old (S1a), however long staging takes.
			t.forgetStages()
			t.first = -1
			restaged++
		case o.again(l, err):
		default:
			return wire.Outcome{}, settle(err, t.maybe)
		}
		if !o.backoff() {
			return wire.Outcome{}, settle(o.outOfTime(err), t.maybe)
		}
	}
}

// send makes one attempt.
func (t *transaction) send(l *link) error {
	o := t.o
	if t.op.Seq == 0 {
		t.op = wire.OpID{Session: o.c.o.Session, Seq: o.c.takeSeq()}
	}
	if t.first < 0 {
		t.first = o.serviceTime(l)
	}
	wait, ok := o.waitMS()
	if !ok {
		return o.outOfTime(nil)
	}
	ctx, cancel := o.bounded(answerGrace)
	defer cancel()
	req := wire.Transact{Op: t.op, Link: l.number, Lowest: o.c.lowest(), Sent: t.first, Wait: wait, Behind: t.behind}
	if t.packed != nil {
		req.Pack = t.packed.pack
	} else {
		req.Mutations = t.muts
	}
	reply, err := l.conn.Transact(ctx, req, t.payload)
	if err != nil {
		t.maybe = t.maybe || wire.CodeOf(err) == wire.CodeUnknownOutcome
		return err
	}
	o.c.hear(reply.ServiceTime)
	t.done = &reply.Outcome
	t.done.Touched, t.done.Alone, t.done.Time = reply.Touched, reply.Alone, reply.Time
	return nil
}

// isStaged reports whether all large contents are with the participants, as
// far as is known. Those staged in another epoch than the link's are gone.
func (t *transaction) isStaged(l *link) bool {
	for _, i := range t.staged {
		if !stageHolds(*stageOf(&t.muts[i]), l) {
			return false
		}
	}
	for _, p := range t.parts {
		if !stageHolds(t.muts[0].Extents[p.extent].Stage, l) {
			return false
		}
	}
	return t.packed == nil || t.packed.pack != nil && stageHolds(t.packed.pack.Stage, l)
}

func stageHolds(id wire.ID, l *link) bool {
	return id != 0 && (l.epoch == 0 || id.Epoch() == l.epoch)
}

func (t *transaction) forgetStages() {
	for _, i := range t.staged {
		*stageOf(&t.muts[i]) = 0
	}
	for _, p := range t.parts {
		t.muts[0].Extents[p.extent].Stage = 0
	}
	if t.packed != nil {
		t.packed.pack = nil
	}
}

// ready returns a link by which the transaction can be sent: all contents are
// staged in its epoch. Before they are staged again, because the coordinator has
// started anew, it asks whether what was sent before has committed (S1a): then
// t.done is its outcome.
func (t *transaction) ready() (*link, error) {
	for {
		l, err := t.o.link()
		if err != nil || t.isStaged(l) {
			return l, err
		}
		if t.maybe && t.first >= 0 {
			if err := t.ask(l); err != nil || t.done != nil {
				return l, err
			}
		}
		if err := t.stage(l); err != nil {
			return nil, err
		}
	}
}

// ask reads what became of attempts that were sent in earlier epochs: an
// operation without an outcome then has none and never will, as long as its
// age does not let it have been forgotten.
func (t *transaction) ask(l *link) error {
	o := t.o
	for {
		reply, err := t.readOp(l)
		switch {
		case err == nil && reply.Outcome != nil:
			t.done = reply.Outcome
			return nil
		case err == nil:
			if age := o.serviceTime(l) - t.first; age > wire.ServiceTimeHold {
				return &wire.Error{Code: wire.CodeUnknownOutcome, Text: fmt.Sprintf("it was sent %d s of service time ago, longer than outcomes are kept", age/1000)}
			}
			t.maybe, t.first = false, -1
			return nil
		case !o.again(l, err):
			return err
		case !o.backoff():
			return o.outOfTime(err)
		}
		if l, err = o.link(); err != nil {
			return err
		}
	}
}

func (t *transaction) readOp(l *link) (wire.ReadReply, error) {
	wait, ok := t.o.waitMS()
	if !ok {
		return wire.ReadReply{}, t.o.outOfTime(nil)
	}
	ctx, cancel := t.o.bounded(answerGrace)
	defer cancel()
	return l.conn.Read(ctx, wire.Read{Kind: wire.ReadOp, Op: t.op, Wait: wait}, nil)
}

// settle makes the error of an operation honest (G6): after an attempt whose
// outcome is not known, only what the participants themselves answered, who
// look the operation up first (P2), says that nothing has happened.
func settle(err error, maybe bool) error {
	if !maybe {
		return err
	}
	switch wire.CodeOf(err) {
	case wire.CodeNotExist, wire.CodeExist, wire.CodeNotDir, wire.CodeIsDir, wire.CodeNotEmpty, wire.CodeInvalid,
		wire.CodeNameTooLong, wire.CodeTooLarge, wire.CodePermission, wire.CodeAccess, wire.CodeReadOnly, wire.CodeLinks, wire.CodeLoop,
		wire.CodeNoAttr, wire.CodeStale, wire.CodeConflict, wire.CodeSymlink, wire.CodeVersion, wire.CodeUnknownOutcome:
		return err
	default:
		return unknown(err)
	}
}

func unknown(err error) error {
	return &wire.Error{Code: wire.CodeUnknownOutcome, Text: fmt.Sprintf("it was sent, and the connection lost before the answer: look whether it happened (%v)", err)}
}

// outOfTime is the error of an operation whose wait is over before anything is
// known to have been sent.
func (o *operation) outOfTime(last error) error {
	if o.ctx.Err() != nil {
		return o.gaveUp()
	}
	e := &wire.Error{Code: wire.CodeUnavailable, Text: fmt.Sprintf("no answer within %v", o.c.o.Wait)}
	if last != nil {
		e.Text += ": " + last.Error()
	}
	return e
}

// takeSeq gives an operation its number.
func (c *Client) takeSeq() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastSeq++
	c.unanswered[c.lastSeq] = struct{}{}
	return c.lastSeq
}

// releaseSeq: the operation has its answer, or nobody will ask again.
func (c *Client) releaseSeq(seq uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unanswered, seq)
	if seq != 0 && wire.CodeOf(err) == wire.CodeUnknownOutcome {
		c.lost = append(c.lost, lostRequest{seq, time.Now()})
	}
}

// lostFor is how long a request may still happen whose answer was given up: the
// coordinator does not begin an older one (S1a).
const lostFor = wire.ServiceTimeHold*time.Millisecond + time.Minute

// known tells of whose changes the session has heard, for a Watch: of all below
// the lowest but those that are lost. Of too many lost ones it says nothing: 0.
func (c *Client) known() (lowest uint64, lost []uint64) {
	lowest = c.lowest()
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.lost) > 0 && time.Since(c.lost[0].since) > lostFor {
		c.lost = c.lost[1:]
	}
	if len(c.lost) > wire.MaxLost {
		return 0, nil
	}
	for _, l := range c.lost {
		lost = append(lost, l.seq)
	}
	return lowest, lost
}

// lowest is the lowest sequence number without an answer (W5).
func (c *Client) lowest() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	low := c.lastSeq + 1
	for seq := range c.unanswered {
		low = min(low, seq)
	}
	return low
}

// serviceTime is the latest service time known; after a while of silence it is
// asked for, since a request that looks old is not run (S1a).
func (o *operation) serviceTime(l *link) int64 {
	c := o.c
	c.mu.Lock()
	known, age := c.serviceTime, wallNow().Sub(c.heard)
	c.mu.Unlock()
	if age >= 0 && age < timeMaxAge {
		return known
	}
	ctx, cancel := o.bounded(0)
	defer cancel()
	fs, err := l.conn.Statfs(ctx)
	ms := fs.ServiceTime
	if err != nil || ms == 0 {
		var status wire.Status
		status, err = l.conn.Status(ctx, wire.StatusRequest{})
		ms = status.ServiceTime
	}
	if err == nil {
		c.hear(ms)
	}
	// Without an answer the old one serves: sending will tell what is wrong.
	return max(known, ms)
}

// stage brings the large contents to the participants, but for those that are
// there in the epoch of l.
func (t *transaction) stage(l *link) error {
	group, ctx := errgroup.WithContext(t.o.ctx)
	group.SetLimit(stagesAtOnce)
	if t.sent == nil {
		p := progress{report: t.report}
		for range t.staged {
			t.sent = append(t.sent, p.part())
		}
	}
	for n, i := range t.staged {
		m := &t.muts[i]
		if stageHolds(*stageOf(m), l) {
			continue
		}
		group.Go(func() error {
			r, err := t.o.c.stageOne(ctx, placed(m, t.contents[i]), m.At.String(), t.sent[n])
			if err != nil {
				return ofMutation(err, i)
			}
			staged(r).describe(m)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := t.stageParts(l); err != nil {
		return err
	}
	t.o.progress()
	if t.packed == nil {
		return nil
	}
	return t.stagePack()
}

// ofMutation says in an error which mutation it is about.
func ofMutation(err error, i int) error {
	if err == nil {
		return nil
	}
	var e *wire.Error
	if !errors.As(err, &e) {
		return &wire.Error{Code: wire.CodeIO, Text: err.Error(), Mutation: i}
	}
	of := *e
	of.Mutation = i
	return &of
}

// stageOne stages one content, again if a connection is lost: a stage that is
// not consumed costs nothing but space, until the session ends.
func (c *Client) stageOne(ctx context.Context, content Content, name string, report func(at int64)) (wire.StageReply, error) {
	o, err := c.begin(ctx)
	if err != nil {
		return wire.StageReply{}, err
	}
	defer o.end()
	furthest := int64(0)
	for corrupt := 0; ; {
		l, err := o.link()
		if err != nil {
			return wire.StageReply{}, err
		}
		reply, err := o.stageOn(l, content, name, func(at int64) {
			// Sending the same bytes again is no progress: where a participant
			// is away, every attempt gets as far as the buffers on the way.
			if at > furthest {
				furthest = at
				o.progress()
			}
			report(at)
		})
		switch {
		case err == nil:
			return reply, nil
		case wire.CodeOf(err) == wire.CodeCorrupt && corrupt < maxCorrupt:
			corrupt++
		case o.againHere(l, err):
		default:
			return reply, err
		}
		if !o.backoff() {
			return reply, o.outOfTime(err)
		}
	}
}

// stageOn makes one attempt, which may take as long as it goes on.
func (o *operation) stageOn(l *link, content Content, name string, report func(at int64)) (wire.StageReply, error) {
	r, err := content.Open()
	if err != nil {
		return wire.StageReply{}, contentError(err)
	}
	defer r.Close() // only read
	size := content.Size()
	_, isPack := content.(*packContent)
	source := &pieceSource{r: r, size: size, pack: isPack, buf: make([]byte, min(wire.PieceSize, max(size, 1)))}
	if s, ok := content.(skewed); ok {
		source.skew, source.sum = s.skew, wire.NewObjectSum(s.skew)
	}
	return o.stageFrom(l, source, name, report)
}

// stageFrom stages what source gives.
func (o *operation) stageFrom(l *link, source *pieceSource, name string, report func(at int64)) (wire.StageReply, error) {
	ctx, cancel := context.WithCancel(o.ctx)
	defer cancel()
	limit := o.c.o.Wait + stageGrace
	timer := time.AfterFunc(limit, cancel)
	defer timer.Stop()
	source.progress = func(at int64) {
		if o.c.o.Wait > 0 {
			timer.Reset(limit)
		}
		report(at)
	}
	if o.c.o.Wait == 0 {
		timer.Stop()
	}
	source.waits = func(begins bool) {
		timer.Stop()
		if !begins && o.c.o.Wait > 0 {
			timer.Reset(limit)
		}
	}
	wait, _ := o.waitMS()
	reply, err := l.conn.Stage(ctx, o.c.o.Session, wire.StageRequest{Size: source.size, Link: l.number, Wait: wait, Name: name, Pack: source.pack, Skew: source.skew}, source)
	switch {
	case source.failed != nil:
		return reply, source.failed
	case err != nil && ctx.Err() != nil && o.ctx.Err() == nil:
		return reply, wire.NewError(wire.CodeUnavailable, fmt.Sprintf("the contents were not taken within %v", limit))
	case err != nil && o.ctx.Err() != nil:
		return reply, o.gaveUp()
	case err != nil:
		return reply, err
	case reply.Size != source.at || reply.Sum != source.sum.Sum():
		return reply, wire.NewError(wire.CodeCorrupt, "the contents arrived garbled")
	}
	return reply, nil
}
