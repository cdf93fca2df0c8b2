package coordinator

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tpcfs/wire"
)

// bound is a limit of requests: the request that is at it is put, one more is not.
type bound struct {
	name     string
	at       func(n int) (wire.Transact, []byte) // the request with n of what is limited
	most     int
	code     wire.Code
	words    string
	onlyOver bool // what is at the limit is not tried: too much for the nodes of these tests
}

func bounds() []bound {
	one := func(change func(m *wire.Mutation, n int)) func(int) (wire.Transact, []byte) {
		return func(n int) (wire.Transact, []byte) {
			m := write("f", nil)
			change(&m, n)
			return wire.Transact{Mutations: []wire.Mutation{m}}, nil
		}
	}
	kind := func(k wire.MutationKind, change func(m *wire.Mutation, n int)) func(int) (wire.Transact, []byte) {
		return one(func(m *wire.Mutation, n int) { m.Kind = k; change(m, n) })
	}
	file := fmt.Sprint(int64(wire.MaxFileSize))
	return []bound{
		{name: "mutations", at: func(n int) (wire.Transact, []byte) {
			return wire.Transact{Mutations: slices.Repeat([]wire.Mutation{{Kind: wire.MutRmdir}}, n)}, nil
		}, most: wire.MaxMutations, code: wire.CodeTooMany, words: "65536", onlyOver: true}, // they are beyond the next one
		{name: "bytes of mutations", at: func(n int) (wire.Transact, []byte) {
			t := wire.Transact{Mutations: slices.Repeat([]wire.Mutation{{Kind: wire.MutSymlink, Target: strings.Repeat("t", 4096)}}, 180)}
			last := wire.Mutation{Kind: wire.MutSetxattr, At: wire.At{Dir: 1, Path: "f"}, Value: make([]byte, 40_000)}
			rest := n - len(wire.Marshal(append(t.Mutations, last)))
			last.Value = make([]byte, len(last.Value)+rest)
			t.Mutations = append(t.Mutations, last)
			return t, nil
		}, most: wire.MaxBindings, code: wire.CodeTooMany, words: "786432"},
		{name: "inline contents", at: func(n int) (wire.Transact, []byte) {
			data := make([]byte, n)
			return wire.Transact{Mutations: []wire.Mutation{write("f", data)}}, data
		}, most: wire.MaxInline, code: wire.CodeTooMany, words: "65536"},
		{name: "a path", at: one(func(m *wire.Mutation, n int) { m.At.Path = strings.Repeat("a/", n/2) + strings.Repeat("b", n%2) }),
			most: wire.MaxPathLen, code: wire.CodeNameTooLong, words: "4096"},
		{name: "the other path", at: kind(wire.MutRename, func(m *wire.Mutation, n int) { m.To.Path = strings.Repeat("a/", n/2) + strings.Repeat("b", n%2) }),
			most: wire.MaxPathLen, code: wire.CodeNameTooLong, words: "4096"},
		{name: "a name", at: one(func(m *wire.Mutation, n int) { m.At.Path = "d/" + strings.Repeat("n", n) + "/f" }),
			most: wire.MaxNameLen, code: wire.CodeNameTooLong, words: "255"},
		{name: "a target", at: kind(wire.MutSymlink, func(m *wire.Mutation, n int) { m.Target = strings.Repeat("t", n) }),
			most: wire.MaxPathLen, code: wire.CodeNameTooLong, words: "4096"},
		{name: "an attribute's name", at: kind(wire.MutSetxattr, func(m *wire.Mutation, n int) { m.Name = strings.Repeat("n", n) }),
			most: wire.MaxNameLen, code: wire.CodeNameTooLong, words: "255"},
		{name: "an attribute", at: kind(wire.MutSetxattr, func(m *wire.Mutation, n int) { m.Value = make([]byte, n) }),
			most: wire.MaxXattrValue, code: wire.CodeTooMany, words: "65536"},
		{name: "extents", at: one(func(m *wire.Mutation, n int) { m.Write, m.Extents = wire.WriteExtents, make([]wire.Extent, n) }),
			most: wire.MaxExtents, code: wire.CodeTooMany, words: "4096"},
		{name: "an extent's end", at: func(n int) (wire.Transact, []byte) {
			data := make([]byte, n)
			m := write("f", nil)
			m.Write, m.Extents = wire.WriteExtents, []wire.Extent{{Offset: wire.MaxFileSize - 10, Size: int64(n), Sum: wire.Sum(data)}}
			return wire.Transact{Mutations: []wire.Mutation{m}}, data
		}, most: 10, code: wire.CodeTooLarge, words: file},
		{name: "a size", at: kind(wire.MutSetattr, func(m *wire.Mutation, n int) { m.Set, m.Size = wire.SetSize, int64(n) }),
			most: wire.MaxFileSize, code: wire.CodeTooLarge, words: file},
		{name: "contents", at: one(func(m *wire.Mutation, n int) { m.Content = wire.Content{Stage: 1, Size: int64(n)} }),
			most: wire.MaxFileSize, code: wire.CodeTooLarge, words: file, onlyOver: true}, // there is no such stage
		{name: "a range's end", at: kind(wire.MutAllocate, func(m *wire.Mutation, n int) { m.Offset, m.Length = wire.MaxFileSize-10, int64(n) }),
			most: 10, code: wire.CodeTooLarge, words: file},
		{name: "a range", at: kind(wire.MutZeroRange, func(m *wire.Mutation, n int) { m.Length = int64(n) }),
			most: wire.MaxRange, code: wire.CodeTooLarge, words: "128.0 GiB"},
		{name: "changes in a pack", at: func(n int) (wire.Transact, []byte) { return wire.Transact{Pack: &wire.Pack{Count: n}}, nil },
			most: wire.MaxMutations, code: wire.CodeTooMany, words: "65536", onlyOver: true}, // nor such a pack
		{name: "a pack", at: func(n int) (wire.Transact, []byte) {
			return wire.Transact{Pack: &wire.Pack{Count: 1, Size: int64(n)}}, nil
		},
			most: wire.MaxPack, code: wire.CodeTooMany, words: "67108864", onlyOver: true},
	}
}

