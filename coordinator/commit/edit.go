package commit

import (
	"fmt"
	"slices"
	"strings"

	"tpcfs/wire"
)

// Edit is an operator's wish to change who takes part (P14). It is the machine's
// until Ready.Edited answers it.
type Edit struct {
	Request wire.MembersRequest
	Token   any // the caller's own

	deadline int64 // m.now at which it is answered all the same; 0: never
	issued   bool  // a config that brings it is recorded
	what     string
	waits    string // what for, until then
}

// Edited answers an Edit: it is in force, or why not. CodeUnavailable: it never will
// be, CodeUnknownOutcome: it may be yet.
type Edited struct {
	Edit  *Edit
	Reply wire.MembersReply
	Err   *wire.Error
}

// Edit takes an operator's wish.
func (m *Machine) Edit(e *Edit) {
	if err := e.Request.Check(); err != nil {
		m.edited(e, err)
		return
	}
	m.takeOver(e)
	if done := m.editDone(e.Request.ID); done != nil {
		e.what = done.What
		if m.inForce(done) {
			m.edited(e, nil)
			return
		}
		e.issued = true
	} else if err := m.mayEdit(e); err != nil {
		m.edited(e, err)
		return
	}
	if e.Request.Wait > 0 {
		e.deadline = m.now + e.Request.Wait
	}
	m.edits = append(m.edits, e)
}

func (m *Machine) mayEdit(e *Edit) *wire.Error {
	switch {
	case m.stop != nil:
		return &wire.Error{Code: wire.CodeUnavailable, Text: "the coordinator has stopped: " + m.stop.Error()}
	case m.closing:
		return wire.NewError(wire.CodeUnavailable, "the coordinator is shutting down")
	case len(m.edits) >= wire.MaxMembers:
		return wire.NewError(wire.CodeUnavailable, "too many changes of the participants wait")
	}
	_, err := m.weigh(e)
	return err
}

// editDone finds a wish that an earlier sending of the same request has brought.
func (m *Machine) editDone(id wire.UUID) *wire.Edit {
	if c := m.state.Config; c != nil {
		if i := slices.IndexFunc(c.Edits, func(d wire.Edit) bool { return d.ID == id }); i >= 0 {
			return &c.Edits[i]
		}
	}
	return nil
}

// inForce: is the config that brought it, or one after it?
func (m *Machine) inForce(d *wire.Edit) bool {
	return m.phase == Serving && (m.change == nil || d.Config.Compare(m.settled) <= 0)
}

// takeOver answers an edit that waits and whose request has come again: its sender has
// asked anew, by another connection.
func (m *Machine) takeOver(e *Edit) {
	i := slices.IndexFunc(m.edits, func(o *Edit) bool { return o.Request.ID == e.Request.ID })
	if i < 0 {
		return
	}
	o := m.edits[i]
	m.edits = slices.Delete(m.edits, i, i+1)
	m.edited(o, wire.NewError(wire.CodeReplaced, "the same request has come again, and hears the outcome"))
}

// CancelEdit gives an edit up whose caller is gone. One that is recorded goes on.
func (m *Machine) CancelEdit(e *Edit) {
	if i := slices.Index(m.edits, e); i >= 0 {
		m.edits = slices.Delete(m.edits, i, i+1)
		m.look(e)
		m.edited(e, m.late(e, wire.CodeCanceled, "given up"))
	}
}

// look notes what an edit waits for now.
func (m *Machine) look(e *Edit) {
	if !e.issued {
		e.waits, _ = m.weigh(e)
	}
}

// drop answers an edit that waits no more.
func (m *Machine) drop(e *Edit, err *wire.Error) {
	m.edits = slices.DeleteFunc(m.edits, func(o *Edit) bool { return o == e })
	m.edited(e, err)
}

// late is what an edit is told that is not in force.
func (m *Machine) late(e *Edit, code wire.Code, why string) *wire.Error {
	if e.issued {
		_, waits := m.effectWaits()
		return &wire.Error{Code: wire.CodeUnknownOutcome, Text: why + " while it was on its way: it may be in force yet" + waits}
	}
	text := why + "; nothing has changed"
	if e.waits != "" {
		text += ": it waits for " + e.waits
	}
	return &wire.Error{Code: code, Text: text}
}

// effectWaits names the members that a config on its way is not durable at.
func (m *Machine) effectWaits() (names []string, text string) {
	if c := m.change; c != nil && c.admits < 0 {
		for i, mem := range m.members {
			if mem.in && !m.leaving(i) && mem.durable < c.index {
				names = append(names, mem.name)
			}
		}
	}
	if len(names) > 0 {
		text = "; it waits for " + strings.Join(names, ", ")
	}
	return names, text
}

