// Package scrub decides in a scrub (S5b): what participants are asked, who is right
// where they differ, who gets everything anew, and what is remembered of that. It is
// pure: answers in, steps out. The caller makes the calls and waits.
//
// A Machine is one scrub. First, for each participant that was chosen, and for all of
// those at once if the caller likes: Verify, and what that brought into Verified; what
// Verified returns is repaired, and what became of that goes into Mended. Then Next
// names one step after the other, and the caller says what came of it, with Answered
// or Did, until End. A Book is what is remembered from one scrub to the next.
package scrub

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tpcfs/wire"
)

// Bounds of a scrub.
const (
	maxNotes     = 20      // that are kept of a participant
	compareTries = 100     // to meet all at one position
	mostAhead    = 1 << 16 // entries
)

// Kind of a Step.
type Kind uint8

// Steps, and how to say what came of them.
const (
	Ask     Kind = iota + 1 // put Req to all of Of, at once: Answered
	Rest                    // wait a moment: nothing is said
	Enter                   // enter Verdict in the book: Did
	MayGo                   // may Of[0] leave, and are enough others in sync? Did
	Condemn                 // enter in the book, durably, that Of[0] has to get everything anew: Did
	Evict                   // have Of[0] evicted: Did
	Await                   // wait until the book says that Of[0] has got everything: Did
	End                     // nothing is left to do
)

// Step is what is to be done next.
type Step struct {
	Kind Kind
	Of   []int        // members
	Req  wire.Compare // without its epoch
}

// Answer is a participant's to a Compare.
type Answer struct {
	wire.Compared
	Member int
	Body   []byte
	Err    error // nil: it has answered
}

// Machine is one scrub. One goroutine at a time uses it.
type Machine struct {
	names   []string // by member; "": there is none
	chosen  []bool   // by member
	reports []wire.ScrubMember
	cursors [][]byte // by member: where to go on to verify
	begun   []bool   // by member: it is, or was, verified
	// rotten are objects with blocks that were not repaired, by member: their rows
	// may differ.
	rotten  []map[wire.ID]bool
	damaged []bool // by member: it has said that its rows are

	phase  phase
	rest   bool         // before what comes next
	from   []byte       // where the range begins that is compared
	req    wire.Compare // what all are asked
	first  wire.Compared
	fails  int    // of choosing this range
	tries  int    // to have all at one position
	last   error  // why the last one was none
	ahead  uint64 // entries from now to where all are to be compared
	sums   bool   // there are rows of checksums that differ
	all    bool   // all ranges were compared
	rows   int64  // that were
	ranges int
	met    []int // of those, by member: it was asked with the others
	// undecided, by member: there are rows that differ between it and others, and no majority.
	undecided []bool
	bad       []bool  // by member: it does not agree with the majority
	failed    []error // by member: why it could not be asked last

	renews []int // who is to get everything anew; the first is under way
}

type phase uint8

const (
	choosing  phase = iota // somebody is asked how far a range goes
	comparing              // all are asked for digests, or rows, of it
	entering
	asking // whether the first of renews may leave
	condemning
	evicting
	awaiting
	over
)

// Why a participant is not looked at, or does not get everything anew.
var (
	ErrAway    = wire.NewError(wire.CodeUnavailable, "it is not in sync and there")
	errHalf    = errors.New("the comparison of its metadata did not come to its end")
	errStopped = errors.New("it was stopped before its end")
)

// New begins a scrub of some participants, or all; names are those there are, by member.
func New(names []string, chosen []bool) *Machine {
	n := len(names)
	m := &Machine{
		names: names, chosen: chosen, reports: make([]wire.ScrubMember, n), cursors: make([][]byte, n), begun: make([]bool, n),
		rotten: make([]map[wire.ID]bool, n), damaged: make([]bool, n), met: make([]int, n), undecided: make([]bool, n), bad: make([]bool, n), failed: make([]error, n),
	}
	for i, name := range names {
		m.reports[i].Name = name
	}
	return m
}

