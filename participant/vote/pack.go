package vote

import (
	"fmt"
	"path"
	"slices"

	"tpcfs/wire"
)

// A PREPARE whose mutations are in a pack says of them only what the pack does
// not: 65,536 mutations with their names would be too much for a record.

// packed is one Bound of such a record. From tells which fields are as the
// mutation of the same place has them; the others are in Bound, nil: zero.
type packed struct {
	From  fromMutation `cbor:"1,keyasint"`
	Bound *Bound       `cbor:"2,keyasint,omitempty"`
	// Ino and Dir, where an earlier mutation of the transaction has made them:
	// their distance from the transaction's id, plus 1.
	Ino uint32 `cbor:"3,keyasint,omitempty"`
	Dir uint32 `cbor:"4,keyasint,omitempty"`
}

type fromMutation uint16

const (
	fromKind    fromMutation = 1 << iota
	fromIno                  // the transaction's id and the mutation's place
	fromCreated              // Created is set
	fromDir                  // the previous mutation's Dir
	fromName
	fromToName
	fromMode
	fromUID
	fromGID
	fromTarget
	fromContent
	fromSet
	fromTimes
)

// lastName is a path's last component.
func lastName(at wire.At) string {
	if at.Path == "" {
		return ""
	}
	return path.Base(at.Path)
}

// take clears a field that is what it is expected to be, and tells so.
func take[T comparable](field *T, want T, bit fromMutation, set *fromMutation) {
	var zero T
	if *field == want && want != zero {
		*field = zero
		*set |= bit
	}
}

// give is the way back.
func give[T any](field *T, want T, bit, set fromMutation) {
	if set&bit != 0 {
		*field = want
	}
}

// distance clears an inode number that the transaction has given, and returns
// how far it is from its id, plus 1.
func (t *Tx) distance(ino *wire.Ino) uint32 {
	n := *ino - wire.Ino(t.ID)
	if *ino < wire.Ino(t.ID) || n >= wire.MaxMutations {
		return 0
	}
	*ino = 0
	return uint32(n) + 1
}

// place is the way back.
func (t *Tx) place(ino *wire.Ino, distance uint32) {
	if distance > 0 {
		*ino = wire.Ino(t.ID) + wire.Ino(distance) - 1
	}
}

// onlyWalked leaves out of the entries that names went over those that the
// transaction changes: these are locked for that (locksOf), and would say
// each new file's name a second time.
func onlyWalked(order []Entry, bounds []Bound) []Entry {
	changed := locksOf(bounds, nil)
	return slices.DeleteFunc(slices.Clone(order), func(e Entry) bool {
		return changed[entryKey(e.Dir, e.Name)]
	})
}

// pack returns what a record says of bounds that stand for mutations.
func (t *Tx) pack() []packed {
	list := make([]packed, len(t.Bounds))
	dir := wire.Ino(0)
	for i := range t.Bounds {
		b, m, set := t.Bounds[i], &t.mutations[i], fromMutation(0)
		next := b.Dir
		take(&b.Kind, m.Kind, fromKind, &set)
		take(&b.Ino, wire.Ino(t.ID)+wire.Ino(i), fromIno, &set)
		take(&b.Created, true, fromCreated, &set)
		take(&b.Dir, dir, fromDir, &set)
		take(&b.Name, lastName(m.At), fromName, &set)
		take(&b.ToName, lastName(m.To), fromToName, &set)
		take(&b.Mode, m.Mode, fromMode, &set)
		take(&b.UID, m.UID, fromUID, &set)
		take(&b.GID, m.GID, fromGID, &set)
		take(&b.Target, m.Target, fromTarget, &set)
		take(&b.Content, m.Content, fromContent, &set)
		take(&b.Set, m.Set, fromSet, &set)
		if b.Atime == m.Atime && b.Mtime == m.Mtime && (m.Atime != 0 || m.Mtime != 0) {
			b.Atime, b.Mtime = 0, 0
			set |= fromTimes
		}
		dir = next
		list[i] = packed{From: set, Ino: t.distance(&b.Ino), Dir: t.distance(&b.Dir)}
		if !b.isZero() {
			list[i].Bound = &b
		}
	}
	return list
}