func (m *Machine) expireEdits() {
	for _, e := range slices.Clone(m.edits) {
		if e.deadline != 0 && m.now >= e.deadline {
			m.look(e)
			m.drop(e, m.late(e, wire.CodeUnavailable, "not done in time"))
		}
	}
}

// refuseEdits answers those that will not come about here.
func (m *Machine) refuseEdits(why string, issued bool) {
	m.edits = slices.DeleteFunc(m.edits, func(e *Edit) bool {
		if e.issued && !issued {
			return false
		}
		e.waits = ""
		m.edited(e, m.late(e, wire.CodeUnavailable, why))
		return true
	})
}

func (m *Machine) edited(e *Edit, err *wire.Error) {
	r := Edited{Edit: e, Err: err}
	if err == nil {
		r.Reply = wire.MembersReply{Config: m.state.Config.ID, What: e.what, Note: m.Degraded()}
	}
	m.rd.Edited = append(m.rd.Edited, r)
}

// find returns the number of a participant by its name; -1: there is none.
func (m *Machine) find(name string) int {
	return slices.IndexFunc(m.members, func(mem *member) bool { return mem.name == name && !mem.vacant })
}

// takes lists the members that an edit takes out of the in-sync set.
func (m *Machine) takes(e *Edit) []int {
	var out []int
	for _, name := range e.Request.Names {
		if i := m.find(name); i >= 0 && m.members[i].in {
			out = append(out, i)
		}
	}
	return out
}

// weigh says what an edit has to wait for ("": nothing), or why it is refused.
func (m *Machine) weigh(e *Edit) (waits string, err *wire.Error) {
	r := &e.Request
	if err := m.checkNames(r); err != nil {
		return "", err
	}
	out := m.takes(e)
	switch {
	case m.phase != Serving && (!r.Force || len(out) == 0):
		if _, err := m.weighRest(out); err != nil {
			return "", err
		} else if len(out) > 0 { // nothing but force makes a start go on that is stuck
			err = m.needsForce(r, out)
			return "the service to begin" + m.awaited(), err
		}
		return "the service to begin" + m.awaited(), nil
	case m.phase == Serving && m.change != nil && (!r.Force || m.change.admits >= 0):
		_, text := m.effectWaits()
		return "another change of the participants" + text, nil
	case m.phase == Serving && m.joiner >= 0 && !r.Force:
		return "participant " + m.members[m.joiner].name + ", which gets the last of what it lacks", nil
	}
	if waits, err := m.weighRest(out); waits != "" || err != nil {
		return waits, err
	}
	if r.Force {
		return "", nil
	}
	return "", m.needsForce(r, out)
}

// awaited names those that the service waits for.
func (m *Machine) awaited() string {
	var names []string
	for _, mem := range m.members {
		if mem.in && (!mem.answered || mem.unfit != nil) {
			names = append(names, mem.name)
		}
	}
	if m.phase == Greeting && len(names) > 0 {
		return "; that waits for " + strings.Join(names, ", ")
	}
	_, text := m.effectWaits()
	return text
}

// checkNames: is there who is meant, and nobody of the new name?
func (m *Machine) checkNames(r *wire.MembersRequest) *wire.Error {
	bad := func(code wire.Code, format string, args ...any) *wire.Error {
		return &wire.Error{Code: code, Text: fmt.Sprintf(format, args...)}
	}
	if m.state.Config == nil {
		return bad(wire.CodeUnavailable, "the cluster is not made yet: its first start has to be over")
	}
	for k, name := range r.Names {
		i := m.find(name)
		switch {
		case i < 0:
			return bad(wire.CodeInvalid, "there is no participant %s: %s", name, m.whoThereIs(name))
		case slices.Contains(r.Names[:k], name):
			return bad(wire.CodeInvalid, "participant %s is named twice", name)
		}
		switch mem := m.members[i]; {
		case mem.coming || mem.going:
			return bad(wire.CodeBusy, "participant %s is just being added or removed: see tpcfs members", name)
		case r.Kind == wire.MembersLost && mem.in && mem.linked && mem.unfit == nil:
			return bad(wire.CodeInvalid, "participant %s is there and has its data: it is not lost", name)
		}
	}
	if r.Kind == wire.MembersAdd || r.Kind == wire.MembersReplace {
		for i, mem := range m.members {
			same := mem.name == r.New.Name
			if mem.heir != nil && (mem.heir.Name == r.New.Name || mem.heir.Addr == r.New.Addr) {
				return bad(wire.CodeExist, "%s (%s) is just being added", mem.heir.Name, mem.heir.Addr)
			}
			if mem.vacant || same && slices.Contains(r.Names, mem.name) {
				continue
			}
			if same {
				return bad(wire.CodeExist, "%s is a participant already, at %s", mem.name, m.members[i].addr)
			}
			if mem.addr == r.New.Addr && !slices.Contains(r.Names, mem.name) {
				return bad(wire.CodeExist, "%s is the address of participant %s", mem.addr, mem.name)
			}
		}
	}
	switch {
	case r.Kind == wire.MembersLost && len(m.takes(&Edit{Request: *r})) == 0:
		return bad(wire.CodeInvalid, "%s: out of sync already: nothing waits for that, and it catches up when it is back, with an empty disk too", strings.Join(r.Names, ", "))
	case r.Kind == wire.MembersAdd && len(m.Numbers()) >= wire.MaxMembers:
		return bad(wire.CodeTooMany, "there are %d participants; no more are possible", wire.MaxMembers)
	case r.Kind == wire.MembersRemove && m.size() == 1:
		return bad(wire.CodeInvalid, "%s is the only participant: replace it", r.Names[0])
	}
	return nil
}