// Chosen is what New was told.
func (m *Machine) Chosen(i int) bool { return i < len(m.chosen) && m.chosen[i] }

// Reports returns what is known of the participants, in their order.
func (m *Machine) Reports() []wire.ScrubMember {
	var list []wire.ScrubMember
	for i := range m.reports {
		if m.names[i] != "" {
			r := m.reports[i]
			r.Notes = slices.Clone(r.Notes)
			list = append(list, r)
		}
	}
	return list
}

// Of is what is known of a participant that was chosen; ok is false of others.
func (m *Machine) Of(name string) (r wire.ScrubMember, ok bool) {
	i := slices.Index(m.names, name)
	if name == "" || i < 0 || !m.chosen[i] {
		return r, false
	}
	r = m.reports[i]
	r.Notes = slices.Clone(r.Notes)
	return r, true
}

// Rows is how many rows were compared.
func (m *Machine) Rows() int64 { return m.rows }

// knows: was there a participant of that number at the start?
func (m *Machine) knows(i int) bool { return i >= 0 && i < len(m.names) && m.names[i] != "" }

// note adds words to what is known of a participant.
func (m *Machine) note(i int, text string) {
	if r := &m.reports[i]; len(r.Notes) < maxNotes {
		r.Notes = append(r.Notes, text)
	}
}

// problem notes why a participant was not looked at to the end, or, of one that
// says so, that its rows are damaged. It may say so more than once before it ends.
func (m *Machine) problem(i int, err error) {
	if !m.knows(i) {
		return // it has been added since
	}
	r := &m.reports[i]
	if wire.CodeOf(err) == wire.CodeCorrupt && !m.damaged[i] {
		m.damaged[i] = true
		r.Found++
		m.note(i, err.Error())
	}
	if r.Problem == "" && m.chosen[i] {
		r.Problem = err.Error()
	}
}

// Verify is where a participant is to go on verifying its contents; more is false
// when it was chosen not, or has come to the end.
func (m *Machine) Verify(i int) (cursor []byte, more bool) {
	if !m.Chosen(i) || m.begun[i] && len(m.cursors[i]) == 0 || m.reports[i].Problem != "" || m.phase == over {
		return nil, false
	}
	return m.cursors[i], true
}

// Verified takes what a participant has verified. It returns what is to be repaired
// there, each of at most MaxDonated blocks of a page of checksums.
func (m *Machine) Verified(i int, v *wire.Verified) (mends []wire.Lack) {
	m.begun[i], m.cursors[i] = true, v.Cursor
	r := &m.reports[i]
	r.Files, r.Bytes, r.OfBytes = r.Files+v.Files, r.Bytes+v.Bytes, v.Total
	for k := range v.Rotten {
		for lack, blocks := &v.Rotten[k], v.Rotten[k].Blocks; len(blocks) > 0; {
			n := 1
			for n < len(blocks) && n < wire.MaxDonated && blocks[n]/wire.SumsPerPage == blocks[0]/wire.SumsPerPage {
				n++
			}
			mends = append(mends, wire.Lack{Ino: lack.Ino, Object: lack.Object, Blocks: blocks[:n]})
			blocks = blocks[n:]
		}
	}
	return mends
}

// Mended takes what became of what Verified wanted repaired: so many blocks are right,
// these are rotten still, and why. What has changed meanwhile is neither.
func (m *Machine) Mended(i int, lack *wire.Lack, right int, rotten []int64, why error) {
	r := &m.reports[i]
	r.Found += int64(right + len(rotten))
	r.Repaired += int64(right)
	switch {
	case len(rotten) > 0:
		m.note(i, fmt.Sprintf("%d blocks of inode %d are rotten: %v", len(rotten), lack.Ino, why))
		if m.rotten[i] == nil {
			m.rotten[i] = map[wire.ID]bool{}
		}
		m.rotten[i][lack.Object] = true
	case right > 0:
		m.note(i, fmt.Sprintf("%d blocks of inode %d were rotten", right, lack.Ino))
	}
}

