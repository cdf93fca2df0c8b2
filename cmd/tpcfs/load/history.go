package load

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// How long a piece of a file's history gets before it is judged.
const (
	pieceLeast = 64  // operations, before a moment of quiet ends a piece
	pieceMost  = 256 // ... before new ones wait for one
	// A file of which an outcome is unknown has no moment of quiet any more. It is
	// used on for a while, to see what comes of it, and then given up for another.
	doubtOps  = 96
	doubtMost = 6 // unknown outcomes, each of which doubles the work of judging
	// judgeQueue bounds the pieces that wait to be judged; then clients wait.
	judgeQueue = 64
)

// history records what the clients are told, cuts it at quiet moments of each
// file, and has the pieces judged while the clients go on. What it holds is
// bounded, however long they do.
type history struct {
	start time.Time
	slots []*slot
	queue chan judged
	done  sync.WaitGroup // the judge

	mu      sync.Mutex // guards what follows
	verdict Check
	onWrong func()
}

// Check is what came of judging a history.
type Check struct {
	Ops       int64   `json:"operations"` // judged
	Pieces    int64   `json:"pieces"`
	Files     int     `json:"files"`
	Unknown   int64   `json:"unknown"`             // outcomes that are
	Undecided int64   `json:"undecided,omitempty"` // pieces for which the time was too short
	Faults    []Fault `json:"-"`
}

// judged is a piece on its way to the judge.
type judged struct {
	piece Piece
	fresh bool // the first of its file
	final bool // the last
}

// slot is one of the files that the clients choose from.
type slot struct {
	n int

	mu    sync.Mutex // guards what follows
	quiet sync.Cond  // nothing is under way, or the file is another
	file  *file
}

// file is one name with the piece of its history that is being gathered.
// Guarded by its slot's mu.
type file struct {
	name    string
	fresh   bool
	running int
	full    bool // new operations wait until nothing runs
	retired bool // it is no longer the slot's: the piece is its last
	ops     []Op
	unknown int
	since   int // operations since the first unknown outcome
}

func newHistory(names int, start time.Time, onWrong func()) *history {
	h := &history{start: start, queue: make(chan judged, judgeQueue), onWrong: onWrong}
	for n := range names {
		s := &slot{n: n, file: &file{name: fmt.Sprintf("f%06d", n), fresh: true}}
		s.quiet.L = &s.mu
		h.slots = append(h.slots, s)
	}
	h.verdict.Files = names
	h.done.Go(h.judge)
	return h
}

// begin chooses the slot's file for an operation, whose end must be called.
func (h *history) begin(n int) (*file, time.Duration) {
	s := h.slots[n]
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.file.full {
		s.quiet.Wait()
	}
	s.file.running++
	return s.file, time.Since(h.start)
}

// end records an operation.
func (h *history) end(n int, f *file, o Op) {
	o.Return = time.Since(h.start)
	s := h.slots[n]
	s.mu.Lock()
	defer s.mu.Unlock()
	f.running--
	f.ops = append(f.ops, o)
	if f.unknown > 0 {
		f.since++
	}
	if o.Outcome == Unknown {
		f.unknown++
	}
	if !f.retired && (f.since >= doubtOps || f.unknown >= doubtMost) {
		h.replaceLocked(s)
	}
	f.full = !f.retired && f.unknown == 0 && len(f.ops) >= pieceMost
	h.takeLocked(f)
	if !s.file.full {
		s.quiet.Broadcast()
	}
}

// replaceLocked gives the slot a new file in the place of one in doubt.
func (h *history) replaceLocked(s *slot) {
	s.file.retired = true
	name, generation := s.file.name, 0
	if len(name) > len("f000000") {
		_, _ = fmt.Sscanf(name[len("f000000"):], ".%d", &generation) // made here
	}
	s.file = &file{name: fmt.Sprintf("%s.%d", name[:len("f000000")], generation+1), fresh: true}
	h.mu.Lock()
	h.verdict.Files++
	h.mu.Unlock()
}

// takeLocked gives the judge the piece of a file at which nothing is under way,
// if there is enough of it; the slot stays locked so that pieces keep their order.
func (h *history) takeLocked(f *file) {
	if f.running > 0 || !f.retired && (f.unknown > 0 || len(f.ops) < pieceLeast) {
		return
	}
	h.queue <- judged{Piece{Name: f.name, Ops: f.ops}, f.fresh, f.retired}
	f.ops, f.fresh, f.full = nil, false, false
}

// close judges what is left; no operation may be under way.
func (h *history) close() Check {
	for _, s := range h.slots {
		s.mu.Lock()
		s.file.retired = true
		h.takeLocked(s.file)
		s.mu.Unlock()
	}
	close(h.queue)
	h.done.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.verdict
}

// judge is the goroutine that judges pieces, those of one file in their order.
func (h *history) judge() {
	starts := map[string][]Value{} // by file: what it may hold after its last piece
	for q := range h.queue {
		if q.fresh {
			starts[q.piece.Name] = []Value{Absent}
		}
		q.piece.Start = starts[q.piece.Name]
		verdict, ends := Judge(q.piece)
		if verdict == Undecided {
			ends = q.piece.any()
		}
		starts[q.piece.Name] = ends
		if q.final || verdict == Wrong {
			delete(starts, q.piece.Name)
		}
		h.note(q.piece, verdict)
		if verdict == Wrong {
			for q := range h.queue { // the rest is only counted
				h.note(q.piece, Undecided)
			}
			return
		}
	}
}

// any are all values that a file may hold at the end of a piece that could not
// be judged.
func (p *Piece) any() []Value {
	all := append([]Value{Absent}, p.Start...)
	for _, o := range p.Ops {
		if o.Kind == Write {
			all = append(all, o.Value)
		}
	}
	slices.SortFunc(all, func(a, b Value) int {
		if a.Client != b.Client {
			return a.Client - b.Client
		}
		return int(int64(a.Op) - int64(b.Op))
	})
	return slices.Compact(all)
}

func (h *history) note(p Piece, verdict Verdict) {
	var fault Fault
	if verdict == Wrong {
		fault = Explain(p)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.verdict.Pieces++
	for _, o := range p.Ops {
		if o.Outcome == Unknown {
			h.verdict.Unknown++
		}
	}
	switch verdict {
	case Right:
		h.verdict.Ops += int64(len(p.Ops))
	case Undecided:
		h.verdict.Undecided++
	case Wrong:
		h.verdict.Ops += int64(len(p.Ops))
		h.verdict.Faults = append(h.verdict.Faults, fault)
		h.onWrong()
	}
}
