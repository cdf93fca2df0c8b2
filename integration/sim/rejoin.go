package sim

import (
	"iter"
	"slices"

	"tpcfs/coordinator/commit"
	"tpcfs/participant/store"
	"tpcfs/wire"
)

// rejoin mirrors coordinator/rejoin.go: catchUp and what it calls, for one link.
// Its goroutine is a coroutine, which stops where the real one waits.
type rejoin struct {
	caller
	k     *conn // to the newcomer
	donor *conn
	since wire.Position
	full  bool
	whole bool
	quick bool
}

// caller is a goroutine of a coordinator that makes calls, one at a time.
type caller struct {
	w       *world
	c       *reign
	call    *resyncCall   // it waits for that; nil: for nothing but its turn
	several []*resyncCall // ... for all of those
	task    *task         // ... for that
	next    func() (struct{}, bool)
	stop    func()
	yield   func(struct{}) bool
	over    func() bool // it may end
	stopped bool        // the world ends
	done    bool
}

// resyncCall is a call of wire.Replica's Donate, Repair or Resync, on its way.
type resyncCall struct {
	k          *conn
	donate     *wire.Donate  // nil: another one
	repair     *wire.Repair  // likewise
	verify     *wire.Verify  // likewise
	compare    *wire.Compare // likewise; all nil: a Resync
	req        wire.Resync
	body       []byte
	task       *task // at the newcomer, once it has begun
	looked     bool  // the donor has looked at its gate
	position   wire.Position
	canceled   bool // nobody waits for it
	done       bool
	donated    wire.Donated
	repaired   wire.Repaired
	reply      wire.Resynced
	verified   wire.Verified
	comparedTo wire.Compared
	moment     *store.Moment     // nil: it is not there yet
	wrong      map[string]string // what was wrong in it
	err        error
}

// Why a call or an attempt ends.
var (
	errLinkLost = wire.NewError(wire.CodeUnavailable, "the link is gone")
	errGivenUp  = wire.NewError(wire.CodeUnavailable, "the in-sync set has changed in its last round")
)

// beginRejoin mirrors the beginning of catchUp.
func (c *reign) beginRejoin(k *conn) {
	r := &rejoin{k: k}
	// The coordinator has noticed that the link is gone: l.ctx.Err().
	r.begin(c, func() bool { return k.gone }, r.catchUp)
	k.rejoin = r
	c.w.tracef("C%d has P%d catch up", c.epoch.Number, k.member.i)
}

// begin has a goroutine begin; nothing of it runs yet.
func (r *caller) begin(c *reign, over func() bool, fn func()) {
	r.w, r.c = c.w, c
	r.over = func() bool { return r.stopped || c.over || over() }
	r.next, r.stop = iter.Pull(func(yield func(struct{}) bool) {
		r.yield = yield
		fn()
	})
	c.w.callers = append(c.w.callers, r)
}

// goesOn lets it come to where it waits next.
func (r *caller) goesOn() {
	if _, more := r.next(); !more {
		r.done = true
	}
}

// ready: has what it waits for happened?
func (r *caller) ready() bool {
	return !r.done && (r.call == nil || r.call.done) && (r.task == nil || r.task.done) &&
		!slices.ContainsFunc(r.several, func(q *resyncCall) bool { return !q.done })
}

// waits lets others go on; false: it is over.
func (r *caller) waits() bool {
	if !r.stopped && !r.yield(struct{}{}) {
		r.stopped = true
	}
	return !r.over()
}

func (r *rejoin) catchUp() {
	for !r.over() {
		err := r.run()
		if name := r.k.member.name; err == nil && r.whole && r.c.book.ComparesAll(name) {
			r.w.gotAnew(r.k.member)
			if r.w.bystanders != nil && !r.w.trapped && r.w.chance(3) {
				r.w.doomed, r.w.trapped = r.c, true // between the admission and the end of the verdict
				if !r.idles() {
					return
				}
			}
			r.renews(name, false)
		}
		if err == nil || r.over() {
			return
		}
		r.w.reach(reachInterrupted)
		r.w.tracef("catching up of P%d begins again: %v", r.k.member.i, err)
		if !r.waits() {
			return
		}
	}
}

