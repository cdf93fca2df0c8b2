package commit

import (
	"flag"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"tpcfs/wire"
)

var (
	parkSeed  = flag.Uint64("parkseed", 0, "run this one schedule of TestParkedAtRandom and print it")
	parkSeeds = flag.Uint64("parkseeds", 80, "how many schedules TestParkedAtRandom runs")
)

// TestParkedAtRandom runs random schedules of retries that are parked: behind who was in
// their way, behind anybody, of clients that give up, lose patience, come by another link
// or leave, over participants and coordinators that crash. Each request is answered once,
// nobody is put before who he waits for is decided, and nothing is left behind.
func TestParkedAtRandom(t *testing.T) {
	if *parkSeed != 0 {
		newParkRun(t, *parkSeed).run()
		return
	}
	var parked, behind, left int
	for seed := uint64(1); seed <= *parkSeeds && !t.Failed(); seed++ {
		p := newParkRun(t, seed)
		func() {
			defer func() {
				if t.Failed() {
					t.Logf("schedule: go test ./coordinator/commit -run TestParkedAtRandom -v -parkseed %d", seed)
				}
			}()
			p.run()
		}()
		parked, behind, left = parked+p.parked, behind+p.behind, left+p.left
	}
	t.Logf("%d parked behind a transaction, %d behind one of them, %d went away", parked, behind, left)
	if n := int(*parkSeeds); parked < 4*n || behind < n || left < n {
		t.Error("too little was parked to prove anything")
	}
}

// parkRun is one such schedule.
type parkRun struct {
	*bench
	rng     *rand.Rand
	links   map[wire.SessionID]uint64
	seqs    map[wire.SessionID]uint64
	all     []*Request // of this coordinator
	refused []*Request // by a conflict that names its blocker
	answers map[*Request]int
	seen    int // replies looked at
	put     map[*Request]bool
	joined  map[*Request]bool          // an attempt that was under way
	orders  map[wire.Behind][]*Request // who was parked, in the order of arrival
	ino     int64
	open    []wire.Ino // without a name

	parked, behind, left int
}

func newParkRun(t *testing.T, seed uint64) *parkRun {
	p := &parkRun{bench: newBench(t), rng: rand.New(rand.NewPCG(seed, 3)), seqs: map[wire.SessionID]uint64{}, ino: 1000}
	p.opts.MaxQueued = 8 + p.rng.IntN(24)
	p.opts.MaxAhead = uint64(3 + p.rng.IntN(20))
	p.opts.MinInSync = p.rng.IntN(3)
	p.opts.EvictAfter = []int64{300, 3000}[p.rng.IntN(2)]
	p.begin()
	return p
}

// begin starts a coordinator. What was asked of the one before is never answered.
func (p *parkRun) begin() {
	p.start()
	p.settle()
	p.links, p.all, p.refused, p.answers, p.seen = map[wire.SessionID]uint64{}, nil, nil, map[*Request]int{}, 0
	p.put, p.joined, p.orders = map[*Request]bool{}, map[*Request]bool{}, map[wire.Behind][]*Request{}
}

func (p *parkRun) trace(format string, args ...any) {
	if *parkSeed != 0 {
		p.t.Logf(format, args...)
	}
}

func (p *parkRun) chance(n int) bool { return p.rng.IntN(n) == 0 }

func (p *parkRun) run() {
	for range 60 + p.rng.IntN(200) {
		p.step()
		p.look()
	}
	switch p.rng.IntN(4) {
	case 0:
		p.m.Shut()
	case 1:
		p.m.Halt(wire.NewError(wire.CodeIO, "for the test"))
	}
	ended := p.m.closing || p.m.stop != nil
	p.m.full = false
	for range 3 {
		p.look()
		p.m.Unpause(p.m.joiner)
		if p.m.stop == nil {
			p.settle()
		} else {
			p.bench.run()
		}
	}
	p.look()
	for _, r := range p.all {
		if p.answers[r] != 1 {
			p.t.Errorf("request %v has %d answers", r.Transact.Op, p.answers[r])
		}
	}
	if len(p.m.queued)+len(p.m.queue)+len(p.m.unput()) != 0 || p.m.waiting != 0 {
		p.t.Errorf("left behind: %d (%d bytes), %d in the queue", len(p.m.queued), p.m.waiting, len(p.m.queue))
	}
	if !ended {
		p.wantEqual()
	}
}

