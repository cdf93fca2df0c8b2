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
