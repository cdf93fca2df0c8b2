package participant

import (
	"context"
	"slices"
	"time"

	"tpcfs/participant/store"
	"tpcfs/wire"
)

// Verify implements wire.Replica (S5).
func (p *Participant) Verify(ctx context.Context, req wire.Verify) (wire.Verified, error) {
	if _, err := p.gate.wait(ctx, req.Epoch, req.Index); err != nil {
		return wire.Verified{}, err
	}
	release, err := p.use()
	if err != nil {
		return wire.Verified{}, err
	}
	defer release()
	if err := p.ownedBy(ctx, req.Epoch)(func() error { return p.inSync("verify") }); err != nil {
		return wire.Verified{}, err
	}
	v, err := p.store.Verify(ctx, req)
	if err != nil {
		return wire.Verified{}, p.foundDamage(err)
	}
	return v, nil
}

// momentWait is how long a Compare waits for its position: nothing may come.
const momentWait = 200 * time.Millisecond

// momentWaiter waits for the moment after an entry.
type momentWaiter struct {
	at    wire.Position
	found chan foundMoment // capacity 1
}

type foundMoment struct {
	m   *store.Moment
	at  wire.Position
	err error
}

// Compare implements wire.Replica: rows of one position, which the coordinator asks
// all members for.
func (p *Participant) Compare(ctx context.Context, req wire.Compare) (wire.Compared, []byte, error) {
	release, err := p.use()
	if err != nil {
		return wire.Compared{}, nil, err
	}
	defer release()
	f, err := p.momentAt(ctx, &req)
	if err != nil {
		return wire.Compared{}, nil, err
	}
	defer f.m.Close()
	c, body, err := f.m.Compare(req)
	if err != nil {
		return wire.Compared{}, nil, p.foundDamage(err)
	}
	c.Position = f.at
	return c, body, nil
}

// foundDamage is storeError for who looks for damage: the participant ends, and
// the answer says why, if it still gets there.
func (p *Participant) foundDamage(err error) error {
	stopping := p.storeError(err)
	if why := p.store.Damaged(); why != "" {
		return &wire.Error{Code: wire.CodeCorrupt, Op: "verify", Text: "its metadata are damaged, and it ends: " + why + "; start it on an empty directory"}
	}
	return stopping
}

// momentAt returns the moment when the entry at the request's position was the last
// one that was handled; that of now if others have been since, or if it does not come.
func (p *Participant) momentAt(ctx context.Context, req *wire.Compare) (foundMoment, error) {
	w := &momentWaiter{at: wire.Position{Epoch: req.Epoch.Number, Index: req.Index}, found: make(chan foundMoment, 1)}
	owned := p.ownedBy(ctx, req.Epoch)
	err := owned(func() error {
		if err := p.inSync("compare"); err != nil {
			return err
		}
		if p.m.Position().Index >= req.Index {
			w.found <- p.moment()
		} else {
			p.moments = append(p.moments, w)
		}
		return nil
	})
	if err != nil {
		return foundMoment{}, err
	}
	timer := time.NewTimer(momentWait)
	defer timer.Stop()
	select {
	case f := <-w.found:
		return f, p.storeError(f.err)
	case <-timer.C:
	case <-ctx.Done():
	case <-p.stopping:
	}
	err = owned(func() error {
		if i := slices.Index(p.moments, w); i >= 0 {
			p.moments = slices.Delete(p.moments, i, i+1)
			w.found <- p.moment()
		}
		return nil
	})
	if err != nil { // the owner drops it when it fires, or has
		p.abandon(w)
		return foundMoment{}, err
	}
	f := <-w.found
	return f, p.storeError(f.err)
}

// moment is that of now. Owner only.
func (p *Participant) moment() foundMoment {
	m, err := p.store.Moment()
	return foundMoment{m, p.m.Position(), err}
}

// abandon gives up a moment that nobody waits for any more.
func (p *Participant) abandon(w *momentWaiter) {
	_ = p.do(context.Background(), func() { // else the participant ends, and drops it
		p.moments = slices.DeleteFunc(p.moments, func(o *momentWaiter) bool { return o == w })
	})
	select {
	case f := <-w.found:
		if f.m != nil {
			f.m.Close()
		}
	default:
	}
}

// reached gives those their moment who wait for an entry that is handled now.
func (p *Participant) reached() {
	if len(p.moments) == 0 {
		return
	}
	now := p.m.Position()
	p.moments = slices.DeleteFunc(p.moments, func(w *momentWaiter) bool {
		if w.at.Epoch == now.Epoch && w.at.Index > now.Index {
			return false
		}
		w.found <- p.moment()
		return true
	})
}
