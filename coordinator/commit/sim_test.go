package commit

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"tpcfs/wire"
)

var (
	simSeed    = flag.Uint64("seed", 0, "run this one schedule of TestSimulation and print it")
	simSeconds = flag.Float64("seconds", 6, "how long TestSimulation tries schedules")
)

// TestSimulation runs random schedules of the machine against three
// participants: crashes of everybody, broken links, lost answers, retries,
// reads. G1 and G4-G6 are watched all the time; at the end everything is
// answered and decided, the participants are alike, and W has caught up.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		s := newSim(t, *simSeed)
		s.trace = t.Logf
		s.run()
		return
	}
	end, least := time.Now().Add(time.Duration(*simSeconds*float64(time.Second))), 500
	if testing.Short() {
		end, least = time.Now().Add(time.Second), 0
	}
	n, steps, evicted, joined, changed, rebuilt := 0, 0, 0, 0, 0, 0
	for seed := uint64(1); n < least || time.Now().Before(end); seed++ {
		s := newSim(t, seed)
		func() {
			defer func() {
				if t.Failed() {
					t.Logf("schedule: go test -run TestSimulation -v -seed %d", seed)
				}
			}()
			s.run()
		}()
		n++
		steps += s.steps
		evicted += s.evicted
		joined += s.joined
		changed += s.changed
		rebuilt += s.rebuilt
	}
	t.Logf("%d schedules, %d steps, %d evictions, %d returns, %d times others by an operator, %d journals rebuilt", n, steps, evicted, joined, changed, rebuilt)
	if evicted < n/10 || joined < n/10 || changed < n/10 || rebuilt < n/10 {
		t.Error("too few evictions, returns and lost journals to prove anything")
	}
}

type opState uint8

const (
	opNew opState = iota
	opPending
	opLost // its answer is
	opDone
)

// op is one thing that the client wants done, once.
type op struct {
	seq      uint64
	names    []string
	state    opState
	req      *Request
	attempts int
	failed   bool // it was told so
	acked    bool
}

type read struct {
	member int
	link   uint64
	epoch  uint64
	point  uint64
	name   string
	floor  int
}

type sim struct {
	*bench
	rng   *rand.Rand
	ops   []*op
	up    bool // the coordinator
	lost  []uint64
	reads []read
	steps int
	seen  int // replies looked at
	recs  int // records looked at
	trace func(string, ...any)

	// What the monitor knows.
	opOf      map[wire.ID]*op
	committed map[wire.ID]bool
	aborted   map[wire.ID]bool
	order     map[string][]wire.ID // commits of a name
	floor     map[string]int       // what has been read or acknowledged
	faults    map[string]int       // left
	in        int                  // configs' sizes, as recorded
	evicted   int
	joined    int
	flooded   *Edit // the disks of those are lost, and an operator has not been heard yet
	changed   int   // edits in force
	losing    bool  // the journal is lost, or old, and not rebuilt yet
	unsure    bool  // it was
	served    bool  // some coordinator has
	rebuilt   int
}

func newSim(t *testing.T, seed uint64) *sim {
	rng := rand.New(rand.NewPCG(seed, 1))
	s := &sim{
		bench: newBench(t), rng: rng, up: true, lost: make([]uint64, 16), trace: func(string, ...any) {},
		opOf: map[wire.ID]*op{}, committed: map[wire.ID]bool{}, aborted: map[wire.ID]bool{}, order: map[string][]wire.ID{}, floor: map[string]int{},
		faults: map[string]int{},
	}
	s.opts.MaxAhead = uint64(3 + rng.IntN(20))
	s.opts.MinInSync = []int{0, 1, 2, 2, 2}[rng.IntN(5)]
	s.edits = true
	s.opts.EvictAfter = []int64{1, 300, 3000}[rng.IntN(3)]
	s.start()
	for i := range 1 + rng.IntN(5) {
		names := [][]string{{"x"}, {"y"}, {"x", "y"}, {"x"}}[rng.IntN(4)]
		s.ops = append(s.ops, &op{seq: uint64(i + 1), names: names})
	}
	for _, f := range []string{"crash", "break", "down", "refuse", "cancel", "move", "late", "wipe", "flood", "edit", "lose"} {
		s.faults[f] = rng.IntN(4)
	}
	if rng.IntN(4) > 0 {
		s.serve() // else the schedule begins with the bootstrap
		s.watch()
	}
	return s
}