// Failed notes that a participant could not go on verifying.
func (m *Machine) Failed(i int, err error) { m.problem(i, err) }

// Stop ends the scrub: what is not compared by now is not.
func (m *Machine) Stop() {
	if m.phase <= comparing {
		for i := range m.names {
			m.problem(i, errStopped)
		}
		m.ends(false)
	} else if m.phase > entering {
		m.phase = over
	}
}

// Next is the next step. there are the members in sync that can be asked, in order, and
// readPoint the last decision that all of them get.
func (m *Machine) Next(there []int, readPoint uint64) Step {
	if m.rest {
		m.rest = false
		return Step{Kind: Rest}
	}
	if m.phase == choosing && len(there) < m.least() {
		m.problems(errors.New("there is nobody to compare its metadata with"))
		m.ends(false)
	}
	for m.phase == asking && slices.ContainsFunc(there, func(i int) bool { return !m.compares(i) }) {
		m.Did("it does not get everything anew: one is in sync by now that was not compared")
	}
	switch m.phase {
	case choosing:
		at := m.fails % len(there)
		return Step{Kind: Ask, Of: there[at : at+1], Req: wire.Compare{From: m.from, Choose: true}}
	case comparing:
		m.req.Index = readPoint + m.ahead
		return Step{Kind: Ask, Of: there, Req: m.req}
	case entering:
		return Step{Kind: Enter}
	case over:
		return Step{Kind: End}
	default:
		return Step{Kind: MayGo + Kind(m.phase-asking), Of: m.renews[:1:1]}
	}
}

// least is how many have to be there: a cluster of one participant has its rows read.
func (m *Machine) least() int {
	n := 0
	for _, name := range m.names {
		if name != "" {
			n++
		}
	}
	return min(2, n)
}

func (m *Machine) problems(err error) {
	for i := range m.names {
		m.problem(i, err)
	}
}

// fail notes that a participant did not answer: it may be gone soon, and the others
// are compared, or answer the next time. Only damage is a finding at once.
func (m *Machine) fail(i int, err error) {
	if m.knows(i) {
		m.failed[i] = err
	}
	if wire.CodeOf(err) == wire.CodeCorrupt {
		m.problem(i, err)
	}
}

// Answered takes the answers of all that were to be asked.
func (m *Machine) Answered(all []Answer) {
	switch m.phase {
	case choosing:
		m.chosenRange(all)
	case comparing:
		m.compared(all)
	default: // it was stopped meanwhile
	}
}

func (m *Machine) chosenRange(all []Answer) {
	if a := all[0]; a.Err != nil {
		m.fail(a.Member, a.Err)
		if m.fails++; m.fails > compareTries {
			m.problems(errors.New("its metadata could not be compared: " + a.Err.Error()))
			m.ends(false)
		}
		m.rest = true
		return
	}
	m.first = all[0].Compared
	if len(m.from) == 0 && len(m.first.Next) == 0 {
		m.ends(true) // a store without rows
		return
	}
	m.phase, m.req = comparing, wire.Compare{From: m.from, Next: m.first.Next}
	m.tries, m.last = 0, errNever
}

var errNever = errors.New("the participants were never at one position: too much changes to compare their metadata")

// compared takes answers of all that are in sync, which count if there are enough of
// them, and all of one position. While changes come that is one some way ahead, where each
// of them stops for a moment.
func (m *Machine) compared(all []Answer) {
	slices.SortFunc(all, func(a, b Answer) int { return a.Member - b.Member })
	least := m.least()
	if m.req.Rows {
		least = 2
	}
	ok := len(all) >= least
	for _, a := range all {
		if a.Err != nil {
			ok = false
			m.fail(a.Member, a.Err)
		}
	}
	switch {
	case !ok:
		m.last = errors.New("too few participants answer to compare its metadata")
		m.rest = true
	case !slices.ContainsFunc(all, func(a Answer) bool { return a.Position != all[0].Position }):
		m.atOnePosition(all)
		return
	case slices.ContainsFunc(all, func(a Answer) bool { return a.Position.Index > m.req.Index }):
		m.ahead = max(4, min(2*m.ahead, mostAhead)) // it was too late there
	default:
		m.ahead /= 2
	}
	if m.tries++; m.tries == compareTries {
		m.problems(m.last)
		m.ends(false)
	}
}