func (r *rejoin) run() error {
	var donors []*conn
	for doubt := 0; doubt <= 2 && len(donors) == 0; doubt++ { // mirrors pick
		for _, k := range r.c.others(-1) {
			if r.c.book.Doubt(k.member.name) == doubt {
				donors = append(donors, k)
			}
		}
	}
	if len(donors) == 0 {
		return wire.NewError(wire.CodeUnavailable, "no participant is in sync and there to copy from")
	}
	r.donor = donors[r.w.rng.IntN(len(donors))]
	r.whole = r.c.book.ComparesAll(r.k.member.name) || r.c.book.Lost
	got, err := r.resync(wire.Resync{Step: wire.ResyncBegin, Full: r.whole}, nil)
	if err != nil {
		return err
	}
	r.since, r.full = got.Since, got.Full
	if r.full {
		r.w.reach(reachFullCopy)
	}
	for {
		if err := r.middleRound(); err != nil {
			return err
		}
		if !r.quick || r.w.chance(3) { // much is left
			continue
		}
		again, err := r.lastRound()
		if err != nil || !again {
			return err
		}
	}
}

func (r *rejoin) middleRound() error {
	at := r.c.readPoint
	if at == 0 {
		return errGivenUp
	}
	if err := r.round(at); err != nil {
		return err
	}
	start := wire.Position{Epoch: r.c.epoch.Number, Index: at}
	if _, err := r.resync(wire.Resync{Step: wire.ResyncRound, Position: start}, nil); err != nil {
		return err
	}
	r.since, r.full = start, false
	return r.paces()
}

// paces mirrors the function; how long the disk has taken is anybody's guess.
func (r *rejoin) paces() error {
	took := int64(0)
	if !r.w.settling && r.w.chance(6) {
		took = 60_000
	}
	if !r.waits() {
		return errGivenUp
	}
	r.c.turn(func() { r.quick = r.c.m.RoundTook(r.k.member.i, r.k.number, 0, took) })
	if !r.quick && !r.waits() { // slowPause
		return errGivenUp
	}
	return nil
}

func (r *rejoin) round(index uint64) error {
	var cursor []byte
	for more := true; more; {
		d, body, err := r.donates(r.donor, wire.Donate{Index: index, Since: r.since, Full: r.full, Cursor: cursor})
		if err != nil {
			return err
		}
		if d.TooOld {
			r.w.reach(reachTooOld)
			if _, err := r.resync(wire.Resync{Step: wire.ResyncBegin, Full: true}, nil); err != nil {
				return err
			}
			r.full, r.whole, cursor = true, true, nil
			continue
		}
		_, err = r.resync(wire.Resync{Step: wire.ResyncRows, Full: r.full, Position: d.Position, Cursor: cursor, Next: d.Cursor}, body)
		if err != nil {
			return err
		}
		cursor, more = d.Cursor, len(d.Cursor) > 0
	}
	return r.blocks(index)
}

func (r *rejoin) blocks(index uint64) error {
	for {
		v, err := r.resync(wire.Resync{Step: wire.ResyncVerify}, nil)
		if err != nil {
			return err
		}
		for _, k := range v.Lacks {
			for len(k.Blocks) > 0 {
				n := min(len(k.Blocks), wire.MaxDonated)
				if err := r.bring(wire.Donate{Index: index, Ino: k.Ino, Object: k.Object, Blocks: k.Blocks[:n]}); err != nil {
					return err
				}
				k.Blocks = k.Blocks[n:]
			}
		}
		if !v.More && len(v.Lacks) == 0 {
			return nil
		}
	}
}

// bring mirrors the function.
func (r *rejoin) bring(req wire.Donate) error {
	for _, k := range append([]*conn{r.donor}, r.c.others(r.donor.member.i)...) {
		given, rotten, err := r.blocksOf(k, req)
		if err != nil && k == r.donor {
			return err
		}
		if err != nil {
			continue
		}
		for _, d := range given {
			if _, err := r.resync(wire.Resync{Step: wire.ResyncBlocks, Ino: req.Ino, Object: req.Object, Blocks: d.Blocks}, d.body); err != nil {
				return err
			}
		}
		if req.Blocks = rotten; len(rotten) == 0 {
			return nil
		}
	}
	r.w.lastBlocks(r.c)
	return wire.NewError(wire.CodeCorrupt, "blocks are rotten at all participants")
}

