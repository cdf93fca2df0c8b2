package sim

import (
	"fmt"
	"maps"
	"slices"

	"tpcfs/coordinator/scrub"
	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// scrubJudge looks at what a scrub does and says, and at what there is (S5b).
//
// What must hold:
//   - What was wrong with a participant when a scrub began, and still is when it ends, is
//     told of it, if the scrub says that it has looked at it to the end.
//   - Nobody is evicted whose rows were right, nor when another one's were not, nor for
//     checksums, nor when not all was compared, nor before a restart would know why.
//   - Who has got everything anew lacks nothing sound that it had.
//   - In the end what any participant has is at all of them, where one alone has been
//     wrong in rows; where it is not, it is told; and who then starts anew gets what is right.
type scrubJudge struct {
	began  int
	wrong  [3]map[string]string // rows, at the beginning; nil: nobody can tell
	rotten [3]map[string]bool   // blocks
	disks  [3]uint64
	last   map[int]map[string]string // what was wrong in the last range, by member
	req    wire.Compare
	seen   [3]map[string]string // ... in all of them
	asked  [3]bool
	ranges []wire.Compare
	report *wire.ScrubReport // nil: it has not ended
}

func (j *scrubJudge) begins(r *scrubRun) {
	j.began = r.w.steps
	for i, p := range r.w.members {
		j.seen[i] = map[string]string{}
		if p.up && !p.removed {
			j.wrong[i], j.rotten[i], j.disks[i] = r.w.wrongOf(p), r.w.rottenOf(p), p.disks
		}
	}
}

// answered is told what was answered, and what was wrong then.
func (j *scrubJudge) answered(r *scrubRun, s scrub.Step, all []scrub.Answer, calls []*resyncCall) {
	j.last, j.req = nil, s.Req
	if s.Req.Choose || slices.ContainsFunc(all, func(a scrub.Answer) bool { return a.Err != nil || a.Position != all[0].Position }) {
		return
	}
	r.w.spreads()
	j.last = map[int]map[string]string{}
	for _, q := range calls {
		j.last[q.k.member.i] = q.wrong
	}
}

// steps is told of each step before it is carried out.
func (j *scrubJudge) steps(r *scrubRun, s scrub.Step) {
	if j.last != nil && (s.Kind == scrub.Enter || s.Kind == scrub.Ask && s.Req.Choose) {
		for i, wrong := range j.last {
			j.asked[i] = true
			maps.Copy(j.seen[i], wrong)
		}
		j.ranges, j.last = append(j.ranges, j.req), nil
	}
	if s.Kind == scrub.Evict {
		j.evicts(r, s.Of[0])
	}
}

// evicts is told of who is about to be evicted.
func (j *scrubJudge) evicts(r *scrubRun, i int) {
	w := r.w
	b := w.bystanders
	for k := range j.seen {
		for key := range j.seen[k] {
			switch {
			case b.spread[key]: // who is right?
				return
			case key[0] == 's' && j.alike(key): // nobody knows it
			case key[0] == 's':
				w.violate("S5b evicts", "P%d is evicted, though rows of checksums differ: %q at P%d", i, key, k)
			case k != i:
				w.violate("S5b evicts", "P%d is evicted, though P%d is wrong as well: %q", i, k, key)
			}
		}
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(j.seen[i])), func(key string) bool { return key[0] != 's' }) {
		w.violate("S5b evicts", "P%d is evicted, whose rows are right", i)
	}
	for key := range b.truth {
		if !slices.ContainsFunc(j.ranges, func(c wire.Compare) bool { return inRange(key, &c) }) {
			w.violate("S5b evicts", "P%d is evicted, and %q was not compared", i, key)
		}
	}
	text, err := disk.ReadWhole(r.c.host.fs, bookName, scrub.MaxBook)
	if err == nil && !r.c.zombie {
		if kept, err := scrub.Decode(text); err != nil || !kept.ComparesAll(r.names[i]) {
			w.violate("S5b evicts", "P%d is evicted, and a restart would not know why: %v", i, err)
		}
	}
	if p := w.members[i]; p.up {
		b.sound[i], b.soundAt[i], b.soundOn[i] = w.soundOf(p), j.began, p.disks
	}
}

