package participant

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// due is what the owner has to look at.
type due uint8

const (
	dueSynced     due = 1 << iota // the journal has synced, or failed
	dueEntries                    // the stream has brought something
	dueQuiet                      // nothing has come for a while
	dueBeat                       // a heartbeat
	dueCheckpoint                 // a checkpoint has ended
	dueQuit                       // the end
)

// inbox is what is to be done with the machine. There is one owner at a time:
// whoever brings something while there is none becomes it, and does what is there
// on its own goroutine. Waking another one takes longer than most of what is done:
// a change goes from its connection to the journal, and from there to its vote,
// with one change of goroutines. Its length is bounded by the calls that wait for it.
type inbox struct {
	mu     sync.Mutex // guards the following; never held during a turn
	due    due
	calls  []func()
	owned  bool // somebody is the owner
	closed bool
	// wake, of capacity 1, passes ownership on to the owner goroutine.
	wake chan struct{}
}

// open makes the owner goroutine the first owner: until it begins nothing is done.
func (b *inbox) open() {
	b.owned = true
	b.wake = make(chan struct{}, 1)
	b.wake <- struct{}{}
}

// put adds what is due, and a call unless it is nil. owns: the caller has become
// the owner, and has to work. ok is false when the participant has ended.
func (b *inbox) put(what due, call func()) (owns, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false, false
	}
	b.due |= what
	if call != nil {
		b.calls = append(b.calls, call)
	}
	owns, b.owned = !b.owned, true
	return owns, true
}

// take is the owner's: what is to be done in a turn, of the kinds in only, and the
// calls where those are all. spare is used again.
func (b *inbox) take(only due, spare []func()) (what due, calls []func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	what = b.due & only
	b.due &^= what
	if only == dueAll {
		calls, b.calls = b.calls, spare[:0]
	}
	return what, calls
}

const dueAll = ^due(0)

// keeps: the owner has more to do; else there is none any more.
func (b *inbox) keeps() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.owned = b.due != 0 || len(b.calls) > 0
	return b.owned
}

// close: nothing more is taken, and what is left is dropped.
func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed, b.calls = true, nil
}

// someTurns are what another goroutine than the owner's does: what comes meanwhile is
// mostly little, and another wake.
const someTurns = 4

// manyTurns are what the owner's goroutine does before it looks at the time.
const manyTurns = 64

// bring tells the owner what is due; it may be done on the caller's goroutine before
// bring returns, so the caller holds no lock that a turn takes. false: there is no
// owner any more.
func (p *Participant) bring(what due, call func()) bool {
	owns, ok := p.inbox.put(what, call)
	if owns && p.work(someTurns, dueAll) {
		p.inbox.wake <- struct{}{} // there is room: only the owner passes it on
	}
	return ok
}

// work is the owner's: turn after turn, at most so many, while there is something
// to do; of the kinds in only. The caller is the owner still when more is left to
// do; after any number of turns, that is the participant's end.
func (p *Participant) work(turns int, only due) (more bool) {
	defer crash()
	for ; turns > 0 && !p.ending(); turns-- {
		what, calls := p.inbox.take(only, p.spare)
		p.turn(what, calls)
		if only == dueAll {
			p.spare = calls // that which was given is in use
		}
		if !p.ending() && !p.inbox.keeps() {
			return false
		}
	}
	return true
}

// ending: Close was called, or the participant has failed.
func (p *Participant) ending() bool { return p.fatal != nil || p.quitting }

// crash ends the process if the caller panics: the machine is not what it should
// be, and whoever has called would go on.
func crash() {
	if r := recover(); r != nil {
		stack := debug.Stack()
		go panic(fmt.Sprintf("%v, in\n%s", r, stack))
		select {}
	}
}

// turn does what was brought, until that is all or the participant has failed
// (P12): everything that changes the machine happens here, by one goroutine at a
// time.
func (p *Participant) turn(what due, calls []func()) {
	step := func(of due, do func()) {
		if what&of != 0 && p.fatal == nil {
			do()
		}
	}
	step(dueSynced, p.handleSynced)
	step(dueQuiet, p.handleQuiet)
	step(dueBeat, p.handleBeat)
	step(dueCheckpoint, p.takeCheckpoint)
	step(dueQuit, func() { p.quitting = true })
	step(dueEntries, p.handleEntries) // before calls: who asks after it has sent finds that handled
	for i, call := range calls {
		if p.fatal == nil {
			call()
		}
		calls[i] = nil
	}
}

// run is the owner goroutine: it keeps the time, goes on with what others leave of
// their work, and ends the participant.
func (p *Participant) run() {
	defer close(p.done)
	defer p.beat.Stop()
	<-p.inbox.wake
	p.maybeCheckpoint()
	if p.m.Opened() { // the sweep that OPEN began may not have ended
		p.sweep()
	}
	for owns, quit := true, p.quit; ; {
		if owns && p.work(manyTurns, dueAll) {
			if p.ending() {
				p.teardown()
				return
			}
			p.inbox.wake <- struct{}{} // as below: it looks at the time between
		}
		select {
		case <-p.inbox.wake:
			owns = true
		case <-p.quiet.C:
			owns, _ = p.inbox.put(dueQuiet, nil)
		case <-p.beat.C:
			owns, _ = p.inbox.put(dueBeat, nil)
		case <-quit:
			quit = nil
			owns, _ = p.inbox.put(dueQuit, nil)
		}
	}
}

// do runs fn in the owner and waits for it; fn does not run if there is an error.
func (p *Participant) do(ctx context.Context, fn func()) error {
	const waits, runs, given = 0, 1, 2
	var state atomic.Int32
	ran := make(chan struct{})
	ok := p.bring(0, func() {
		if state.CompareAndSwap(waits, runs) {
			fn()
			close(ran)
		}
	})
	if !ok {
		return errStopping
	}
	var err error
	select {
	case <-ran:
		return nil
	case <-ctx.Done():
		err = canceled(ctx)
	case <-p.stopping:
		err = errStopping
	}
	if state.CompareAndSwap(waits, given) {
		return err
	}
	<-ran
	return nil
}
