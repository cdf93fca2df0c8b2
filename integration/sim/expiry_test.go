package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// expire has a change's answer lost, lets service time pass in two parts (and an hour
// of wall time with each), with a change by somebody else and a checkpoint after each,
// and sends the first one again. The crash may come at any of what is done on a disk from the first part on.
func (s *sequence) expire(at crashPoint, age int64) (o *op, ops [2]int) {
	s.settling = true
	s.asks(func(o *op) { o.inline(wire.Mutation{At: rooted("a"), Mode: 0o644}, 100) })
	s.answered()
	cl := s.clients[1]
	s.step()
	o = &op{cl: cl, num: len(s.ops), begun: s.clock()}
	cl.seq++
	o.id = wire.OpID{Session: cl.session, Seq: cl.seq}
	s.byID[o.id] = o
	o.inline(wire.Mutation{At: rooted("a"), Write: wire.WriteWhole, Create: wire.MustExist}, 40)
	o.bulk = slices.Clone(o.staged)
	s.ops, cl.ops = append(s.ops, o), append(cl.ops, o)
	s.until("a commit", func() bool { return o.attempt != nil && o.attempt.answer != nil && o.attempt.answer.Err == nil })
	cl.linkLost()
	cl.ops = nil // until it is sent again
	s.until("rest", s.quiet)
	hosts := [2]*host{s.members[0].host, s.coordinator}
	var before [2]int
	for i, h := range hosts {
		before[i] = h.fs.Ops()
	}
	if at.n > 0 {
		hosts[at.host].fs.CrashAt(before[at.host] + at.n)
	}
	for i, part := range []int64{age / 2, age - age/2} {
		s.until("rest", s.quiet)
		if s.violation != nil {
			return o, ops
		}
		s.now += 60 * minute // of no service
		s.pass(0, part)
		s.cur.tick(part)
		s.afterStep()
		s.clients[0].linkLost() // its next link tells the time
		s.until("a link", func() bool { return s.clients[0].c != nil })
		s.asks(func(o *op) { o.inline(wire.Mutation{At: rooted(fmt.Sprint("b", i)), Mode: 0o644}, 30) })
		s.answered()
		s.members[0].maybeFreeze()
		s.afterStep()
	}
	cl.ops = []*op{o}
	s.until("an answer", func() bool { return len(cl.ops) == 0 })
	s.until("rest", s.quiet)
	for i, h := range hosts {
		ops[i] = h.fs.Ops() - before[i]
	}
	hosts[at.host].fs.CrashAt(0)
	if s.violation == nil {
		s.settle()
	}
	return o, ops
}

// A request that comes again while the outcomes of its time expire (S1a) is never
// done twice, and within the hold it gets its first outcome, whichever operation of
// a participant's or the coordinator's disk the power fails before.
func TestCrashInExpiry(t *testing.T) {
	crashes := 0
	for _, age := range []int64{2 * minute, wire.ServiceTimeHold - 1000, wire.ServiceTimeHold + minute, 2*wire.ServiceTimeHold - 1000, 2*wire.ServiceTimeHold + 2*minute} {
		play := func(at crashPoint) [2]int {
			s := &sequence{play: &play{}, rng: rand.New(rand.NewPCG(uint64(age), 8))}
			var lines []string
			s.play.begin(func(line string) { lines = append(lines, line) })
			s.maxOps = 100
			var o *op
			var ops [2]int
			s.guard(func() { o, ops = s.expire(at, age) })
			s.endAll()
			who := fmt.Sprintf("age %d s, a crash of %s before operation %d of its disk", age/1000, []string{"P0", "the coordinator"}[at.host], at.n)
			switch {
			case s.violation != nil:
				t.Fatalf("%s: %v\n%s", who, s.violation, strings.Join(lines[max(0, len(lines)-100):], "\n"))
			case o.fate != committed && (o.fate != unknown || age <= wire.ServiceTimeHold):
				t.Fatalf("%s: the retry ends as %v: %v", who, o.fate, o.err)
			case o.fate == committed && age > 2*wire.ServiceTimeHold+minute:
				t.Fatalf("%s: its outcome is still there", who)
			}
			return ops
		}
		ops := play(crashPoint{})
		for host := range ops {
			for n := 1; n <= ops[host]; n += forget.OneIn {
				play(crashPoint{host, n})
				crashes++
			}
		}
	}
	t.Logf("%d crashes", crashes)
	if crashes*forget.OneIn < 200 {
		t.Error("too few")
	}
}