func (m *Machine) whoThereIs(name string) string {
	for _, e := range slices.Backward(m.state.Config.Removed) {
		if e.Member.Name == name {
			return "it was removed"
		}
	}
	var names []string
	for _, mem := range m.members {
		if !mem.vacant {
			names = append(names, mem.name)
		}
	}
	return "there are " + strings.Join(names, ", ")
}

// weighRest looks at the members that are left when those go: what they hold is
// the truth then, so one has to be there, and all have to be waited for.
func (m *Machine) weighRest(out []int) (waits string, err *wire.Error) {
	if len(out) == 0 {
		return "", nil
	}
	taken := func(i int) bool {
		return slices.Contains(out, i) || m.phase == Greeting && slices.Contains(m.declared(), i)
	}
	rest, there := 0, 0
	var away []string
	for i, mem := range m.members {
		switch {
		case !mem.in || m.leaving(i) || taken(i):
			continue
		case mem.linked && mem.unfit == nil:
			there++
		default:
			away = append(away, mem.name)
		}
		rest++
	}
	if rest == 0 {
		return "", wire.NewError(wire.CodeInvalid, "no participant that is in sync would be left: nobody else has everything. "+
			"tpcfs export writes out what a participant holds")
	}
	if len(away) > 0 {
		return "participant " + strings.Join(away, ", ") + ", without which nobody knows everything; what is lost for good, too, is to be declared lost at once: tpcfs resolve --lost NAME,... --force", nil
	}
	return "", nil
}

// needsForce says why an edit is refused without it; nil: it needs none.
func (m *Machine) needsForce(r *wire.MembersRequest, out []int) *wire.Error {
	least, in := m.minInSync(), m.size()-len(m.evicted())
	stay := in - len(out)
	refuse := func(format string, args ...any) *wire.Error {
		return &wire.Error{Code: wire.CodeInvalid, Text: fmt.Sprintf(format, args...) + ". --force does it all the same"}
	}
	if len(out) > 0 && stay < least {
		then := "changes wait until enough others have caught up"
		if r.Kind == wire.MembersRemove && stay >= m.leastOf(m.size()-1) {
			then = "changes go on"
		}
		return refuse("%d of %d participants would be left in sync, and %d have to be: %s, and until others have caught up everything is on %d alone; what else is lost then is lost for good",
			stay, m.size(), least, then, stay)
	}
	switch after := m.size(); {
	case r.Kind == wire.MembersAdd && in >= least && in < m.leastOf(after+1):
		return refuse("of %d participants %d have to be in sync, and %d are: changes would wait until %s has caught up", after+1, m.leastOf(after+1), in, r.New.Name)
	case r.Kind == wire.MembersRemove && !m.o.Majority && m.o.MinInSync >= after && after > 1:
		return refuse("this coordinator was started with --min-in-sync %d, and %d participants would be left: the next start needs a smaller one", m.o.MinInSync, after-1)
	}
	return nil
}

// declares: does an operator say by that edit that who it takes out knows nothing that
// the others do not? At a start that is not waited for (P14).
func (m *Machine) declares(e *Edit) bool {
	return e.Request.Force && !e.issued && len(m.takes(e)) > 0
}

