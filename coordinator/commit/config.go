package commit

import (
	"fmt"
	"slices"
	"strings"

	"tpcfs/wire"
)

// change is a config that is recorded and not in force yet (P8). One that
// takes members out is in force once it is durable here and at every member
// that stays; until then who goes still counts, in decisions and in W (P9). One
// that lets a member in is in force once it is durable here.
type change struct {
	config *wire.Config
	index  uint64 // of its entry on the streams
	admits int    // the member that it lets in; -1: none
}

// minInSync is how many members have to stay.
func (m *Machine) minInSync() int { return m.leastOf(m.size()) }

// leastOf is how many have to stay of n.
func (m *Machine) leastOf(n int) int { return LeastOf(n, m.o.MinInSync, m.o.Majority) }

// StartsWith is how many of n participants have to answer at a start where others
// have lost their data, if least have to be in sync for a change: one of them
// knows of each.
func StartsWith(n, least int) int { return n - least + 1 }

// LeastOf is how many of n participants have to be in sync, by these options.
func LeastOf(n, minInSync int, majority bool) int {
	switch {
	case majority:
		return n/2 + 1
	case minInSync <= 0:
		return n
	}
	return min(minInSync, n)
}

// enough: are so many in sync as have to be? Only a coordinator that is started with
// a greater minimum than the last one finds too few.
func (m *Machine) enough() bool { return m.size()-len(m.evicted()) >= m.minInSync() }

// leaving: does a change take that member out?
func (m *Machine) leaving(i int) bool {
	return m.change != nil && m.members[i].in && !slices.Contains(m.change.config.InSync, m.members[i].name)
}

// outsider: is it neither in the config nor about to be?
func (m *Machine) outsider(i int) bool {
	return !m.members[i].in && (m.change == nil || m.change.admits != i)
}

// isUnfit notes that a member has lost what it had. In the strict form nobody
// is evicted, and the reign ends.
func (m *Machine) isUnfit(mem *member, why *wire.Error) *wire.Error {
	if m.state.Config == nil || m.minInSync() == m.size() {
		if m.state.Config != nil && m.size() > 1 {
			e := *why
			e.Text += ". If they are lost for good: stop it, start the coordinator, tpcfs resolve --lost " + mem.name + " --force, and start it on an empty directory"
			why = &e
		}
		m.halt(why)
		return nil
	}
	mem.unfit = why
	m.tryStart()
	return why
}

// Refusing tells that nobody answers at the address of a member that had a
// link, or that it was silent on it for long: it need not be waited for (P8).
func (m *Machine) Refusing(i int) {
	if mem := m.members[i]; !mem.linked && mem.link > 0 {
		mem.refusing = true
	}
}

// InSync reports whether the member is in the config that is in force.
func (m *Machine) InSync(i int) bool { return m.members[i].in }

// MayGo reports whether the others could go on without that member.
func (m *Machine) MayGo(i int) bool {
	in := 0
	for k, mem := range m.members {
		if mem.in && k != i {
			in++
		}
	}
	return m.state.Config != nil && in >= m.minInSync()
}

// Staging is the number of contents that are being staged, or that no change
// has named yet: a newcomer that is let in now costs their senders a repeat.
func (m *Machine) Staging() int { return len(m.stages) }

// lost lists the members to evict: those that are gone, or too slow, if enough others are
// there. With too few nobody goes: whoever is back first is as good as the rest. Who is
// declared lost is neither.
func (m *Machine) lost(declared []int) []int {
	if m.state.Config == nil {
		return nil
	}
	var lost []int
	stay := 0
	for i, mem := range m.members {
		switch {
		case !mem.in || m.leaving(i) || slices.Contains(declared, i):
		case mem.unfit != nil, m.tooSlow(mem), !mem.linked && (mem.refusing || m.now-mem.gone >= m.o.EvictAfter):
			lost = append(lost, i)
		case mem.linked:
			stay++
		}
	}
	if stay < m.minInSync() {
		return nil
	}
	return lost
}

