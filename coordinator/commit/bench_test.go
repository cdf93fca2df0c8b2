package commit

import (
	"fmt"
	"slices"
	"testing"

	"tpcfs/wire"
)

// bench is a coordinator whose members and journal do exactly what a script says.
type bench struct {
	t       *testing.T
	m       *Machine
	fakes   []*fake
	journal []*Record // all that was appended
	durable int       // of them
	runs    byte
	disks   byte // that were put in
	asks    byte // edits asked for
	edits   bool // who takes part is being changed: addresses tell who is who
	opts    Options

	sent    [][]wire.Entry // by member, in this epoch
	replies []Reply
	watched []Watched
	mounts  []*mount // that have begun a lease
	dropped []Drop
	edited  []Edited
	gone    []*fake     // were removed, or replaced
	unstage []wire.ID   // asked of the first member
	asked   []Unstage   // of all
	lists   []wire.Read // of orphans, asked for
	stop    *wire.Error
	refused *wire.Error // why the last greeting was
	link    uint64      // of the session
}

var alice = wire.SessionID{1}
var cluster = wire.UUID{0xc}

func newBench(t *testing.T, names ...string) *bench {
	b := &bench{t: t, opts: Options{Cluster: cluster, Root: wire.Root{Mode: 0o755}}}
	if len(names) == 0 {
		names = []string{"a", "b", "c"}
	}
	for i, n := range names {
		f := newFake(n, byte(i+1))
		f.addr = n + ":1"
		b.fakes = append(b.fakes, f)
		b.opts.Peers = append(b.opts.Peers, Peer{Name: n, Addr: n + ":1"})
	}
	b.disks = 100
	b.start()
	return b
}