// declared lists the members that forced edits take out, at a start.
func (m *Machine) declared() []int {
	var out []int
	for _, e := range m.edits {
		if m.declares(e) {
			out = append(out, m.takes(e)...)
		}
	}
	return out
}

// checkDeclared answers forced edits that the start cannot bring: who is there after all
// is not lost, and what an earlier one takes is not there any more. Nothing is counted by them.
func (m *Machine) checkDeclared() {
	var before []*wire.MembersRequest
	for _, e := range slices.Clone(m.edits) {
		if !m.declares(e) {
			continue
		}
		err := m.checkNames(&e.Request)
		for _, r := range before {
			if err == nil {
				err = clash(r, &e.Request)
			}
		}
		if err != nil {
			m.drop(e, err)
			continue
		}
		before = append(before, &e.Request)
	}
}

// clash says why an edit cannot be brought after another one, by the same config.
func clash(first, r *wire.MembersRequest) *wire.Error {
	if first.Kind == wire.MembersRemove || first.Kind == wire.MembersReplace {
		if slices.Contains(r.Names, first.Names[0]) {
			return &wire.Error{Code: wire.CodeBusy, Text: fmt.Sprintf("participant %s is just being added or removed: see tpcfs members", first.Names[0])}
		}
	}
	if r.New.Name != "" && (first.New.Name == r.New.Name || first.New.Addr == r.New.Addr) {
		return &wire.Error{Code: wire.CodeExist, Text: fmt.Sprintf("%s (%s) is just being added", first.New.Name, first.New.Addr)}
	}
	return nil
}

// tryEdit issues the config of the first edit that may be; false: none may.
func (m *Machine) tryEdit() bool {
	for _, e := range slices.Clone(m.edits) {
		if e.issued {
			continue
		}
		waits, err := m.weigh(e)
		if err != nil {
			m.drop(e, err)
			continue
		}
		if e.waits = waits; waits == "" {
			out := m.takes(e)
			m.applyEdit(e, out)
			m.evict(out)
			return true
		}
	}
	return false
}

// startEdits brings what was declared before the start: the config that begins the
// epoch says so. out is all that are not in it.
func (m *Machine) startEdits(out []int) {
	for _, e := range m.edits {
		if m.declares(e) {
			m.applyEdit(e, out)
		}
	}
}

// applyEdit enters an edit in what the next config will say. Who comes, goes or is
// replaced is so when a config is in force. out is who is not in sync by that config.
func (m *Machine) applyEdit(e *Edit, out []int) {
	r := &e.Request
	e.issued = true
	e.what = m.words(r, out)
	m.fresh = append(m.fresh, wire.Edit{What: e.what, By: r.By, Reason: r.Reason, Time: m.wall / 1e6, Forced: r.Force, ID: r.ID})
	switch r.Kind {
	case wire.MembersAdd:
		i := slices.IndexFunc(m.members, func(mem *member) bool { return mem.vacant })
		if i < 0 {
			i = len(m.members)
			m.members = append(m.members, &member{})
			m.widen()
		}
		m.another(m.members[i], r.New.Name, r.New.Addr, m.lastFlag(r.New.Name))
		m.members[i].coming = true
	case wire.MembersRemove, wire.MembersReplace:
		mem := m.members[m.find(r.Names[0])]
		mem.going = true
		if r.Kind == wire.MembersReplace {
			mem.heir = &wire.Member{Name: r.New.Name, Addr: r.New.Addr, Flag: m.lastFlag(r.New.Name)}
			if r.New.Name == mem.name { // the flag that gave the old address is none that gives another
				mem.heir.Flag = mem.flag
			}
		}
		m.remember(mem)
	default: // MembersLost: who is left says it all
	}
}

// lastFlag is the address that the command line gave last of a name that nobody has:
// the next start with the same flags gives it again, and it goes before nothing (P8).
func (m *Machine) lastFlag(name string) string {
	for _, p := range m.o.Peers {
		if p.Name == name {
			return p.Addr
		}
	}
	for _, r := range slices.Backward(m.removed) {
		if r.Member.Name == name {
			return r.Member.Flag
		}
	}
	return ""
}

// remember notes who is removed. One that was never greeted has nothing that it could
// be told of; its flag counts all the same. There is an end to it: who knows goes first.
func (m *Machine) remember(mem *member) {
	if len(m.removed) >= wire.MaxRemoved {
		i := max(0, slices.IndexFunc(m.removed, func(r wire.Removed) bool { return r.Told }))
		m.removed = slices.Delete(m.removed, i, i+1)
	}
	m.removed = append(m.removed, wire.Removed{
		Member: wire.Member{Name: mem.name, Addr: mem.addr, Storage: mem.storage, Flag: mem.flag}, Told: mem.storage.IsZero(),
	})
}

