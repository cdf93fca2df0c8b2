package vote

import (
	"fmt"
	"hash/fnv"
	"slices"

	"tpcfs/wire"
)

type lockKind uint8

const (
	lockEntry     lockKind = iota + 1 // a name in a directory, whether it exists or not
	lockInode                         // a file or directory itself
	lockDirRename                     // the one key of all moves of directories: no cycles
)

// lockKey is what a transaction may lock (P1).
type lockKey struct {
	kind lockKind
	ino  wire.Ino
	name string
}

func entryKey(dir wire.Ino, name string) lockKey { return lockKey{lockEntry, dir, name} }
func inodeKey(ino wire.Ino) lockKey              { return lockKey{lockInode, ino, ""} }

// number is the same for the same key at all participants, and most likely another
// for another one.
func (k lockKey) number() uint64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d %d %s", k.kind, k.ino, k.name) // a hash takes all
	return h.Sum64()
}

type holders struct {
	exclusive wire.ID   // 0: nobody
	shared    []wire.ID // without doubles
}

// lockTable holds the locks of the prepared transactions. Nothing waits for a
// lock: a conflict is a NO vote (G4).
type lockTable map[lockKey]*holders

// blocker returns the transaction, other than tx, that keeps tx from the lock;
// of several the one with the least id, so that all replicas name the same. 0: none.
func (t lockTable) blocker(tx wire.ID, k lockKey, exclusive bool) wire.ID {
	h := t[k]
	if h == nil {
		return 0
	}
	if h.exclusive != 0 && h.exclusive != tx {
		return h.exclusive
	}
	var least wire.ID
	if exclusive {
		for _, id := range h.shared {
			if id != tx && (least == 0 || id < least) {
				least = id
			}
		}
	}
	return least
}

// grant gives tx a lock that nobody keeps it from.
func (t lockTable) grant(tx wire.ID, k lockKey, exclusive bool) {
	if id := t.blocker(tx, k, exclusive); id != 0 {
		panic(fmt.Sprintf("vote: lock %v granted to %v while %v holds it", k, tx, id))
	}
	h := t[k]
	if h == nil {
		h = &holders{}
		t[k] = h
	}
	if exclusive {
		h.exclusive = tx
	} else if !slices.Contains(h.shared, tx) {
		h.shared = append(h.shared, tx)
	}
}

func (t lockTable) release(tx wire.ID, k lockKey) {
	h := t[k]
	if h == nil {
		return
	}
	if h.exclusive == tx {
		h.exclusive = 0
	}
	h.shared = slices.DeleteFunc(h.shared, func(id wire.ID) bool { return id == tx })
	if h.exclusive == 0 && len(h.shared) == 0 {
		delete(t, k)
	}
}

// lockSet is the locks of one transaction: true is exclusive.
type lockSet map[lockKey]bool

func (s lockSet) add(k lockKey, exclusive bool) { s[k] = s[k] || exclusive }

// locksOf derives a transaction's locks from what its PREPARE record holds, so
// that a replay grants what the prepare granted.
func locksOf(bounds []Bound, walked []Entry) lockSet {
	s := lockSet{}
	for _, e := range walked {
		s.add(entryKey(e.Dir, e.Name), false)
	}
	for i := range bounds {
		s.addBound(&bounds[i])
	}
	return s
}

func (s lockSet) addBound(b *Bound) {
	if b.Dir != 0 {
		s.add(entryKey(b.Dir, b.Name), true)
		s.add(inodeKey(b.Dir), false)
	}
	switch b.Kind {
	case wire.MutRename:
		s.add(entryKey(b.ToDir, b.ToName), true)
		s.add(inodeKey(b.ToDir), false)
		if b.Replaced != 0 && b.Replaced != b.Ino && !b.Exchange {
			s.add(inodeKey(b.Replaced), true)
		}
		if b.IsDir {
			s.add(lockKey{kind: lockDirRename}, true)
		}
	case wire.MutWriteFile, wire.MutDeleteFile, wire.MutRmdir, wire.MutSetattr, wire.MutMkdir, wire.MutSymlink,
		wire.MutLink, wire.MutMknod, wire.MutSetxattr, wire.MutRemovexattr, wire.MutCreateUnlinked, wire.MutReclaim,
		wire.MutAllocate, wire.MutPunchHole, wire.MutZeroRange:
		s.add(inodeKey(b.Ino), true)
	default:
		panic(fmt.Sprintf("vote: a bound of kind %d", b.Kind))
	}
}