// start begins a reign on what is durable of the journal.
func (b *bench) start() {
	b.t.Helper()
	if err := b.tryStart(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) tryStart() error {
	b.journal = b.journal[:b.durable]
	var s State
	for _, r := range b.journal {
		dec, err := DecodeRecord(r.Encode()) // as a journal gives it back
		if err != nil {
			b.t.Fatal(err)
		}
		if err := s.Apply(dec); err != nil {
			b.t.Fatal(err)
		}
	}
	b.runs++
	e := &Record{Kind: RecEpoch, Epoch: wire.Epoch{Number: s.Epoch.Number + 1, Run: wire.UUID{b.runs}}}
	if err := s.Apply(e); err != nil {
		b.t.Fatal(err)
	}
	o := b.opts
	o.State = s
	m, err := New(o)
	if err != nil {
		return err
	}
	b.m = m
	b.journal = append(b.journal, e)
	b.durable = len(b.journal)
	b.sent, b.stop, b.replies, b.edited = nil, nil, nil, nil
	b.byNumber()
	for _, f := range b.fakes {
		f.old = f.old || f.alive
		f.alive, f.link = false, 0
		f.ups = nil
	}
	return nil
}

// byNumber puts the participants where the machine has them; who is new comes up
// with an empty disk.
func (b *bench) byNumber() {
	for len(b.sent) < len(b.m.members) {
		b.sent = append(b.sent, nil)
	}
	if !b.edits || len(b.fakes) == len(b.m.members) && !slices.ContainsFunc(b.m.members, func(mem *member) bool {
		f := b.fakes[slices.Index(b.m.members, mem)]
		return (mem.vacant || mem.coming) != (f == nobody) || f != nobody && f.addr != mem.addr
	}) {
		return
	}
	var old []*fake
	for _, f := range append(b.fakes, b.gone...) {
		if f != nobody {
			old = append(old, f)
		}
	}
	b.fakes = nil
	for _, mem := range b.m.Members() {
		if mem.None || mem.Coming {
			b.fakes = append(b.fakes, nobody)
			continue
		}
		at := slices.IndexFunc(old, func(f *fake) bool { return f.addr == mem.Addr })
		if at < 0 {
			b.disks++
			f := newFake(mem.Name, b.disks)
			f.addr = mem.Addr
			old, at = append(old, f), len(old)
		}
		b.fakes = append(b.fakes, old[at])
		old = slices.Delete(old, at, at+1)
	}
	b.gone = old
}

// nobody has a number that is not given out.
var nobody = &fake{name: "nobody"}

// run carries out what the machine asks for; nothing is handled or synced by itself.
func (b *bench) run() {
	rd := b.m.Ready()
	for _, s := range rd.Sends {
		f := b.fakes[s.Member]
		if s.Link == f.link && f.alive {
			f.down = append(f.down, s.Down)
		}
		if s.Down.Entry != nil {
			b.sent[s.Member] = append(b.sent[s.Member], *s.Down.Entry)
		}
	}
	b.journal = append(b.journal, rd.Records...)
	b.replies = append(b.replies, rd.Replies...)
	b.watched = append(b.watched, rd.Watched...)
	for _, d := range rd.Drop {
		if d.Err != nil {
			b.dropped = append(b.dropped, d)
			continue
		}
		f := b.fakes[d.Member]
		f.alive = false
		f.down, f.ups, f.votes, f.yes = nil, nil, nil, nil
	}
	b.edited = append(b.edited, rd.Edited...)
	b.byNumber()
	for _, u := range rd.Unstage {
		if u.Link != b.m.members[u.Member].link {
			b.t.Errorf("%v is to be dropped by an old link", u)
		}
		if u.Member == 0 {
			b.unstage = append(b.unstage, u.IDs...)
		}
		b.asked = append(b.asked, u)
	}
	if rd.ListOrphans != nil {
		b.lists = append(b.lists, *rd.ListOrphans)
	}
	if rd.Stop != nil {
		b.stop = rd.Stop
	}
}

// sync makes the coordinator's journal durable.
func (b *bench) sync() {
	for ; b.durable < len(b.journal); b.durable++ {
		if r := b.journal[b.durable]; r.Kind == RecConfig {
			b.m.Journaled(r.Config.ID)
		} else if r.Kind == RecLease && !r.Lease.Ended {
			b.m.LeaseJournaled(r.Lease)
		}
	}
	b.run()
}

func (b *bench) index(name string) int {
	for i, f := range b.fakes {
		if f.name == name {
			return i
		}
	}
	panic(name)
}

func (b *bench) fake(name string) *fake { return b.fakes[b.index(name)] }

// greet opens a link to each of those members.
func (b *bench) greet(names ...string) {
	b.t.Helper()
	for _, n := range names {
		i := b.index(n)
		f := b.fakes[i]
		if !b.m.MayGreet(i) {
			continue
		}
		g, err := f.greet(b.m.Greet(i))
		if err != nil {
			_ = b.m.Refused(i, err)
			b.run()
			continue
		}
		resumed := g.Held == b.m.epoch
		f.link, b.refused = b.m.Greeted(i, g)
		f.alive = f.link != 0
		if resumed {
			f.revote()
		}
		b.run()
	}
}

func (b *bench) breakLink(name string) {
	i := b.index(name)
	f := b.fakes[i]
	f.alive = false
	f.down, f.ups, f.votes, f.yes = nil, nil, nil, nil
	b.m.LinkDown(i, f.link)
	b.run()
}

func (b *bench) crash(name string, keep int) {
	b.breakLink(name)
	b.fake(name).crash(keep)
	b.fake(name).up = true
}

// handle lets members handle everything that was sent to them, unsynced.
func (b *bench) handle(names ...string) {
	b.t.Helper()
	for _, n := range names {
		f := b.fake(n)
		for len(f.down) > 0 {
			if err := f.handle(false); err != nil {
				b.t.Fatal(err)
			}
		}
	}
}

// deliver brings what members have said.
func (b *bench) deliver(names ...string) {
	b.t.Helper()
	for _, n := range names {
		i := b.index(n)
		f := b.fakes[i]
		for len(f.ups) > 0 {
			up := f.ups[0]
			f.ups = f.ups[1:]
			b.m.Up(i, f.link, &up)
		}
	}
	b.run()
	for _, d := range b.dropped {
		b.t.Fatalf("link dropped: %v", d.Err)
	}
}

// all: handled, synced, delivered.
func (b *bench) all(names ...string) {
	b.t.Helper()
	b.handle(names...)
	for _, n := range names {
		b.fake(n).sync()
	}
	b.deliver(names...)
}

// settle lets everything happen that happens by itself.
func (b *bench) settle() {
	b.t.Helper()
	b.run()
	for range 20 {
		b.sync()
		for i, f := range b.fakes {
			if f != nobody && f.up && !f.alive && b.stop == nil {
				b.greet(b.fakes[i].name)
			}
		}
		b.m.Tick(500)
		b.run()
		for i, f := range b.fakes {
			if f.alive {
				b.all(f.name)
			}
			b.rejoin(i)
		}
	}
}

// rejoin takes the next step of a participant's way back, if it is on one.
func (b *bench) rejoin(i int) {
	f := b.fakes[i]
	if !f.alive || !b.m.Outside(i, f.link) {
		return
	}
	j, drained, over := b.m.Drained(i, f.link)
	switch {
	case over && !f.s.resync: // it was not admitted: its mark has to be set again
		b.breakLink(f.name)
	case over:
		b.m.Pause(i, f.link)
	case drained && f.s.pos == j.Position && !f.s.resync:
		if !b.m.Admit(i, f.link) {
			b.breakLink(f.name)
		}
	case drained:
		f.joins(b.fakes[b.donor()], j)
	}
	b.run()
}

// donor is a member that is in sync and there.
func (b *bench) donor() int {
	for k, mem := range b.m.members {
		if mem.in && b.fakes[k].alive {
			return k
		}
	}
	panic("nobody is in sync")
}

// serve brings a new machine to service.
func (b *bench) serve() *bench {
	b.t.Helper()
	b.settle()
	if b.stop != nil {
		b.t.Fatalf("stopped: %v", b.stop)
	}
	if b.m.Phase() != Serving {
		b.t.Fatalf("phase %d, not serving", b.m.Phase())
	}
	b.attach()
	return b
}

func (b *bench) attach() { b.link = b.m.Attach(alice).Link }

func writeTo(names ...string) []wire.Mutation {
	var muts []wire.Mutation
	for _, n := range names {
		muts = append(muts, wire.Mutation{Kind: wire.MutWriteFile, At: wire.At{Dir: wire.RootIno, Path: n}})
	}
	return muts
}

// submit sends a request of the session's, by its newest link.
func (b *bench) submit(seq uint64, names ...string) *Request {
	r := &Request{Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: seq}, Link: b.link, Mutations: writeTo(names...)}}
	b.m.Submit(r)
	b.run()
	return r
}

