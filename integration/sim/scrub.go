package sim

import (
	"errors"
	"io/fs"
	"slices"

	"tpcfs/coordinator/scrub"
	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// scrubRun mirrors coordinator/scrub.go and compare.go: one scrub, which carries out what
// scrub.Machine wants. Its goroutines are a caller for the whole, and one for each
// participant whose contents are verified.
type scrubRun struct {
	caller
	m         *scrub.Machine
	names     []string
	scheduled bool
	stopped   bool
	verifiers []*caller
	judge     scrubJudge
}

// bookName mirrors where the coordinator keeps its book.
const bookName = reignDir + "/SCRUB"

// recallsBook mirrors recallScrub.
func (c *reign) recallsBook() {
	text, err := disk.ReadWhole(c.host.fs, bookName, scrub.MaxBook)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		c.book, err = scrub.Decode(text)
	}
	if err != nil {
		c.w.reach(reachBookLost)
		c.book = scrub.Book{Lost: true}
	}
}

// called mirrors the function.
func (c *reign) called() []string {
	names := make([]string, len(c.w.members))
	for i := range names {
		if c.has(i) {
			names[i] = c.m.Peer(i).Name
		}
	}
	return names
}

// mayScrub: is there nothing in the way of beginning one?
func (c *reign) mayScrub() bool {
	return c.w.bystanders != nil && !c.zombie && !c.over && !c.closing && !c.gathered && (c.scrub == nil || c.scrub.done) && c.m.Stopped() == nil
}

// beginScrub mirrors startScrub; no names: all.
func (c *reign) beginScrub(of []string, scheduled bool) {
	names := c.called()
	chosen := make([]bool, len(names))
	for i, name := range names {
		chosen[i] = name != "" && (len(of) == 0 || slices.Contains(of, name))
	}
	r := &scrubRun{names: names, m: scrub.New(names, chosen), scheduled: scheduled}
	c.w.tracef("C%d scrubs %v", c.epoch.Number, of)
	c.w.reach(reachScrubBegun)
	r.begin(c, func() bool { return false }, r.run)
	r.judge.begins(r)
	c.scrub = r
}

// dueScrub mirrors scrubDue; when all are due is anybody's guess.
func (c *reign) dueScrub() (names []string, due bool) {
	var there []string
	for _, k := range c.others(-1) {
		there = append(there, k.member.name)
	}
	return c.book.Due(there, false)
}

// idles lets others go on; false: the process has ended.
func (r *caller) idles() bool {
	if !r.stopped && !r.c.over && !r.yield(struct{}{}) {
		r.stopped = true
	}
	return !r.stopped && !r.c.over
}

// keeps mirrors keepScrub: the book is durable, or not.
func (r *caller) keeps() bool {
	c := r.c
	for c.keeping {
		if !r.idles() {
			return false
		}
	}
	c.book.Forget(c.called())
	text, err := c.book.Encode()
	if err != nil || c.zombie {
		return err == nil // another process has its disk: no harm may come of what it does not hear
	}
	c.keeping = true
	defer func() { c.keeping = false }()
	r.task = c.host.start("book", func(*task) { err = disk.WriteWhole(c.host.fs, bookName, bookName+".tmp", text) })
	c.bookTask = r.task
	for !r.task.done {
		if !r.idles() {
			r.task = nil
			return false
		}
	}
	r.task, c.bookTask = nil, nil
	return err == nil
}

// renews mirrors the function.
func (r *caller) renews(name string, has bool) bool {
	if !has {
		r.c.book.Renewed(name)
		return r.keeps()
	}
	r.c.book.Renews(name, true)
	ok := r.keeps()
	if !ok {
		r.c.book.Renews(name, false)
	}
	return ok
}

func (r *scrubRun) run() {
	for i := range r.names {
		if r.m.Chosen(i) {
			v := &caller{}
			v.begin(r.c, func() bool { return false }, func() {
				if err := r.verify(v, i); err != nil {
					r.m.Failed(i, err)
				}
			})
			r.verifiers = append(r.verifiers, v)
		}
	}
	for slices.ContainsFunc(r.verifiers, func(v *caller) bool { return !v.done }) {
		if !r.waits() {
			return
		}
	}
	if !r.stopped {
		r.compare()
	}
	if !r.over() {
		r.ends()
	}
}

// ends mirrors endScrub.
func (r *scrubRun) ends() {
	report := wire.ScrubReport{Scheduled: r.scheduled, Stopped: r.stopped}
	var all bool
	report.Members, all = r.m.Report(r.stopped, 1)
	for _, m := range report.Members {
		r.w.tracef("a scrub has found %d at %s, of which %d are right now %q: %s", m.Found, m.Name, m.Repaired, m.Notes, m.Problem)
	}
	r.judge.ends(r, &report)
	r.c.book.Finish(&report, all, r.c.called())
	r.keeps()
}