func (r *rejoin) lastRound() (again bool, err error) {
	if !r.pause() {
		return r.waits(), errGivenUp
	}
	defer r.unpause()
	j, err := r.drain()
	if err != nil {
		return false, err
	}
	if err := r.round(j.Position.Index); err != nil {
		return false, err
	}
	join := &wire.Join{Position: j.Position, W: j.W, Config: j.Config, ServiceTime: j.ServiceTime, LastID: j.LastID}
	if _, err := r.resync(wire.Resync{Step: wire.ResyncFinish, Join: join}, nil); err != nil {
		if wire.CodeOf(err) == wire.CodeBusy {
			return true, nil
		}
		r.drop()
		return false, err
	}
	if !r.waits() {
		return false, errGivenUp
	}
	admitted := false
	r.c.turn(func() { admitted = r.c.m.Admit(r.k.member.i, r.k.number) })
	if !admitted {
		r.w.reach(reachNotAdmitted)
		r.drop()
		return false, errGivenUp
	}
	r.w.reach(reachAdmitted)
	r.w.tracef("P%d has caught up", r.k.member.i)
	return false, nil
}

// drop mirrors l.cancel.
func (r *rejoin) drop() {
	r.k.breaks(false)
	r.k.gone = true
}

// unpause comes whatever has become of the link.
func (r *rejoin) unpause() {
	if !r.stopped && !r.c.over {
		r.c.turn(func() { r.c.m.Unpause(r.k.member.i) })
	}
}

// pause mirrors the function; how long it waits for stages is anybody's guess.
func (r *rejoin) pause() bool {
	for r.waits() {
		paused, asked := false, false
		r.c.turn(func() {
			if asked = r.c.m.Staging() == 0 || r.w.chance(4); asked {
				paused = r.c.m.Pause(r.k.member.i, r.k.number)
			}
		})
		if asked {
			return paused
		}
	}
	return false
}

func (r *rejoin) drain() (commit.Joining, error) {
	for r.waits() {
		var j commit.Joining
		drained, over := false, false
		r.c.turn(func() { j, drained, over = r.c.m.Drained(r.k.member.i, r.k.number) })
		switch {
		case over, !r.w.settling && r.w.chance(60): // lastRoundWait
			return j, errGivenUp
		case drained:
			return j, nil
		}
	}
	return commit.Joining{}, errGivenUp
}

func (r *caller) donates(k *conn, req wire.Donate) (wire.Donated, []byte, error) {
	req.Epoch = r.c.epoch
	q := &resyncCall{k: k, donate: &req}
	if err := r.does(q); err != nil {
		return wire.Donated{}, nil, err
	}
	if r.w.encode {
		q.donated = transmit(q.donated)
	}
	return q.donated, q.body, nil
}

func (r *rejoin) resync(req wire.Resync, body []byte) (wire.Resynced, error) {
	req.Epoch = r.c.epoch
	if r.w.encode {
		req = transmit(req)
	}
	q := &resyncCall{k: r.k, req: req, body: body}
	err := r.does(q)
	if err == nil && r.w.encode {
		q.reply = transmit(q.reply)
	}
	return q.reply, err
}

// does makes a call and waits for its end.
func (r *caller) does(q *resyncCall) error {
	if q.k.cut {
		q.done, q.err = true, errLinkLost
	} else {
		q.k.calls = append(q.k.calls, q)
	}
	r.call = q
	on := r.waits()
	r.call = nil
	if !on {
		q.canceled = true
		return errLinkLost
	}
	return q.err
}

// doesAll makes calls at once and waits for the end of all.
func (r *caller) doesAll(list []*resyncCall) {
	for _, q := range list {
		if q.k.cut {
			q.done, q.err = true, errLinkLost
		} else {
			q.k.calls = append(q.k.calls, q)
		}
	}
	r.several = list
	if !r.waits() {
		for _, q := range list {
			q.canceled, q.err = true, errLinkLost
		}
	}
	r.several = nil
}