// steer begins a reign, or evicts, when it is time.
func (m *Machine) steer() {
	switch {
	case m.stop != nil || m.closing:
	case m.phase == Greeting:
		m.tryStart()
	case !m.full && (m.change == nil || m.change.admits < 0):
		if lost := m.lost(nil); len(lost) > 0 {
			m.evict(lost)
		} else if !m.tryEdit() && m.phase == Serving && m.toldOne && m.change == nil && m.joiner < 0 {
			m.evict(nil)
		}
	}
}

// tryStart begins when all members have answered, or those that stay when
// others are evicted: of the configured participants so many that any newer
// config would have shown itself (P8, P13). Who was declared lost is not waited
// for: by an operator's word it knows of none.
func (m *Machine) tryStart() {
	if m.phase != Greeting || m.stop != nil {
		return
	}
	m.checkDeclared()
	declared := m.declared()
	lost := m.lost(declared)
	answered := 0
	for i, mem := range m.members {
		switch {
		case !mem.in || slices.Contains(lost, i) || slices.Contains(declared, i):
		case !mem.answered || mem.unfit != nil:
			return
		default:
			answered++
		}
	}
	if len(lost) > 0 && answered < StartsWith(m.size(), m.minInSync()) || answered == 0 {
		return
	}
	m.becomes(Configuring)
	lost = append(lost, declared...)
	m.startEdits(lost)
	m.evict(lost)
}

// evict issues the config without those members: this epoch's first one also
// where nobody goes (P8). A change that is under way and takes out others is
// never in force then.
func (m *Machine) evict(lost []int) {
	var stay []string
	for i, mem := range m.members {
		if mem.in && !m.leaving(i) && !slices.Contains(lost, i) {
			stay = append(stay, mem.name)
		}
	}
	if m.change == nil {
		m.joiner = -1
	}
	m.issue(stay, -1)
}

// issue records a config, and puts it: its entry, and all after it, wait until
// the record is durable.
func (m *Machine) issue(inSync []string, admits int) {
	c := &wire.Config{ID: wire.ConfigID{Epoch: m.epoch.Number, Counter: 1}, Cluster: m.o.Cluster, InSync: inSync}
	if m.state.Config != nil && m.state.Config.ID.Epoch == m.epoch.Number {
		c.ID.Counter = m.state.Config.ID.Counter + 1
	}
	for _, mem := range m.members {
		switch {
		case mem.vacant, mem.going && mem.heir == nil:
		case mem.going:
			c.Configured = append(c.Configured, *mem.heir)
		default:
			c.Configured = append(c.Configured, wire.Member{Name: mem.name, Addr: mem.addr, Storage: mem.storage, Flag: mem.flag})
		}
	}
	c.Removed, m.toldOne = slices.Clone(m.removed), false
	if m.state.Config != nil {
		c.Edits = slices.Clone(m.state.Config.Edits)
	}
	for _, e := range m.fresh {
		e.Config = c.ID
		c.Edits = append(c.Edits, e)
	}
	c.Edits, m.fresh = c.Edits[max(0, len(c.Edits)-wire.MaxEdits):], nil
	root := m.state.Root // a bootstrap that may not be over is repeated
	if m.state.Config == nil {
		r := m.o.Root
		root = &r
	}
	m.record(&Record{Kind: RecConfig, Config: c, Root: root})
	m.change = &change{config: c, admits: admits}
	m.change.index = m.put(wire.Entry{Kind: wire.EntryConfig, Config: c, Root: root}, nil, 0)
	if m.held == 0 {
		m.held = m.change.index
	}
}

// Journaled tells that the CONFIG record with that id is durable.
func (m *Machine) Journaled(id wire.ConfigID) {
	if m.stop != nil || m.change == nil || m.change.config.ID != id {
		return // another one follows
	}
	m.held = 0
	if m.change.admits >= 0 {
		m.admitted()
	}
}

