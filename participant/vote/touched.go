package vote

import "tpcfs/wire"

// touched is what a commit of the transaction changes, as other mounts' caches
// have to hear it (F9): each inode whose row changes, each name that comes,
// goes or names another inode.
func (t *Tx) touched() *wire.Touched {
	out := &wire.Touched{}
	defer func() { out.Left, out.MoreLeft = t.Left, t.MoreLeft }()
	for i := range t.Bounds {
		b := &t.Bounds[i]
		for _, ino := range []wire.Ino{b.Ino, b.Dir, b.ToDir, b.Replaced} {
			out.AddIno(ino)
		}
		out.AddName(wire.At{Dir: b.Dir, Path: b.Name})
		out.AddName(wire.At{Dir: b.ToDir, Path: b.ToName})
		if out.Wide {
			break
		}
	}
	return out
}
