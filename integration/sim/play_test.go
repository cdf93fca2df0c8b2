package sim

import (
	"math/rand/v2"
	"strings"
	"testing"

	"tpcfs/wire"
)

// play is a schedule by hand: the real machines, journals and stores, one named
// step after the other. Members are 0, 1, 2; what is not said does not happen.
type play struct {
	*testing.T
	*world
	lines []string
	tune  func(f *profile)
}

// newPlay begins with a cluster in service, nothing on its way, W caught up.
func newPlay(t *testing.T) *play {
	t.Helper()
	return newPlayOf(t, func(*profile) {})
}

// newPlayOf is newPlay with something of its own.
func newPlayOf(t *testing.T, tune func(f *profile)) *play {
	t.Helper()
	p := &play{T: t, tune: tune}
	p.begin(func(line string) { p.lines = append(p.lines, line) })
	if p.violation != nil {
		t.Fatal(p.violation)
	}
	t.Cleanup(p.endAll)
	return p
}

// begin is the work of newPlay; trace nil: none.
func (p *play) begin(trace func(line string)) {
	o := Options{
		Trace: trace,
		tune: func(f *profile) {
			*f = profile{segmentSize: 64 << 10, segments: 4, inlineMax: 32, tableBytes: 256 << 10, warm: true, startWeight: 10, joins: true, paths: paths, speed: [3]int{8, 8, 8}}
			if p.tune != nil {
				p.tune(f)
			}
		},
	}
	p.world = newWorld(1, &o)
	for len(p.clients) < 3 {
		cl := &client{w: p.world, n: len(p.clients)}
		cl.begin()
		p.clients = append(p.clients, cl)
	}
	p.settling = true
	if !p.quiesce() {
		return
	}
	for _, cl := range p.clients {
		if cl.c == nil {
			cl.attach(p.cur)
		}
	}
	p.settling = false
}

// ok ends the test if a promise is broken already.
func (p *play) ok() {
	p.Helper()
	p.afterStep()
	if p.violation != nil {
		p.Fatalf("%v\n%s", p.violation, strings.Join(p.lines, "\n"))
	}
}

func (p *play) step() {
	p.steps++
	p.rng = rand.New(rand.NewPCG(uint64(p.steps), 5))
}

// tx begins a transaction and sends it; put reports that it is on the streams.
func (p *play) tx(client int, muts ...wire.Mutation) *op {
	p.Helper()
	p.step()
	cl := p.clients[client]
	o := &op{cl: cl, num: len(p.ops), muts: muts, staged: make([][]byte, len(muts)), begun: p.clock()}
	for i := range muts {
		if muts[i].Kind == wire.MutWriteFile {
			cl.content(rand.New(rand.NewPCG(uint64(o.num), 6)), o, &o.muts[i], i)
		}
	}
	p.ops = append(p.ops, o)
	cl.ops = append(cl.ops, o)
	cl.seq++
	o.id = wire.OpID{Session: cl.session, Seq: cl.seq}
	p.byID[o.id] = o
	p.send(o)
	return o
}

func (p *play) send(o *op) {
	p.Helper()
	p.step()
	if o.cl.c == nil {
		o.cl.attach(p.cur)
	}
	o.cl.send(o)
	c := p.cur
	a := c.inbox[0]
	c.inbox = c.inbox[1:]
	c.submit(a)
	p.ok()
}

func write(name string) wire.Mutation {
	return wire.Mutation{Kind: wire.MutWriteFile, At: wire.At{Dir: wire.RootIno, Path: name}, Mode: 0o644}
}

func remove(name string) wire.Mutation {
	return wire.Mutation{Kind: wire.MutDeleteFile, At: wire.At{Dir: wire.RootIno, Path: name}}
}

// handle lets members handle n messages.
func (p *play) handle(n int, members ...int) {
	p.Helper()
	for _, i := range members {
		p.step()
		if p.members[i].conn == nil {
			p.Fatalf("P%d has no stream", i)
		}
		p.members[i].handle(n)
		p.ok()
	}
}

// disk makes journals durable; their owners do not know yet.
func (p *play) disk(members ...int) {
	for _, i := range members {
		p.step()
		p.members[i].j.forceLazy()
		p.members[i].j.work(-1)
	}
}

// sync makes journals durable, and lets out what waits for that.
func (p *play) sync(members ...int) {
	p.Helper()
	p.disk(members...)
	for _, i := range members {
		p.step()
		p.members[i].synced()
		p.ok()
	}
}

// hear lets the coordinator take all that has come from members.
func (p *play) hear(members ...int) {
	p.Helper()
	for _, i := range members {
		for k := p.cur.conns[i]; k.answer != nil || len(k.up) > 0; {
			p.step()
			p.cur.receive(i, 100)
			if p.cur == nil {
				break
			}
			if k.answer == nil && !k.opened {
				break
			}
		}
		p.ok()
	}
}

// prepare brings the next n messages to a vote at members, and the votes home.
func (p *play) prepare(n int, members ...int) {
	p.Helper()
	p.handle(n, members...)
	p.sync(members...)
	p.hear(members...)
}