func (s *sim) fault(name string) bool {
	if s.faults[name] == 0 {
		return false
	}
	s.faults[name]--
	return true
}

func (s *sim) run() {
	for range 40 + s.rng.IntN(400) {
		s.steps++
		s.step()
		s.watch()
	}
	clear(s.faults)
	for range 60 {
		for _, f := range s.fakes {
			f.up = f.up || f != nobody
		}
		if !s.up {
			s.restart()
		}
		if !s.up {
			s.t.Fatal("all are there, and the coordinator does not start")
		}
		for i := range s.fakes {
			s.notice(i)
		}
		s.resolve()
		s.settle()
		s.watch()
		if !s.up {
			continue // a rebuilt journal was old already
		}
		s.m.Tick(5000)
		if s.stop != nil {
			s.t.Fatalf("stopped: %v", s.stop)
		}
		for _, o := range s.ops {
			s.push(o)
		}
		s.watch()
		if !slices.ContainsFunc(s.ops, func(o *op) bool { return o.state != opDone }) {
			break
		}
	}
	s.finish()
}

func (s *sim) finish() {
	s.settle()
	s.watch()
	for _, o := range s.ops {
		if o.state != opDone {
			s.t.Errorf("op %d never gets its answer (state %d)", o.seq, o.state)
		}
	}
	s.wantEqual()
	for name, list := range s.order {
		if got := s.first().s.vals[name]; got != list[len(list)-1] {
			s.t.Errorf("%s is %v, the last commit was %v", name, got, list[len(list)-1])
		}
	}
}

// push submits what is new or lost.
func (s *sim) push(o *op) {
	if o.state != opNew && o.state != opLost {
		return
	}
	if s.link == 0 || s.m.sessions[alice] == nil {
		s.attach()
	}
	o.attempts++
	r := &Request{Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: o.seq}, Link: s.link, Mutations: writeTo(o.names...)}}
	if s.fault("late") {
		r.Transact.Wait = int64(s.rng.IntN(900))
	}
	o.state, o.req = opPending, r
	s.trace("submit op %d %v, attempt %d", o.seq, o.names, o.attempts)
	s.m.Submit(r)
}

func (s *sim) restart() {
	if s.losing && !s.rebuild() {
		return
	}
	s.start()
	s.trace("coordinator starts: epoch %d", s.m.epoch.Number)
	s.up, s.seen, s.recs = true, 0, len(s.journal)
	s.reads = nil
	s.lost = make([]uint64, 16)
	s.link = 0
}

// rebuild makes up for the journal from those that are up (P13), also by an operator's
// word, who knows whose disks are lost. false: they are too few.
func (s *sim) rebuild() bool {
	up := func(f *fake) bool { return f.up }
	rec, err := s.rebuildFrom(up, nil)
	if lost := s.wiped(); err != nil && len(lost) > 0 {
		s.trace("the journal is not rebuilt: %v; %v are declared lost", err, lost)
		rec, err = s.rebuildFrom(up, lost)
	}
	if err != nil {
		s.trace("the journal is not rebuilt: %v", err)
		return false
	}
	s.losing = false
	s.trace("the journal is rebuilt: %v of epoch %d, config %+v", rec.Kind, rec.Epoch.Number, rec.Config)
	s.journal = append(s.journal, rec)
	s.durable = len(s.journal)
	if rec.Kind == RecSnapshot {
		s.rebuilt++
	}
	return true
}

// had is what is left of the journal.
func (s *sim) had() *State {
	had := &State{}
	for _, r := range s.journal[:s.durable] {
		if err := had.Apply(r); err != nil {
			s.t.Fatal(err)
		}
	}
	return had
}

func (s *sim) rebuildFrom(asked func(f *fake) bool, lost []string) (*Record, error) {
	r := Rebuilding{MinInSync: s.opts.MinInSync, StandIn: wire.SessionID{0x5, s.runs}, Lost: lost, Force: len(lost) > 0}
	for _, f := range s.fakes {
		switch {
		case f == nobody:
		case asked(f) || slices.Contains(lost, f.name):
			r.Held = append(r.Held, Holding{f.name, f.holds()})
		default:
			r.Silent++
		}
	}
	if c, err := NewestConfig(r.Held); err == nil && c != nil {
		for _, mem := range c.Configured { // who was to come, with an empty disk
			if mem.Storage.IsZero() && !slices.ContainsFunc(s.fakes, func(f *fake) bool { return f.name == mem.Name }) {
				r.Held = append(r.Held, Holding{mem.Name, wire.Greeting{Storage: wire.UUID{0xff}}})
			}
		}
	}
	return Rebuild(s.had(), r)
}