// A client that does not use the library meets the same limits: one more than
// allowed is refused before anything is put, by words that tell the limit.
func TestLimitsWithoutTheLibrary(t *testing.T) {
	k := newCluster(t).serve()
	heard := func() int {
		n := 0
		for _, one := range k.nodes {
			one.set(func() {
				for _, e := range one.heard {
					if e.Kind == wire.EntryPrepare {
						n++
					}
				}
			})
		}
		return n
	}
	ask := func(b *bound, n int) error {
		req, payload := b.at(n)
		k.seq++
		req.Op, req.Link = wire.OpID{Session: k.me, Seq: k.seq}, k.link
		_, err := k.c.Transact(ctx, req, payload)
		return err
	}
	for _, b := range bounds() {
		before := heard()
		wantCode(t, ask(&b, b.most+1), b.code, b.words)
		if heard() != before {
			t.Errorf("%s: it was put", b.name)
		}
		if b.onlyOver {
			continue
		}
		if err := ask(&b, b.most); err != nil {
			t.Errorf("%s: what just fits: %v", b.name, err)
		}
	}
}

// Of contents that are announced as too long nothing is asked for; those that
// are longer than announced end there.
func TestLimitsOfStages(t *testing.T) {
	k := newCluster(t).serve()
	for name, tc := range map[string]struct {
		req   wire.StageRequest
		code  wire.Code
		words string
		begun bool
	}{
		"a file":      {wire.StageRequest{Size: wire.MaxFileSize + 1}, wire.CodeTooLarge, fmt.Sprint(int64(wire.MaxFileSize)), false},
		"its limit":   {wire.StageRequest{Size: wire.MaxFileSize}, wire.CodeInvalid, "announced", true},
		"a pack":      {wire.StageRequest{Size: wire.MaxPack + 1, Pack: true}, wire.CodeTooMany, fmt.Sprint(wire.MaxPack), false},
		"a pack's":    {wire.StageRequest{Size: wire.MaxPack, Pack: true}, wire.CodeInvalid, "announced", true},
		"any pack":    {wire.StageRequest{Size: -1, Pack: true}, wire.CodeTooMany, fmt.Sprint(wire.MaxPack), false},
		"more of one": {wire.StageRequest{Size: 3}, wire.CodeTooLarge, "more than the 3 bytes", true},
	} {
		in := &asked{in: pieces(bytes.Repeat([]byte("x"), 4))}
		tc.req.Link = k.link
		_, err := k.c.Stage(ctx, k.me, tc.req, in)
		wantCode(t, err, tc.code, tc.words)
		if (in.n > 0) != tc.begun {
			t.Errorf("%s: %d pieces were asked for", name, in.n)
		}
	}
	k.close() // waits for what it has asked participants to forget
	for _, n := range k.nodes {
		if len(n.staged) > 0 {
			t.Errorf("%d stages are left at %s", len(n.staged), n.name)
		}
	}
}

// asked counts the pieces that are asked for.
type asked struct {
	in wire.PieceReader
	n  int
}

func (a *asked) ReadPiece() (wire.Piece, error) { a.n++; return a.in.ReadPiece() }
