package client

import (
	"bytes"
	"errors"
	"testing"

	"tpcfs/wire"
)

// Contents are sent once, whatever happens to the connection after they have
// arrived; what a coordinator's restart has thrown away is sent again only if
// the operation has not committed (S1a).
func TestContentsAreSentOnce(t *testing.T) {
	const size = 300 << 10
	// A restart is played before the call that follows the fault.
	for name, c := range map[string]struct {
		faults   []fault
		restarts int // after how many faults; 0: never
		staged   int64
		asked    int
		tries    int
	}{
		"nothing":                          {nil, 0, size, 0, 1},
		"lost after":                       {[]fault{lostAfter}, 0, size, 0, 2},
		"lost before":                      {[]fault{lostBefore}, 0, size, 0, 2},
		"lost often":                       {[]fault{lostBefore, unreachable, replaced, lostBefore, lostAfter}, 0, size, 0, 6},
		"committed, then a restart":        {[]fault{lostAfter}, 1, size, 1, 1},
		"sent, then a restart":             {[]fault{lostBefore}, 1, 2 * size, 1, 2},
		"a restart that is known to be it": {[]fault{unreachable}, 1, 2 * size, 0, 2},
		"lost, then committed, a restart":  {[]fault{lostBefore, lostAfter}, 2, size, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := NewFake()
			played := 0
			f.fault = func(call string) fault {
				if call == "dial" && c.restarts > 0 && played == c.restarts {
					f.restart()
					c.restarts = 0
				}
				if call != "transact" || played == len(c.faults) {
					return fine
				}
				played++
				return c.faults[played-1]
			}
			client := newClient(t, f, Options{})
			r, err := client.WriteFile(t.Context(), "x", Bytes(contents(size)), WriteOptions{Create: wire.MustNotExist})
			if err != nil || !r.Created {
				t.Fatal(r, err)
			}
			op := wire.OpID{Session: client.Session(), Seq: 1}
			if f.staged != c.staged || f.asked != c.asked || f.tries[op] != c.tries || f.runs[op] != 1 || len(f.tries) != 1 {
				t.Errorf("%d bytes staged, asked %d times, tries %v, runs %v", f.staged, f.asked, f.tries, f.runs)
			}
			if got, err := client.ReadFile(t.Context(), "x"); err != nil || !bytes.Equal(got, contents(size)) {
				t.Error(len(got), err)
			}
		})
	}
}

// Of several contents only those are sent again that are not there.
func TestStagedContentsStay(t *testing.T) {
	f := NewFake()
	f.fault = script("stage", fine, fine, lostBefore)
	c := newClient(t, f, Options{})
	var muts []wire.Mutation
	var list []Content
	for i := range 6 {
		muts = append(muts, wire.Mutation{Kind: wire.MutWriteFile, At: wire.At{Dir: wire.RootIno, Path: string(rune('a' + i))}})
		list = append(list, Bytes(contents(100<<10+i)))
	}
	if _, err := c.Transact(t.Context(), muts, list); err != nil {
		t.Fatal(err)
	}
	// The lost connection takes those along that were on their way with it.
	if f.staged > (6+stagesAtOnce)*101<<10 {
		t.Error(f.staged, "bytes were staged")
	}
}

// An outcome that may have been forgotten is unknown, and nothing is sent
// again for it (S1a, G6).
func TestNobodyKnowsAfterALongTime(t *testing.T) {
	f := NewFake()
	f.fault = func() func(string) fault {
		lost := script("transact", lostBefore)
		return func(call string) fault {
			if call == "dial" {
				f.mu.Lock()
				again := f.dials > 1
				f.now += 11 * 60_000
				f.mu.Unlock()
				if again {
					f.restart()
				}
			}
			return lost(call)
		}
	}()
	c := newClient(t, f, Options{})
	_, err := c.WriteFile(t.Context(), "x", Bytes(contents(100<<10)), WriteOptions{})
	if wire.CodeOf(err) != wire.CodeUnknownOutcome || f.staged != 100<<10 {
		t.Error(f.staged, err)
	}
	if !errors.Is(err, ErrUnknownOutcome) {
		t.Error("errors.Is does not know", err)
	}
}

// A retry keeps its place, by whatever link it is sent (F5).
func TestTransactBehind(t *testing.T) {
	f := NewFake()
	f.fault = script("transact", lostBefore, replaced)
	c := newClient(t, f, Options{})
	make := []wire.Mutation{{Kind: wire.MutMkdir, At: wire.At{Dir: wire.RootIno, Path: "d"}}}
	behind := wire.Behind{Tx: wire.MakeID(1, 5), Key: 8, Patience: 9}
	if _, err := c.TransactBehind(t.Context(), &behind, make, nil); err != nil {
		t.Fatal(err)
	}
	if len(f.behind) != 3 {
		t.Fatalf("%d tries", len(f.behind))
	}
	for _, b := range f.behind {
		if b == nil || *b != behind {
			t.Errorf("sent %v", b)
		}
	}
}