func (r *scrubRun) member(i int) (*conn, error) {
	k := r.c.conns[i]
	if k == nil || !k.opened || k.outside {
		return nil, scrub.ErrAway
	}
	return k, nil
}

// verify mirrors the function.
func (r *scrubRun) verify(v *caller, i int) error {
	for !v.over() && !r.stopped {
		cursor, more := r.m.Verify(i)
		if !more {
			return nil
		}
		k, err := r.member(i)
		if err != nil {
			return err
		}
		if r.c.readPoint == 0 {
			return errGivenUp
		}
		q := &resyncCall{k: k, verify: &wire.Verify{Epoch: r.c.epoch, Index: r.c.readPoint, Cursor: cursor, Bytes: wire.BlockSize}}
		if err := v.does(q); err != nil {
			return err
		}
		for _, lack := range r.m.Verified(i, &q.verified) {
			right, rotten := v.repair(i, lack)
			r.m.Mended(i, &lack, right, rotten, errors.New("nobody has them"))
		}
	}
	return nil
}

// compare mirrors the function.
func (r *scrubRun) compare() {
	for r.waits() {
		if r.stopped {
			r.m.Stop()
		}
		var there []int
		for _, k := range r.c.others(-1) {
			there = append(there, k.member.i)
		}
		s := r.m.Next(there, r.c.readPoint)
		r.judge.steps(r, s)
		why := ""
		switch s.Kind {
		case scrub.End:
			return
		case scrub.Rest:
			continue
		case scrub.Ask:
			if all := r.askAll(s); all != nil {
				r.m.Answered(all)
			}
			continue
		case scrub.Enter:
			r.enter()
		case scrub.MayGo:
			why = r.mayGo(s.Of[0])
		case scrub.Condemn:
			if !r.renews(r.names[s.Of[0]], true) {
				why = "a restart of the coordinator would forget why"
			}
		case scrub.Evict:
			why = r.expel(s.Of[0])
		default: // scrub.Await
			why = r.await(r.names[s.Of[0]])
		}
		r.m.Did(why)
	}
}

func (r *scrubRun) askAll(s scrub.Step) []scrub.Answer {
	all := make([]scrub.Answer, len(s.Of))
	var calls []*resyncCall
	for n, i := range s.Of {
		all[n].Member = i
		k, err := r.member(i)
		if all[n].Err = err; err != nil {
			continue
		}
		req := s.Req
		req.Epoch = r.c.epoch
		q := &resyncCall{k: k, compare: &req}
		calls = append(calls, q)
	}
	r.doesAll(calls)
	for n, i := range s.Of {
		for _, q := range calls {
			if q.k.member.i == i {
				all[n].Compared, all[n].Body, all[n].Err = q.comparedTo, q.body, q.err
			}
		}
	}
	if r.over() {
		return nil
	}
	r.judge.answered(r, s, all, calls)
	return all
}

// scrubFault: a scrub begins, or there is something for one to find.
func (w *world) scrubFault(f, a int) {
	if f == faultScrub {
		w.cur.scrubsSome()
	} else {
		w.hurts(w.members[a])
	}
}

// scrubFaults are those that may strike now.
func (w *world) scrubFaults(add func(f, a, b int, ok bool)) {
	if w.bystanders == nil {
		return
	}
	for i, p := range w.members {
		add(faultWrong, i, 0, w.may[faultWrong] > 0 && w.mayHurt(p))
	}
	add(faultScrub, 0, 0, w.cur != nil && w.cur.mayScrub() && w.cur.readPoint != 0 && !w.coordinator.silent)
}

// scrubsSome is an operator's wish to scrub one, or all.
func (c *reign) scrubsSome() {
	var of []string
	if c.w.chance(3) {
		if names := slices.DeleteFunc(c.called(), func(name string) bool { return name == "" }); len(names) > 0 {
			of = []string{names[c.w.rng.IntN(len(names))]}
		}
	}
	c.beginScrub(of, false)
}

// enter mirrors the function.
func (r *scrubRun) enter() {
	v := r.m.Verdict()
	ends := slices.ContainsFunc(v.Right, r.c.book.ComparesAll)
	r.c.book.Take(v)
	if ends {
		r.w.reach(reachVerdictEnds)
		r.keeps()
	}
}

func (r *scrubRun) mayGo(i int) string {
	if r.c.called()[i] != r.names[i] {
		return "another participant has its place meanwhile"
	}
	may := false
	r.c.turn(func() { may = r.c.m.InSync(i) && r.c.m.MayGo(i) })
	if !may {
		return "too few participants are in sync for it to leave"
	}
	return ""
}

