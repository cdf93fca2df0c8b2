package scrub

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"tpcfs/wire"
)

// cluster answers a machine: rows by member, all in one range.
type cluster struct {
	rows    []map[string]string
	at      []uint64                  // by member: the position of its next answers; 0: what is asked for
	fails   func(i, n int) error      // of member i's answer number n; nil: none
	calls   []int                     // by member
	away    map[int]bool              // not in sync
	back    int                       // from so many calls on those are; 0: never
	verdict Verdict                   // when it was to be entered
	spoils  int                       // the member whose rows are none; 0: nobody
	did     func(s Step) (why string) // nil: all is done
	steps   []string
	ahead   uint64 // the greatest index that was asked for
	asked   int
}

func (c *cluster) answer(i int, req wire.Compare) Answer {
	a := Answer{Member: i}
	c.calls[i]++
	if c.fails != nil {
		if a.Err = c.fails(i, c.calls[i]); a.Err != nil {
			return a
		}
	}
	a.Position = wire.Position{Epoch: 1, Index: max(c.at[i], req.Index)}
	h := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(c.rows[i])) {
		val := c.rows[i][key]
		fmt.Fprint(h, key, "\x00", val, "\x00")
		one := sha256.Sum256([]byte(val))
		a.Body = wire.AppendRow(a.Body, wire.Row{Key: key, Val: append(one[:wire.RowDigest:wire.RowDigest], "row "+key...)})
		a.Rows++
	}
	if a.Digest = h.Sum(nil); !req.Rows {
		a.Body = nil
	}
	if req.Choose {
		a.Next = []byte("s")
	}
	if req.Rows && c.spoils > 0 && c.spoils == i {
		a.Body = []byte("no rows")
	}
	if len(req.From) > 0 {
		a.Next, a.Body, a.Digest, a.Rows = nil, nil, nil, 0
	}
	return a
}

// run carries a machine's comparison out.
func (c *cluster) run(t *testing.T, m *Machine) {
	t.Helper()
	n := len(c.rows)
	c.calls = make([]int, n)
	if c.at == nil {
		c.at = make([]uint64, n)
	}
	for range 10_000 {
		var there []int
		for i := range n {
			if !c.away[i] || c.back > 0 && c.asked >= c.back {
				there = append(there, i)
			}
		}
		s := m.Next(there, 10)
		switch s.Kind {
		case End:
			return
		case Rest:
		case Ask:
			c.asked++
			c.ahead = max(c.ahead, s.Req.Index)
			var all []Answer
			for _, i := range s.Of {
				all = append([]Answer{c.answer(i, s.Req)}, all...) // in any order
			}
			m.Answered(all)
		case Enter:
			c.steps = append(c.steps, "enter")
			c.verdict = m.Verdict()
			m.Did("")
		default:
			c.steps = append(c.steps, fmt.Sprintf("%s %d", []string{"may go", "condemn", "evict", "await"}[s.Kind-MayGo], s.Of[0]))
			why := ""
			if c.did != nil {
				why = c.did(s)
			}
			m.Did(why)
		}
	}
	t.Fatal("it comes to no end")
}

func begun(n int, chosen ...int) *Machine {
	names, is := make([]string, n), make([]bool, n)
	for i := range names {
		names[i] = string(rune('a' + i))
		is[i] = len(chosen) == 0 || slices.Contains(chosen, i)
	}
	return New(names, is)
}

// said is all that a machine says of its participants.
func said(m *Machine) string {
	var b strings.Builder
	for _, r := range m.Reports() {
		fmt.Fprintf(&b, "%s %d/%d %s %q\n", r.Name, r.Repaired, r.Found, strings.Join(r.Notes, "; "), r.Problem)
	}
	return b.String()
}

const allSteps = "may go %d, condemn %[1]d, evict %[1]d, await %[1]d"

func renewed(i int) string { return "enter, " + fmt.Sprintf(allSteps, i) }