// tryEffect puts a change in force that is durable at every member that stays.
func (m *Machine) tryEffect() {
	c := m.change
	if c == nil || c.admits >= 0 || m.held != 0 {
		return
	}
	for i, mem := range m.members {
		if mem.in && !m.leaving(i) && mem.durable < c.index {
			return
		}
	}
	m.settleMembers()
	m.change, m.settled = nil, c.config.ID
	if m.phase == Configuring {
		m.recover()
	}
	if m.stop != nil {
		return
	}
	m.settleEdits()
	for _, t := range slices.Clone(m.order) {
		if t.state == undecided {
			m.tryDecide(t)
		}
	}
}

// greetedOutside opens a link to a participant that is out of the config. It
// is sent heartbeats alone until it is admitted.
func (m *Machine) greetedOutside(i int, g *wire.Greeting) (uint64, *wire.Error) {
	mem := m.members[i]
	if err := m.checkTwin(mem, g); err != nil {
		mem.unfit = err
		return 0, err
	}
	for _, r := range m.removed {
		if r.Member.Storage == g.Storage {
			return 0, m.blame(mem, fmt.Sprintf("its data are those of %s, which was removed: start it on an empty directory", r.Member.Name))
		}
	}
	if g.Resync == "" {
		return 0, m.blame(mem, "it was told that it is out of sync, and does not say so")
	}
	m.linkUp(mem)
	mem.storage = g.Storage
	mem.handled, mem.durable, mem.next, mem.asked = 0, 0, 0, 0
	return mem.link, nil
}

// Outside reports whether the member, by that link, has to catch up (P11).
func (m *Machine) Outside(i int, link uint64) bool {
	return m.stop == nil && m.newcomer(i, link)
}

func (m *Machine) newcomer(i int, link uint64) bool {
	mem := m.members[i]
	return m.phase == Serving && m.outsider(i) && mem.linked && mem.link == link
}

// Pause begins a newcomer's last round: nothing more is put until it is
// admitted, Unpause is called, or its link is lost (P11). false: not now, since
// another one's is under way, or the config is being changed, or somebody whom
// the last round has to wait for is missing, or it has not been fast for long enough (P15).
func (m *Machine) Pause(i int, link uint64) bool {
	if m.stop != nil || m.closing || !m.newcomer(i, link) || m.change != nil || m.joiner >= 0 || m.missing() != nil || m.stayOut(&m.members[i].pace) > 0 {
		return false
	}
	m.joiner = i
	return true
}

// Unpause gives a newcomer's last round up.
func (m *Machine) Unpause(i int) {
	if m.joiner == i && m.change == nil {
		m.joiner = -1
	}
}

// Joining is what a newcomer makes durable with the last of what it copies.
type Joining struct {
	Position    wire.Position // all up to it is in what is copied, and durable at all members
	W           wire.Position
	Config      wire.Config // that is in force: the one that admits it follows
	ServiceTime int64       // milliseconds
	LastID      wire.ID     // no transaction up to it is open
}

// Drained tells, in a last round, whether everything put is decided and
// durable at all members, and how the newcomer stands then. over: the round is.
func (m *Machine) Drained(i int, link uint64) (j Joining, drained, over bool) {
	if m.stop != nil || m.joiner != i || m.change != nil || !m.newcomer(i, link) {
		return j, false, true
	}
	at := wire.Position{Epoch: m.epoch.Number, Index: m.last}
	if m.w != at {
		return j, false, false
	}
	return Joining{Position: at, W: m.w, Config: *m.state.Config, ServiceTime: m.state.ServiceTime, LastID: wire.MakeID(m.epoch.Number, m.counter-1)}, true, false
}