// another makes the member's number that of another participant, which has
// everything to catch up.
func (m *Machine) another(mem *member, name, addr, flag string) {
	m.identities++
	*mem = member{name: name, addr: addr, flag: flag, link: mem.link, identity: m.identities}
}

// widen makes room for the votes of a participant more.
func (m *Machine) widen() {
	for _, t := range m.order {
		t.votes, t.errs = append(t.votes, 0), append(t.errs, nil)
	}
}

// words says what an edit does, for the record.
func (m *Machine) words(r *wire.MembersRequest, out []int) string {
	var text string
	switch r.Kind {
	case wire.MembersAdd:
		return fmt.Sprintf("%s (%s) was added", r.New.Name, r.New.Addr)
	case wire.MembersRemove:
		text = r.Names[0] + " was removed"
	case wire.MembersReplace:
		text = fmt.Sprintf("%s was replaced by %s (%s)", r.Names[0], r.New.Name, r.New.Addr)
	default:
		text = r.Names[0] + " was declared lost"
		if len(r.Names) > 1 {
			text = strings.Join(r.Names, ", ") + " were declared lost"
		}
	}
	var rest []string
	for i, mem := range m.members {
		if mem.in && !m.leaving(i) && !slices.Contains(out, i) {
			rest = append(rest, mem.name)
		}
	}
	return text + "; in sync: " + strings.Join(rest, ", ")
}

// members of a config that comes into force: who was taken out is out.
func (m *Machine) settleMembers() {
	for i, mem := range m.members {
		leaves := m.leaving(i)
		mem.coming = false
		if !leaves && !mem.going {
			continue
		}
		if mem.linked {
			m.rd.Drop = append(m.rd.Drop, Drop{Member: i, Link: mem.link})
			m.unlinked(i)
		}
		switch {
		case mem.heir != nil:
			m.another(mem, mem.heir.Name, mem.heir.Addr, mem.heir.Flag)
		case mem.going:
			m.another(mem, "", "", "")
			mem.vacant = true
		default:
			mem.in, mem.answered, mem.known, mem.owed, mem.asked = false, false, nil, nil, 0
			mem.handled, mem.durable = 0, 0
			m.pacesOut(&mem.pace)
		}
	}
}

// settleEdits answers those whose config is in force.
func (m *Machine) settleEdits() {
	m.edits = slices.DeleteFunc(m.edits, func(e *Edit) bool {
		if e.issued {
			m.edited(e, nil)
		}
		return e.issued
	})
}

// Untold lists participants that were removed and have not made that durable yet
// (P14); none before the config that says so is in force.
func (m *Machine) Untold() []wire.Member {
	if m.phase != Serving || m.stop != nil || m.change != nil {
		return nil
	}
	var list []wire.Member
	for _, r := range m.removed {
		if !r.Told && !slices.ContainsFunc(m.members, func(mem *member) bool { return mem.addr == r.Member.Addr }) {
			list = append(list, r.Member)
		}
	}
	return list
}

// Told notes that the participant of that storage has made durable that it was removed.
// A config of its own says so, or the next one.
func (m *Machine) Told(storage wire.UUID) {
	for i := range m.removed {
		if r := &m.removed[i]; r.Member.Storage == storage && !r.Told {
			r.Told, m.toldOne = true, true
		}
	}
}

// Numbers lists those that are given out.
func (m *Machine) Numbers() []int {
	var list []int
	for i, mem := range m.members {
		if !mem.vacant {
			list = append(list, i)
		}
	}
	return list
}

// Identities grows when a number is given out, or is another participant's.
func (m *Machine) Identities() int { return m.identities }

// Knows names the participant, one that there is or was, of that storage; "": none.
func (m *Machine) Knows(storage wire.UUID) string {
	for _, mem := range m.members {
		if !mem.vacant && mem.storage == storage {
			return mem.name
		}
	}
	for _, r := range m.removed {
		if r.Member.Storage == storage {
			return r.Member.Name + ", which was removed"
		}
	}
	return ""
}

// size is the number of configured participants.
func (m *Machine) size() int {
	n := 0
	for _, mem := range m.members {
		if !mem.vacant && !mem.coming {
			n++
		}
	}
	return n
}

// EditKnown: has that request been carried out, or is it on its way?
func (m *Machine) EditKnown(id wire.UUID) bool { return m.editDone(id) != nil }