func (p *parkRun) step() {
	n := p.fakes[p.rng.IntN(len(p.fakes))].name
	i := p.index(n)
	f := p.fakes[i]
	switch p.rng.IntN(24) {
	case 0, 1, 2:
		p.asks(nil)
	case 3, 4, 5, 6:
		p.retries()
	case 7, 8, 9:
		if f.alive && len(f.down) > 0 {
			if err := f.handle(p.chance(20)); err != nil {
				p.t.Fatal(err)
			}
		}
	case 10, 11:
		if f.alive {
			p.handle(n)
			f.sync()
		}
	case 12, 13:
		if f.alive {
			p.deliver(n)
		}
	case 14:
		if len(p.all) > 0 {
			r := p.all[p.rng.IntN(len(p.all))]
			p.trace("cancel %v", r.Transact.Op.Seq)
			p.left++
			p.m.Cancel(r)
		}
	case 15:
		ms := []int64{1, 50, 200, 400}[p.rng.IntN(4)]
		p.trace("tick %d", ms)
		p.m.Tick(ms)
	case 16:
		if p.chance(3) {
			p.leaves()
		}
	case 17:
		if f.alive && p.chance(3) {
			p.trace("break %s", n)
			p.breakLink(n)
		} else if f.alive && p.chance(3) {
			p.trace("crash %s", n)
			p.crash(n, f.synced)
		}
	case 18, 19:
		if !f.alive {
			p.greet(n)
		}
	case 20:
		p.m.full = p.chance(4)
		p.trace("full %v", p.m.full)
	case 21:
		if slices.ContainsFunc(p.m.members, func(mem *member) bool { return mem.in && p.fake(mem.name).alive }) {
			p.rejoin(i)
		}
	case 22:
		p.bench.sync()
	case 23:
		if p.chance(20) {
			p.trace("the coordinator crashes")
			p.begin()
		}
	}
	p.bench.run()
}

// leaves has a session come by a new link, or end.
func (p *parkRun) leaves() {
	s := p.session()
	switch p.rng.IntN(3) {
	case 0:
		p.trace("attach %d", s[0])
		p.links[s] = p.m.Attach(s).Link
	case 1:
		p.trace("fence %d", s[0])
		p.m.Fence(s)
		delete(p.links, s)
	default:
		p.trace("detach %d", s[0])
		p.m.Detach(s)
		delete(p.links, s)
	}
}

func (p *parkRun) session() wire.SessionID { return wire.SessionID{byte(1 + p.rng.IntN(3))} }

// retries has somebody try again what was refused, or wait for anybody.
func (p *parkRun) retries() {
	b := &wire.Behind{}
	if len(p.refused) > 0 && !p.chance(3) {
		e := p.reply(p.refused[max(0, len(p.refused)-1-p.rng.IntN(3))]).Err
		b.Tx, b.Key = e.Blocker, e.Key
	} else {
		b.Tx, b.Key = wire.MakeID(p.m.epoch.Number, p.m.counter-1-min(p.m.counter-2, uint64(p.rng.IntN(6)))), uint64(p.rng.IntN(3))
	}
	if p.chance(3) {
		b.Patience = 1 + int64(p.rng.IntN(600))
	}
	p.asks(b)
}

