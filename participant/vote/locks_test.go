package vote

import (
	"errors"
	"testing"

	"tpcfs/wire"
)

// A conflict names who is in the way, and the lock by a number: the same at all
// participants, another for another lock (F5).
func TestConflictNamesTheBlocker(t *testing.T) {
	keys := []lockKey{entryKey(1, "x"), entryKey(1, "y"), entryKey(11, "x"), entryKey(1, "1 x"), inodeKey(1), inodeKey(11), {kind: lockDirRename}}
	seen := map[uint64]lockKey{}
	for _, k := range keys {
		var first *wire.Error
		for range 2 { // participants
			o := newOverlay(newFakeView(), lockTable{}, 7)
			o.locks.grant(5, k, true)
			err := o.need(k, false, wire.At{Dir: 1, Path: "x"})
			var e *wire.Error
			if !errors.As(err, &e) || e.Code != wire.CodeConflict || e.Blocker != 5 || e.Key == 0 {
				t.Fatalf("%v: %+v", k, err)
			}
			if first == nil {
				first = e
			}
			if e.Key != first.Key {
				t.Errorf("%v has two numbers", k)
			}
		}
		if other, ok := seen[first.Key]; ok {
			t.Errorf("%v and %v have one number", k, other)
		}
		seen[first.Key] = k
	}
}
