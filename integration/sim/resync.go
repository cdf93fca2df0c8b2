package sim

import (
	"slices"

	"tpcfs/wire"
)

// What a participant does of catching up: participant/resync.go. A Resync is a
// task; what of it belongs to the owner is done at one go.

// callsOf lists the calls that have arrived and have not begun.
func (p *member) callsOf() []*resyncCall {
	var list []*resyncCall
	for _, c := range p.w.reigns() {
		if k := c.conns[p.i]; k != nil && !k.half() {
			list = append(list, k.calls...)
		}
	}
	return list
}

// mayResync: is there a call that can go on?
func (p *member) mayResync() bool { return len(p.resyncs) > 0 || len(p.callsOf()) > 0 }

// resyncGoesOn lets a call that is here begin, or go on.
func (p *member) resyncGoesOn() {
	list := append(p.callsOf(), p.resyncs...)
	q := list[p.w.rng.IntN(len(list))]
	switch {
	case q.donate != nil:
		p.donate(q)
		return
	case q.verify != nil:
		p.verify(q)
		return
	case q.compare != nil:
		p.compare(q)
		return
	case q.task == nil && q.repair != nil:
		q.k.calls = slices.DeleteFunc(q.k.calls, func(o *resyncCall) bool { return o == q })
		q.task = p.start("repair", func(t *task) { q.err = p.repair(t, q) })
		p.resyncs = append(p.resyncs, q)
	case q.task == nil:
		q.k.calls = slices.DeleteFunc(q.k.calls, func(o *resyncCall) bool { return o == q })
		q.task = p.start("resync", func(t *task) { p.resync(t, q) })
		p.resyncs = append(p.resyncs, q)
	}
	p.runResync(q, p.w.someOps())
}

func (p *member) runResync(q *resyncCall, n int) {
	q.task.run(n)
	if !q.task.done {
		return
	}
	p.resyncs = slices.DeleteFunc(p.resyncs, func(o *resyncCall) bool { return o == q })
	if p.steps == q {
		p.steps = nil
	}
	q.done = true
	if q.k.cut && q.err == nil {
		q.err = errLinkLost
	}
}

// donate mirrors Donate: the gate first, then the rows of a later moment.
func (p *member) donate(q *resyncCall) {
	first := !q.looked
	if q.looked = true; q.position.Epoch == 0 {
		open, err := p.gateOpen(q.donate.Epoch, q.donate.Index)
		switch {
		case err != nil:
			q.ends(err)
		case open && first:
			q.position = wire.Position{Epoch: q.donate.Epoch.Number, Index: p.gateHandled}
		case open:
			q.position = wire.Position{Epoch: q.donate.Epoch.Number, Index: q.donate.Index}
		}
		return
	}
	if p.m.Resync() != "" {
		q.ends(wire.NewError(wire.CodeProtocol, "this participant is out of sync itself"))
		return
	}
	d, body, err := p.store.Donate(*q.donate)
	if err != nil {
		p.storeError(err)
		q.ends(err)
		return
	}
	d.Position = q.position
	q.donated, q.body = d, body
	q.ends(nil)
}

// ends ends a call that is no task.
func (q *resyncCall) ends(err error) {
	q.k.calls = slices.DeleteFunc(q.k.calls, func(o *resyncCall) bool { return o == q })
	q.done, q.err = true, err
}

// lost is what a call's link being cut does to it.
func (q *resyncCall) lost() {
	q.canceled = true
	if q.task == nil {
		q.ends(errLinkLost)
		return
	}
	q.done, q.err = true, errLinkLost
}

func (p *member) resync(t *task, q *resyncCall) {
	for p.steps != nil {
		if err := p.await(t, q); err != nil {
			q.err = err
			return
		}
	}
	p.steps = q
	err := p.resyncStep(t, q)
	p.steps = nil
	if err == nil {
		err = p.visit(t, q, func() error { q.reply.Progress, _ = p.store.Copying(); return nil })
	}
	if err != nil {
		q.reply, q.err = wire.Resynced{}, err
	}
}

func (p *member) resyncStep(t *task, q *resyncCall) (err error) {
	nothing := func() (bool, error) { return false, nil }
	switch q.req.Step {
	case wire.ResyncBegin:
		return p.resyncBegin(t, q)
	case wire.ResyncRows:
		rows, err := wire.DecodeRows(q.body)
		if err != nil {
			return err
		}
		return p.resyncDo(t, q, func() (bool, error) { return p.store.CopyRows(&q.req, rows) })
	case wire.ResyncVerify:
		if err = p.resyncDo(t, q, nothing); err == nil {
			q.reply.Lacks, q.reply.More, err = p.store.CopyVerify(background)
			p.storeError(err)
		}
		return err
	case wire.ResyncBlocks:
		return p.resyncDo(t, q, func() (bool, error) { return false, p.store.CopyBlocks(&q.req, q.body) })
	case wire.ResyncRound:
		if err = p.resyncDo(t, q, func() (bool, error) { return false, p.store.EndRound(q.req.Position) }); err == nil {
			err = p.resyncCheckpoint(t, q)
		}
		return err
	default:
		return p.resyncFinish(t, q)
	}
}

