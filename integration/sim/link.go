package sim

import (
	"slices"

	"tpcfs/wire"
)

// conn is one connection of a coordinator to a participant: the greeting and
// its answer, then the transaction stream. Messages keep their order; when it
// is cut, what is on its way is lost, and each side notices by itself.
type conn struct {
	w      *world
	c      *reign
	member *member

	greet   wire.Greet
	arrived bool         // the greeting is with the member
	answer  *greetAnswer // on its way back
	opened  bool         // the coordinator has had the answer
	number  uint64       // of the link, as the machine counts
	down    []wire.Down  // on their way to the member
	up      []wire.Up    // on their way to the coordinator
	cut     bool         // nothing passes any more
	deaf    bool         // nothing arrives at the member, for now
	mute    bool         // ... nor from it
	flows   int          // weight of the step that ends it
	ended   bool         // the member has let go of the stream
	told    uint64       // durable, as the coordinator last heard
	stages  []*stageJob  // contents being brought to the member by it
	reads   []*readCall  // asked by it
	drops   []wire.ID    // staged objects to be dropped
	// The member is out of sync, as its greeting was told: nothing is read or
	// staged there, it catches up.
	outside bool
	rejoin  *rejoin       // nil: none has begun
	gone    bool          // the coordinator has noticed that the link is gone
	calls   []*resyncCall // on their way to the member, or waiting there
}

type greetAnswer struct {
	greeting wire.Greeting
	err      error
	impostor bool // it comes from an empty disk in the place of the member's
}

// send takes a message down; encoded, if this run is one that looks at the
// encoding too.
func (k *conn) send(d wire.Down) {
	if k.cut {
		return
	}
	k.down = append(k.down, k.w.transmitDown(d))
}

// post mirrors stream.post: what goes up is joined with what has not left yet.
func (k *conn) post(u wire.Up) {
	if k.cut || k.ended {
		return
	}
	if k.w.encode {
		u = transmit(u)
	}
	if n := len(k.up); n > 0 && k.w.joins {
		last := &k.up[n-1]
		last.Votes = append(last.Votes, u.Votes...)
		last.Handled, last.Durable = max(last.Handled, u.Handled), max(last.Durable, u.Durable)
		return
	}
	k.up = append(k.up, u)
}

// breaks cuts the connection. Of what is on its way, the first messages of
// each direction may arrive all the same, until that side notices; what goes to
// a process that has ended (memberEnds, its coordinator over) does not.
func (k *conn) breaks(memberEnds bool) {
	if k.cut {
		return
	}
	k.cut, k.deaf, k.mute = true, false, false
	k.down = k.down[:k.w.upTo(len(k.down))]
	k.up = k.up[:k.w.upTo(len(k.up))]
	if k.answer != nil && k.w.upTo(1) == 0 {
		k.answer, k.up = nil, nil
	}
	if memberEnds || !k.arrived && k.w.upTo(1) == 0 {
		k.member.loses(k)
	}
	k.drops = nil
	for _, r := range slices.Clone(k.reads) {
		r.lost()
	}
	k.reads = nil
	for _, s := range slices.Clone(k.stages) {
		s.fail(k.member, wire.NewError(wire.CodeCanceled, "the link is gone"))
	}
	k.stages = nil
	for _, q := range append(slices.Clone(k.calls), k.member.resyncs...) {
		if q.k == k {
			q.lost()
		}
	}
}

// catches: is somebody at work who brings the member back in sync by it?
func (k *conn) catches() bool { return k.rejoin != nil && !k.rejoin.done }

// half: does the connection pass nothing in one direction?
func (k *conn) half() bool { return k.deaf || k.mute }

// transmit is what arrives of a message that is encoded on the way.
func transmit[T any](v T) T {
	var got T
	if err := wire.Unmarshal(wire.Marshal(v), &got); err != nil {
		panic("sim: a message cannot be decoded: " + err.Error())
	}
	return got
}

func (w *world) transmitDown(d wire.Down) wire.Down {
	if !w.encode {
		return d
	}
	got := transmit(d)
	if d.Entry != nil {
		got.Entry.Payload = append([]byte(nil), d.Entry.Payload...)
	}
	return got
}