// Who is right about rows, who gets everything anew, and what is remembered.
func TestJudge(t *testing.T) {
	same := map[string]string{"e1": "x", "e2": "y"}
	sum := "s\x00\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x00"
	for name, c := range map[string]struct {
		rows   []map[string]string
		away   map[int]bool
		rotten map[int]wire.ID
		found  []int64
		steps  string
		unsure string
		right  string
		says   string
	}{
		"all the same":  {rows: []map[string]string{same, same, same}, found: []int64{0, 0, 0}, steps: "enter", right: "a b c"},
		"one of three":  {rows: []map[string]string{same, {"e1": "x", "e2": "z"}, same}, found: []int64{0, 1, 0}, steps: renewed(1), unsure: "b", right: "a c", says: "row e2 differs: a+c | b"},
		"one has less":  {rows: []map[string]string{same, same, {"e1": "x"}}, found: []int64{0, 0, 1}, steps: renewed(2), unsure: "c", right: "a b", says: "row e2 differs: a+b | c"},
		"one has more":  {rows: []map[string]string{{"e1": "x"}, same, {"e1": "x"}}, found: []int64{0, 1, 0}, steps: renewed(1), unsure: "b", right: "a c", says: "row e2 differs: a+c | b"},
		"no majority":   {rows: []map[string]string{{"e1": "1"}, {"e1": "2"}, {"e1": "3"}}, found: []int64{1, 1, 1}, steps: "enter", unsure: "a b c", says: "row e1 differs: a | b | c"},
		"two of three":  {rows: []map[string]string{same, {"e1": "x"}, same}, away: map[int]bool{2: true}, found: []int64{1, 1, 0}, steps: "enter", unsure: "a b", says: "row e2 differs: a | b"},
		"two of four":   {rows: []map[string]string{same, same, {"e1": "x"}, {"e1": "x"}}, found: []int64{1, 1, 1, 1}, steps: "enter", unsure: "a b c d", says: "row e2 differs: a+b | c+d"},
		"two are wrong": {rows: []map[string]string{{"e1": "z", "e2": "y"}, {"e1": "x", "e2": "z"}, same}, found: []int64{1, 1, 0}, steps: "enter", unsure: "a b", right: "c", says: "another one is wrong as well"},
		// a's, b's or c's e2 is right: b may be the only one that has it.
		"wrong, and undecided": {rows: []map[string]string{{"e1": "x", "e2": "1"}, {"e1": "z", "e2": "2"}, {"e1": "x", "e2": "3"}}, found: []int64{1, 2, 1}, steps: "enter", unsure: "a b c", says: "differences without a majority"},
		"checksums":            {rows: []map[string]string{{sum: "sum"}, {sum: "bad"}, {sum: "bad"}}, found: []int64{1, 0, 0}, steps: "enter", unsure: "a b c"},
		"checksums and a row":  {rows: []map[string]string{{"e1": "x", sum: "sum"}, {"e1": "x", sum: "bad"}, {"e1": "z", sum: "bad"}}, found: []int64{1, 0, 1}, steps: "enter", unsure: "a b c", says: "checksums differ too"},
		"of what is rotten":    {rows: []map[string]string{{"e1": "x", sum: "sum"}, {"e1": "x", sum: "bad"}, {"e1": "z", sum: "bad"}}, rotten: map[int]wire.ID{1: 6}, found: []int64{0, 1, 1}, steps: "enter", unsure: "c", right: "a b", says: "checksums differ too"},
		"one alone":            {rows: []map[string]string{same}, found: []int64{0}, steps: "enter", right: "a"},
	} {
		t.Run(name, func(t *testing.T) {
			m := begun(len(c.rows))
			for i, object := range c.rotten {
				m.Mended(i, &wire.Lack{Ino: 5, Object: object, Blocks: []int64{0}}, 0, []int64{0}, errors.New("nobody has them"))
			}
			k := &cluster{rows: c.rows, away: c.away}
			k.run(t, m)
			for i, r := range m.Reports() {
				if r.Found != c.found[i] {
					t.Errorf("%s: found %d, want %d", r.Name, r.Found, c.found[i])
				}
			}
			v := k.verdict
			if got := strings.Join(k.steps, ", "); got != c.steps || !strings.Contains(said(m), c.says) {
				t.Errorf("steps %q, want %q; it says\n%s", got, c.steps, said(m))
			}
			if got := strings.Join(v.Unsure, " "); got != c.unsure {
				t.Errorf("unsure %q, want %q", got, c.unsure)
			}
			if got := strings.Join(v.Right, " "); got != c.right {
				t.Errorf("right %q, want %q", got, c.right)
			}
		})
	}
}

