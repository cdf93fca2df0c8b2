package coordinator

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/wire"
)

// kinds are the last n entries' kinds that a node has handled.
func (n *node) kinds(last int) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var kinds []wire.EntryKind
	for _, e := range n.heard[max(0, len(n.heard)-last):] {
		kinds = append(kinds, e.Kind)
	}
	return fmt.Sprint(kinds)
}

// A COMMIT rides with what is sent next, goes out at once where a read waits
// for it, and at the tick at the latest.
func TestCommitLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t)
		k.o.Tick = time.Hour
		k.serve()
		synctest.Wait() // it has listed the files without a name
		want := func(when string, each string) {
			t.Helper()
			synctest.Wait()
			for _, n := range k.nodes {
				if got := n.kinds(2); got != each {
					t.Errorf("%s: participant %s has handled %s last, want %s", when, n.name, got, each)
				}
			}
		}
		k.put("x", []byte("1"))
		want("after a reply", fmt.Sprint([]wire.EntryKind{wire.EntryOpen, wire.EntryPrepare}))
		k.put("y", []byte("1"))
		want("after the next write", fmt.Sprint([]wire.EntryKind{wire.EntryCommit, wire.EntryPrepare}))

		k.wantGet("y", []byte("1"))
		synctest.Wait()
		told := 0
		for _, n := range k.nodes {
			if n.kinds(1) == fmt.Sprint([]wire.EntryKind{wire.EntryCommit}) {
				told++
			}
		}
		if told != 1 {
			t.Errorf("%d participants were told of the COMMIT by a read of one", told)
		}
		time.Sleep(k.o.Tick)
		want("after a tick", fmt.Sprint([]wire.EntryKind{wire.EntryPrepare, wire.EntryCommit}))
		k.close()
	})
}

// A read that has seen the read point before the COMMIT was queued makes it go.
func TestReadWaitsForPush(t *testing.T) {
	l := &link{ctx: t.Context(), wake: make(chan struct{}, 1)}
	commit := func(i uint64) wire.Down {
		return wire.Down{Entry: &wire.Entry{Index: i, Kind: wire.EntryCommit}}
	}
	l.push(commit(7))
	if len(l.wake) != 0 {
		t.Fatal("a COMMIT does not linger")
	}
	l.need(9)
	if len(l.wake) != 1 || len(l.take(nil)) != 1 {
		t.Fatal("a read did not send what lingers")
	}
	l.push(commit(9))
	if len(l.wake) != 1 || len(l.take(nil)) != 1 {
		t.Fatal("a COMMIT lingers although a read waits for it")
	}
	l.push(commit(11))
	if len(l.wake) != 0 {
		t.Fatal("a COMMIT does not linger")
	}
}

// Links are too short where none lasts for a while: not one, nor some that had a good one
// between them, nor some between which the participant was away for long.
func TestShortLinks(t *testing.T) {
	type link struct {
		at, lasts time.Duration
		want      bool
	}
	for name, links := range map[string][]link{
		"all short":    {{0, 900 * time.Millisecond, false}, {time.Second, 900 * time.Millisecond, false}, {3 * time.Second, time.Millisecond, true}, {4 * time.Second, 0, true}},
		"a good one":   {{0, 10 * time.Millisecond, false}, {time.Second, 2 * time.Second, false}, {4 * time.Second, 0, false}, {6 * time.Second, 0, false}, {8 * time.Second, 0, true}},
		"away between": {{0, 10 * time.Millisecond, false}, {time.Hour, 0, false}, {time.Hour + 2*time.Second, 0, false}, {time.Hour + 4*time.Second, 0, true}},
	} {
		for _, scale := range []time.Duration{1, 10} { // one link is never too short
			began, s := time.Now(), shortLinks{most: 3 * time.Second / scale}
			for _, l := range links {
				if got := s.ended(began.Add(l.at/scale), began.Add((l.at+l.lasts)/scale)); got != l.want {
					t.Errorf("%s: the one at %v: %v", name, l.at/scale, got)
				}
			}
		}
	}
}