// greet greets members up to the answer.
func (p *play) greet(members ...int) {
	p.Helper()
	for _, i := range members {
		p.fence(i)
		p.sync(i)
		p.hear(i)
	}
}

// fence lets a greeting arrive; what it writes is not durable yet.
func (p *play) fence(i int) {
	p.Helper()
	p.step()
	if k := p.cur.conns[i]; k != nil && k.cut {
		p.cur.linkGone(i)
	}
	p.cur.dial(p.members[i])
	p.members[i].greetArrives(p.cur.conns[i])
	p.ok()
}

func (p *play) breakLink(i int) {
	p.step()
	k := p.cur.conns[i]
	k.breaks(true)
	k.up, k.down, k.answer = nil, nil, nil
	p.cur.linkGone(i)
	if p.members[i].conn == k {
		p.members[i].conn = nil
	}
	p.disturb()
}

// A power failure keeps nothing, or all, of what was not synced.
const (
	nothingStays = iota
	allStays
)

// powerRNG makes forget.Crash keep that.
func powerRNG(keeps int) *rand.Rand {
	for seed := uint64(0); ; seed++ {
		r := rand.New(rand.NewPCG(seed, 9))
		r.Uint64()
		if r.IntN(4) == keeps {
			return rand.New(rand.NewPCG(seed, 9))
		}
	}
}

func (p *play) crash(h *host, keeps int) {
	p.Helper()
	p.steps++
	p.tracef("%s LOSES POWER", h.name)
	p.rng = powerRNG(nothingStays)
	p.processGone(h)
	p.rng = powerRNG(keeps)
	h.powerFails(p.rng)
	p.ok()
}

func (p *play) crashMember(i, keeps int) { p.Helper(); p.crash(p.members[i].host, keeps) }

func (p *play) restartMember(i int) {
	p.Helper()
	p.step()
	p.members[i].restart()
	p.ok()
}

// crashCoordinator ends the coordinator with what it has not synced.
func (p *play) crashCoordinator() { p.Helper(); p.crash(p.coordinator, nothingStays) }

func (p *play) startCoordinator() {
	p.Helper()
	p.step()
	p.startReign()
	p.ok()
}

// config makes this epoch's CONFIG durable at the coordinator and at members,
// and tells the coordinator.
func (p *play) config(members ...int) {
	p.Helper()
	p.coordinatorSyncs()
	p.handle(1, members...)
	p.sync(members...)
	p.hear(members...)
}

func (p *play) coordinatorSyncs() {
	p.Helper()
	p.step()
	p.cur.j.forceLazy()
	p.cur.j.work(-1)
	p.cur.synced()
	p.ok()
}

// restartAll: the coordinator, greetings, config, OPEN: up to service.
func (p *play) recoverAll() {
	p.Helper()
	p.startCoordinator()
	p.greet(0, 1, 2)
	p.config(0, 1, 2)
	if p.cur.readPoint == 0 {
		p.Fatal("the coordinator does not serve")
	}
}

func (p *play) told(o *op) *wire.Error {
	p.Helper()
	if o.attempt == nil || o.attempt.answer == nil {
		p.Fatalf("op %d has no answer\n%s", o.num, strings.Join(p.lines, "\n"))
	}
	err := o.attempt.answer.Err
	p.step()
	o.cl.hears(o)
	p.ok()
	return err
}

func (p *play) committed(o *op) {
	p.Helper()
	if err := p.told(o); err != nil {
		p.Fatalf("op %d: %v, want a commit", o.num, err)
	}
}

func (p *play) refusedWith(o *op, code wire.Code) {
	p.Helper()
	if err := p.told(o); err == nil || err.Code != code {
		p.Fatalf("op %d: %v, want %v", o.num, err, code)
	}
}

func (p *play) silent(o *op) {
	p.Helper()
	if o.fate != waits || o.attempt != nil && o.attempt.answer != nil {
		p.Fatalf("op %d has an answer too early\n%s", o.num, strings.Join(p.lines, "\n"))
	}
}

// read asks a member; the answer comes at once or when it has handled more.
func (p *play) read(client, member int, name string) *op {
	p.Helper()
	p.step()
	cl := p.clients[client]
	if cl.c == nil {
		cl.attach(p.cur)
	}
	o := &op{cl: cl, num: len(p.ops), begun: p.clock(), read: read{kind: wire.ReadStat, at: wire.At{Dir: wire.RootIno, Path: name}}}
	p.ops = append(p.ops, o)
	cl.ops = append(cl.ops, o)
	k := p.cur.conns[member]
	o.call = &readCall{o: o, c: p.cur, k: k, index: p.cur.readPoint}
	k.reads = append(k.reads, o.call)
	p.answer(o)
	return o
}

func (p *play) answer(o *op) {
	p.Helper()
	if o.call != nil {
		p.step()
		o.call.answers(o.call.k.member)
	}
	p.ok()
}

// settles ends the play as every schedule ends: all is answered, agreed upon,
// checked, started again from the disks and compared.
func (p *play) settles() {
	p.Helper()
	p.step()
	p.guard(p.settle)
	p.ok()
}
