package exhaust

import (
	"bytes"
)

// check looks at a state that was just reached.
func (x *explorer) check(s *state) *violation {
	r := &x.c.reigns.values[s.coord]
	if r.read == 0 {
		return nil
	}
	// A read that arrives now and is answered at once sees all that was
	// acknowledged (P5, G3).
	for i := range s.parts {
		p := &s.parts[i]
		rep := &x.r.states.values[p.now]
		if p.link == 0 || rep.position.Epoch != r.epoch || rep.position.Index < r.read {
			continue
		}
		for k := range s.clients {
			if _, done := rep.table.ops[x.box.op(k)]; s.clients[k].acked && !done {
				return violated("P5", "%s may answer a read, and does not have operation %d, which was acknowledged", memberName(i), k)
			}
		}
	}
	return nil
}

// settled: nothing can happen any more but faults. Then all must be well.
func (x *explorer) settled(s *state) *violation {
	r := &x.c.reigns.values[s.coord]
	if !r.serving || r.queued > 0 {
		return violated("settles", "epoch %d does not come to serve (%d requests wait)", r.epoch, r.queued)
	}
	if r.w.Epoch != r.epoch || r.w.Index != r.last {
		return violated("settles", "W stays at %v; the last entry is %d of epoch %d", r.w, r.last, r.epoch)
	}
	first := &x.r.states.values[s.parts[0].now]
	for i := range s.parts {
		rep := &x.r.states.values[s.parts[i].now]
		switch {
		case rep.inDoubt > 0:
			return violated("settles", "%s stays in doubt about %d transactions", memberName(i), rep.inDoubt)
		case rep.w != r.w:
			return violated("settles", "%s stays at W %v, the coordinator's is %v", memberName(i), rep.w, r.w)
		case !bytes.Equal(rep.table.encode(), first.table.encode()):
			return violated("G1", "%s and P0 are not alike", memberName(i))
		}
	}
	for k := range s.clients {
		c := &s.clients[k]
		_, done := first.table.ops[x.box.op(k)]
		switch {
		case c.waits:
			return violated("settles", "operation %d is never answered", k)
		case c.acked && !done:
			return violated("G2", "operation %d was acknowledged as %v, and no replica has it", k, c.tx)
		case c.failed && done:
			return violated("G6", "operation %d was told to have failed, and it is done", k)
		case c.acked && first.table.ops[x.box.op(k)].Tx != c.tx:
			return violated("G5", "operation %d was acknowledged as %v, and is done as %v", k, c.tx, first.table.ops[x.box.op(k)].Tx)
		}
	}
	return nil
}
