package commit

import (
	"fmt"

	"tpcfs/wire"
)

// A member whose journal is late keeps everybody waiting, however well its
// heartbeats come: its disk hangs, or each of its syncs takes seconds (P15).

// How slow members are judged.
const (
	slowAfter    = 1000       // milliseconds that a wait lasts before it counts
	mostTick     = 600        // ... between two ticks; where it is more this process stood still, not they
	slowShown    = 60_000     // ... for which a slow one is shown as such
	slowWarning  = 2000       // ... that it has been slow for before status warns
	mostSlowOut  = 60         // times EvictSlow that a slow one stays out at most
	slowForgiven = 10         // times as long without a slow wait, and how long it stays out is forgotten
	roundSyncs   = 4          // that a round of catching up takes, one after the other
	quickBytes   = 32_000_000 // that a disk is expected to sync in a second

	lastRound      = 10_000 // milliseconds that a newcomer's last round may take
	mostLastRounds = 6      // times that this is doubled at most
)

// pace is how a member keeps up with what it is sent.
type pace struct {
	target uint64 // an entry that it was sent and has not made durable; 0: none
	own    waits  // for target, whoever else has it
	others waits  // ... while enough others have it: they wait for this one alone
	worst  int64  // the longest of the own waits lately
	seen   int64  // m.now when one that counts was last seen, or when it was let in

	evicted bool  // that is why it is out of sync
	out     int64 // milliseconds for which it has to be fast before it is let in; 0: it has not been slow
	until   int64 // m.now up to which it is not
}

// waits adds up the waits that last, and takes off the time in between.
type waits struct {
	stretch int64 // milliseconds of the one that goes on
	sum     int64
}

// goes on: a wait lasts so much longer.
func (w *waits) on(ms, after int64) {
	if w.stretch += ms; w.stretch-ms >= after {
		w.sum += ms
	} else if w.stretch >= after {
		w.sum += w.stretch
	}
}

// ends: the wait is over. A short one is none.
func (w *waits) ends(after int64) {
	if w.stretch < after {
		w.sum = max(0, w.sum-w.stretch)
	}
	w.stretch = 0
}

// counts is how long a wait lasts before it counts.
func (m *Machine) counts() int64 {
	if m.o.EvictSlow < 0 {
		return slowAfter
	}
	return min(slowAfter, m.o.EvictSlow)
}

// keepPace looks, at each tick, at how late each member's journal is. Time that a
// member is away counts for P8, not here; time in which this process has not looked is
// nobody's: what they have sent meanwhile is not read yet.
func (m *Machine) keepPace(ms int64) {
	if ms <= 0 || ms > mostTick {
		return
	}
	for i, mem := range m.members {
		if mem.in && !m.leaving(i) {
			m.keepPaceOf(i, ms)
		}
	}
}

func (m *Machine) keepPaceOf(i int, ms int64) {
	mem, after := m.members[i], m.counts()
	p := &mem.pace
	if p.target != 0 && mem.durable >= p.target {
		p.own.ends(after)
		p.others.ends(after)
		p.target = 0
	}
	switch {
	case !mem.linked:
	case p.target != 0:
		p.own.on(ms, after)
		if m.ahead(i) {
			p.others.on(ms, after)
		}
	case mem.next > mem.durable+1:
		p.target = mem.next - 1 // which was sent since the last tick
	default:
		p.own.sum, p.others.sum = max(0, p.own.sum-ms), max(0, p.others.sum-ms)
	}
	if w := p.own.stretch; w >= after {
		if m.now-p.seen >= slowShown || w > p.worst {
			p.worst = w
		}
		p.seen = m.now
	}
	if p.out > 0 && m.now-p.seen >= slowForgiven*p.out {
		p.out = 0
	}
}

// ahead: have so many others what that member lacks that they could go on without it?
func (m *Machine) ahead(i int) bool {
	n := 0
	for k, mem := range m.members {
		if k != i && mem.in && mem.linked && !m.leaving(k) && mem.durable >= m.members[i].pace.target {
			n++
		}
	}
	return n >= m.minInSync()
}

// tooSlow: has it kept the others waiting for too long?
func (m *Machine) tooSlow(mem *member) bool {
	return mem.linked && m.o.EvictSlow > 0 && mem.pace.others.sum >= m.o.EvictSlow
}

