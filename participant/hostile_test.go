package participant

import (
	"bytes"
	"context"
	"math"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// A coordinator that breaks the protocol loses its stream, which says why; the
// participant goes on, with all that it had.
func TestHostileCoordinator(t *testing.T) {
	for name, entry := range map[string]func(r *rig) *wire.Entry{
		"a skipped entry":         func(r *rig) *wire.Entry { r.next += 5; return &wire.Entry{Kind: wire.EntryOpen} },
		"an entry again":          func(r *rig) *wire.Entry { r.next--; return &wire.Entry{Kind: wire.EntryOpen} },
		"an unknown kind":         func(*rig) *wire.Entry { return &wire.Entry{Kind: 99} },
		"a commit of the unknown": func(*rig) *wire.Entry { return &wire.Entry{Kind: wire.EntryCommit, Tx: wire.MakeID(1, 999)} },
		"a commit of an epoch to come": func(*rig) *wire.Entry {
			return &wire.Entry{Kind: wire.EntryCommit, Tx: wire.MakeID(9, 9)}
		},
		"an abort of what is committed":   func(*rig) *wire.Entry { return &wire.Entry{Kind: wire.EntryAbort, Tx: wire.MakeID(1, 2)} },
		"an abort of an epoch to come":    func(*rig) *wire.Entry { return &wire.Entry{Kind: wire.EntryAbort, Tx: wire.MakeID(9, 9)} },
		"a prepare without one":           func(*rig) *wire.Entry { return &wire.Entry{Kind: wire.EntryPrepare} },
		"a prepare of an epoch to come":   func(*rig) *wire.Entry { return prepareEntry(9, 3, 77, nil, deleteOf("f")) },
		"a prepare at the end of all ids": func(*rig) *wire.Entry { return prepareEntry(1, 1<<40-1, 77, nil, deleteOf("f"), deleteOf("g")) },
		"a config without one":            func(*rig) *wire.Entry { return &wire.Entry{Kind: wire.EntryConfig} },
		"another cluster's config": func(*rig) *wire.Entry {
			e := configEntry(1)
			e.Config.ID.Counter, e.Config.Cluster = 2, wire.UUID{66}
			return e
		},
		"a config of an epoch to come": func(*rig) *wire.Entry { return configEntry(5) },
		"a config that no record holds": func(*rig) *wire.Entry {
			e := configEntry(1)
			e.Config.ID.Counter, e.Config.InSync = 2, []string{strings.Repeat("x", wire.MaxRecord)}
			return e
		},
		"a watermark to come": func(r *rig) *wire.Entry {
			e := prepareEntry(1, 3, 77, nil, deleteOf("f"))
			e.Prepare.W = wire.Position{Epoch: 1, Index: 1 << 60}
			return e
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, forget.New(1), nil)
			r.begin(1)
			r.write(2, "f", "x")
			r.durable(r.next - 1)
			next, digest := r.next, r.digest()
			r.send(entry(r))
			err := r.link.wait(func() bool { return false })
			if wire.CodeOf(err) != wire.CodeProtocol {
				t.Fatalf("the stream ended with %v", err)
			}
			if g := r.greet(1); g.Position.Index != next-1 {
				t.Fatalf("it is at %v", g.Position)
			}
			if r.digest() != digest {
				t.Error("something has changed")
			}
			r.write(4, "f", "y")
			r.wantFile("f", "y")
		})
	}
}