func (p *parkRun) asks(behind *wire.Behind) {
	s := p.session()
	if p.links[s] == 0 {
		p.links[s] = p.m.Attach(s).Link
	}
	if p.seqs[s]++; p.chance(8) && len(p.all) > 0 { // the same as another one
		s, p.seqs[s] = p.all[p.rng.IntN(len(p.all))].Transact.Op.Session, p.seqs[s]-1
	}
	r := &Request{Transact: wire.Transact{Op: wire.OpID{Session: s, Seq: p.seqs[s]}, Link: p.links[s], Behind: behind}}
	r.Transact.Mutations = writeTo([][]string{{"x"}, {"x"}, {"y"}, {"x", "y"}, {"z", "y"}}[p.rng.IntN(5)]...)
	switch {
	case p.chance(12):
		r.Transact.Mutations = writeTo("x", "no-a")
	case p.chance(12):
		p.ino++
		r.Transact.Mutations[0].Kind, r.Transact.Mutations[0].Hold, r.Transact.Mutations[0].Size = wire.MutDeleteFile, true, p.ino
		p.open = append(p.open, wire.Ino(p.ino))
	case p.chance(8) && len(p.open) > 0:
		r.Transact.Mutations = []wire.Mutation{{Kind: wire.MutReclaim, At: wire.At{Dir: p.open[p.rng.IntN(len(p.open))]}}}
	}
	if p.chance(4) {
		r.Transact.Wait = 1 + int64(p.rng.IntN(900))
	}
	if p.chance(10) && r.Transact.Op.Seq > 2 {
		r.Transact.Lowest = r.Transact.Op.Seq - uint64(p.rng.IntN(2))
	}
	p.all = append(p.all, r)
	p.m.Submit(r)
	p.joined[r], p.put[r] = r.tx != nil, r.tx != nil
	if r.line != nil {
		p.parked++
		key := *behind
		key.Patience = 0
		p.orders[key] = append(p.orders[key], r)
	}
	p.trace("request %d/%d %v behind %+v: parked %v", s[0], r.Transact.Op.Seq, namesOf(&wire.Prepare{Mutations: r.Transact.Mutations}), behind, r.line != nil)
}

// look checks what has been done, and what is kept.
func (p *parkRun) look() {
	p.bench.run()
	for ; p.seen < len(p.replies); p.seen++ {
		r, err := p.replies[p.seen].Request, p.replies[p.seen].Err
		p.trace("%d/%d hears %v", r.Transact.Op.Session[0], r.Transact.Op.Seq, err)
		if p.answers[r]++; p.answers[r] > 1 {
			p.t.Fatalf("request %v is answered again: %v", r.Transact.Op, err)
		}
		if b := r.Transact.Behind; err != nil && err.Blocker != 0 {
			if p.refused = append(p.refused, r); b != nil && b.Tx == err.Blocker && r.tx != nil && !p.joined[r] {
				p.t.Fatalf("request %v waited for %v, and was aborted by it", r.Transact.Op, b.Tx)
			}
		}
	}
	p.lookAtLines()
	for _, list := range p.orders { // first come, first served
		last := uint64(0)
		for _, r := range list {
			if r.tx != nil && r.tx.index != 0 {
				if r.tx.index < last {
					p.t.Fatalf("request %v came after one that is put after it", r.Transact.Op)
				}
				last = r.tx.index
			}
		}
	}
}

// lookAtLines checks that who waits is in one place, and is counted there.
func (p *parkRun) lookAtLines() {
	list := p.m.unput()
	bytes := int64(0)
	places := map[*Request]int{}
	for _, r := range list {
		places[r]++
		bytes += r.size
		switch in := r.line != nil && slices.Contains(r.line.requests, r); {
		case p.m.queued[r.Transact.Op] != r:
			p.t.Fatalf("request %v is in a line, and not counted", r.Transact.Op)
		case r.line != nil && !in, r.line != nil && slices.Contains(p.m.queue, r):
			p.t.Fatalf("request %v is not where it is said to be", r.Transact.Op)
		case r.line != nil && r.next != nil:
			p.t.Fatalf("request %v is parked, and others behind it", r.Transact.Op)
		case r.next != nil:
			p.behind += len(r.next.requests)
		case r.tx != nil || p.answers[r] != 0:
			p.t.Fatalf("request %v waits, and is put or answered", r.Transact.Op)
		}
	}
	if len(list) != len(p.m.queued) || len(places) != len(list) || bytes != p.m.waiting || len(list) > p.m.o.MaxQueued {
		p.t.Fatalf("%d wait in %d places (%d bytes), %d are counted (%d bytes)", len(places), len(list), bytes, len(p.m.queued), p.m.waiting)
	}
	for _, t := range slices.Concat(slices.Collect(maps.Values(p.m.ops)), p.m.order) {
		if t.state != undecided && t.line != nil {
			p.t.Fatalf("%v is decided, and others wait for it", t.id)
		}
	}
	for _, r := range p.all {
		if !p.put[r] && r.tx != nil {
			p.put[r] = true
			if b := p.m.blocker(r); b != nil && b.index < r.tx.index {
				p.t.Fatalf("request %v is put before %v is decided", r.Transact.Op, r.Transact.Behind.Tx)
			}
		}
	}
}
