package sim

import "testing"

// F10: nobody has a lease that the coordinator's next start does not know of; who had
// one is waited for then, and hears the change before it is done.
func TestTraceLeaseOutlivesCoordinator(t *testing.T) {
	p := newPlay(t)
	cl := p.clients[0]
	cl.watches = true
	p.step()
	cl.asks()
	p.cur.asked()
	if cl.asking.answer != nil {
		t.Fatal("a lease that a crash would forget")
	}
	p.coordinatorSyncs()
	if cl.asking.answer == nil {
		t.Fatal("no lease")
	}
	cl.hearsWatch()
	o := p.read(0, 0, "a")
	if o.fate != refused || len(cl.keeps) != 1 {
		t.Fatalf("it keeps %v of what it has read", cl.keeps)
	}
	cl.goesAway()
	p.crashCoordinator()
	p.recoverAll()
	change := p.tx(1, write("a"))
	p.prepare(9, 0, 1, 2)
	p.silent(change)
	p.cur.tick(5000)
	p.ok()
	p.silent(change)
	p.cur.tick(501)
	p.ok()
	p.committed(change)
	p.settles()
}
