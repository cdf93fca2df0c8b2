package sim

import (
	"maps"
	"slices"

	"tpcfs/wire"
)

// repairs mirrors coordinator/repair.go: the goroutine that rewrites blocks which
// reads have met. It is there while there is something to repair.
type repairs struct {
	caller
	queue []rottenBlock
	known map[rottenBlock]bool // false: it was not repaired
}

type rottenBlock struct {
	member int
	ino    wire.Ino
	object wire.ID
	block  int64
}

func (k rottenBlock) page() rottenBlock {
	k.block /= wire.SumsPerPage
	return k
}

// rottenAt mirrors the function; how long a block rests that could not be
// repaired is anybody's guess.
func (c *reign) rottenAt(p *member, e *wire.Error) {
	k, r := rottenBlock{p.i, e.Ino, e.Object, e.Block}, &c.repairs
	if under, known := r.known[k]; e.Code != wire.CodeCorrupt || e.Ino == 0 || known && (under || !c.w.chance(2)) {
		return
	}
	if r.known == nil {
		r.known = map[rottenBlock]bool{}
	}
	r.known[k] = true
	r.queue = append(r.queue, k)
	if r.next == nil || r.done {
		r.caller = caller{}
		r.begin(c, func() bool { return false }, r.run)
	}
}

// run mirrors repairQueued.
func (r *repairs) run() {
	for len(r.queue) > 0 && r.waits() {
		list := r.queue
		r.queue = nil
		for len(list) > 0 && !r.over() {
			n := 1
			for n < len(list) && n < wire.MaxDonated && list[n].page() == list[0].page() && list[n].block > list[n-1].block {
				n++
			}
			var blocks []int64
			for _, k := range list[:n] {
				blocks = append(blocks, k.block)
			}
			_, rotten := r.repair(list[0].member, wire.Lack{Ino: list[0].ino, Object: list[0].object, Blocks: blocks})
			for _, k := range list[:n] {
				if delete(r.known, k); slices.Contains(rotten, k.block) {
					r.known[k] = false
				}
			}
			list = list[n:]
		}
	}
}

// repair mirrors the function: so many blocks are right now, and these are rotten still.
func (r *caller) repair(member int, lack wire.Lack) (right int, rotten []int64) {
	rotten = lack.Blocks
	to := r.c.conns[member]
	if to == nil || !to.opened || to.outside {
		return 0, rotten
	}
	for _, k := range r.c.others(member) {
		index := r.c.readPoint
		if len(rotten) == 0 || index == 0 || r.over() {
			break
		}
		given, lacking, err := r.blocksOf(k, wire.Donate{Index: index, Ino: lack.Ino, Object: lack.Object, Blocks: rotten})
		if err != nil {
			continue
		}
		bad := lacking
		for _, d := range given {
			if len(d.Blocks) == 0 {
				continue
			}
			got, err := r.brings(to, wire.Repair{Index: index, Ino: lack.Ino, Object: lack.Object, Version: d.Version, Blocks: d.Blocks}, d.body)
			if err != nil {
				for _, b := range d.Blocks {
					bad = append(bad, b.Block)
				}
				continue
			}
			right += len(got.Right)
			bad = append(bad, got.Rotten...)
		}
		slices.Sort(bad)
		rotten = bad
	}
	return right, rotten
}

// others mirrors the function.
func (c *reign) others(member int) []*conn {
	var list []*conn
	for i, k := range c.conns {
		if k != nil && i != member && k.opened && !k.outside {
			list = append(list, k)
		}
	}
	return list
}

// donation mirrors the type.
type donation struct {
	wire.Donated
	body []byte
}

// blocksOf mirrors the function.
func (r *caller) blocksOf(k *conn, req wire.Donate) (given []donation, rotten []int64, err error) {
	d, body, err := r.donates(k, req)
	if err == nil {
		return []donation{{d, body}}, nil, nil
	}
	e := asError(err)
	if e.Code != wire.CodeCorrupt {
		return nil, nil, err
	}
	r.c.rottenAt(k.member, e)
	if len(req.Blocks) == 1 {
		return nil, req.Blocks, nil
	}
	for i := range req.Blocks {
		one := req
		one.Blocks = req.Blocks[i : i+1]
		got, bad, err := r.blocksOf(k, one)
		if err != nil {
			return nil, nil, err
		}
		given, rotten = append(given, got...), append(rotten, bad...)
	}
	return given, rotten, nil
}

func (r *caller) brings(to *conn, req wire.Repair, body []byte) (wire.Repaired, error) {
	req.Epoch = r.c.epoch
	if r.w.encode {
		req = transmit(req)
	}
	for {
		q := &resyncCall{k: to, repair: &req, body: body}
		if err := r.does(q); wire.CodeOf(err) != wire.CodeBusy || r.w.chance(10) {
			return q.repaired, err
		}
	}
}

