package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"tpcfs/coordinator/commit"
	"tpcfs/wire"
)

// Schedules with mounts (F7, F9, F10): some clients have a lease, keep what they have
// read while it lasts and answer from that, without a message; they forget what the
// coordinator tells them, soon, late, or never, lose their links, stay away for longer
// than the lease, vanish with it, and go on under the next coordinator. They have files
// open, of which others take the last name. Time passes while coordinators stand still,
// and a coordinator fences sessions as one whose file locks are lost.
//
// What must hold: an answer from what is kept shows all changes that any client was told
// of before (F9); a file that a mount with a lease has open is not reclaimed (F7); of a
// session that is fenced nothing is put until it has attached again (F10).
//
// No zombies and no backups of the coordinator here: one that does not know of another
// goes on giving leases for a moment, and one that is older than a lease does not wait
// for it. One coordinator at a time on one journal is assumed.

// mount is what a client with a lease keeps. It mirrors fusefs/lease.go.
type mount struct {
	watches bool
	asking  *watchCall   // under way; nil: none
	last    wire.Watched // the last answer
	holds   []wire.Ino
	until   int64 // w.now at which nothing that is kept counts any more
	keeps   []kept
	open    []wire.Ino
	lost    []uint64 // requests whose outcome it will not hear
	away    bool     // nothing passes between it and the coordinator
	returns int      // weight of the step that ends that
}

// kept is a read's answer.
type kept struct {
	read
	code   wire.Code
	answer readAnswer
}

// keptRead is an answer from what was kept.
type keptRead struct {
	kept
	client  int
	session wire.SessionID
	step    int64
}

// watchCall is a Watch on its way, or its answer.
type watchCall struct {
	cl     *client
	c      *reign
	sent   int64 // w.now
	watch  *commit.Watch
	gone   bool // nobody waits for the answer
	answer *commit.Watched
}

// fence is where a session's link was fenced.
type fence struct {
	epoch, last, link uint64
}

// mounting makes some schedules of that kind.
func mounting(rng *rand.Rand, p *profile) {
	if p.ticks != nil || rng.IntN(4) > 0 {
		return
	}
	mounted(p)
}

// mounted makes a schedule with mounts.
func mounted(p *profile) {
	p.mounts, p.ticks = true, nil
	p.may[faultZombie], p.may[faultBackup], p.may[faultLie] = 0, 0, 0
	p.may[faultAway], p.may[faultLapse], p.may[faultFence] = faultWeight[faultAway], faultWeight[faultLapse], faultWeight[faultFence]
	p.readShare = max(p.readShare, 30)
	if p.startWeight < 10 {
		p.startWeight = 3
	}
}

// choices of a client's mount.
func (cl *client) mountChoices() {
	w := cl.w
	if !cl.watches {
		return
	}
	if cl.away {
		w.may1(stepReturn, cl.n, 0, cl.returns)
	}
	if cl.c != nil && cl.asking == nil {
		w.may1(stepWatch, cl.n, 0, 3)
	}
	if cl.asking != nil && cl.asking.answer != nil {
		w.may1(stepWatched, cl.n, 0, 4)
	}
	if len(cl.keeps) > 0 && w.now < cl.until && !w.settling {
		w.may1(stepKept, cl.n, 0, 2)
	}
}

// asks sends a Watch.
func (cl *client) asks() {
	w := cl.w
	q := &watchCall{cl: cl, c: cl.c, sent: w.now}
	q.watch = &commit.Watch{Token: q, Watch: wire.Watch{
		Session: cl.session, Link: cl.link, Epoch: cl.last.Epoch, Number: cl.last.Number, Wait: wire.WatchEvery,
		Holds: slices.Clone(cl.holds), Lowest: cl.lowest(), Lost: slices.Clone(cl.lost[max(0, len(cl.lost)-wire.MaxLost):]),
	}}
	if len(cl.lost) > wire.MaxLost {
		q.watch.Watch.Lowest, q.watch.Watch.Lost = 0, nil
	}
	if w.encode {
		q.watch.Watch = transmit(q.watch.Watch)
	}
	cl.asking = q
	cl.c.asks = append(cl.c.asks, q)
}

// asked takes a Watch off the network: mirrors Coordinator.Watch.
func (c *reign) asked() {
	q := c.asks[0]
	c.asks = c.asks[1:]
	c.turn(func() { c.m.Ask(q.watch, c.behind) })
}

// unasks is when the coordinator notices that nobody waits for an answer.
func (c *reign) unasks() {
	q := c.unasked[0]
	c.unasked = c.unasked[1:]
	c.turn(func() { c.m.Unask(q.watch) })
}

// watched gives answers.
func (c *reign) watched(list []commit.Watched) {
	for i := range list {
		if q := list[i].Watch.Token.(*watchCall); !q.gone {
			q.answer = &list[i]
		}
	}
}