// wiped names those of the newest config whose disks are lost, or who have never had anything.
func (s *sim) wiped() []string {
	var held []Holding
	there := map[wire.UUID]bool{}
	for _, f := range s.fakes {
		held = append(held, Holding{f.name, f.holds()})
		there[f.storage] = true
	}
	c, err := NewestConfig(held)
	if err != nil {
		s.t.Fatal(err)
	}
	if old := s.had().Config; old != nil && (c == nil || old.ID.Compare(c.ID) > 0) {
		c = old
	}
	var lost []string
	for i := 0; c != nil && i < len(c.Configured); i++ {
		mem := c.Configured[i]
		empty := mem.Storage.IsZero() && !slices.ContainsFunc(held, func(h Holding) bool { return h.Name == mem.Name && h.Greeting.Config.ID.Epoch != 0 })
		if empty || !mem.Storage.IsZero() && !there[mem.Storage] {
			lost = append(lost, mem.Name)
		}
	}
	return lost
}

// loses leaves nothing of the journal, or what it once was; unless the disks of all that
// have everything are lost, too.
func (s *sim) loses() {
	journal, durable := s.journal, s.durable
	s.journal = s.journal[:s.rng.IntN(2)*s.rng.IntN(s.durable+1)]
	s.durable = len(s.journal)
	all := func(*fake) bool { return true }
	if _, err := s.rebuildFrom(all, nil); err != nil {
		lost := s.wiped()
		if len(lost) == 0 {
			s.t.Fatalf("all are there, and the journal cannot be rebuilt: %v", err)
		}
		if _, err = s.rebuildFrom(all, lost); err != nil {
			if !strings.Contains(err.Error(), "nobody is left") {
				s.t.Fatalf("all but %v are there, and the journal cannot be rebuilt: %v", lost, err)
			}
			s.journal, s.durable = journal, durable
			return
		}
	}
	s.losing, s.unsure = true, true
	s.trace("the journal is LOST but for %d records", len(s.journal))
}

// notice tells the machine of a link that was lost.
func (s *sim) notice(i int) {
	if s.lost[i] != 0 {
		s.m.LinkDown(i, s.lost[i])
		s.lost[i] = 0
	}
}

func (s *sim) step() {
	i := s.rng.IntN(len(s.fakes))
	f := s.fakes[i]
	if f == nobody {
		return
	}
	switch s.rng.IntN(24) {
	case 23:
		s.operator(i)
	case 20, 21:
		s.catchUp(i)
	case 22:
		s.gone(i)
	case 0:
		if s.up && s.m.Phase() == Serving {
			s.push(s.ops[s.rng.IntN(len(s.ops))])
		}
	case 1, 2, 3, 4:
		if (f.alive || f.old) && len(f.down) > 0 {
			e := f.down[0].Entry
			refuse := e != nil && e.Kind == wire.EntryPrepare && s.rng.IntN(3) == 0 && s.fault("refuse")
			if e != nil {
				s.trace("%s handles %s (refuse %v)", f.name, entryString(*e), refuse)
			}
			if err := f.handle(refuse); err != nil {
				s.t.Fatal(err)
			}
		}
	case 5, 6, 7:
		if f.up && f.synced < len(f.recs) {
			s.trace("%s syncs", f.name)
			f.sync()
		}
	case 8, 9, 10:
		if f.alive && len(f.ups) > 0 && s.up {
			up := f.ups[0]
			f.ups = f.ups[1:]
			s.trace("%s says %+v", f.name, up)
			s.m.Up(i, f.link, &up)
		}
	case 11:
		if s.rng.IntN(3) == 0 && f.up && s.fault("crash") {
			keep := f.synced + s.rng.IntN(len(f.recs)-f.synced+1)
			s.trace("CRASH %s, keeps %d of %d, synced %d", f.name, keep, len(f.recs), f.synced)
			s.cut(i)
			f.crash(keep)
		}
	case 12:
		if s.rng.IntN(3) == 0 && f.alive && s.fault("break") {
			s.trace("BREAK %s", f.name)
			s.cut(i)
		}
	case 13:
		if !f.up {
			f.up = true
		} else if s.up && !f.alive && s.stop == nil {
			s.notice(i)
			s.trace("greet %s at %v", f.name, f.s.pos)
			s.bench.greet(f.name)
		}
	case 14:
		s.notice(i)
	case 15:
		if s.rng.IntN(4) == 0 && s.up && s.fault("down") {
			s.goDown()
		} else if !s.up {
			s.restart()
		}
	case 16:
		if s.up {
			s.bench.sync()
		}
	case 17:
		if s.up {
			s.m.Tick(int64(s.rng.IntN(600)))
		}
	case 18:
		s.read(i)
	case 19:
		s.client()
	}
}

