package commit

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"tpcfs/wire"
)

// holder is a mount that has files open, as its session and the machine see it.
type holder struct {
	*mount
	open  map[wire.Ino]bool
	holds []wire.Ino // its answer to what it was told last
	seq   uint64
	away  bool
	asked int64 // when it asked last
}

// answers has a mount that is there take its answers and ask on, until there is
// none for it.
func (r *heldRun) answers(h *holder) {
	for !h.away {
		i := slices.IndexFunc(r.watched, func(w Watched) bool { return w.Watch == h.w })
		if i < 0 {
			return
		}
		got := r.watched[i]
		if got.Err != nil { // it asks again with the next tick
			return
		}
		h.last, h.holds = got.Watched, nil
		for _, ino := range h.last.Unnamed {
			if h.open[ino] {
				h.holds = append(h.holds, ino)
			}
		}
		r.asks(h)
	}
}

func (h *holder) watch() {
	h.w = &Watch{Watch: wire.Watch{Session: h.id, Link: h.link, Epoch: h.last.Epoch, Number: h.last.Number, Wait: wire.WatchEvery, Holds: h.holds}}
	h.b.m.Ask(h.w, 0)
	h.b.run()
	h.b.sync()
}

// asks has it ask on.
func (r *heldRun) asks(h *holder) {
	h.asked = r.clock
	h.watch()
}

// heldRun is a random schedule of mounts that open, unlink and close files, are
// cut off and come back.
type heldRun struct {
	*bench
	rng      *rand.Rand
	hs       []*holder
	named    []wire.Ino
	nameless map[wire.Ino]wire.SessionID // and who left it so
	clock    int64                       // milliseconds
	seen     int                         // entries looked at
	trace    []string
}

func newHeldRun(t *testing.T, seed uint64) *heldRun {
	r := &heldRun{bench: newBench(t).serve(), rng: rand.New(rand.NewPCG(seed, 7)), nameless: map[wire.Ino]wire.SessionID{}}
	r.m.Orphans(wire.ReadReply{})
	for i := range 3 {
		h := &holder{mount: r.mount(wire.SessionID{byte(20 + i)}), open: map[wire.Ino]bool{}}
		h.begin()
		r.hs = append(r.hs, h)
	}
	for ino := wire.Ino(100); ino < 112; ino++ {
		r.named = append(r.named, ino)
		for _, h := range r.hs {
			h.open[ino] = r.rng.IntN(2) == 0
		}
	}
	return r
}

func (r *heldRun) note(format string, args ...any) {
	r.trace = append(r.trace, fmt.Sprintf("\n%d: ", r.clock)+fmt.Sprintf(format, args...))
}

// there are the mounts that are.
func (r *heldRun) there() (hs []*holder) {
	for _, h := range r.hs {
		if !h.away {
			hs = append(hs, h)
		}
	}
	return hs
}

// calm answers all that can be, and looks at the reclaims that were put: of what
// a mount has open there is none, but for one that was away for too long.
func (r *heldRun) calm() {
	for range 4 {
		for _, f := range r.fakes {
			if f.alive {
				r.all(f.name)
			}
		}
		for _, h := range r.hs {
			r.answers(h)
		}
		r.sync()
	}
	for _, h := range r.there() {
		if slices.ContainsFunc(r.watched, func(w Watched) bool { return w.Watch == h.w && w.Err != nil }) {
			r.asks(h)
		}
	}
	r.watched = slices.DeleteFunc(r.watched, func(w Watched) bool {
		return !slices.ContainsFunc(r.hs, func(h *holder) bool { return h.w == w.Watch })
	})
	r.look()
}

func (r *heldRun) look() {
	for ; r.seen < len(r.sent[0]); r.seen++ {
		e := r.sent[0][r.seen]
		if e.Kind != wire.EntryPrepare {
			continue
		}
		m := &e.Prepare.Mutations[0]
		ino := m.At.Dir
		switch {
		case m.Kind == wire.MutReclaim:
		case m.Kind == wire.MutDeleteFile && !m.Hold && !e.Prepare.Keep: // nobody is there who may have it open
			ino = wire.Ino(m.Size)
		default:
			continue
		}
		r.note("%d goes, by %d", ino, e.Prepare.Op.Session[0])
		delete(r.nameless, ino)
		for _, h := range r.hs {
			if h.open[ino] && (!h.away || r.clock < h.asked+r.m.o.WatcherIdle) {
				r.t.Errorf("inode %d goes, which mount %v has open", ino, h.id[0])
			}
			delete(h.open, ino) // lost
		}
	}
}

