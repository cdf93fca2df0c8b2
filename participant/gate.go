package participant

import (
	"context"
	"fmt"
	"sync"

	"tpcfs/wire"
)

// gate lets a request of an epoch pass once that epoch's stream is handled up
// to the request's position (P5), and refuses what is older than the fence (P6).
type gate struct {
	mu      sync.Mutex // guards everything below
	epoch   wire.Epoch
	handled uint64 // index of the last entry handled in epoch
	waiters map[*waiter]struct{}
	closed  error
}

type waiter struct {
	index uint64
	done  chan error // capacity 1
}

func newGate(epoch wire.Epoch, handled uint64) *gate {
	return &gate{epoch: epoch, handled: handled, waiters: map[*waiter]struct{}{}}
}

// check returns nil if the epoch is the one that holds.
func (g *gate) check(epoch wire.Epoch) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.checkLocked(epoch)
}

func (g *gate) checkLocked(epoch wire.Epoch) error {
	switch {
	case g.closed != nil:
		return g.closed
	case epoch == g.epoch:
		return nil
	case epoch.Number > g.epoch.Number:
		return &wire.Error{Code: wire.CodeProtocol, Text: fmt.Sprintf("epoch %d has not greeted this participant yet", epoch.Number)}
	default:
		return &wire.Error{Code: wire.CodeStaleEpoch, Text: fmt.Sprintf("epoch %d has greeted this participant; %d is over", g.epoch.Number, epoch.Number)}
	}
}

// wait returns, when entry index of the epoch is handled, the position handled by then.
func (g *gate) wait(ctx context.Context, epoch wire.Epoch, index uint64) (wire.Position, error) {
	g.mu.Lock()
	if err := g.checkLocked(epoch); err != nil || g.handled >= index {
		defer g.mu.Unlock()
		return wire.Position{Epoch: g.epoch.Number, Index: g.handled}, err
	}
	w := &waiter{index, make(chan error, 1)}
	g.waiters[w] = struct{}{}
	g.mu.Unlock()
	select {
	case err := <-w.done:
		return wire.Position{Epoch: epoch.Number, Index: index}, err
	case <-ctx.Done():
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.waiters, w)
		return wire.Position{}, canceled(ctx)
	}
}

// advance tells that the stream is handled up to index.
func (g *gate) advance(index uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.handled = max(g.handled, index)
	for w := range g.waiters {
		if w.index <= g.handled {
			delete(g.waiters, w)
			w.done <- nil
		}
	}
}

// fence begins an epoch: whoever waits in an older one is refused.
func (g *gate) fence(epoch wire.Epoch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.epoch
	g.epoch, g.handled = epoch, 0
	g.failLocked(g.checkLocked(old))
}

// behind holds everybody back until advance: what was handled is void (P11).
func (g *gate) behind() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.handled = 0
}

// close refuses everything from now on.
func (g *gate) close(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == nil {
		g.closed = err
		g.failLocked(err)
	}
}

func (g *gate) failLocked(err error) {
	for w := range g.waiters {
		delete(g.waiters, w)
		w.done <- err
	}
}

func canceled(ctx context.Context) *wire.Error {
	return &wire.Error{Code: wire.CodeCanceled, Text: ctx.Err().Error()}
}
