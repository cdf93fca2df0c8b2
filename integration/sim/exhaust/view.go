package exhaust

import (
	"encoding/binary"
	"maps"
	"slices"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// table is a replica's decided state: which transaction wrote each name last,
// and the op ids that are done. It is never changed, only copied.
type table struct {
	names map[string]file
	ops   map[wire.OpID]wire.Outcome
}

type file struct {
	ino     wire.Ino
	version wire.ID
}

func (t *table) apply(tx *vote.Tx) *table {
	n := &table{names: maps.Clone(t.names), ops: maps.Clone(t.ops)}
	for i := range tx.Bounds {
		b := &tx.Bounds[i]
		if b.Created {
			n.names[b.Name] = file{b.Ino, tx.ID}
			continue
		}
		for name, f := range n.names {
			if f.ino == b.Ino {
				n.names[name] = file{b.Ino, tx.ID}
			}
		}
	}
	n.ops[tx.Op] = tx.Outcome
	return n
}

// encode gives equal tables equal bytes.
func (t *table) encode() []byte {
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(t.names)) {
		f := t.names[name]
		b = append(append(b, name...), 0)
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(f.ino)), uint64(f.version))
	}
	b = append(b, 0)
	ops := slices.SortedFunc(maps.Keys(t.ops), func(a, b wire.OpID) int { return slices.Compare(a.Session[:], b.Session[:]) })
	for _, op := range ops {
		b = append(append(b, op.Session[0]), wire.Marshal(t.ops[op])...)
	}
	return b
}

// view shows a table to a vote machine. refuse: the disk has no room.
type view struct {
	t      *table
	refuse bool
}

func (v *view) Inode(ino wire.Ino) (vote.Inode, error) {
	if ino == wire.RootIno {
		return vote.Inode{Attr: wire.Attr{Ino: ino, Mode: wire.ModeDir | 0o755, Nlink: 2}}, nil
	}
	for _, f := range v.t.names {
		if f.ino == ino {
			return vote.Inode{Attr: wire.Attr{Ino: ino, Mode: wire.ModeRegular | 0o644, Nlink: 1, Version: f.version}}, nil
		}
	}
	return vote.Inode{}, wire.NewError(wire.CodeNotExist, "")
}

func (v *view) Lookup(dir wire.Ino, name string) (wire.Ino, error) {
	if f, ok := v.t.names[name]; ok && dir == wire.RootIno {
		return f.ino, nil
	}
	return 0, wire.NewError(wire.CodeNotExist, "")
}

func (v *view) Op(op wire.OpID) (wire.Outcome, bool, error) {
	o, ok := v.t.ops[op]
	return o, ok, nil
}

func (v *view) Staged(wire.ID) (int64, uint32, bool) { return 0, 0, false }
func (v *view) Pack(*wire.Pack) ([]wire.Mutation, []byte, error) {
	return nil, nil, wire.NewError(wire.CodeStageLost, "nothing is staged here")
}
func (v *view) Xattr(wire.Ino, string) (bool, error) { return false, nil }
func (v *view) Xattrs(wire.Ino) (int, int, error)    { return 0, 0, nil }
func (v *view) Skew(wire.ID) int64                   { return 0 }

func (v *view) ReadStaged(wire.ID, []byte, int64) (bool, error) { return false, nil }

func (v *view) Block(wire.Ino, int64, []byte) (int, bool, error) { return 0, false, nil }

func (v *view) Room(wire.Ino, int64, int64) (int64, error) { return 0, nil }

func (v *view) Preserve(wire.Ino, wire.ID, int64) error { return nil }
func (v *view) Release(wire.ID)                         {}
func (v *view) Reserve(wire.ID, int, int64, int64, bool) (err error) {
	if v.refuse {
		err = wire.NewError(wire.CodeNoSpace, "the disk is full")
	}
	return err
}
