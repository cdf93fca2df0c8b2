package exhaust

import (
	"fmt"
	"slices"
	"strings"

	"tpcfs/wire"
)

func entryWords(e *wire.Entry) string {
	kind := [...]string{"", "PREPARE", "COMMIT", "ABORT", "CONFIG", "OPEN", "VOID"}[e.Kind]
	switch e.Kind {
	case wire.EntryPrepare:
		return fmt.Sprintf("%s %v of operation %d (entry %d)", kind, e.Prepare.Tx, e.Prepare.Op.Session[0]-1, e.Index)
	case wire.EntryCommit, wire.EntryAbort:
		return fmt.Sprintf("%s %v (entry %d)", kind, e.Tx, e.Index)
	default:
		return fmt.Sprintf("%s (entry %d)", kind, e.Index)
	}
}

func upWords(up *wire.Up) string {
	var b strings.Builder
	for _, v := range up.Votes {
		fmt.Fprintf(&b, "%s on %v, ", [...]string{"", "YES", "NO", "DUP"}[v.Verdict], v.Tx)
	}
	fmt.Fprintf(&b, "durable to %d", up.Durable)
	return b.String()
}

// tellAll takes the steps of a path (the last one first) again, and says what
// each did.
func (x *explorer) tellAll(s *state, path []step, last *violation) []string {
	var list []string
	for _, st := range slices.Backward(path) {
		n, bad := x.do(s, st)
		line := x.words(s, n, st)
		if bad == nil {
			line += x.consequences(s, n)
		}
		list = append(list, fmt.Sprintf("%2d. %s", len(list)+1, line))
		s = n
	}
	return append(list, "VIOLATION of "+last.rule+": "+last.text)
}

func (x *explorer) words(s, n *state, st step) string {
	who := memberName(int(st.i))
	switch st.kind {
	case stHandle, stRefuse:
		p := &s.parts[st.i]
		t := x.r.step(turnKey{state: p.now, down: p.down[0], refuse: st.kind == stRefuse})
		line := who + " " + t.words
		if t.now != 0 && p.link != 0 {
			up := wire.Up{Votes: x.r.votes.values[t.now]}
			line += ", votes " + strings.TrimSuffix(upWords(&up), ", durable to 0")
		}
		return line
	case stSync:
		return who + "'s journal becomes durable"
	case stHear, stHearBeat:
		beat := map[stepKind]string{stHearBeat: ", and sends heartbeats in the same turn"}[st.kind]
		return fmt.Sprintf("the coordinator hears from %s: %s%s", who, upWords(&x.c.ups.values[s.parts[st.i].up[0]]), beat)
	case stLate:
		return fmt.Sprintf("the coordinator looks at what an old link of %s brought: %s", who, upWords(&x.c.ups.values[s.parts[st.i].late[0]]))
	case stGreet:
		return fmt.Sprintf("the coordinator of epoch %d greets %s", x.c.reigns.values[s.coord].epoch, who)
	case stGreetLost:
		return fmt.Sprintf("the coordinator of epoch %d greets %s; the answer is lost", x.c.reigns.values[s.coord].epoch, who)
	case stSubmit:
		return fmt.Sprintf("operation %d (%s) is sent, attempt %d", st.i, x.box.Ops[st.i], n.clients[st.i].tries)
	case stDelayed:
		return fmt.Sprintf("an earlier attempt of operation %d arrives, by the old link", st.i)
	case stSyncC:
		return "the coordinator's journal becomes durable"
	case stTick:
		return "the coordinator sends heartbeats"
	case stBreak:
		return who + "'s link BREAKS"
	case stCrash:
		return fmt.Sprintf("%s CRASHES; %d of %d unsynced records stay", who, st.n, len(s.parts[st.i].tail))
	case stCrashC:
		return fmt.Sprintf("the coordinator CRASHES; %d of %d unsynced records stay", st.n, len(s.ledgers)-1)
	}
	return ""
}

// consequences says what else a step did.
func (x *explorer) consequences(s, n *state) string {
	var b strings.Builder
	for _, d := range n.decided {
		if !slices.Contains(s.decided, d) {
			fmt.Fprintf(&b, "; %v is decided: %s", d.tx, map[bool]string{true: "commit", false: "abort"}[d.commit])
		}
	}
	for k := range n.clients {
		c, before := &n.clients[k], &s.clients[k]
		switch {
		case !before.waits || c.waits || c.tries != before.tries:
		case c.acked && !before.acked:
			fmt.Fprintf(&b, "; operation %d hears: committed as %v", k, c.tx)
		case c.failed && !before.failed:
			fmt.Fprintf(&b, "; operation %d hears: failed", k)
		default:
			fmt.Fprintf(&b, "; operation %d gets no answer", k)
		}
	}
	return b.String()
}