func (s *sim) cut(i int) {
	f := s.fakes[i]
	if f.alive {
		s.lost[i] = f.link
	}
	f.alive, f.old = false, false
	f.down, f.ups, f.votes, f.yes = nil, nil, nil, nil
	s.reads = slices.DeleteFunc(s.reads, func(r read) bool { return r.member == i })
}

// goDown loses the coordinator and what its journal had not made durable.
func (s *sim) goDown() {
	s.durable += s.rng.IntN(len(s.journal) - s.durable + 1)
	s.trace("CRASH coordinator, keeps %d of %d records", s.durable, len(s.journal))
	s.journal = s.journal[:s.durable]
	s.up = false
	s.reads = nil
	if s.served && s.rng.IntN(2) == 0 && s.fault("lose") { // before that there is nothing to lose
		s.loses()
	}
	for _, o := range s.ops {
		if o.state == opPending {
			o.state = opLost
		}
	}
	// What was sent may still arrive, until a newer coordinator greets.
}

// catchUp takes the next step of a participant that is out of sync.
func (s *sim) catchUp(i int) {
	if !s.up || s.stop != nil {
		return
	}
	f := s.fakes[i]
	if f.alive && s.m.Outside(i, f.link) {
		s.trace("%s catches up, at %v", f.name, f.s.pos)
		if s.rng.IntN(8) == 0 {
			s.m.Unpause(i)
		} else if s.m.phase == Serving && slices.ContainsFunc(s.m.members, func(m *member) bool { return m.in && s.fakes[s.indexOf(m)].alive }) {
			s.rejoin(i)
		}
	}
}

func (s *sim) indexOf(m *member) int { return slices.Index(s.m.members, m) }

// gone: nobody answers at a participant's address, or its disk is lost. Only
// one is, of those that are all in sync: the others have everything.
func (s *sim) gone(i int) {
	if !s.up || s.stop != nil {
		return
	}
	f := s.fakes[i]
	whole := s.whole(2)
	switch {
	case !f.alive && s.lost[i] == 0:
		s.m.Refusing(i)
	case whole && s.fault("wipe"):
		s.wipes(i)
	case s.whole(1) && s.fault("flood"):
		var names []string
		for k, f := range s.fakes {
			if k != i {
				s.wipes(k)
				names = append(names, f.name)
			}
		}
		s.asks++
		s.flooded = &Edit{Request: wire.MembersRequest{Kind: wire.MembersLost, Names: names, Force: true, ID: wire.UUID{0xe, s.asks}}}
	}
}

// whole: have all three everything, where at least so many have to stay?
func (s *sim) whole(least int) bool {
	c := s.m.state.Config
	whole := c != nil && len(c.InSync) == 3 && s.m.size() == 3 && s.m.change == nil && s.m.phase == Serving &&
		s.opts.MinInSync >= least && s.flooded == nil && s.durable == len(s.journal)
	for k, mem := range s.m.members {
		whole = whole && mem.in && mem.linked && mem.unfit == nil && s.lost[k] == 0 && s.fakes[k].alive
	}
	return whole
}

// wipes leaves a participant an empty disk.
func (s *sim) wipes(i int) {
	f := s.fakes[i]
	s.trace("WIPE %s", f.name)
	s.cut(i)
	s.notice(i)
	s.disks++
	f.wiped(wire.UUID{0xd, s.disks})
}