// unpack makes bounds of what a record and its pack say.
func (t *Tx) unpack(list []packed, mutations []wire.Mutation) error {
	if len(list) != len(mutations) {
		return corrupt("PREPARE of %d mutations, whose pack has %d", len(list), len(mutations))
	}
	t.Bounds, t.mutations = make([]Bound, len(list)), mutations
	dir := wire.Ino(0)
	for i := range list {
		b, m, set := &t.Bounds[i], &mutations[i], list[i].From
		if list[i].Bound != nil {
			*b = *list[i].Bound
		}
		give(&b.Kind, m.Kind, fromKind, set)
		give(&b.Ino, wire.Ino(t.ID)+wire.Ino(i), fromIno, set)
		give(&b.Created, true, fromCreated, set)
		give(&b.Dir, dir, fromDir, set)
		give(&b.Name, lastName(m.At), fromName, set)
		give(&b.ToName, lastName(m.To), fromToName, set)
		give(&b.Mode, m.Mode, fromMode, set)
		give(&b.UID, m.UID, fromUID, set)
		give(&b.GID, m.GID, fromGID, set)
		give(&b.Target, m.Target, fromTarget, set)
		give(&b.Content, m.Content, fromContent, set)
		give(&b.Set, m.Set, fromSet, set)
		give(&b.Atime, m.Atime, fromTimes, set)
		give(&b.Mtime, m.Mtime, fromTimes, set)
		t.place(&b.Ino, list[i].Ino)
		t.place(&b.Dir, list[i].Dir)
		dir = b.Dir
	}
	return checkBounds(t.Bounds)
}

// isZero tells whether nothing of b has to be written down.
func (b *Bound) isZero() bool { return len(wire.Marshal(b)) == len(zeroBound) }

var zeroBound = wire.Marshal(&Bound{})

// open finds the mutations and contents of a prepare, in its pack if it has
// one. A NO's error is a *wire.Error.
func (b *binder) open() error {
	pack := b.prepare.Pack
	if pack == nil {
		b.mutations = b.prepare.Mutations
		return nil
	}
	at := wire.At{Dir: wire.RootIno, Path: pack.Name}
	switch {
	case len(b.prepare.Mutations) > 0 || len(b.payload) > 0:
		return no(wire.CodeProtocol, at, "mutations beside those of a pack")
	case pack.Count < 1 || pack.Count > wire.MaxMutations || pack.Size > wire.MaxPack:
		return no(wire.CodeTooMany, at, fmt.Sprintf("a pack of %d changes in %d bytes; at most %d and %d are allowed", pack.Count, pack.Size, wire.MaxMutations, wire.MaxPack))
	}
	if err := b.consume(at, wire.Content{Size: pack.Size, Stage: pack.Stage, Sum: pack.Sum}); err != nil {
		return err
	}
	var err error
	if b.mutations, b.payload, err = b.view.Pack(pack); err != nil {
		return err
	}
	if len(b.mutations) != pack.Count {
		return no(wire.CodeProtocol, at, fmt.Sprintf("a pack of %d changes, not %d", len(b.mutations), pack.Count))
	}
	var stages []wire.ID
	for i := range b.mutations {
		if b.mutations[i].Kind == wire.MutReclaim { // the coordinator, which looks at requests, has not seen it
			return no(wire.CodeProtocol, at, "a pack that reclaims an inode")
		}
		stages = append(stages, b.mutations[i].Stages()...)
	}
	if !slices.Equal(stages, pack.Stages) {
		return no(wire.CodeProtocol, at, "a pack that names other stages than its request")
	}
	return nil
}

// unpack completes a PREPARE record with what its pack says. The pack stays
// until a checkpoint has passed the decision, so that it is there.
func (m *Machine) unpack(r *Record) error {
	if r.Tx == nil || r.Tx.Pack == nil {
		return nil
	}
	mutations, payload, err := m.view.Pack(r.Tx.Pack)
	switch {
	case wire.CodeOf(err) == wire.CodeStageLost, wire.CodeOf(err) == wire.CodeProtocol:
		return corrupt("PREPARE of transaction %v: %v", r.Tx.ID, err)
	case err != nil:
		return &ViewError{err}
	}
	r.Tx.Payload = payload
	list := r.Tx.Packed
	r.Tx.Packed = nil
	return r.Tx.unpack(list, mutations)
}
