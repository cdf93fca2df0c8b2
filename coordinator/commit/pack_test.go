package commit

import (
	"testing"

	"tpcfs/wire"
)

func (b *bench) submitPack(seq uint64, p *wire.Pack) *Request {
	r := &Request{Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: seq}, Link: b.link, Pack: p}}
	b.m.Submit(r)
	b.run()
	return r
}

// A pack is put with all stages that it names, and takes an id for each of its
// mutations.
func TestPack(t *testing.T) {
	b := newBench(t).serve()
	pack, large := b.stage(true), b.stage(true)
	r := b.submitPack(1, &wire.Pack{Stage: pack, Size: 100, Count: 5000, Stages: []wire.ID{large}, Name: "tree"})
	if names := b.m.Status().InDoubt; len(names) != 1 || len(names[0].Names) != 1 || names[0].Names[0] != "tree" {
		t.Errorf("status shows %+v", names)
	}
	b.settle()
	b.wantAnswer(r, "committed")
	b.m.Detach(alice)
	b.run()
	b.wantUnstaged()

	b.attach()
	next := b.submit(2, "x")
	b.settle()
	b.wantAnswer(next, "committed")
	if got, least := next.tx.id, r.tx.id+5000; got < least {
		t.Errorf("transaction %v follows %v, which has 5000 ids", got, r.tx.id)
	}
}

// What is wrong with a pack is told before it is put.
func TestPackRefused(t *testing.T) {
	b := newBench(t).serve()
	good := b.stage(true)
	id, err := b.m.BeginStage(alice, b.link) // not complete
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		p    wire.Pack
		code wire.Code
	}{
		"too many":  {wire.Pack{Stage: good, Count: wire.MaxMutations + 1}, wire.CodeTooMany},
		"none":      {wire.Pack{Stage: good}, wire.CodeTooMany},
		"too large": {wire.Pack{Stage: good, Count: 1, Size: wire.MaxPack + 1}, wire.CodeTooMany},
		"no stage":  {wire.Pack{Stage: id, Count: 1}, wire.CodeStageLost},
		"contents":  {wire.Pack{Stage: good, Count: 1, Stages: []wire.ID{id}}, wire.CodeStageLost},
		"surplus":   {wire.Pack{Stage: good, Count: 1, Stages: []wire.ID{7, 8}}, wire.CodeInvalid},
	} {
		if err := b.m.admit(&Request{Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: 9}, Link: b.link, Pack: &c.p}}); wire.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %v", name, err, c.code)
		}
	}
	mixed := &Request{Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: 9}, Link: b.link, Pack: &wire.Pack{Stage: good, Count: 1}, Mutations: writeTo("x")}}
	if err := b.m.admit(mixed); wire.CodeOf(err) != wire.CodeInvalid {
		t.Errorf("mutations beside a pack: %v", err)
	}
}