// operator declares lost what is lost, or changes who takes part.
func (s *sim) operator(i int) {
	switch {
	case !s.up || s.stop != nil:
	case s.flooded != nil:
		if s.rng.IntN(3) == 0 {
			s.resolve()
		}
	case s.opts.MinInSync > 0 && s.m.phase == Serving && s.fault("edit"):
		s.asks++
		r := wire.MembersRequest{Names: []string{s.fakes[i].name}, Force: s.rng.IntN(2) == 0, ID: wire.UUID{0xe, s.asks}}
		r.New = wire.Member{Name: r.Names[0], Addr: fmt.Sprintf("%s:%d", r.Names[0], 100+s.asks)}
		switch r.Kind = wire.MembersReplace; {
		case s.m.size() < 3:
			r.Kind, r.Names, r.New.Name = wire.MembersAdd, nil, fmt.Sprintf("n%d", s.asks)
		case s.rng.IntN(2) == 0:
			r.New.Name = fmt.Sprintf("n%d", s.asks)
		case s.rng.IntN(2) == 0 && s.m.size() > 2:
			r.Kind, r.New = wire.MembersRemove, wire.Member{}
		}
		s.trace("operator: %v %v, force %v", r.Kind, r.Names, r.Force)
		s.m.Edit(&Edit{Request: r})
	}
}

// resolve says again, until it is heard, that disks are lost.
func (s *sim) resolve() {
	if lost := s.wiped(); s.flooded == nil && s.unsure && s.m.phase == Greeting && len(lost) > 0 {
		s.asks++ // what was said before went with the journal
		s.flooded = &Edit{Request: wire.MembersRequest{Kind: wire.MembersLost, Names: lost, Force: true, ID: wire.UUID{0xe, s.asks}}}
	}
	if s.flooded == nil || slices.Contains(s.m.edits, s.flooded) {
		return
	}
	s.trace("operator: %v are lost", s.flooded.Request.Names)
	s.flooded = &Edit{Request: s.flooded.Request}
	s.m.Edit(s.flooded)
}

// answered looks at what operators were told.
func (s *sim) answered() {
	for _, e := range s.edited {
		s.trace("operator hears %q %v", e.Reply.What, e.Err)
		if e.Err == nil {
			s.changed++
		}
		if e.Edit == s.flooded && (e.Err == nil || e.Err.Code == wire.CodeInvalid) {
			s.flooded = nil
		}
	}
	s.edited = nil
}

// client loses patience, or its connection.
func (s *sim) client() {
	if !s.up {
		return
	}
	o := s.ops[s.rng.IntN(len(s.ops))]
	switch {
	case o.state == opPending && s.rng.IntN(2) == 0 && s.fault("cancel"):
		s.trace("cancel op %d", o.seq)
		s.m.Cancel(o.req)
	case s.fault("move"):
		s.trace("the client comes by a new link")
		s.attach()
		for _, o := range s.ops {
			if o.state == opPending {
				o.state = opLost
			}
		}
	}
}

func (s *sim) read(i int) {
	if !s.up {
		return
	}
	if len(s.reads) == 0 || s.rng.IntN(2) == 0 {
		f := s.fakes[i]
		if point := s.m.ReadPoint(); point != 0 && f.alive && s.m.members[i].linked && s.m.members[i].in {
			name := []string{"x", "y"}[s.rng.IntN(2)]
			s.reads = append(s.reads, read{i, f.link, s.m.epoch.Number, point, name, s.floor[name]})
		}
		return
	}
	k := s.rng.IntN(len(s.reads))
	r := s.reads[k]
	f := s.fakes[r.member]
	if !f.alive || f.link != r.link || f.s.fence.Number != r.epoch || f.s.pos.Before(wire.Position{Epoch: r.epoch, Index: r.point}) {
		return
	}
	s.reads = slices.Delete(s.reads, k, k+1)
	at := 0
	if v := f.s.vals[r.name]; v != 0 {
		if at = slices.Index(s.order[r.name], v) + 1; at == 0 {
			s.t.Fatalf("%s reads %v for %s, which is not committed", f.name, v, r.name)
		}
	}
	if at < r.floor {
		s.t.Fatalf("stale read at %s: %s is #%d, #%d was read or acknowledged before", f.name, r.name, at, r.floor)
	}
	s.floor[r.name] = max(s.floor[r.name], at)
}