// What keeps a comparison from its end is told; nobody is evicted then, and no older
// verdict ends. Who fails for a moment is asked again.
func TestComparisonThatFails(t *testing.T) {
	same, other := map[string]string{"e1": "x"}, map[string]string{"e1": "z"}
	lost := errors.New("its connection was lost")
	damage := wire.NewError(wire.CodeCorrupt, "its metadata are damaged")
	from := func(first, last, i int, err error) func(int, int) error {
		return func(k, n int) error {
			if k == i && n >= first && n <= last {
				return err
			}
			return nil
		}
	}
	for name, c := range map[string]struct {
		c       cluster
		steps   string
		right   string
		problem string // of each
		says    string
	}{
		"nobody else":           {c: cluster{away: map[int]bool{0: true, 2: true}}, steps: "enter", problem: "there is nobody to compare its metadata with"},
		"nobody":                {c: cluster{away: map[int]bool{0: true, 1: true, 2: true}}, steps: "enter", problem: "there is nobody to compare its metadata with"},
		"a moment at the start": {c: cluster{fails: from(1, 2, 0, lost)}, steps: renewed(1), right: "a c"},
		"a moment":              {c: cluster{fails: from(2, 5, 2, lost)}, steps: renewed(1), right: "a c"},
		"for ever":              {c: cluster{fails: from(2, 1000, 2, lost)}, steps: "enter", problem: "too few participants answer"},
		"rows that are none":    {c: cluster{spoils: 2}, steps: "enter", says: "row", problem: "e"},
		"damage":                {c: cluster{fails: from(2, 3, 2, damage)}, steps: renewed(1), right: "a c", says: "its metadata are damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			m := begun(3)
			c.c.rows = []map[string]string{same, other, same}
			c.c.run(t, m)
			if got := strings.Join(c.c.steps, ", "); got != c.steps || !strings.Contains(said(m), c.says) {
				t.Errorf("steps %q, want %q; it says\n%s", got, c.steps, said(m))
			}
			if got := strings.Join(c.c.verdict.Right, " "); got != c.right {
				t.Errorf("right %q, want %q", got, c.right)
			}
			for _, r := range m.Reports() {
				if want := c.problem; !strings.Contains(r.Problem, want) || want == "" && c.says == "" && r.Problem != "" {
					t.Errorf("%s has problem %q, want %q", r.Name, r.Problem, want)
				}
				if r.Name == "c" && c.c.fails != nil && c.says != "" && r.Found != 1 {
					t.Errorf("it is found %d times", r.Found)
				}
			}
		})
	}
}

// All are asked at one position: where one is further it is one ahead of all.
func TestOnePosition(t *testing.T) {
	same := map[string]string{"e1": "x"}
	m := begun(3, 1)
	c := &cluster{rows: []map[string]string{same, same, same}, at: []uint64{0, 13, 0}}
	c.run(t, m)
	if c.ahead < 13 || m.Rows() != 1 || strings.Contains(said(m), "never") {
		t.Errorf("asked up to %d; it says\n%s", c.ahead, said(m))
	}
	m = begun(3, 1)
	c = &cluster{rows: []map[string]string{same, same, same}, at: []uint64{0, 1 << 40, 0}}
	c.run(t, m)
	if c.ahead > 10+mostAhead || c.asked > 2*compareTries || !strings.Contains(said(m), "never at one position") {
		t.Errorf("asked %d times, up to %d; it says\n%s", c.asked, c.ahead, said(m))
	}
	for _, r := range m.Reports() {
		if (r.Problem != "") != (r.Name == "b") {
			t.Errorf("%s: %q; b alone was chosen", r.Name, r.Problem)
		}
	}
}

// A renewal that does not go on at some step is told, and ends there: nobody is evicted whose
// verdict is not durable.
func TestRenewalThatFails(t *testing.T) {
	same, other := map[string]string{"e1": "x"}, map[string]string{"e1": "z"}
	for kind, steps := range map[Kind]string{MayGo: "enter, may go 1", Condemn: "enter, may go 1, condemn 1", Evict: "enter, may go 1, condemn 1, evict 1", Await: renewed(1)} {
		m := begun(3)
		c := &cluster{rows: []map[string]string{same, other, same}, did: func(s Step) string {
			if s.Kind == kind {
				return "it cannot be"
			}
			return ""
		}}
		c.run(t, m)
		if got := strings.Join(c.steps, ", "); got != steps || !strings.Contains(said(m), "b 0/1 row e1 differs: a+c | b; it cannot be") {
			t.Errorf("steps %q, want %q; it says\n%s", got, steps, said(m))
		}
	}
	m := begun(3)
	c := &cluster{rows: []map[string]string{same, other, same}}
	c.run(t, m)
	if list, all := m.Report(false, 7); !all || len(list) != 3 || list[1].Repaired != 1 || list[1].Ended != 7 {
		t.Errorf("%+v", list)
	}
}

