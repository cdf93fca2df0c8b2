package participant

import (
	"context"

	"tpcfs/wire"
)

// Repair implements wire.Replica (S5). Once the stream is handled up to the
// request's position, rows and bytes here are as new as what the donor gave.
func (p *Participant) Repair(ctx context.Context, req wire.Repair, body []byte) (wire.Repaired, error) {
	var reply wire.Repaired
	if _, err := p.gate.wait(ctx, req.Epoch, req.Index); err != nil {
		return reply, err
	}
	release, err := p.use()
	if err != nil {
		return reply, err
	}
	defer release()
	owned := p.ownedBy(ctx, req.Epoch)
	var taken []int64
	var learnt bool
	err = owned(func() (err error) {
		if err = p.inSync("repair"); err == nil {
			taken, learnt, err = p.store.Repair(&req, body)
		}
		return err
	})
	if err != nil {
		return reply, err
	}
	if learnt {
		if err := p.newCheckpoint(ctx, owned); err != nil {
			return reply, err
		}
	}
	if reply.Right, reply.Rotten, err = p.store.Repaired(req.Ino, req.Object, taken); err != nil {
		return wire.Repaired{}, p.storeError(err)
	}
	if len(reply.Right) > 0 {
		p.log.Info("rotten blocks are repaired", "dir", p.o.Dir, "object", req.Object, "blocks", len(reply.Right))
	}
	return reply, nil
}

// ownedBy returns what runs a function in the owner while the epoch holds.
func (p *Participant) ownedBy(ctx context.Context, epoch wire.Epoch) func(fn func() error) error {
	return func(fn func() error) error {
		var failed error
		err := p.do(ctx, func() {
			if failed = p.gate.check(epoch); failed == nil {
				failed = fn()
			}
		})
		if err != nil {
			return err
		}
		return p.storeError(failed)
	}
}

// inSync refuses what only a participant in sync does (P11). Owner only.
func (p *Participant) inSync(op string) error {
	if p.m.Resync() == "" {
		return nil
	}
	return &wire.Error{Code: wire.CodeProtocol, Op: op, Text: "this participant is out of sync itself"}
}
