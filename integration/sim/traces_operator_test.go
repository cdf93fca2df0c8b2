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
	sum.run(t, *firstSeed, n, Options{tune: operated})
	for _, r := range []int{reachDeclared, reachReplaced, reachRemoved, reachTold, reachAdded} {
		if sum.reached[r] < n/20 {
			t.Errorf("%s: %d in %d schedules", ReachNames[r], sum.reached[r], n)
		}
	}
}

// operated makes schedules in which operators replace, remove and add participants, and
// declare them lost.
func operated(p *profile) {
	p.minInSync, p.evictAfter, p.warm = max(p.minInSync, 1), max(p.evictAfter, 100), true
	p.may[faultRot], p.may[faultLie] = 0, 0
	p.may[faultSuspect], p.may[faultFlood], p.may[faultEdit] = faultWeight[faultSuspect], 60, 12
	p.faultShare = max(p.faultShare, 20)
	if p.segments%2 == 0 {
		removing(p)
		p.may[faultRemove] = 30
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
