package exhaust

import (
	"encoding/binary"
	"slices"

	"tpcfs/wire"
)

// state is one of the whole cluster. It is a value: a step copies it.
// Machines, messages and ledgers are numbers of the pools.
type state struct {
	coord   uint32   // reign
	ledgers []uint32 // the journal's: durable, and after each unsynced record
	config  bool     // a CONFIG is among the unsynced
	told    bool     // the last tick told all there is to tell
	parts   []part
	clients []client
	decided []decision // ever, by anybody
	left    budget
}

// part is a participant, and the link to it.
type part struct {
	now     uint32 // replica
	durable uint32
	tail    []unsynced
	synced  uint32 // last entry that is durable, of the epoch that it holds
	link    uint32 // 0: none
	lost    uint32 // number of a link that is gone
	down    []uint32
	up      []uint32
	late    []uint32 // of lost
}

type unsynced struct {
	state uint32 // replica after the record
	votes uint32 // that leave when it is synced
	index uint32
}

type client struct {
	tries     uint8
	waits     bool // for the last try
	acked     bool
	failed    bool // it was told so
	committed bool // somebody has
	tx        wire.ID
	link, old uint32 // its session's, of this reign; counts while old ones may be heard
}

type budget struct{ retries, crashC, crashP, breaks, greets, refusals, late, delayed, beats uint8 }

func (s *state) clone() *state {
	n := *s
	n.ledgers = slices.Clone(s.ledgers)
	n.parts = slices.Clone(s.parts)
	for i := range n.parts {
		p := &n.parts[i]
		p.tail, p.down, p.up, p.late = slices.Clone(p.tail), slices.Clone(p.down), slices.Clone(p.up), slices.Clone(p.late)
	}
	n.clients = slices.Clone(s.clients)
	n.decided = slices.Clone(s.decided)
	return &n
}

// forget drops what no crash that is left can bring back.
func (s *state) forget() {
	if s.left.crashC == 0 && !s.config {
		s.ledgers = s.ledgers[len(s.ledgers)-1:]
	}
	if s.left.delayed == 0 {
		for i := range s.clients {
			s.clients[i].link, s.clients[i].old = 0, 0
		}
	}
	if s.left.late == 0 {
		for i := range s.parts {
			s.parts[i].late, s.parts[i].lost = nil, 0
		}
	}
	if s.left.crashP == 0 {
		for i := range s.parts {
			p := &s.parts[i]
			p.durable = 0
			for k := range p.tail {
				p.tail[k].state = 0
			}
		}
	}
}

func (s *state) digest(b []byte) (digest, []byte) {
	b = b[:0]
	num := func(n uint64) { b = binary.AppendUvarint(b, n) }
	list := func(l []uint32) {
		num(uint64(len(l)))
		for _, n := range l {
			num(uint64(n))
		}
	}
	flag := func(f bool) {
		if f {
			num(1)
		} else {
			num(0)
		}
	}
	num(uint64(s.coord))
	list(s.ledgers)
	flag(s.config)
	flag(s.told)
	for i := range s.parts {
		p := &s.parts[i]
		num(uint64(p.now))
		num(uint64(p.durable))
		num(uint64(len(p.tail)))
		for _, t := range p.tail {
			num(uint64(t.state))
			num(uint64(t.votes))
			num(uint64(t.index))
		}
		num(uint64(p.synced))
		num(uint64(p.link))
		num(uint64(p.lost))
		list(p.down)
		list(p.up)
		list(p.late)
	}
	for i := range s.clients {
		c := &s.clients[i]
		num(uint64(c.tries))
		flag(c.waits)
		flag(c.acked)
		flag(c.failed)
		flag(c.committed)
		num(uint64(c.tx))
		num(uint64(c.link))
		num(uint64(c.old))
	}
	for _, d := range s.decided {
		num(uint64(d.tx))
		flag(d.commit)
	}
	l := &s.left
	b = append(b, l.retries, l.crashC, l.crashP, l.breaks, l.greets, l.refusals, l.late, l.delayed, l.beats)
	return digestOf(b), b
}