// alike: did all that were compared have the same row?
func (j *scrubJudge) alike(key string) bool {
	n, vals := 0, map[string]bool{}
	for i := range j.seen {
		if j.asked[i] {
			val, is := j.seen[i][key]
			vals[fmt.Sprint(is, val)] = true
			n++
		}
	}
	return n > 0 && len(vals) == 1
}

// inRange: is the key in the range that was asked for?
func inRange(key string, req *wire.Compare) bool {
	from := "e"
	if len(req.From) > 0 {
		from = string(req.From)
	}
	return key >= from && key[0] == from[0] && (len(req.Next) == 0 || req.Next[0] != from[0] || key < string(req.Next))
}

// gotAnew is told that a participant has got everything anew.
func (w *world) gotAnew(p *member) {
	b := w.bystanders
	if b == nil || b.sound[p.i] == nil || !p.up {
		return
	}
	before := b.sound[p.i]
	b.sound[p.i] = nil
	if b.soundOn[p.i] != p.disks {
		return
	}
	now := w.soundOf(p)
	for what := range before {
		since := slices.ContainsFunc(b.hurt[:], func(hurt map[string]int) bool { return hurt[what] >= b.soundAt[p.i] })
		if !now[what] && !since && !b.spread[what] {
			w.violate("S5b loses", "P%d has got everything anew for a scrub, and has lost what was sound there: %q", p.i, what)
		}
	}
}

// ends is told what a scrub says in the end.
func (j *scrubJudge) ends(r *scrubRun, report *wire.ScrubReport) {
	j.report = report
	w := r.w
	if report.Stopped {
		return
	}
	some := slices.ContainsFunc(report.Members, func(m wire.ScrubMember) bool { return m.Found > 0 || m.Problem != "" })
	for _, m := range report.Members {
		i := slices.Index(r.names, m.Name)
		p := w.members[i]
		if !r.m.Chosen(i) || m.Problem != "" || m.Found > 0 || !p.up || p.removed || p.disks != j.disks[i] || j.wrong[i] == nil {
			continue
		}
		hurt := w.bystanders.hurt[i]
		wrong, rotten := w.wrongOf(p), w.rottenOf(p)
		for key, val := range j.wrong[i] {
			if now, is := wrong[key]; is && now == val && hurt[key] < j.began && !w.bystanders.spread[key] && (key[0] != 's' || !some) {
				w.violate("S5b clean", "a scrub says that P%d is clean, and it is wrong in %q", i, key)
			}
		}
		for block := range j.rotten[i] {
			if rotten[block] && hurt[block] < j.began {
				w.violate("S5b clean", "a scrub says that P%d is clean, and %s is rotten there", i, block)
			}
		}
		w.reach(reachScrubClean)
	}
}

// scrubsAll has everything scrubbed when all is quiet, and judges what is left. false: that is
// a violation.
func (w *world) scrubsAll() bool {
	b := w.bystanders
	if b == nil || w.cur == nil || w.old != nil {
		w.restoresAll()
		return w.violation == nil && w.quiesce()
	}
	var report *wire.ScrubReport
	for n := range 4 {
		if report = w.scrubsOnce(); report == nil {
			return false
		}
		if n > 0 && !w.hurtLeft() {
			if b := &w.cur.book; len(b.Renew)+len(b.Unsure) > 0 || b.Lost {
				w.violate("S5b doubts", "when all are alike scrubs still doubt %q and %q", b.Renew, b.Unsure)
			}
			return w.violation == nil
		}
	}
	w.judgesEnd(report)
	return w.violation == nil && w.quiesce()
}