// One that is stopped says so, evicts nobody and ends no verdict.
func TestStop(t *testing.T) {
	same, other := map[string]string{"e1": "x"}, map[string]string{"e1": "z"}
	for at := range 12 {
		m := begun(3, 0, 1)
		c := &cluster{rows: []map[string]string{same, other, same}}
		c.calls, c.at = make([]int, 3), make([]uint64, 3)
		verdict, evicts := false, false
		for n := 0; ; n++ {
			if n >= at {
				m.Stop()
			}
			s := m.Next([]int{0, 1, 2}, 10)
			if s.Kind == End {
				break
			}
			if n >= at && s.Kind != Enter {
				t.Fatalf("stopped before step %d, it wants step %d", at, s.Kind)
			}
			if s.Kind == Enter {
				verdict = len(m.Verdict().Right) > 0
				m.Did("")
				continue
			}
			if evicts = evicts || s.Kind == Evict; s.Kind != Ask {
				m.Did("")
				continue
			}
			var all []Answer
			for _, i := range s.Of {
				all = append(all, c.answer(i, s.Req))
			}
			m.Answered(all)
		}
		if compared := at > 4; verdict != compared || evicts && at < 8 {
			t.Errorf("stopped before step %d: a verdict %v, an eviction %v", at, verdict, evicts)
		}
		list, all := m.Report(true, 7)
		if all || len(list) != 2 || list[0].Problem == "" {
			t.Errorf("%+v", list)
		}
	}
}

// What is rotten is repaired page by page; a participant is verified to its end.
func TestVerify(t *testing.T) {
	m := begun(3, 1)
	if _, more := m.Verify(0); more {
		t.Error("one that was not chosen is verified")
	}
	if cursor, more := m.Verify(1); !more || cursor != nil {
		t.Error("it does not begin at the beginning")
	}
	blocks := []int64{0, 1, wire.SumsPerPage - 1, wire.SumsPerPage}
	for k := range int64(2*wire.MaxDonated + 1) {
		blocks = append(blocks, 10*wire.SumsPerPage+k)
	}
	mends := m.Verified(1, &wire.Verified{Cursor: []byte("on"), Files: 1, Bytes: 10, Total: 20, Rotten: []wire.Lack{{Ino: 5, Object: 6, Blocks: blocks}}})
	var all []int64
	for _, k := range mends {
		if len(k.Blocks) > wire.MaxDonated || k.Blocks[0]/wire.SumsPerPage != k.Blocks[len(k.Blocks)-1]/wire.SumsPerPage || k.Ino != 5 || k.Object != 6 {
			t.Errorf("%d blocks from %d on at once", len(k.Blocks), k.Blocks[0])
		}
		all = append(all, k.Blocks...)
	}
	if !slices.Equal(all, blocks) {
		t.Errorf("%v, want %v", all, blocks)
	}
	if cursor, more := m.Verify(1); !more || string(cursor) != "on" {
		t.Errorf("it goes on at %q", cursor)
	}
	m.Verified(1, &wire.Verified{})
	if _, more := m.Verify(1); more {
		t.Error("it does not come to an end")
	}
	m.Mended(1, &mends[0], 3, nil, nil)
	m.Mended(1, &mends[1], 0, mends[1].Blocks, errors.New("nobody has it"))
	if r, ok := m.Of("b"); !ok || r.Found != 4 || r.Repaired != 3 || r.Files != 1 || r.Bytes != 10 || !strings.Contains(said(m), "3 blocks of inode 5 were rotten; 1 blocks of inode 5 are rotten: nobody has it") {
		t.Errorf("%+v", r)
	}
	if _, ok := m.Of("a"); ok {
		t.Error("one that was not chosen is told")
	}
}