func (r *heldRun) unlink(h *holder) {
	if len(r.named) == 0 || !r.m.writable() {
		return
	}
	ino := r.named[0]
	r.named, h.seq = r.named[1:], h.seq+1
	if r.nameless[ino] = (wire.SessionID{}); h.open[ino] {
		r.nameless[ino] = h.id
		r.hold(h.id, h.link, h.seq, int64(ino))
	} else {
		r.remove(h.id, h.link, h.seq, int64(ino))
	}
	r.note("%d unlinks %d, open: %v", h.id[0], ino, h.open[ino])
}

func (r *heldRun) close(h *holder) {
	for ino := wire.Ino(100); ino < 112; ino++ {
		if _, gone := r.nameless[ino]; gone && h.open[ino] {
			r.note("%d closes %d", h.id[0], ino)
			delete(h.open, ino)
			h.seq++
			r.reclaim(h.id, h.link, h.seq, wire.Mutation{Kind: wire.MutReclaim, At: wire.At{Dir: ino}})
			return
		}
	}
}

func (r *heldRun) back(h *holder) {
	if !h.away {
		return
	}
	r.note("%d is back", h.id[0])
	h.away = false
	h.link = r.m.Attach(h.id).Link
	r.asks(h)
}

func (r *heldRun) restart() {
	r.note("restart")
	r.sync()
	r.start()
	r.seen = 0
	r.rest()
	var list wire.ReadReply
	for ino := wire.Ino(100); ino < 112; ino++ {
		if s, ok := r.nameless[ino]; ok {
			list.Entries = append(list.Entries, wire.DirEntry{Attr: wire.Attr{Ino: ino}})
			list.Holders = append(list.Holders, s)
		}
	}
	for _, h := range r.there() {
		h.link = r.m.Attach(h.id).Link
		r.asks(h)
	}
	r.m.Orphans(list)
	r.run()
}

func (r *heldRun) step() {
	h := r.hs[r.rng.IntN(len(r.hs))]
	switch k := r.rng.IntN(20); {
	case k < 3 && !h.away:
		r.unlink(h)
	case k < 5 && !h.away:
		r.close(h)
	case k < 8 && !h.away:
		r.note("%d is cut off", h.id[0])
		h.away = true
	case k < 12:
		r.back(h)
	case k < 14:
		if name := r.fakes[0].name; r.fakes[0].alive {
			r.note("writes are blocked")
			r.breakLink(name)
		} else {
			r.note("writes go on")
			r.greet(name)
		}
	case k == 14:
		r.restart()
	default:
		ms := []int64{1, wire.WatchEvery, leaseHeld, r.m.o.WatcherIdle / 2, r.m.o.WatcherIdle - 1, r.m.o.WatcherIdle}[r.rng.IntN(6)]
		r.note("%d ms", ms)
		for ; ms > 0; ms -= wire.WatchEvery {
			r.clock += min(ms, wire.WatchEvery)
			r.tick(min(ms, wire.WatchEvery))
			r.calm()
		}
	}
	r.calm()
}

// finish closes everything: nothing is left.
func (r *heldRun) finish() {
	if !r.fakes[0].alive {
		r.greet(r.fakes[0].name)
	}
	r.calm()
	for _, h := range r.hs {
		r.back(h)
		r.calm()
		for range 12 {
			r.close(h)
			r.calm()
		}
	}
	for range 4 {
		r.tick(reclaimPause)
		r.calm()
	}
	for _, h := range r.hs { // what was gone before they said that they have it
		r.m.Detach(h.id)
	}
	for range 4 {
		r.tick(reclaimPause)
		r.calm()
	}
	if n := r.m.Unnamed(); n+len(r.nameless)+r.m.orphans.asking != 0 {
		r.t.Errorf("%d files without a name are left, %v were not reclaimed, %d questions are open", n, r.nameless, r.m.orphans.asking)
	}
}

// TestHeldAtRandom: whatever is cut off, comes back and starts anew, no file goes
// that a mount has open which was away for less than a minute, or is back before
// its reclaim is put; in the end all go.
func TestHeldAtRandom(t *testing.T) {
	n := uint64(150)
	if testing.Short() {
		n = 40
	}
	for seed := range n {
		r := newHeldRun(t, seed)
		for range 60 {
			r.step()
		}
		r.finish()
		if t.Failed() {
			t.Fatalf("seed %d:\n%s", seed, fmt.Sprint(r.trace))
		}
	}
}