func (w *world) scrubsOnce() *wire.ScrubReport {
	for range 4 {
		if !w.quiesce() {
			return nil
		}
		c := w.cur
		if c.gathered {
			c.endTurn()
		}
		if !c.mayScrub() {
			continue
		}
		c.beginScrub(nil, false)
		if !w.quiesce() {
			return nil
		}
		if report := c.scrub.judge.report; c == w.cur && report != nil {
			return report
		}
	}
	w.violate("S5b", "no scrub comes to its end")
	return nil
}

// hurtLeft: is there something wrong with bystanders?
func (w *world) hurtLeft() bool {
	return slices.ContainsFunc(w.there(), func(p *member) bool { return len(w.wrongOf(p)) > 0 || len(w.rottenOf(p)) > 0 })
}

// judgesEnd: what is wrong still could not be put right by anybody, and was told.
func (w *world) judgesEnd(report *wire.ScrubReport) {
	b := w.bystanders
	found := func(p *member) bool {
		return slices.ContainsFunc(report.Members, func(m wire.ScrubMember) bool { return m.Name == p.name && m.Found > 0 })
	}
	var bad []*member
	spread, sums := false, false
	wrongs := map[string]int{}
	holders := map[string]int{}
	for _, p := range w.there() {
		wrong, rotten := w.wrongOf(p), w.rottenOf(p)
		is := false
		for key := range wrong {
			wrongs[key]++
			spread, sums, is = spread || b.spread[key], sums || key[0] == 's', is || key[0] != 's'
		}
		if is {
			bad = append(bad, p)
		}
		for _, ino := range b.objects {
			if name := blockName(ino, 0); !rotten[name] {
				holders[name]++
			}
		}
	}
	for _, p := range w.there() {
		for block := range w.rottenOf(p) {
			if holders[block] > 0 {
				w.violate("S5b", "%s is rotten at P%d after scrubs, and others have it", block, p.i)
			} else if !found(p) {
				w.violate("S5b", "%s is rotten at P%d after a scrub, which does not say so", block, p.i)
			}
		}
	}
	switch {
	case w.violation != nil || spread:
	case len(bad) == 1 && len(w.there()) == len(w.members) && !sums:
		w.violate("S5b", "P%d alone is wrong after scrubs, and does not get everything anew: %q", bad[0].i, slices.Sorted(maps.Keys(w.wrongOf(bad[0]))))
	case slices.ContainsFunc(slices.Collect(maps.Values(wrongs)), func(n int) bool { return 2*n >= len(w.there()) }): // nobody can tell
	case len(bad) < len(w.there()) && len(bad) > 0 && !sums:
		w.startsAnew(bad, found)
	}
	w.restoresAll()
}

// startsAnew is what operators do when several are wrong, and told: they start on empty
// directories, one after the other. From then on they are right.
func (w *world) startsAnew(bad []*member, found func(p *member) bool) {
	for _, p := range bad {
		if !found(p) {
			w.violate("S5b", "P%d is wrong, and a scrub does not say so", p.i)
			return
		}
	}
	for _, p := range bad {
		if !w.whole() {
			return
		}
		w.tracef("%s is started on an empty directory", p.name)
		w.reach(reachStartsAnew)
		w.lostPower(p.host)
		w.losesDisk(p)
		if !w.quiesce() {
			return
		}
		if wrong := w.wrongOf(p); len(wrong) > 0 {
			w.violate("S5b anew", "P%d has started anew, and has got from others what scrubs have found wrong: %q", p.i, slices.Sorted(maps.Keys(wrong)))
			return
		}
	}
}

// restoresAll puts right what nobody can.
func (w *world) restoresAll() {
	b := w.bystanders
	if b == nil || w.violation != nil {
		return
	}
	for _, p := range w.there() {
		p.maybeFreeze()
	}
	if !w.quiesce() {
		return
	}
	for _, p := range w.there() {
		for key := range w.wrongOf(p) {
			w.tracef("the row %q of %s is restored", key, p.name)
			w.puts(p, key, b.rows[key])
		}
		for object := range b.objects {
			w.restoresObject(p, object)
		}
	}
}
