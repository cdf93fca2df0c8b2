package participant

import (
	"context"
	"fmt"

	"tpcfs/participant/store"
	"tpcfs/wire"
	"tpcfs/wire/failpoint"
)

// Donate implements wire.Replica. Who is out of sync gives nothing (P11).
func (p *Participant) Donate(ctx context.Context, req wire.Donate) (wire.Donated, []byte, error) {
	position, err := p.gate.wait(ctx, req.Epoch, req.Index)
	if err != nil {
		return wire.Donated{}, nil, err
	}
	release, err := p.use()
	if err != nil {
		return wire.Donated{}, nil, err
	}
	defer release()
	var marked error
	if err := p.do(ctx, func() { marked = p.inSync("donate") }); err != nil {
		return wire.Donated{}, nil, err
	}
	if marked != nil {
		return wire.Donated{}, nil, marked
	}
	d, body, err := p.store.Donate(req)
	if err != nil {
		return wire.Donated{}, nil, p.storeError(err)
	}
	d.Position = position
	return d, body, nil
}

// resyncing is what of a newcomer's catching up belongs to the owner (P11).
type resyncing struct {
	attempt uint64          // the number of the last Begin, or of what a greeting has ended
	waiting []chan struct{} // for the checkpoint that runs to end
	join    *wire.Join      // what that checkpoint makes durable; nil: nothing of the kind
	greets  []func(error)   // they wait for that, so that they are answered from what is durable
}

// Resync implements wire.Replica: one step at a time.
func (p *Participant) Resync(ctx context.Context, req wire.Resync, body []byte) (wire.Resynced, error) {
	var reply wire.Resynced
	release, err := p.use()
	if err != nil {
		return reply, err
	}
	defer release()
	select {
	case p.steps <- struct{}{}:
		defer func() { <-p.steps }()
	case <-ctx.Done():
		return reply, canceled(ctx)
	}
	switch req.Step {
	case wire.ResyncBegin:
		err = p.resyncBegin(ctx, &req, &reply)
	case wire.ResyncRows:
		err = p.resyncRows(ctx, &req, body)
	case wire.ResyncVerify:
		if err = p.resyncDo(ctx, &req, func() (bool, error) { return false, nil }); err == nil {
			reply.Lacks, reply.More, err = p.store.CopyVerify(ctx)
			err = p.storeError(err)
		}
	case wire.ResyncBlocks:
		err = p.resyncDo(ctx, &req, func() (bool, error) { return false, p.store.CopyBlocks(&req, body) })
	case wire.ResyncRound:
		if err = p.resyncDo(ctx, &req, func() (bool, error) { return false, p.store.EndRound(req.Position) }); err == nil {
			err = p.resyncCheckpoint(ctx, &req)
		}
	case wire.ResyncFinish:
		err = p.resyncFinish(ctx, &req)
	default:
		err = &wire.Error{Code: wire.CodeUnsupported, Op: "resync", Text: "this participant does not know the " + req.Step.String()}
	}
	if err != nil {
		return wire.Resynced{}, err
	}
	err = p.do(ctx, func() { reply.Progress, _ = p.store.Copying() })
	return reply, err
}

// owned runs fn in the owner if the participant is marked and the epoch holds.
func (p *Participant) owned(ctx context.Context, req *wire.Resync, fn func() error) error {
	var failed error
	err := p.do(ctx, func() {
		switch failed = p.gate.check(req.Epoch); {
		case failed != nil:
		case p.m.Resync() == "":
			failed = &wire.Error{Code: wire.CodeProtocol, Op: "resync", Text: "this participant is not out of sync"}
		case req.Step != wire.ResyncBegin && req.Attempt != p.resync.attempt:
			failed = &wire.Error{Code: wire.CodeProtocol, Op: "resync",
				Text: fmt.Sprintf("a step of attempt %d to catch up: attempt %d has begun since, or a greeting has come", req.Attempt, p.resync.attempt)}
		default:
			failed = fn()
		}
	})
	if err != nil {
		return err
	}
	return p.storeError(failed)
}

// resyncDo does a part of the copying, again as long as fn says so; where the
// table is full a checkpoint empties it first (S3).
func (p *Participant) resyncDo(ctx context.Context, req *wire.Resync, fn func() (again bool, err error)) error {
	for {
		again, full := false, false
		err := p.owned(ctx, req, func() (err error) {
			if full = p.store.TableFull(); !full {
				again, err = fn()
			}
			return err
		})
		if err == nil && full {
			again, err = true, p.resyncCheckpoint(ctx, req)
		}
		if err != nil || !again {
			return err
		}
	}
}