// repair mirrors Participant.Repair.
func (p *member) repair(t *task, q *resyncCall) error {
	for {
		open, err := p.gateOpen(q.repair.Epoch, q.repair.Index)
		if err != nil {
			return err
		}
		if open {
			break
		}
		if err := p.await(t, q); err != nil {
			return err
		}
	}
	owned := func(fn func() error) error {
		return p.visit(t, q, func() error {
			if q.repair.Epoch != p.gateEpoch {
				return wire.NewError(wire.CodeStaleEpoch, "another epoch holds")
			}
			return fn()
		})
	}
	var taken []int64
	var learnt bool
	err := owned(func() (err error) {
		if p.m.Resync() != "" {
			return wire.NewError(wire.CodeProtocol, "this participant is out of sync itself")
		}
		taken, learnt, err = p.store.Repair(q.repair, q.body)
		return err
	})
	if err == nil && learnt {
		p.w.reach(reachRelearnt)
		err = p.newCheckpoint(t, q, owned)
	}
	if err != nil {
		return err
	}
	q.repaired.Right, q.repaired.Rotten, err = p.store.Repaired(q.repair.Ino, q.repair.Object, taken)
	p.storeError(err)
	if err == nil && len(q.repaired.Right) > 0 {
		p.w.tracef("P%d has blocks %v of inode %d again", p.i, q.repaired.Right, q.repair.Ino)
		p.w.reach(reachRepaired)
	}
	return err
}

// scrubs looks for what is rotten at members that are in sync, until nothing is:
// what any other member has is repaired. Only then do replicas have to be equal.
func (w *world) scrubs() {
	if w.cur == nil || w.old != nil || slices.ContainsFunc(w.members, func(p *member) bool { return p.lossy }) {
		return
	}
	found := false
	for range 8 {
		left := 0
		for _, p := range w.there() {
			for _, e := range w.rottenFiles(p) {
				left++
				delete(w.cur.repairs.known, rottenBlock{p.i, e.Ino, e.Object, e.Block})
				w.cur.rottenAt(p, e)
			}
		}
		if left == 0 {
			break
		}
		if found = true; !w.quietWithin(quietSteps) {
			return
		}
	}
	if slices.ContainsFunc(w.there(), func(p *member) bool { return p.store.Damaged() != "" }) {
		return // a rotten row: who has it answers nothing any more
	}
	unread := map[wire.Ino]uint{} // by whom, as bits
	for _, p := range w.there() {
		for _, e := range w.rottenFiles(p) {
			unread[e.Ino] |= 1 << p.i
		}
	}
	for ino, by := range unread {
		if by != uint(w.bits()) {
			w.violate("S5", "inode %d is rotten at members %b, and others have it", ino, by)
		}
	}
	for _, p := range w.there() {
		for ino := range p.bad {
			if unread[ino] == 0 {
				delete(p.bad, ino)
			}
		}
	}
	if found && len(unread) == 0 {
		w.reach(reachScrubbed)
	}
}

// rottenFiles are the errors of a member's files that cannot be read: those in which
// the store finds something rotten when it verifies all.
func (w *world) rottenFiles(p *member) []*wire.Error {
	found, looked := w.verified(p), map[wire.Ino]bool{}
	var list []*wire.Error
	cannot := func(ino wire.Ino) error {
		var got readAnswer
		_, err := p.store.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: ino}, Length: -1}, (*pieces)(&got))
		if wire.CodeOf(err) == wire.CodeCorrupt {
			list = append(list, asError(err))
		}
		return err
	}
	w.walk(p, wire.RootIno, "", func(_ string, a *wire.Attr, _ []byte, target string) {
		if target != unreadable || looked[a.Ino] { // it may have several names
			return
		}
		looked[a.Ino] = true
		if err := cannot(a.Ino); !found[a.Ino] && p.store.Damaged() == "" {
			w.violate("S5", "P%d cannot read inode %d (%v), and finds nothing rotten there", p.i, a.Ino, err)
		}
		delete(found, a.Ino)
	})
	for _, ino := range slices.Sorted(maps.Keys(found)) { // those without a name among them
		if cannot(ino) == nil && p.store.Damaged() == "" && len(p.bad) == 0 {
			w.violate("S5", "P%d finds inode %d rotten, and reads it", p.i, ino)
		}
	}
	return list
}

// verified are a member's inodes in which it finds something rotten.
func (w *world) verified(p *member) map[wire.Ino]bool {
	found := map[wire.Ino]bool{}
	for req := (wire.Verify{Bytes: wire.BlockSize}); ; {
		v, err := p.store.Verify(background, req)
		if err != nil {
			if p.store.Damaged() == "" {
				w.violate("S5", "P%d cannot verify what it holds: %v", p.i, err)
			}
			return found
		}
		for _, l := range v.Rotten {
			found[l.Ino] = true
		}
		if req.Cursor = v.Cursor; len(req.Cursor) == 0 {
			return found
		}
	}
}
