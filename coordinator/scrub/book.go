package scrub

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"tpcfs/wire"
)

// MaxBook bounds a book that is written down, in bytes.
const MaxBook = 1 << 20

// Book is what is remembered of scrubs over restarts: a coordinator that starts often scrubs as
// often as another one, and one that starts in the middle still has who was found wrong get
// everything anew. The zero value remembers nothing. Lists that it gives out are not changed.
type Book struct {
	Ended   int64              `json:"ended"`   // when the last one of all did, ms since 1970; or since when there was none. The caller's
	Members []wire.ScrubMember `json:"members"` // what the last one that looked at it has found, of each participant
	// Missed are participants that a scheduled one has not looked at to the end.
	Missed []string `json:"missed,omitempty"`
	// Renew are participants whose rows are wrong: they have to get everything anew.
	Renew []string `json:"renew,omitempty"`
	// Unsure are participants whose rows differ from others', and that have not got everything anew.
	Unsure []string `json:"unsure,omitempty"`
	// Lost: a book could not be read, and not everything was scrubbed since.
	Lost bool `json:"lost,omitempty"`
}

// Encode writes the book down: a checksum, a newline, JSON.
func (b *Book) Encode() ([]byte, error) {
	text, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x\n%s", wire.Sum(text), text), nil
}

// Decode reads a book; one that begins with a brace is older than its checksum.
func Decode(text []byte) (b Book, err error) {
	if !bytes.HasPrefix(text, []byte("{")) {
		sum, rest, _ := bytes.Cut(text, []byte("\n"))
		if string(sum) != fmt.Sprintf("%08x", wire.Sum(rest)) {
			return b, wire.NewError(wire.CodeCorrupt, "its checksum is wrong")
		}
		text = rest
	}
	if err := json.Unmarshal(text, &b); err != nil {
		return Book{}, err
	}
	return b, nil
}

// with is a list that holds the name, or does not.
func with(list []string, name string, in bool) []string {
	list = slices.DeleteFunc(slices.Clone(list), func(o string) bool { return o == name })
	if in {
		list = append(list, name)
	}
	return list
}

// Forget drops who is not among the participants there are.
func (b *Book) Forget(names []string) {
	drop := func(list []string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(name string) bool { return !slices.Contains(names, name) })
	}
	b.Missed, b.Renew, b.Unsure = drop(b.Missed), drop(b.Renew), drop(b.Unsure)
}

// Take enters what a comparison says. Of who is in none of its lists, what was known counts.
func (b *Book) Take(v Verdict) {
	for _, name := range v.Unsure {
		b.Unsure = with(b.Unsure, name, true)
	}
	for _, name := range v.Right {
		b.Renewed(name)
	}
}

// Renews enters that a participant has to get everything anew, or takes that back.
func (b *Book) Renews(name string, has bool) { b.Renew = with(b.Renew, name, has) }

// Renewed enters that there is nothing against a participant any more.
func (b *Book) Renewed(name string) {
	b.Renew, b.Unsure = with(b.Renew, name, false), with(b.Unsure, name, false)
}

// ComparesAll: has a participant to get everything anew when it catches up?
func (b *Book) ComparesAll(name string) bool { return slices.Contains(b.Renew, name) }

// Doubt tells how little a participant's rows are to be believed: nobody copies from one
// or reads there while there is another that is better. 0: no scrub has found anything.
func (b *Book) Doubt(name string) int {
	switch {
	case slices.Contains(b.Renew, name):
		return 2
	case slices.Contains(b.Unsure, name):
		return 1
	}
	return 0
}

// Finish enters what a scrub has found: of those that it has looked at to the end, or in which it has
// found something. all: it was one of all; names are the participants there are.
func (b *Book) Finish(r *wire.ScrubReport, all bool, names []string) {
	if all && !r.Stopped {
		b.Lost = b.Lost && !r.Scheduled && slices.ContainsFunc(r.Members, func(m wire.ScrubMember) bool { return m.Problem != "" })
	}
	last := slices.DeleteFunc(slices.Clone(b.Members), func(m wire.ScrubMember) bool { return !slices.Contains(names, m.Name) })
	for _, m := range r.Members {
		if !r.Stopped && (r.Scheduled || m.Problem == "") {
			b.Missed = with(b.Missed, m.Name, m.Problem != "")
		}
		if r.Stopped && m.Found == 0 {
			continue
		}
		last = slices.DeleteFunc(last, func(o wire.ScrubMember) bool { return o.Name == m.Name })
		last = append(last, m)
	}
	b.Members = last
}

// Due tells what is to be scrubbed now; no names: all. all: their time has come. Who is away then
// is not waited for: it is looked at, alone, when it is back. One whose rows were found wrong and
// that is in sync was not evicted, since a coordinator died or too few stayed: its verdict is
// looked for again.
func (b *Book) Due(there []string, all bool) (names []string, due bool) {
	in := func(name string) bool { return slices.Contains(there, name) }
	if len(there) > 0 && (all || b.Lost) || slices.ContainsFunc(b.Renew, in) {
		return nil, true
	}
	names = slices.DeleteFunc(slices.Clone(b.Missed), func(name string) bool { return !in(name) })
	return names, len(names) > 0
}