// pacesOut is called for a member that goes out of sync: was it too slow? Then each
// time it has to be fast for twice as long before it is let in.
func (m *Machine) pacesOut(p *pace) {
	if m.o.EvictSlow > 0 && p.others.sum >= m.o.EvictSlow {
		p.evicted = true
		p.out = min(max(2*p.out, m.o.EvictSlow), mostSlowOut*m.o.EvictSlow)
		p.until = m.now + p.out
	}
	p.target, p.own, p.others = 0, waits{}, waits{}
}

// pacesIn is called for a newcomer that is let in.
func (m *Machine) pacesIn(p *pace) {
	p.evicted, p.worst, p.seen = false, 0, m.now
}

// WasSlow reports whether that one is out of sync because it was too slow.
func (m *Machine) WasSlow(i int) bool { return m.members[i].pace.evicted }

// RoundTook tells that a newcomer's disk has made a round of catching up durable,
// which brought so many bytes, in so many milliseconds: the last one would take as
// long, and then all wait. It reports whether that is quick enough; who was evicted as
// too slow has to be quick for a while before. Where nothing is written without it any is.
func (m *Machine) RoundTook(i int, link uint64, bytes, ms int64) bool {
	mem := m.members[i]
	if m.stop != nil || !m.newcomer(i, link) {
		return true // it does not matter any more
	}
	p := &mem.pace
	if m.o.EvictSlow < 0 || ms < roundSyncs*m.counts()+bytes*1000/quickBytes {
		return m.stayOut(p) <= 0
	}
	p.until = m.now + p.out
	p.worst, p.seen = ms, m.now
	return !m.enough()
}

// LastRoundMS is how long a newcomer's last round may take, in milliseconds, after so many
// that took too long. Where enough are in sync writes wait for it. Else nothing is
// written without it, and each has twice as long as the one before, so that a slow disk comes to
// its end; not for ever at once, since another newcomer, which waits, may be quick.
func (m *Machine) LastRoundMS(late int) int64 {
	if m.enough() {
		return lastRound
	}
	return lastRound << min(late, mostLastRounds)
}

// stayOut is for how long a newcomer has to be quick yet before it is let in. With too
// few in sync to write at all a slow one is better than none.
func (m *Machine) stayOut(p *pace) int64 {
	if !m.enough() {
		return 0
	}
	return max(p.until-m.now, 0)
}

// slow is what status tells of that; nil: nothing.
func (m *Machine) slow(mem *member) *wire.SlowStatus {
	p := &mem.pace
	s := &wire.SlowStatus{Evicted: p.evicted, LimitMS: max(m.o.EvictSlow, 0)}
	if p.worst > 0 && m.now-p.seen < slowShown {
		s.WaitMS = max(p.worst, p.own.stretch)
	}
	if mem.in {
		s.HeldMS = p.others.sum
	} else {
		s.ReturnMS = m.stayOut(p)
	}
	if s.WaitMS == 0 && s.ReturnMS == 0 && !s.Evicted {
		return nil
	}
	return s
}

// slowWords says in plain words who is slow.
func (m *Machine) slowWords() []string {
	var words []string
	for i, mem := range m.members {
		p := &mem.pace
		switch {
		case mem.vacant || mem.coming:
		case !mem.in && p.evicted:
			text := mem.name + " was evicted because its disk, or the way to it, kept the others waiting"
			if left := m.stayOut(p); left > 0 {
				text += ": it comes back when it has been fast for " + seconds(left) + " more"
			}
			words = append(words, text)
		case !mem.in && p.worst > 0 && m.now-p.seen < 2*p.worst && m.enough():
			words = append(words, fmt.Sprintf("%s is out of sync, and its disk, or the way to it, is slow (%s for one step): it comes back when that is faster", mem.name, seconds(p.worst)))
		case !mem.in && p.worst > 0 && m.now-p.seen < 2*p.worst:
			words = append(words, fmt.Sprintf("%s is out of sync, and its disk, or the way to it, is slow (%s for one step): it comes back all the same, since nothing is written without it", mem.name, seconds(p.worst)))
		case mem.in && !m.leaving(i) && p.own.sum >= slowWarning:
			text := fmt.Sprintf("%s is slow: changes have waited up to %s for its disk, or the way to it", mem.name, seconds(max(p.worst, p.own.stretch)))
			if m.o.EvictSlow > 0 && m.MayGo(i) {
				text += fmt.Sprintf("; it is evicted when it keeps the others waiting for %s (now %s)", seconds(m.o.EvictSlow), seconds(p.others.sum))
			}
			words = append(words, text)
		}
	}
	return words
}

func seconds(ms int64) string { return fmt.Sprintf("%.1f s", float64(ms)/1000) }