// Admit lets a newcomer in that holds what Drained has said, durably. false:
// its round was given up meanwhile, and it has to be greeted again.
func (m *Machine) Admit(i int, link uint64) bool {
	if m.stop != nil || m.closing || m.joiner != i || m.change != nil || !m.newcomer(i, link) {
		return false
	}
	mem := m.members[i]
	mem.answered = true
	mem.handled, mem.durable, mem.next = m.last, m.last, m.last+1
	var inSync []string
	for k, other := range m.members {
		if other.in || k == i {
			inSync = append(inSync, other.name)
		}
	}
	m.issue(inSync, i)
	return true
}

// admitted: the config that lets a newcomer in is durable here. From now on its
// vote is needed. What was staged without it is dropped.
func (m *Machine) admitted() {
	m.members[m.change.admits].in = true
	m.pacesIn(&m.members[m.change.admits].pace)
	m.settled = m.change.config.ID
	m.change, m.joiner = nil, -1
	m.settleEdits()
	for id, st := range m.stages {
		if st.ready {
			m.dropStage(id, st)
		}
	}
}

// evicted names the configured participants that are not in sync.
func (m *Machine) evicted() []string {
	var names []string
	for _, mem := range m.members {
		if !mem.in && !mem.vacant && !mem.coming {
			names = append(names, mem.name)
		}
	}
	return names
}

// Degraded says in plain words what is not as it should be; "": nothing.
func (m *Machine) Degraded() string {
	in := m.size() - len(m.evicted())
	missing := m.missing()
	var words []string
	if out := m.evicted(); len(out) > 0 {
		words = append(words, fmt.Sprintf("%d of %d participants out of sync: %s; changes are kept on %d",
			len(out), m.size(), strings.Join(out, ", "), in))
	}
	if len(missing) > 0 && m.phase == Serving {
		text := "changes wait for " + strings.Join(missing, ", ")
		if in-len(missing) < m.minInSync() {
			text += fmt.Sprintf(": with fewer than %d participants in sync none is made", m.minInSync())
		}
		words = append(words, text)
	} else if !m.enough() && m.phase == Serving {
		words = append(words, fmt.Sprintf("changes wait until %d participants are in sync", m.minInSync()))
	}
	for _, w := range []string{m.stuck(), m.startWaits()} {
		if w != "" {
			words = append(words, w)
		}
	}
	words = append(words, m.slowWords()...)
	return strings.Join(words, "; ")
}

// startWaits says whom a start waits for although enough others are there (P8), and what an
// operator can do.
func (m *Machine) startWaits() string {
	if m.phase != Greeting {
		return ""
	}
	lost, answered := m.lost(m.declared()), 0
	var names []string
	for i, mem := range m.members {
		switch {
		case slices.Contains(lost, i) && mem.unfit == nil:
			names = append(names, mem.name)
		case mem.in && mem.answered && mem.unfit == nil:
			answered++
		}
	}
	if len(names) == 0 || answered >= StartsWith(m.size(), m.minInSync()) {
		return ""
	}
	return fmt.Sprintf("the start waits for %s: with --min-in-sync %d it may have what no other has; if its data are lost for good: tpcfs resolve --lost %s --force",
		strings.Join(names, ", "), m.minInSync(), strings.Join(names, ","))
}

// stuck says what an operator can do where so many have lost their data that
// nothing goes on by itself (P14).
func (m *Machine) stuck() string {
	var unfit, rest []string
	for i, mem := range m.members {
		switch {
		case !mem.in || m.leaving(i):
		case mem.unfit != nil:
			unfit = append(unfit, mem.name)
		default:
			rest = append(rest, mem.name)
		}
	}
	if len(unfit) == 0 || len(rest) == 0 || len(rest) >= m.minInSync() && m.phase == Serving {
		return ""
	}
	return fmt.Sprintf("%s lost its data, and only %s can know everything: nothing goes on until it is back, or an operator declares it lost (tpcfs resolve --lost %s --force)",
		strings.Join(unfit, ", "), strings.Join(rest, ", "), strings.Join(unfit, ","))
}
