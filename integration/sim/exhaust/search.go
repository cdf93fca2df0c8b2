package exhaust

import (
	"fmt"
	"io"
	"runtime"
	"time"
)

// Result counts what was explored.
type Result struct {
	States, Steps, Again int64 // states met; steps taken; ... that led to a state met before
	Ends                 int64 // states in which nothing happens but by faults or clients
	Depth                int   // longest path, in steps
	Replicas, Reigns     int   // states of one replica's machine; of the coordinator's
	Seconds              float64
	MemoryMB             uint64

	// Violation is what was found, with the shortest schedule that leads to it; "": nothing.
	Violation string
	Trace     []string
}

func (r *Result) String() string {
	return fmt.Sprintf("%d states, %d steps (%d to states met before), %d ends, depth %d; machines' own states: %d of a replica, %d of the coordinator; %.1f s, %d MB",
		r.States, r.Steps, r.Again, r.Ends, r.Depth, r.Replicas, r.Reigns, r.Seconds, r.MemoryMB)
}

// search walks the states depth first.
type search struct {
	x    *explorer
	seen map[digest]struct{}
	path map[digest]struct{} // from the root to here
	buf  []byte
	Result
	bad  *violation
	log  io.Writer
	next time.Time
}

// Explore takes every schedule of the box. progress may be nil.
func Explore(b *Box, progress io.Writer) *Result {
	start := time.Now()
	x := newExplorer(b)
	w := &search{x: x, seen: map[digest]struct{}{}, path: map[digest]struct{}{}, log: progress, next: start.Add(10 * time.Second)}
	root, bad := x.root()
	if bad == nil {
		w.visit(root, 0)
		bad = w.bad
	}
	w.Seconds = time.Since(start).Seconds()
	w.Replicas, w.Reigns = x.r.states.size(), x.c.reigns.size()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	w.MemoryMB = mem.Sys >> 20
	if bad != nil {
		w.seen, w.path = nil, nil
		w.Violation = bad.rule + ": " + bad.text
		w.Trace = shortest(x, root)
	}
	return &w.Result
}

// visit is called with states that may have been met before.
func (w *search) visit(s *state, depth int) {
	var d digest
	d, w.buf = s.digest(w.buf)
	if _, on := w.path[d]; on {
		w.bad = violated("settles", "a round of steps without a fault leads back to where it began")
		return
	}
	if _, met := w.seen[d]; met {
		w.Again++
		return
	}
	w.seen[d] = struct{}{}
	w.States++
	w.Depth = max(w.Depth, depth)
	w.report()
	steps, quiet := w.x.steps(s)
	if quiet {
		w.Ends++
		if w.bad = w.x.settled(s); w.bad != nil {
			return
		}
	}
	w.path[d] = struct{}{}
	for _, st := range steps {
		w.Steps++
		var n *state
		if n, w.bad = w.x.do(s, st); w.bad != nil {
			return
		}
		if w.visit(n, depth+1); w.bad != nil {
			return
		}
	}
	delete(w.path, d)
}

func (w *search) report() {
	if w.log == nil || w.States%10000 != 0 || time.Now().Before(w.next) {
		return
	}
	w.next = time.Now().Add(10 * time.Second)
	fmt.Fprintf(w.log, "  %d states, %d steps\n", w.States, w.Steps)
}

// root is the cluster before anything is asked of it.
func (x *explorer) root() (*state, *violation) {
	s := &state{told: false}
	coord, bad := x.c.start(0)
	if bad != nil {
		return s, bad
	}
	s.coord, s.ledgers = coord, []uint32{x.c.reigns.values[coord].ledger}
	first := x.r.first()
	for range x.box.Replicas {
		s.parts = append(s.parts, part{now: first, durable: first})
	}
	for !x.box.Bootstrap {
		steps, quiet := x.steps(s)
		if quiet {
			break
		}
		if s, bad = x.do(s, steps[0]); bad != nil {
			return s, bad
		}
	}
	b := x.box
	for i := range s.parts {
		s.parts[i].durable = s.parts[i].now
	}
	s.clients = make([]client, len(b.Ops))
	s.left = budget{
		retries: uint8(b.Retries),
		crashC:  uint8(b.CoordinatorCrashes), crashP: uint8(b.ReplicaCrashes), breaks: uint8(b.Breaks),
		greets: uint8(b.LostGreetings), refusals: uint8(b.Refusals), late: uint8(b.Late), delayed: uint8(b.Delayed), beats: uint8(b.Beats),
	}
	return s, nil
}

// shortest finds the violation that is nearest to the root, breadth first, and
// tells its schedule in words.
func shortest(x *explorer, root *state) []string {
	type node struct {
		parent int32
		step   step
	}
	type open struct {
		node int32
		s    *state
	}
	nodes := []node{{parent: -1}}
	seen := map[digest]struct{}{}
	d, buf := root.digest(nil)
	seen[d] = struct{}{}
	trace := func(n int32, last *violation) []string {
		var path []step
		for ; nodes[n].parent >= 0; n = nodes[n].parent {
			path = append(path, nodes[n].step)
		}
		return x.tellAll(root, path, last)
	}
	layer := []open{{0, root}}
	for len(layer) > 0 {
		var next []open
		for _, o := range layer {
			steps, quiet := x.steps(o.s)
			if quiet {
				if bad := x.settled(o.s); bad != nil {
					return trace(o.node, bad)
				}
			}
			for _, st := range steps {
				n, bad := x.do(o.s, st)
				if bad == nil {
					d, buf = n.digest(buf)
					if _, met := seen[d]; met {
						continue
					}
					seen[d] = struct{}{}
				}
				nodes = append(nodes, node{o.node, st})
				if bad != nil {
					return trace(int32(len(nodes)-1), bad)
				}
				next = append(next, open{int32(len(nodes) - 1), n})
			}
		}
		layer = next
	}
	return []string{"a round of steps that leads back to where it began"}
}