// Stages that are not what they say they are, and packs: refused, gone, and
// nothing else suffers.
func TestHostileStages(t *testing.T) {
	r := newRig(t, forget.New(1), nil)
	r.begin(1)
	stage := func(req wire.StageRequest, p wire.PieceReader) error {
		_, err := r.p.Stage(context.Background(), req, p)
		return err
	}
	data := bytes.Repeat([]byte("x"), 1000)
	for name, tc := range map[string]struct {
		req  wire.StageRequest
		want wire.Code
	}{
		"less than it said":     {wire.StageRequest{Epoch: r.epoch, ID: wire.MakeID(1, 900), Size: 1001}, wire.CodeProtocol},
		"more than it said":     {wire.StageRequest{Epoch: r.epoch, ID: wire.MakeID(1, 901), Size: 999}, wire.CodeProtocol},
		"too large":             {wire.StageRequest{Epoch: r.epoch, ID: wire.MakeID(1, 902), Size: wire.MaxFileSize + 1}, wire.CodeInvalid},
		"another epoch's id":    {wire.StageRequest{Epoch: r.epoch, ID: wire.MakeID(2, 903), Size: 1000}, wire.CodeInvalid},
		"another epoch":         {wire.StageRequest{Epoch: wire.Epoch{Number: 2}, ID: wire.MakeID(2, 904), Size: 1000}, wire.CodeProtocol},
		"a pack too large":      {wire.StageRequest{Epoch: r.epoch, ID: wire.MakeID(1, 905), Size: wire.MaxPack + 1, Pack: true}, wire.CodeTooMany},
		"a pack without a size": {wire.StageRequest{Epoch: r.epoch, ID: wire.MakeID(1, 906), Size: -1, Pack: true}, wire.CodeTooMany},
	} {
		if err := stage(tc.req, &pieces{data: data}); wire.CodeOf(err) != tc.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A pack that is none is staged, and refused by the prepare.
	if err := stage(wire.StageRequest{Epoch: r.epoch, ID: wire.MakeID(1, 907), Size: 1000, Pack: true}, &pieces{data: data}); err != nil {
		t.Fatal(err)
	}
	var sum wire.ObjectSum
	_, _ = sum.Write(data) // never fails
	e := prepareEntry(1, 908, 908, nil)
	e.Prepare.Pack = &wire.Pack{Stage: wire.MakeID(1, 907), Size: 1000, Sum: sum.Sum(), Count: 1}
	if v := r.want(r.send(e), wire.VoteNo); v.Err == nil || v.Err.Code != wire.CodeProtocol {
		t.Errorf("a pack that is none: %+v", v.Err)
	}
	// A pack whose count lies.
	pack, err := wire.EncodePack([]wire.Mutation{{Kind: wire.MutMkdir, At: at("d")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := r.stage(909, pack)
	if err != nil {
		t.Fatal(err)
	}
	e = prepareEntry(1, 910, 910, nil)
	e.Prepare.Pack = &wire.Pack{Stage: reply.ID, Size: reply.Size, Sum: reply.Sum, Count: 65}
	if v := r.want(r.send(e), wire.VoteNo); v.Err == nil || v.Err.Code != wire.CodeProtocol {
		t.Errorf("a pack whose count lies: %+v", v.Err)
	}
	r.write(950, "f", "goes on")
	r.wantFile("f", "goes on")
}

// Every mutation over a limit is a NO that says so, for a client that skips
// our library and a coordinator that lets it: nothing is left of it.
func TestOversizedMutations(t *testing.T) {
	r := newRig(t, forget.New(1), nil)
	r.begin(1)
	r.write(2, "f", "x")
	for i, tc := range []struct {
		m    wire.Mutation
		want wire.Code
	}{
		{wire.Mutation{Kind: wire.MutMkdir, At: at(strings.Repeat("n", 256))}, wire.CodeNameTooLong},
		{wire.Mutation{Kind: wire.MutMkdir, At: at(strings.Repeat("d/", 2048) + "n")}, wire.CodeNameTooLong},
		{wire.Mutation{Kind: wire.MutRename, At: at("f"), To: at(strings.Repeat("n", 256))}, wire.CodeNameTooLong},
		{wire.Mutation{Kind: wire.MutSymlink, At: at("l"), Target: strings.Repeat("n", 4097)}, wire.CodeNameTooLong},
		{wire.Mutation{Kind: wire.MutSetattr, At: at("f"), Set: wire.SetSize, Size: wire.MaxFileSize + 1}, wire.CodeTooLarge},
		{wire.Mutation{Kind: wire.MutSetattr, At: at("f"), Set: wire.SetSize, Size: -1}, wire.CodeInvalid},
		{wire.Mutation{Kind: wire.MutWriteFile, At: at("g"), Content: wire.Content{Size: wire.MaxFileSize + 1, Stage: wire.MakeID(1, 1)}}, wire.CodeTooLarge},
		{wire.Mutation{Kind: wire.MutWriteFile, At: at("g"), Content: wire.Content{Size: math.MinInt64}}, wire.CodeInvalid},
	} {
		v := r.want(r.prepare(uint64(10+i), nil, tc.m), wire.VoteNo)
		if v.Err == nil || v.Err.Code != tc.want || len(v.Err.Error()) > 5000 {
			t.Errorf("%v %.20s: %.200v", tc.m.Kind, tc.m.At.Path, v.Err)
		}
	}
	for i, value := range []int{wire.MaxXattrValue, wire.MaxXattrValue + 1} {
		want := []wire.Verdict{wire.VoteYes, wire.VoteNo}[i]
		r.want(r.prepare(uint64(50+i), nil, wire.Mutation{Kind: wire.MutSetxattr, At: at("f"), Name: "user.a", Value: make([]byte, value)}), want)
		if want == wire.VoteYes {
			r.commit(uint64(50 + i))
		}
	}
	many := slices.Repeat([]wire.Mutation{deleteOf("f")}, wire.MaxMutations+1)
	if v := r.want(r.prepare(60, nil, many...), wire.VoteNo); v.Err.Code != wire.CodeTooMany {
		t.Errorf("too many mutations: %v", v.Err)
	}
	r.wantFile("f", "x")
}

// ENOSPC from each write of the plan in turn, of any file: the participant
// goes on, or ends as P12 says; started again it holds what it should.
func TestNoSpaceAtEveryWrite(t *testing.T) {
	writes := func(op forget.Op) bool {
		return op.Kind == forget.Write || op.Kind == forget.Create || op.Kind == forget.Allocate || op.Kind == forget.Truncate
	}
	want, _ := crashRun(t, forget.New(1), nil)
	survived, ended, noes := 0, 0, 0
	for n := 1; ; n++ {
		fsys := forget.New(10)
		count, struck, what := 0, false, ""
		c := newReign(t)
		p, err := Open(smallOptions(fsys))
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex // the hook's
		fsys.SetHook(func(op forget.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if writes(op) {
				if count++; count == n {
					struck, what = true, op.String()
					return syscall.ENOSPC
				}
			}
			return nil
		})
		done := c.live(p)
		fsys.SetHook(nil)
		err = p.Close()
		if !struck {
			break
		}
		if err != nil && !strings.Contains(err.Error(), "no space left") {
			t.Fatalf("write %d: it ended with %v", n, err)
		}
		if done && err == nil {
			survived++
		} else {
			ended++
		}
		for lives := 0; !done && !c.refused(); lives++ { // from here on there is space
			if lives == 5 {
				t.Fatalf("after write %d (%s) it never comes to the end; it had ended with %v", n, what, err)
			}
			fsys.Restart()
			if p, err = Open(smallOptions(fsys)); err != nil {
				t.Fatalf("after write %d: %v", n, err)
			}
			done = c.live(p)
			if err := p.Close(); err != nil {
				t.Fatalf("after write %d: %v", n, err)
			}
		}
		if c.refused() { // what the plan has after a NO does not hold
			noes++
			continue
		}
		c.check()
		fsys.Restart()
		if p, err = Open(smallOptions(fsys)); err != nil {
			t.Fatalf("after write %d: %v", n, err)
		}
		got, err := tree(p, p.m.Fence(), wire.RootIno, "")
		if err != nil || got != want {
			t.Fatalf("after ENOSPC from write %d it holds\n%s(%v) want\n%s", n, got, err, want)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if survived+ended < 10 {
		t.Fatalf("%d lives went on, %d ended", survived, ended)
	}
	t.Logf("%d lives went on, %d ended, %d said no", survived, ended, noes)
}

// refused tells whether a transaction that should get a YES got a NO for want of space.
func (c *reign) refused() bool {
	return slices.ContainsFunc(c.plan, func(e planned) bool {
		v, ok := c.votes[e.entry.Index]
		return ok && v.Verdict == wire.VoteNo && v.Err != nil && v.Err.Code == wire.CodeNoSpace
	})
}

// A pack is read by participants alone: what in it is beyond a limit, and however long it
// is, is a NO of a length that a journal holds.
func TestOversizedPack(t *testing.T) {
	r := newRig(t, forget.New(1), nil)
	r.begin(1)
	long := strings.Repeat("n", 2<<20)
	n := uint64(10)
	for name, tc := range map[string]struct {
		m    wire.Mutation
		want wire.Code
	}{
		"path":               {wire.Mutation{Kind: wire.MutMkdir, At: at(long)}, wire.CodeNameTooLong},
		"path of form":       {wire.Mutation{Kind: wire.MutMkdir, At: at(long), Hold: true}, wire.CodeNameTooLong},
		"path of no kind":    {wire.Mutation{Kind: 99, At: at(long)}, wire.CodeNameTooLong},
		"second path":        {wire.Mutation{Kind: wire.MutRename, At: at("f"), To: at(long)}, wire.CodeNameTooLong},
		"target":             {wire.Mutation{Kind: wire.MutSymlink, At: at("l"), Target: long}, wire.CodeNameTooLong},
		"attribute's name":   {wire.Mutation{Kind: wire.MutSetxattr, At: at("f"), Name: "user." + long}, wire.CodeNameTooLong},
		"attribute's value":  {wire.Mutation{Kind: wire.MutSetxattr, At: at("f"), Name: "user.a", Value: []byte(long)}, wire.CodeTooMany},
		"path beside extent": {wire.Mutation{Kind: wire.MutWriteFile, At: at(long), Write: 77}, wire.CodeNameTooLong},
	} {
		pack, err := wire.EncodePack([]wire.Mutation{tc.m}, nil)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := r.stage(n, pack)
		if err != nil {
			t.Fatal(err)
		}
		e := prepareEntry(1, n+1, n+1, nil)
		e.Prepare.Pack = &wire.Pack{Stage: reply.ID, Size: reply.Size, Sum: reply.Sum, Count: 1}
		if v := r.want(r.send(e), wire.VoteNo); v.Err == nil || v.Err.Code != tc.want || len(v.Err.Error()) > 5000 {
			t.Errorf("%s: %.200v, want %v", name, v.Err, tc.want)
		}
		n += 10
	}
	r.write(950, "f", "goes on")
	r.wantFile("f", "goes on")
}