// visit mirrors Participant.do: something the owner does at its next turn.
func (p *member) visit(t *task, q *resyncCall, fn func() error) error {
	if !p.stopping && !t.over {
		t.yield(struct{}{})
	}
	if t.over || p.stopping || p.fatal != nil {
		return errEnded
	}
	if q.canceled && p.w.chance(2) {
		return errLinkLost
	}
	t.h.current = nil
	err := fn()
	t.h.current = t
	p.storeError(err)
	return err
}

// owned mirrors the function.
func (p *member) owned(t *task, q *resyncCall, fn func() error) error {
	return p.visit(t, q, func() error {
		switch {
		case q.req.Epoch != p.gateEpoch:
			return wire.NewError(wire.CodeStaleEpoch, "another epoch holds")
		case p.m.Resync() == "":
			return wire.NewError(wire.CodeProtocol, "this participant is not out of sync")
		default:
			return fn()
		}
	})
}

// await lets others go on once.
func (p *member) await(t *task, q *resyncCall) error {
	if p.stopping || !t.wait() {
		return errEnded
	}
	if q.canceled {
		return errLinkLost
	}
	return nil
}

func (p *member) resyncDo(t *task, q *resyncCall, fn func() (bool, error)) error {
	for {
		again, full := false, false
		err := p.owned(t, q, func() (err error) {
			if full = p.store.TableFull(); !full {
				again, err = fn()
			}
			return err
		})
		if err == nil && full {
			again, err = true, p.resyncCheckpoint(t, q)
		}
		if err != nil || !again {
			return err
		}
	}
}

// awaitCheckpoint waits until one more checkpoint has ended.
func (p *member) awaitCheckpoint(t *task, q *resyncCall) error {
	for n := p.checkpoints; p.checkpoints == n; {
		if err := p.await(t, q); err != nil {
			return err
		}
	}
	return nil
}

func (p *member) resyncCheckpoint(t *task, q *resyncCall) error {
	return p.newCheckpoint(t, q, func(fn func() error) error { return p.owned(t, q, fn) })
}

func (p *member) newCheckpoint(t *task, q *resyncCall, owned func(fn func() error) error) error {
	for begun := false; ; {
		over := false
		err := owned(func() error {
			if p.ck == nil && !begun {
				p.freeze()
				begun = p.ck != nil
			} else if p.ck == nil {
				over = true
			}
			return nil
		})
		if err != nil || over {
			return err
		}
		if err := p.awaitCheckpoint(t, q); err != nil {
			return err
		}
	}
}

func (p *member) resyncBegin(t *task, q *resyncCall) error {
	var sweeping *task
	if err := p.owned(t, q, func() error { sweeping = p.sweep; return nil }); err != nil {
		return err
	}
	for sweeping != nil && !sweeping.done {
		if err := p.await(t, q); err != nil {
			return err
		}
	}
	if err := p.resyncCheckpoint(t, q); err != nil {
		return err
	}
	return p.owned(t, q, func() (err error) {
		q.reply.Since, q.reply.Full, err = p.store.BeginCopy(p.m.Since(), q.req.Full)
		return err
	})
}

func (p *member) resyncFinish(t *task, q *resyncCall) error {
	for {
		begun := false
		err := p.owned(t, q, func() error {
			if e := p.m.CheckJoin(q.req.Join); e != nil {
				return e
			}
			if p.ck == nil {
				ck, err := p.store.EndCopy(p.end, p.m.Joined(q.req.Join))
				if err != nil {
					return err
				}
				p.w.tracef("P%d makes durable what it has caught up with", p.i)
				p.join, begun = q.req.Join, true
				p.runCheckpoint(ck)
			}
			return nil
		})
		if err == nil {
			err = p.awaitCheckpoint(t, q)
		}
		if err != nil || begun {
			return err
		}
	}
}

// checkpointed mirrors the function.
func (p *member) checkpointed() {
	p.checkpoints++
	if p.join != nil {
		p.m.Join(p.join)
		p.votes, p.entries, p.durable = nil, nil, p.join.Position.Index
		p.gateHandled = max(p.gateHandled, p.durable)
		p.w.tracef("P%d is at %v, without a mark", p.i, p.join.Position)
		p.join = nil
		p.post(nil)
		p.startSweep()
	}
	greets := p.joinGreets
	p.joinGreets = nil
	for _, k := range greets {
		p.greetArrives(k)
	}
}