// watchLost is what the end of a client's link does to its Watch. It may arrive all
// the same.
func (cl *client) watchLost() {
	q := cl.asking
	if q == nil {
		return
	}
	q.gone, cl.asking = true, nil
	if at := slices.Index(q.c.asks, q); at >= 0 && cl.w.chance(2) {
		q.c.asks = slices.Delete(q.c.asks, at, at+1)
	} else {
		q.c.unasked = append(q.c.unasked, q)
	}
}

// hearsWatch takes the answer: what it names is forgotten before the lease goes on.
func (cl *client) hearsWatch() {
	w, q := cl.w, cl.asking
	cl.asking = nil
	if err := q.answer.Err; err != nil {
		w.tracef("mount %d hears of its Watch: %v", cl.n, err)
		if err.Code == wire.CodeReplaced {
			cl.linkLost()
		}
		return
	}
	got := q.answer.Watched
	if w.encode {
		got = transmit(got)
	}
	w.tracef("mount %d is told to forget %s, up to %d; it is asked of %v; its lease lasts until %d ms", cl.n, touchedWords(&got.Touched), got.Number, got.Unnamed, q.sent+wire.Lease)
	if w.now >= cl.until && cl.until > 0 {
		w.reach(reachLapsed)
	}
	cl.forgets(&got.Touched)
	cl.holds = nil
	for _, ino := range got.Unnamed {
		if w.reach(reachAsked); slices.Contains(cl.open, ino) {
			w.reach(reachHolds)
			cl.holds = append(cl.holds, ino)
		}
	}
	cl.until, cl.last = max(cl.until, q.sent+wire.Lease), got
	w.reach(reachLease)
}

func touchedWords(t *wire.Touched) string {
	if t == nil || t.Wide {
		return "everything"
	}
	var parts []string
	for _, at := range t.Names {
		parts = append(parts, at.String())
	}
	return fmt.Sprintf("inodes %v and %q", t.Inos, strings.Join(parts, " "))
}

// forgets forgets what was touched, and what is being asked for of it; nil: all.
func (cl *client) forgets(t *wire.Touched) {
	if t == nil {
		t = &wire.Touched{Wide: true}
	}
	cl.keeps = slices.DeleteFunc(cl.keeps, func(k kept) bool { return k.touched(t) })
	for _, o := range cl.ops {
		if o.id.Seq == 0 && o.call != nil {
			o.heard = append(o.heard, t)
		}
	}
}

func (k *kept) touched(t *wire.Touched) bool {
	return t.Wide || k.at.Path != "" && slices.Contains(t.Names, k.at) || slices.Contains(t.Inos, k.answer.reply.Attr.Ino)
}

// keepsRead keeps an answer that has come, where the lease allows.
func (cl *client) keepsRead(o *op, code wire.Code, got *readAnswer) {
	w, k := cl.w, kept{o.read, code, *got}
	switch {
	case !cl.watches || w.now >= cl.until, code != 0 && code != wire.CodeNotExist, strings.Contains(o.at.Path, "/"):
		return
	case o.kind != wire.ReadStat && o.kind != wire.ReadFile:
		return
	case slices.ContainsFunc(o.heard, k.touched) && w.broken != keepsWhatIsTouched:
		return
	}
	cl.keeps = slices.DeleteFunc(cl.keeps, func(old kept) bool { return old.read == k.read })
	cl.keeps = append(cl.keeps, k)
	cl.opens(&k)
}

// opens opens a file, perhaps.
func (cl *client) opens(k *kept) {
	a := &k.answer.reply.Attr
	if k.code == 0 && a.Mode&wire.ModeType == wire.ModeRegular && a.Nlink > 0 && cl.w.chance(2) && !slices.Contains(cl.open, a.Ino) {
		cl.w.tracef("mount %d opens inode %d", cl.n, a.Ino)
		cl.open = append(cl.open, a.Ino)
	}
}

// answersKept answers a read from what is kept.
func (cl *client) answersKept() {
	w := cl.w
	k := cl.keeps[w.rng.IntN(len(cl.keeps))]
	w.tracef("mount %d answers from what it keeps: %s: %v, %s", cl.n, (&op{read: k.read}).words(), k.code, k.answer.words())
	w.reach(reachKept)
	w.keptReads = append(w.keptReads, keptRead{k, cl.n, cl.session, w.clock()})
	if cl.opens(&k); len(cl.open) > 0 && w.chance(6) {
		cl.open = cl.open[1:]
	}
}

// goesAway cuts a mount's network.
func (cl *client) goesAway() {
	cl.w.tracef("mount %d is cut off", cl.n)
	cl.linkLost()
	cl.away, cl.returns = true, cl.w.patience()
}

// lapse lets time pass in which no coordinator takes a turn.
func (w *world) lapse() {
	ms := 500 + int64(w.upTo(7))*1000
	w.tracef("%d ms pass", ms)
	w.now += ms
	for _, c := range w.reigns() {
		c.behind += ms
	}
}