func (m *Machine) atOnePosition(all []Answer) {
	switch {
	case m.req.Rows:
		if !m.differ(all) {
			m.ends(false)
			return
		}
	case slices.ContainsFunc(all, func(a Answer) bool { return string(a.Digest) != string(all[0].Digest) || a.More }):
		m.req.Rows, m.tries, m.last = true, 0, errNever
		return
	default:
	}
	m.ranges++
	for _, a := range all {
		if m.knows(a.Member) {
			m.met[a.Member]++
		}
	}
	m.rows += m.first.Rows
	m.from, m.phase, m.fails = m.first.Next, choosing, 0
	if len(m.from) == 0 {
		m.ends(true)
	}
}

// differ looks for the rows that differ, and for whose; false: one has given none.
func (m *Machine) differ(all []Answer) bool {
	rows := map[string]map[int]string{} // digest and name, by key and member
	for _, a := range all {
		list, err := wire.DecodeRows(a.Body)
		if err != nil {
			m.problem(a.Member, err)
			return false
		}
		for _, row := range list {
			if rows[row.Key] == nil {
				rows[row.Key] = map[int]string{}
			}
			rows[row.Key][a.Member] = string(row.Val)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		m.judge(key, rows[key], all)
	}
	return true
}

// judge tells who is right about a row: the majority, if there is one. Of checksums
// it does not: each participant marks blocks as bad by itself (S5), and many that
// have lost one are not more right than one that has it.
func (m *Machine) judge(key string, row map[int]string, all []Answer) {
	says := map[string][]int{} // "": it has none
	for _, a := range all {
		says[row[a.Member]] = append(says[row[a.Member]], a.Member)
	}
	if len(says) == 1 {
		return
	}
	sums := key[0] == sumRow
	if m.sums = m.sums || sums; sums && m.isRotten(key, all) {
		return
	}
	majority := !sums && slices.ContainsFunc(slices.Collect(maps.Values(says)), func(o []int) bool { return 2*len(o) > len(all) })
	text := m.difference(says)
	for _, members := range says {
		most := 2*len(members) > len(all)
		for _, i := range members {
			if !m.knows(i) {
				continue
			}
			m.undecided[i] = m.undecided[i] || !majority
			if most {
				continue
			}
			m.bad[i] = m.bad[i] || majority
			m.reports[i].Found++
			m.note(i, text)
		}
	}
}

// difference says what a row is called, and who has which.
func (m *Machine) difference(says map[string][]int) string {
	name := ""
	for val := range says {
		if len(val) >= wire.RowDigest {
			name = val[wire.RowDigest:]
		}
	}
	var names []string
	for _, val := range slices.SortedFunc(maps.Keys(says), func(a, b string) int { return says[a][0] - says[b][0] }) {
		var who []string
		for _, i := range says[val] {
			if m.knows(i) {
				who = append(who, m.names[i])
			}
		}
		names = append(names, strings.Join(who, "+"))
	}
	return fmt.Sprintf("%s differs: %s", name, strings.Join(names, " | "))
}

// sumRow begins the keys of rows of checksums; the object's number follows.
const sumRow = 's'

// isRotten: is the row about checksums of an object that has rotten blocks? What a
// participant does not know of them it keeps in that row.
func (m *Machine) isRotten(key string, all []Answer) bool {
	for _, a := range all {
		if !m.knows(a.Member) {
			continue
		}
		for object := range m.rotten[a.Member] {
			if strings.HasPrefix(key, string(binary.BigEndian.AppendUint64([]byte{sumRow}, uint64(object)))) {
				return true
			}
		}
	}
	return false
}
