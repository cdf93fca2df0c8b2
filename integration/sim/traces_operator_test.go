package sim

import (
	"strings"
	"testing"

	"tpcfs/journal/disk/forget"
)

// The traces of P14: what operators say of who takes part.

// TestOperators runs schedules in which operators have much to do.
func TestOperators(t *testing.T) {
	n := 240 / forget.OneIn
	if testing.Short() {
		n /= 4
	}
	if *seeds > 0 {
		n = *seeds
	}
	var sum tally
	sum.run(t, *firstSeed, n, Options{tune: func(f *profile) {
		evict := *f
		evict.minInSync, evict.evictAfter, evict.warm = max(f.minInSync, 1), max(f.evictAfter, 100), true
		evict.may[faultRot], evict.may[faultLie] = 0, 0
		evict.may[faultSuspect], evict.may[faultFlood], evict.may[faultEdit] = faultWeight[faultSuspect], 60, 12
		evict.faultShare = max(f.faultShare, 20)
		*f = evict
	}})
	if sum.reached[reachDeclared] < n/20 || sum.reached[reachReplaced] < n/20 {
		t.Errorf("%d schedules, %d times disks were declared lost, %d participants were replaced", n, sum.reached[reachDeclared], sum.reached[reachReplaced])
	}
}

// flooded leaves P0 alone with its data, after a change that was acknowledged.
func newFloodedPlay(t *testing.T) (*play, *op) {
	p := newLeavingPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.prepare(9, 0, 1, 2)
	p.step()
	p.flood(0)
	p.ok()
	return p, o
}

func (p *play) says() {
	p.Helper()
	p.step()
	p.cur.resolves()
	p.ok()
}

// P14: an operator's word counts when it is durable, here and at who is left. A
// coordinator that dies before waits for the others as before.
func TestTraceLostIsForced(t *testing.T) {
	p, o := newFloodedPlay(t)
	p.says()
	p.crashCoordinator()
	p.startCoordinator()
	p.greet(0)
	p.coordinatorSyncs()
	if p.cur.readPoint != 0 || p.flooded == nil {
		t.Fatalf("it serves, and the word is lost\n%s", strings.Join(p.lines, "\n"))
	}
	p.says()
	p.coordinatorSyncs()
	p.handle(9, 0)
	if p.cur.readPoint != 0 || p.flooded == nil {
		t.Fatal("it serves before its config is durable at P0")
	}
	p.prepare(99, 0)
	if p.cur.readPoint == 0 || p.flooded != nil {
		t.Fatalf("it does not serve\n%s", strings.Join(p.lines, "\n"))
	}
	p.settles()
	if p.effects[o.id] == 0 {
		t.Error("what was acknowledged is lost")
	}
}

// P14: what is in doubt at who is left, the only one that knows of it, is decided by it.
func TestTraceLostDecides(t *testing.T) {
	p := newLeavingPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0)
	p.silent(o)
	p.step()
	p.flood(0)
	p.says()
	p.silent(o)
	p.coordinatorSyncs()
	p.silent(o)
	p.prepare(99, 0)
	p.committed(o)
	p.settles()
}

// P14: the coordinator dies when the config that replaces P2 is durable there, and nowhere
// else: the next one begins with it. P2, as it was, takes part no more.
func TestTraceReplacedAndCrash(t *testing.T) {
	p := newLeavingPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1)
	p.step()
	p.cur.replaces(p.members[2])
	p.silent(o)
	p.coordinatorSyncs()
	p.silent(o)
	disks := p.members[2].disks
	p.crashCoordinator()
	p.startCoordinator()
	if p.members[2].disks == disks {
		t.Fatalf("P2 takes part as it was\n%s", strings.Join(p.lines, "\n"))
	}
	p.settles()
	if p.effects[o.id] == 0 {
		t.Error("what all that stay had prepared is not committed")
	}
}
