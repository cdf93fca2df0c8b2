package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"tpcfs/coordinator/commit"
	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// Schedules with operators (P14): some of those in which members are evicted. Two of
// three disks are lost at once, and an operator declares them lost, again until a
// coordinator has said that it is so; participants are replaced by others, which come
// up with empty disks at other addresses. An operator knows whether the coordinator
// runs on an old backup, and does nothing then.

// operating makes some schedules of that kind.
func operating(rng *rand.Rand, p *profile) {
	if p.minInSync == 0 || rng.IntN(3) > 0 {
		return
	}
	p.may[faultFlood], p.may[faultEdit] = faultWeight[faultFlood]*rng.IntN(2), faultWeight[faultEdit]
}

// mayFlood: have all three everything, and do they know it?
func (w *world) mayFlood() bool {
	return w.evicts() && w.served.Epoch != 0 && w.truth == nil && w.flooded == nil && w.intact()
}

// flood takes two disks for good; one is left.
func (w *world) flood(left int) {
	r := &wire.MembersRequest{Kind: wire.MembersLost, Force: true, ID: w.requestID()}
	for i, p := range w.members {
		if i == left {
			continue
		}
		w.tracef("%s's disk is lost in a flood", p.name)
		w.lostPower(p.host)
		w.losesDisk(p)
		r.Names = append(r.Names, p.name)
	}
	w.flooded = r
}

func (w *world) requestID() wire.UUID {
	w.wishes++
	return uuidOf('e', w.wishes)
}

// mayAsk: may an operator be heard by the coordinator?
func (w *world) mayAsk(c *reign) bool {
	return c == w.cur && !c.suspect && w.truth == nil && !c.closing && !c.gathered && !w.coordinator.silent
}

// resolves is an operator's word of what the flood has taken.
func (c *reign) resolves() {
	c.w.tracef("an operator tells C%d that %v are lost", c.epoch.Number, c.w.flooded.Names)
	c.edit(*c.w.flooded)
}

// replaces is an operator's wish to put another one in the place of a member.
func (c *reign) replaces(p *member) {
	r := wire.MembersRequest{Kind: wire.MembersReplace, Names: []string{p.name}, Force: c.w.chance(2), ID: c.w.requestID(), Wait: 5000}
	r.New = wire.Member{Name: p.name, Addr: fmt.Sprintf("%s:%d", p.name, c.w.wishes+1)}
	c.w.tracef("an operator tells C%d to replace P%d, by force: %v", c.epoch.Number, p.i, r.Force)
	c.edit(r)
}

func (c *reign) edit(r wire.MembersRequest) {
	if c.w.encode {
		r = transmit(r)
	}
	c.turn(func() { c.m.Edit(&commit.Edit{Request: r}) })
}

// edited is what operators are told.
func (c *reign) edited(list []commit.Edited) {
	for _, e := range list {
		c.w.tracef("an operator hears %q %v", e.Reply.What, e.Err)
		lost := c.w.flooded != nil && e.Edit.Request.ID == c.w.flooded.ID
		switch {
		case e.Err == nil && lost:
			c.w.reach(reachDeclared)
			c.w.flooded = nil
		case e.Err != nil && lost && !c.needs(e.Edit.Request.Names): // they were evicted meanwhile, where one alone may stay
			c.w.flooded = nil
		case e.Err != nil && lost && e.Err.Code == wire.CodeInvalid:
			c.w.violate("P14", "an operator's word is refused: %v", e.Err)
		}
	}
}

// needs: is one of those in sync?
func (c *reign) needs(names []string) bool {
	for i, p := range c.w.members {
		if c.m.InSync(i) && slices.Contains(names, p.name) {
			return true
		}
	}
	return false
}

// wish is the number of the operator's wish that a participant's address comes from.
func wish(addr string) (n int) {
	_, number, _ := strings.Cut(addr, ":")
	n, _ = strconv.Atoi(number) // the first one has none
	return n
}

// newcomers gives who was put in the place of another a computer of its own. One that
// runs on an old backup may not know of it, or may be the first that does.
func (w *world) newcomers(c *reign) {
	for i, p := range w.members {
		if addr := c.m.Peer(i).Addr; addr != p.at && (!c.suspect || wish(addr) > wish(p.at)) {
			w.tracef("%s is another participant from now on, at %s", p.name, addr)
			w.reach(reachReplaced)
			w.lostPower(p.host)
			p.replaced, p.at = true, addr
			p.disks++
			p.install(forget.New(w.rng.Uint64()))
			p.syncedTo, p.fences, p.bad = 0, map[uint64]bool{}, nil
		}
	}
}