// resyncCheckpoint makes a checkpoint of all that is in the table, and waits for it.
func (p *Participant) resyncCheckpoint(ctx context.Context, req *wire.Resync) error {
	return p.newCheckpoint(ctx, func(fn func() error) error { return p.owned(ctx, req, fn) })
}

// newCheckpoint does that; owned runs a function in the owner.
func (p *Participant) newCheckpoint(ctx context.Context, owned func(fn func() error) error) error {
	for begun := false; ; {
		wait := make(chan struct{})
		over := false
		err := owned(func() error {
			if !p.running && !begun {
				p.startCheckpoint()
				begun = p.running
			} else if !p.running {
				over = true
				return nil
			}
			p.resync.waiting = append(p.resync.waiting, wait)
			return nil
		})
		if err != nil || over {
			return err
		}
		if err := p.await(ctx, wait); err != nil {
			return err
		}
	}
}

func (p *Participant) await(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return canceled(ctx)
	case <-p.stopping:
		return errStopping
	}
}

func (p *Participant) resyncBegin(ctx context.Context, req *wire.Resync, reply *wire.Resynced) error {
	var sweeping chan struct{}
	if err := p.owned(ctx, req, func() error { sweeping = p.sweeping; return nil }); err != nil {
		return err
	}
	if sweeping != nil { // it must not remove what is about to be named
		if err := p.await(ctx, sweeping); err != nil {
			return err
		}
	}
	if err := p.resyncCheckpoint(ctx, req); err != nil {
		return err
	}
	return p.owned(ctx, req, func() (err error) {
		p.resync.attempt++
		reply.Attempt = p.resync.attempt
		reply.Since, reply.Full, err = p.store.BeginCopy(p.m.Since(), req.Full)
		return err
	})
}

func (p *Participant) resyncRows(ctx context.Context, req *wire.Resync, body []byte) error {
	rows, err := wire.DecodeRows(body)
	if err != nil {
		return err
	}
	return p.resyncDo(ctx, req, func() (bool, error) { return p.store.CopyRows(req, rows) })
}

// resyncFinish makes the last checkpoint: the mark is gone when it is durable.
func (p *Participant) resyncFinish(ctx context.Context, req *wire.Resync) error {
	if req.Join == nil {
		return &wire.Error{Code: wire.CodeProtocol, Op: "resync", Text: "a finish that does not say of what"}
	}
	for {
		wait, begun := make(chan struct{}), false
		err := p.owned(ctx, req, func() error {
			if e := p.m.CheckJoin(req.Join); e != nil {
				return e
			}
			if !p.running {
				ck, err := p.store.EndCopy(p.end, p.m.Joined(req.Join))
				if err != nil {
					return err
				}
				failpoint.At("participant.joining")
				p.resync.join, begun = req.Join, true
				p.runCheckpoint(ck)
			}
			p.resync.waiting = append(p.resync.waiting, wait)
			return nil
		})
		if err == nil {
			err = p.await(ctx, wait)
		}
		if err != nil || begun {
			return err
		}
	}
}

// runCheckpoint leaves a checkpoint's disk work to another goroutine.
func (p *Participant) runCheckpoint(ck *store.Checkpoint) {
	p.running, p.frozenAt, p.carried = true, p.end, 0
	p.freezes++
	p.stored = p.writer.Stats().StoredBytes
	p.runs.Go(func() {
		p.checkpoint <- ck.Run(p.syncJournal)
		p.bring(dueCheckpoint, nil)
	})
}

// checkpointed is called when a checkpoint is durable: whoever waited for it goes on.
func (p *Participant) checkpointed() {
	r := &p.resync
	if r.join != nil {
		p.m.Join(r.join)
		p.votes, p.entries, p.durable = nil, nil, r.join.Position.Index
		p.gate.advance(p.durable)
		p.log.Info("caught up", "dir", p.o.Dir, "position", r.join.Position)
		r.join = nil
		p.post(nil)
		p.sweep()
	}
	for _, c := range r.waiting {
		close(c)
	}
	greets := r.greets
	r.waiting, r.greets = nil, nil
	for _, greet := range greets {
		greet(nil)
	}
}