// answer is what a request was told: "", "committed", or the code in words.
func (b *bench) answer(r *Request) string {
	got := ""
	for _, rep := range b.replies {
		if rep.Request != r {
			continue
		}
		if got != "" {
			b.t.Fatalf("two answers: %s and %v", got, rep.Err)
		}
		got = "committed"
		if rep.Err != nil {
			got = rep.Err.Code.String()
		}
	}
	return got
}

func (b *bench) reply(r *Request) Reply {
	b.t.Helper()
	for _, rep := range b.replies {
		if rep.Request == r {
			return rep
		}
	}
	b.t.Fatal("no answer")
	return Reply{}
}

func (b *bench) wantAnswer(r *Request, want string) {
	b.t.Helper()
	if got := b.answer(r); got != want {
		b.t.Fatalf("the client heard %q, want %q", got, want)
	}
}

// wantStreams: every member was sent those entries last.
func (b *bench) lastSent(name string) string {
	list := b.sent[b.index(name)]
	if len(list) == 0 {
		return ""
	}
	return entryString(list[len(list)-1])
}

func entryString(e wire.Entry) string {
	return [...]string{"", "PREPARE", "COMMIT", "ABORT", "CONFIG", "OPEN", "VOID"}[e.Kind] + fmt.Sprint(e.Index)
}

// first is the participant of the least number.
func (b *bench) first() *fake {
	return b.fakes[slices.IndexFunc(b.fakes, func(f *fake) bool { return f != nobody })]
}

// wantEqual: nothing in doubt, all members alike, W caught up.
func (b *bench) wantEqual() {
	b.t.Helper()
	first := b.first()
	for _, f := range b.fakes {
		if f == nobody {
			continue
		}
		for id, t := range f.s.txs {
			b.t.Errorf("%s still remembers %v as %d", f.name, id, t.State)
		}
		if fmt.Sprint(f.s.vals) != fmt.Sprint(first.s.vals) {
			b.t.Errorf("%s holds %v, %s %v", f.name, f.s.vals, first.name, first.s.vals)
		}
	}
	if b.m.w.Index != b.m.last || b.m.w.Epoch != b.m.epoch.Number {
		b.t.Errorf("W is %v, the last entry %d", b.m.w, b.m.last)
	}
	if len(b.m.ops)+len(b.m.order)+len(b.m.byIndex)+len(b.m.log)+len(b.m.aborts)+len(b.m.queue)+len(b.m.queued) != 0 || b.m.bytes != 0 || b.m.waiting != 0 {
		b.t.Errorf("not forgotten: %d ops, %d in order, %d by index, %d entries (%d bytes), %d aborts, %d queued, %d of them in the queue (%d bytes)",
			len(b.m.ops), len(b.m.order), len(b.m.byIndex), len(b.m.log), b.m.bytes, len(b.m.aborts), len(b.m.queued), len(b.m.queue), b.m.waiting)
	}
}
