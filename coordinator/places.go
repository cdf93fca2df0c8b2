package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"tpcfs/wire"
)

// What clients share is theirs for as long as they use it, or nobody else wants
// it (W3): Options.Patience is how long a client may keep others waiting, and
// leastFlow is how many bytes it has to bring or take for that to begin anew.
const leastFlow = 64 << 10

// places are those of contents that are being staged, or read. Who comes when
// all are taken waits. Of those who wait, the owner that has the fewest places
// goes first; meanwhile the client that has been silent for longest, and for
// more than patience, loses its place to them.
type places struct {
	limit    int
	patience time.Duration
	busy     string // what those are told whose wait is over

	mu      sync.Mutex // guards everything below, and what places say is guarded
	held    map[*place]struct{}
	count   map[owner]int  // of held
	waiting []*placeWaiter // oldest first
}

// owner is a session that stages, or a link by which is read.
type owner [16]byte

// place is one stage's or read's.
type place struct {
	of    *places
	owner owner
	ctx   context.Context // ends when the place is lost
	lose  context.CancelFunc

	// Guarded by of.mu:
	since time.Time     // when it began to wait for its client; zero: it does not
	quiet time.Duration // how long it has waited for the bytes in got
	got   int
}

type placeWaiter struct {
	owner owner
	given chan *place // capacity 1
}

func newPlaces(limit int, patience time.Duration, busy string) *places {
	return &places{limit: limit, patience: patience, busy: busy, held: map[*place]struct{}{}, count: map[owner]int{}}
}

// take waits for a place until one of the contexts ends.
func (p *places) take(ctx, stopped context.Context, by owner) (*place, error) {
	w := &placeWaiter{owner: by, given: make(chan *place, 1)}
	p.mu.Lock()
	p.waiting = append(p.waiting, w)
	p.grantLocked()
	p.mu.Unlock()
	for {
		timer := time.NewTimer(p.evict())
		select {
		case pl := <-w.given:
			timer.Stop()
			return pl, nil
		case <-timer.C:
			continue
		case <-ctx.Done():
			p.withdraw(w)
			timer.Stop()
			return nil, &wire.Error{Code: asError(ctx.Err()).Code, Text: p.busy}
		case <-stopped.Done():
			p.withdraw(w)
			timer.Stop()
			return nil, errStopped
		}
	}
}

// try takes a place if one is free and nobody waits; nil: not so.
func (p *places) try(by owner) *place {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.held) >= p.limit || len(p.waiting) > 0 {
		return nil
	}
	return p.placeLocked(by)
}

func (p *places) placeLocked(by owner) *place {
	pl := &place{of: p, owner: by}
	pl.ctx, pl.lose = context.WithCancel(context.Background())
	p.held[pl] = struct{}{}
	p.count[by]++
	return pl
}

// grantLocked gives what is free to those who wait.
func (p *places) grantLocked() {
	for len(p.held) < p.limit && len(p.waiting) > 0 {
		first := 0
		for i, w := range p.waiting {
			if p.count[w.owner] < p.count[p.waiting[first].owner] {
				first = i
			}
		}
		w := p.waiting[first]
		p.waiting = slices.Delete(p.waiting, first, first+1)
		w.given <- p.placeLocked(w.owner)
	}
}

// evict takes a place from the most silent client, if it has been silent for
// long enough and somebody waits, and tells when to look again.
func (p *places) evict() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		return p.patience
	}
	var most *place
	var silent, waits time.Duration
	for pl := range p.held {
		wait := time.Duration(0)
		if !pl.since.IsZero() {
			wait = time.Since(pl.since)
		}
		// What has come before counts also while it is worked on; of two that took
		// as long, the one of which nothing comes now.
		if d := pl.quiet + wait; most == nil || d > silent || d == silent && wait > waits {
			most, silent, waits = pl, d, wait
		}
	}
	if most == nil || silent < p.patience {
		return max(p.patience-silent, time.Millisecond)
	}
	most.lose()
	p.freeLocked(most)
	return p.patience / 2
}

func (p *places) freeLocked(pl *place) {
	if _, has := p.held[pl]; !has { // it was lost before
		return
	}
	delete(p.held, pl)
	if p.count[pl.owner]--; p.count[pl.owner] == 0 {
		delete(p.count, pl.owner)
	}
	p.grantLocked()
}

// withdraw ends a wait; what was given meanwhile is given back.
func (p *places) withdraw(w *placeWaiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, w); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		return
	}
	pl := <-w.given
	pl.lose()
	p.freeLocked(pl)
}

// release gives the place back, if it was not lost.
func (pl *place) release() {
	pl.of.mu.Lock()
	defer pl.of.mu.Unlock()
	pl.lose()
	pl.of.freeLocked(pl)
}

// lost is what a client is told whose stage has lost its place.
func (pl *place) lost() *wire.Error {
	return &wire.Error{Code: wire.CodeUnavailable, Text: fmt.Sprintf(
		"less than %d KiB of contents came in %v while others waited to bring theirs: they have the place now; nothing changed", leastFlow>>10, pl.of.patience)}
}

// placeReader tells a place how its client does.
type placeReader struct {
	pl *place
	in wire.PieceReader
}

// ReadPiece implements wire.PieceReader.
func (r *placeReader) ReadPiece() (wire.Piece, error) {
	r.pl.note(true, 0)
	p, err := r.in.ReadPiece()
	n := len(p.Data)
	if errors.Is(err, io.EOF) { // all has come: its client keeps nobody waiting any more
		n = leastFlow
	}
	r.pl.note(false, n)
	return p, err
}

// note: its client is waited for from now on, or not any more, and it has brought
// or taken n bytes.
func (pl *place) note(waits bool, n int) {
	pl.of.mu.Lock()
	defer pl.of.mu.Unlock()
	if waits {
		pl.since = time.Now()
		return
	}
	pl.quiet += time.Since(pl.since)
	pl.since = time.Time{}
	if pl.got += n; pl.got >= leastFlow {
		pl.got, pl.quiet = 0, 0
	}
}

// interrupt ends what a peer's reader or writer is waiting for, if it can.
func interrupt(what any) {
	if i, ok := what.(wire.Interrupter); ok {
		i.Interrupt()
	}
}
