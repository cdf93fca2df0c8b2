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
// up with empty disks at other addresses; one is removed, told so, and serves nobody from
// then on; another one is added. An operator knows whether the coordinator
// runs on an old backup, and does nothing then.

// operating makes some schedules of that kind.
func operating(rng *rand.Rand, p *profile) {
	if p.minInSync == 0 || rng.IntN(3) > 0 {
		return
	}
	p.may[faultFlood], p.may[faultEdit] = faultWeight[faultFlood]*rng.IntN(2), faultWeight[faultEdit]
	if rng.IntN(2) == 0 {
		removing(p)
	}
}

// removing has operators remove a participant, the last one, whose number leaves no gap
// after a restart, and add another one in its place. Who was removed is told, and serves
// nobody. No old backups: where fewer have to stay than the removed one knew of, P14 says
// what an old one may not be used for.
func removing(p *profile) {
	p.may[faultRemove], p.may[faultBackup], p.may[faultZombie] = faultWeight[faultRemove], 0, 0
}

// removes is an operator's wish to remove the last participant, or to add another one.
func (c *reign) removes(p *member) {
	r := wire.MembersRequest{Kind: wire.MembersRemove, Names: []string{p.name}, Force: c.w.chance(2), ID: c.w.requestID(), Wait: 5000}
	if p.removed {
		r.Kind, r.Names = wire.MembersAdd, nil
		r.New = wire.Member{Name: p.name, Addr: fmt.Sprintf("%s:%d", p.name, c.w.wishes+1)}
	}
	c.w.tracef("an operator tells C%d to %s P%d, by force: %v", c.epoch.Number, map[bool]string{true: "add", false: "remove"}[p.removed], p.i, r.Force)
	c.edit(r)
}

// has: does the machine know a participant of that number?
func (c *reign) has(i int) bool { return slices.Contains(c.m.Numbers(), i) }

// inSyncAt is InSync, also of a number that nobody has.
func (c *reign) inSyncAt(i int) bool { return c.has(i) && c.m.InSync(i) }

// there are the participants that operators have not removed.
func (w *world) there() []*member {
	return slices.DeleteFunc(slices.Clone(w.members), func(p *member) bool { return p.removed })
}

// bits are those of the participants that are there.
func (w *world) bits() (all int) {
	for _, p := range w.there() {
		all |= 1 << p.i
	}
	return all
}

// tells mirrors Coordinator.tell: who was removed is greeted as that.
func (c *reign) tells() {
	for _, mem := range c.m.Untold() {
		p := c.w.members[len(c.w.members)-1]
		if !p.up || p.store.UUID() != mem.Storage {
			continue
		}
		k := &conn{w: c.w, c: c, member: p, greet: wire.Greet{Epoch: c.epoch, Name: mem.Name, Cluster: uuidOf('c', 1), Outside: true, Removed: mem.Storage}}
		if c.w.encode {
			k.greet = transmit(k.greet)
		}
		c.telling = k
		p.incoming = append(p.incoming, k)
		c.w.tracef("C%d tells P%d that it was removed", c.epoch.Number, p.i)
	}
}

// told takes the answer to that, or that there is none.
func (c *reign) told() {
	k := c.telling
	c.telling = nil
	if a := k.answer; a != nil && a.err == nil {
		c.w.reach(reachTold)
		if p := k.member; p.up && p.store.UUID() == k.greet.Removed {
			p.told = true
			p.staysRemoved()
		}
		c.turn(func() { c.m.Told(k.greet.Removed) })
	}
	k.breaks(false)
}

// staysRemoved: who was told that it was removed never forgets it.
func (p *member) staysRemoved() {
	if p.told && !p.m.Removed() {
		p.w.violate("P14", "P%d was told that it was removed, and does not know", p.i)
	}
}

// talkChoices: Watches that have come; who was removed is told, until it has made that
// durable.
func (c *reign) talkChoices(slot int) {
	if len(c.asks) > 0 {
		c.w.may1(stepAsked, slot, 0, 8)
	}
	if len(c.unasked) > 0 {
		c.w.may1(stepUnask, slot, 0, 2)
	}
	last := c.w.members[len(c.w.members)-1]
	switch {
	case c.telling != nil:
		if c.telling.answer != nil || c.telling.cut {
			c.w.may1(stepTold, slot, 0, 4)
		}
	case last.removed && last.up && !last.silent && !c.silent() && len(c.m.Untold()) > 0:
		c.w.may1(stepTell, slot, 0, 1)
	}
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
		if c.inSyncAt(i) && slices.Contains(names, p.name) {
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
		if !c.has(i) {
			if !p.removed {
				w.tracef("%s takes no part any more", p.name)
				w.reach(reachRemoved)
				p.removed = true
			}
			continue
		}
		if addr := c.m.Peer(i).Addr; addr != p.at && (!c.suspect || wish(addr) > wish(p.at)) {
			w.tracef("%s is another participant from now on, at %s", p.name, addr)
			w.reach(reachReplaced)
			w.lostPower(p.host)
			if p.removed {
				w.reach(reachAdded)
			}
			p.replaced, p.at, p.removed, p.told = true, addr, false, false
			p.disks++
			p.install(forget.New(w.rng.Uint64()))
			p.syncedTo, p.fences, p.bad = 0, map[uint64]bool{}, nil
		}
	}
}