// watch looks at what the machine has done.
func (s *sim) watch() {
	if !s.up {
		return
	}
	s.bench.run()
	old := s.stop != nil && s.unsure && strings.Contains(s.stop.Text, "empty, old or another's")
	if s.stop != nil && !old {
		s.t.Fatalf("stopped: %v", s.stop)
	}
	s.served = s.served || s.m.Phase() == Serving
	s.answered()
	if len(s.dropped) > 0 {
		s.t.Fatalf("link dropped: %v", s.dropped[0].Err)
	}
	for i := range s.sent {
		for _, e := range s.sent[i] {
			if e.Kind == wire.EntryPrepare {
				s.opOf[e.Prepare.Tx] = s.ops[e.Prepare.Op.Seq-1]
			}
		}
		s.sent[i] = s.sent[i][:0]
	}
	for ; s.recs < len(s.journal); s.recs++ {
		if d := s.journal[s.recs].Decision; d != nil {
			s.decided(d)
		}
		if c := s.journal[s.recs].Config; c != nil {
			if s.in > 0 {
				s.evicted += max(0, s.in-len(c.InSync))
				s.joined += max(0, len(c.InSync)-s.in)
			}
			s.in = len(c.InSync)
		}
	}
	for ; s.seen < len(s.replies); s.seen++ {
		s.hear(s.replies[s.seen])
	}
	if old {
		// What the old coordinator had sent came when the participants had been asked, or
		// who knew better was not there, and an old journal went on.
		s.trace("the journal is old: %v", s.stop)
		s.goDown()
		s.losing = true
	}
}

func (s *sim) decided(d *Decision) {
	o := s.opOf[d.Tx]
	s.trace("decided %v of op %d: commit %v", d.Tx, o.seq, d.Commit)
	if !d.Commit {
		if s.committed[d.Tx] {
			s.t.Fatalf("%v was committed, now it is aborted", d.Tx)
		}
		s.aborted[d.Tx] = true
		return
	}
	if s.committed[d.Tx] {
		return
	}
	for id := range s.committed {
		if s.opOf[id] == o {
			s.t.Fatalf("op %d took effect twice, as %v and %v", o.seq, id, d.Tx)
		}
	}
	// An ABORT that nobody was told of, and of which only who was evicted since
	// has kept anything, may yet become a COMMIT.
	if o.failed || s.aborted[d.Tx] && s.opts.MinInSync == 0 {
		s.t.Fatalf("%v commits although op %d was told that it failed, or it was aborted (%v)", d.Tx, o.seq, s.aborted[d.Tx])
	}
	s.committed[d.Tx] = true
	for _, n := range o.names {
		s.order[n] = append(s.order[n], d.Tx)
	}
}

// hear is the client's side of an answer.
func (s *sim) hear(rep Reply) {
	o := s.ops[rep.Request.Transact.Op.Seq-1]
	if o.req != rep.Request || o.state != opPending {
		return // by a link that is gone
	}
	s.trace("op %d hears %+v %v", o.seq, rep.Reply.Outcome, rep.Err)
	if rep.Err == nil {
		id := rep.Reply.Outcome.Tx
		if !s.committed[id] || s.opOf[id] != o {
			s.t.Fatalf("op %d is told that %v committed", o.seq, id)
		}
		o.state, o.acked = opDone, true
		for _, n := range o.names {
			s.floor[n] = max(s.floor[n], slices.Index(s.order[n], id)+1)
		}
		return
	}
	switch rep.Err.Code {
	case wire.CodeUnknownOutcome:
		o.state = opLost
		return
	case wire.CodeUnavailable, wire.CodeReplaced, wire.CodeCanceled:
		if o.attempts > 1 {
			o.state = opLost // of this attempt only
			return
		}
	case wire.CodeConflict, wire.CodeNoSpace:
		if strings.Contains(rep.Err.Text, "done before") {
			s.t.Fatalf("op %d hears %v although nobody refused", o.seq, rep.Err)
		}
	default:
		s.t.Fatalf("op %d hears %v", o.seq, rep.Err)
	}
	for id := range s.committed {
		if s.opOf[id] == o {
			s.t.Fatalf("op %d is told %v although %v committed", o.seq, rep.Err, id)
		}
	}
	o.state, o.failed = opDone, true
}