// A book is what it was after it was written down.
func TestBook(t *testing.T) {
	b := Book{Ended: 5, Members: []wire.ScrubMember{{Name: "a", Found: 1}}, Missed: []string{"c"}, Renew: []string{"a"}, Unsure: []string{"b"}, Lost: true}
	text, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(text)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(b) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = Decode(text[9:]); err != nil || fmt.Sprint(got) != fmt.Sprint(b) {
		t.Errorf("without a checksum: %+v, %v", got, err)
	}
	for i := range text {
		text[i] ^= 1
		if got, err := Decode(text); err == nil || fmt.Sprint(got) == fmt.Sprint(b) {
			t.Errorf("with a flipped bit of byte %d: %+v, %v", i, got, err)
		}
		text[i] ^= 1
	}
	if b.Doubt("a") != 2 || b.Doubt("b") != 1 || b.Doubt("c") != 0 || !b.ComparesAll("a") || b.ComparesAll("b") {
		t.Errorf("%+v", b)
	}
	b.Take(Verdict{Unsure: []string{"c"}, Right: []string{"a", "b"}})
	if b.Doubt("a") != 0 || b.Doubt("b") != 0 || b.Doubt("c") != 1 {
		t.Errorf("%+v", b)
	}
	b.Renews("b", true)
	b.Forget([]string{"a", "b"})
	if len(b.Unsure) != 0 || len(b.Missed) != 0 || !b.ComparesAll("b") {
		t.Errorf("%+v", b)
	}
}

// What is due, and when a scrub of all makes up for a book that could not be read.
func TestBookDue(t *testing.T) {
	for name, c := range map[string]struct {
		b     Book
		there string
		all   bool
		want  string
	}{
		"not yet":                {there: "a b", want: "false []"},
		"their time":             {there: "a b", all: true, want: "true []"},
		"nobody is there":        {all: true, want: "false []"},
		"lost":                   {b: Book{Lost: true}, there: "a", want: "true []"},
		"wrong and in sync":      {b: Book{Renew: []string{"a"}}, there: "a", want: "true []"},
		"wrong and out of sync":  {b: Book{Renew: []string{"a"}}, there: "b", want: "false []"},
		"missed, and back":       {b: Book{Missed: []string{"a", "c"}}, there: "a b", want: "true [a]"},
		"missed, and still away": {b: Book{Missed: []string{"c"}}, there: "a b", want: "false []"},
	} {
		if names, due := c.b.Due(strings.Fields(c.there), c.all); fmt.Sprint(due, names) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v %v, want %s", name, due, names, c.want)
		}
	}
	b := Book{Lost: true, Missed: []string{"b"}, Members: []wire.ScrubMember{{Name: "gone"}, {Name: "b", Found: 3}}}
	names := []string{"a", "b"}
	b.Finish(&wire.ScrubReport{Stopped: true, Members: []wire.ScrubMember{{Name: "b"}}}, true, names)
	if !b.Lost || len(b.Missed) != 1 || len(b.Members) != 1 || b.Members[0].Found != 3 {
		t.Errorf("after one that was stopped: %+v", b)
	}
	b.Finish(&wire.ScrubReport{Members: []wire.ScrubMember{{Name: "a"}, {Name: "b", Problem: "away"}}}, true, names)
	if !b.Lost || len(b.Missed) != 1 {
		t.Errorf("after one that has missed b: %+v", b)
	}
	b.Finish(&wire.ScrubReport{Members: []wire.ScrubMember{{Name: "a"}, {Name: "b"}}}, true, names)
	if b.Lost || len(b.Missed) != 0 || len(b.Members) != 2 {
		t.Errorf("after one of all: %+v", b)
	}
}

// Who gets everything anew gets it from those that were compared in all: not where one came in
// between, which may be wrong in what was compared before; nor where one came after that.
func TestOneThatComesBack(t *testing.T) {
	same, other := map[string]string{"e1": "x"}, map[string]string{"e1": "z"}
	for name, c := range map[string]struct {
		back   int
		steps  string
		unsure string
		says   string
	}{
		"never":      {0, renewed(1), "b e", "b 1/1"},
		"in between": {4, "enter", "b", "not everything could be compared"},
		"after it":   {5, "enter", "b e", "one is in sync by now that was not compared"},
	} {
		t.Run(name, func(t *testing.T) {
			m := begun(5)
			k := &cluster{rows: []map[string]string{same, other, same, same, same}, away: map[int]bool{4: true}, back: c.back}
			k.run(t, m)
			if got := strings.Join(k.steps, ", "); got != c.steps || !strings.Contains(said(m), c.says) {
				t.Errorf("steps %q, want %q; it says\n%s", got, c.steps, said(m))
			}
			if got := strings.Join(k.verdict.Unsure, " "); got != c.unsure {
				t.Errorf("unsure %q, want %q", got, c.unsure)
			}
		})
	}
}