// fences ends what a client's link may do, as one whose file locks are lost.
func (c *reign) fences(cl *client) {
	c.turn(func() {
		last := c.m.Fence(cl.session)
		c.w.fenced[cl.session] = fence{c.epoch.Number, last, cl.link}
		c.w.tracef("C%d fences client %d: link %d puts nothing after %d", c.epoch.Number, cl.n, cl.link, last)
	})
}

// afterFence is told of every PREPARE that a participant has handled.
func (w *world) afterFence(e *wire.Entry, o *op) {
	f, ok := w.fenced[o.id.Session]
	later := func(s sending) bool { return s.epoch == f.epoch && s.link > f.link }
	if ok && f.epoch == e.Prepare.Tx.Epoch() && e.Index > f.last && !slices.ContainsFunc(o.sentBy, later) {
		w.violate("F10", "op %d is put as %v, and was sent by no link after %d, which was fenced", o.num, e.Prepare.Tx, f.link)
	}
}

// takers notes whose transaction left files without a name that others may have open.
func (w *world) takes(session wire.SessionID, inos []wire.Ino) {
	for _, ino := range inos {
		w.takers[ino] = session
	}
}

// openAtMount: a file that a mount with a lease has open stays (F7), but for the one
// that has taken the name itself, and would have said that it holds it.
func (w *world) openAtMount(tx wire.ID, ino wire.Ino) {
	for _, cl := range w.clients {
		if cl.watches && w.now < cl.until && slices.Contains(cl.open, ino) && w.takers[ino] != cl.session {
			w.violate("F7", "transaction %v reclaims inode %d, which mount %d has open", tx, ino, cl.n)
		}
	}
}

// committing is a committed transaction, in the order of COMMITs.
type committing struct {
	tx wire.ID
	at wire.Position
	o  *op
}

// checkKept: an answer that a mount gave from what it kept is that of a moment after all
// changes that anybody was told of before it gave it (F9). Locks are held until the COMMIT
// is handled, so transactions that meet are in the order of those.
func (w *world) checkKept() {
	if w.loser != nil || len(w.keptReads) == 0 {
		return
	}
	var list []committing
	for _, o := range w.ops {
		if tx, done := w.effects[o.id]; done && o.id.Seq != 0 {
			list = append(list, committing{tx, w.order[tx], o})
		}
	}
	for id, r := range w.reclaims {
		if r.done > 0 {
			o := &op{num: -1, muts: []wire.Mutation{{Kind: wire.MutReclaim, At: wire.At{Dir: r.ino}}}}
			list = append(list, committing{id, w.order[id], o})
		}
	}
	slices.SortFunc(list, func(a, b committing) int {
		if n := a.at.Compare(b.at); n != 0 {
			return n
		}
		return int(int64(a.tx) - int64(b.tx))
	})
	states := []tree{newTree()}
	for _, x := range list {
		next, _, code, mut := states[len(states)-1].apply(x.tx, x.o.muts, x.o.payload, w.contents, w.keep[x.tx])
		if code != 0 {
			w.violate("G3", "in the order of COMMITs op %d (%s) cannot be done: %v at mutation %d", x.o.num, x.o.words(), code, mut)
			return
		}
		states = append(states, next)
	}
	for i := range w.keptReads {
		w.checkKeptRead(&w.keptReads[i], list, states)
	}
}

// checkKeptRead looks for a change that the mount should have known of: one that comes
// after all moments at which the answer was right, changes what it is about, and was told.
func (w *world) checkKeptRead(k *keptRead, list []committing, states []tree) {
	last := len(states) - 1
	for ; last >= 0 && !states[last].readOf(k.read, k.code, &k.answer); last-- {
	}
	if last < 0 {
		w.violate("F9", "mount %d answered what never was: %s: %v, %s", k.client, (&op{read: k.read}).words(), k.code, k.answer.words())
		return
	}
	for i := last; i < len(list); i++ {
		o := list[i].o
		told := o.replied
		if o.id.Session == k.session { // of its own it knows when it has heard
			if told = 0; o.fate == committed {
				told = o.ended
			}
		}
		if told > 0 && told < k.step && states[i].differsAt(k.at, states[i+1]) {
			w.violate("F9", "mount %d answered at step %d from what it kept: %s: %v, %s; it was told before, or a client was, that op %d has changed that",
				k.client, k.step, (&op{read: k.read}).words(), k.code, k.answer.words(), o.num)
			return
		}
	}
}

// differsAt: is what a name leads to another thing in the next tree?
func (t tree) differsAt(at wire.At, next tree) bool {
	p, code := t.find(at)
	q, after := next.find(at)
	f, g := t[p.ino], next[q.ino]
	return code != after || p.ino != q.ino || (f == nil) != (g == nil) || f != nil && !f.equal(g)
}