// expel mirrors the function.
func (r *scrubRun) expel(i int) string {
	r.c.held[i] = true
	defer func() { r.c.held[i] = false }()
	if k := r.c.conns[i]; k != nil && !k.cut {
		k.breaks(false)
	}
	for r.waits() && (r.w.settling || !r.w.chance(30)) {
		in := false
		r.c.turn(func() { r.c.m.Refusing(i); in = r.c.inSyncAt(i) })
		if !in {
			r.w.reach(reachExpelled)
			return ""
		}
	}
	return "it could not be evicted in time"
}

func (r *scrubRun) await(name string) string {
	for r.waits() && (r.w.settling || !r.w.chance(100)) {
		if !r.c.book.ComparesAll(name) {
			r.w.reach(reachRenewed)
			return ""
		}
	}
	return "it has not caught up yet"
}

// verify mirrors Participant.Verify.
func (p *member) verify(q *resyncCall) {
	open, err := p.gateOpen(q.verify.Epoch, q.verify.Index)
	switch {
	case err != nil:
		q.ends(err)
	case !open:
	case p.m.Resync() != "":
		q.ends(wire.NewError(wire.CodeProtocol, "this participant is out of sync itself"))
	default:
		q.verified, err = p.store.Verify(background, *q.verify)
		q.ends(p.foundDamage(err))
	}
}

// foundDamage mirrors the function.
func (p *member) foundDamage(err error) error {
	p.storeError(err)
	if why := p.store.Damaged(); why != "" {
		return corrupt("its metadata are damaged, and it ends: %s", why)
	}
	return err
}

// compare mirrors Participant.Compare: first the moment, then its rows.
func (p *member) compare(q *resyncCall) {
	switch {
	case q.moment != nil:
		c, body, err := q.moment.Compare(*q.compare)
		q.moment.Close()
		if err = p.foundDamage(err); err == nil {
			c.Position = q.position
			q.comparedTo, q.body = c, body
		}
		q.ends(err)
	case q.compare.Epoch != p.gateEpoch:
		q.ends(wire.NewError(wire.CodeStaleEpoch, "another epoch holds"))
	case p.m.Resync() != "":
		q.ends(wire.NewError(wire.CodeProtocol, "this participant is out of sync itself"))
	case p.m.Position().Index >= q.compare.Index, q.looked && p.w.chance(4): // momentWait
		p.takesMoment(q)
	case !q.looked:
		q.looked = true
		p.moments = append(p.moments, q)
	}
}

func (p *member) takesMoment(q *resyncCall) {
	p.moments = slices.DeleteFunc(p.moments, func(o *resyncCall) bool { return o == q })
	m, err := p.store.Moment()
	if err != nil {
		q.ends(p.foundDamage(err))
		return
	}
	q.moment, q.position = m, p.m.Position()
	q.wrong = p.w.wrongIn(p, q.compare)
}

// reached mirrors the function.
func (p *member) reached() {
	for _, q := range slices.Clone(p.moments) {
		switch at := p.m.Position(); {
		case q.done || q.canceled:
			p.moments = slices.DeleteFunc(p.moments, func(o *resyncCall) bool { return o == q })
		case q.compare.Epoch.Number != at.Epoch || q.compare.Index <= at.Index:
			p.takesMoment(q)
		}
	}
}

// scrubChoices: a scrub's goroutines go on, and the writing down of its book.
func (c *reign) scrubChoices(slot int) {
	if t := c.bookTask; t != nil && !t.done {
		c.w.may1(stepBook, slot, 0, 6)
	}
	if r := c.scrub; r != nil && !r.done {
		if r.ready() && r.verified() {
			c.w.may1(stepScrub, slot, 0, 6)
		}
		for n, v := range r.verifiers {
			if v.ready() {
				c.w.may1(stepScrub, slot, 1+n, 6)
			}
		}
	} else if slot == 0 && !c.w.settling && c.mayScrub() && c.readPoint != 0 {
		if _, due := c.dueScrub(); due {
			c.w.may1(stepDue, slot, 0, 1)
		}
	}
}

// verified: is all verified that was begun to be?
func (r *scrubRun) verified() bool {
	return !slices.ContainsFunc(r.verifiers, func(v *caller) bool { return !v.done })
}

func (c *reign) scrubStep(what what, b int) {
	switch {
	case what == stepBook:
		c.bookTask.run(c.w.someOps())
	case what == stepDue:
		names, _ := c.dueScrub()
		c.beginScrub(names, true)
	case b == 0:
		c.scrub.goesOn()
	default:
		c.scrub.verifiers[b-1].goesOn()
	}
}
