package sim

import (
	"testing"

	"tpcfs/wire"
)

// A session detaches while the new coordinator still reads, page by page, what
// has no name: what it hears of afterwards goes at once, too, and does not wait
// for a session that will not come back (F7).
func TestTraceDetachDuringTheList(t *testing.T) {
	p := newPlay(t)
	for range 3 { // a page holds two
		o := p.tx(0, wire.Mutation{Kind: wire.MutCreateUnlinked, At: wire.At{Dir: wire.RootIno}, Mode: 0o600})
		p.prepare(9, 0, 1, 2)
		p.handle(9, 0, 1, 2)
		p.committed(o)
	}
	p.crashCoordinator()
	p.recoverAll()
	p.handle(9, 0, 1, 2)
	for p.cur.m.Unnamed() == 0 {
		p.step()
		p.cur.tick(5)
	}
	if n := p.cur.m.Unnamed(); n != 2 {
		t.Fatalf("%d are known", n)
	}
	cl := p.clients[0]
	cl.linkLost()
	p.cur.turn(func() { p.cur.m.Detach(cl.session) })
	p.left = append(p.left, cl.session)
	cl.begin()
	p.settling, p.closing = true, true // nothing may be left
	if !p.quiesce() {
		t.Fatalf("%v", p.violation)
	}
	p.settling, p.closing = false, false
	p.settles()
}
