package sim

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// Hard links, nodes, exchanges, extended attributes, and files without a name:
// what clients do with them, what one copy would hold, and that what nobody
// holds is reclaimed, and nothing else (F7).

// meta makes up a mutation of names or attributes; false: there is nothing to do it to.
func (cl *client) meta(rng *rand.Rand, m *wire.Mutation) bool {
	switch rng.IntN(10) {
	case 0, 1:
		m.Kind, m.To = wire.MutLink, cl.at(rng)
		cl.w.linked = true
	case 2:
		m.Kind, m.To, m.Rename = wire.MutRename, cl.at(rng), wire.RenameMode(1+rng.IntN(2))
	case 3:
		m.Kind, m.To, m.Hold = wire.MutRename, cl.at(rng), true
		m.IfIno = cl.inos[m.To.Path]
	case 4:
		m.Kind, m.Hold = wire.MutDeleteFile, true
		m.IfIno = cl.inos[m.At.Path]
	case 5:
		m.Kind, m.Mode = wire.MutMknod, []uint32{wire.ModeRegular, wire.ModeFifo, wire.ModeSocket}[rng.IntN(3)]|0o600
	case 6:
		m.Kind, m.Mode, m.Rdev = wire.MutMknod, wire.ModeChar|0o600, 259
	case 7:
		m.Kind, m.Name, m.Xattr = wire.MutSetxattr, cl.xattr(rng), wire.XattrMode(rng.IntN(3))
		m.Value = []byte(fmt.Sprint(rng.IntN(1000)))
		if rng.IntN(3) == 0 {
			m.Kind, m.Value, m.Xattr = wire.MutRemovexattr, nil, 0
		}
	case 8:
		m.Kind = wire.MutCreateUnlinked
		m.At = wire.At{Dir: cl.dirs[rng.IntN(len(cl.dirs))]}
	default:
		return cl.unnamedFile(rng, m)
	}
	return true
}

// unnamedFile does something with a file that the client has left without a name.
func (cl *client) unnamedFile(rng *rand.Rand, m *wire.Mutation) bool {
	if len(cl.unnamed) == 0 {
		return false
	}
	m.At = wire.At{Dir: cl.unnamed[rng.IntN(len(cl.unnamed))]}
	switch rng.IntN(3) {
	case 0:
		m.Kind, m.To = wire.MutLink, cl.at(rng)
		cl.w.linked = true
	case 1:
		m.Kind, m.Name, m.Value = wire.MutSetxattr, cl.xattr(rng), []byte("held")
	default:
		m.Kind, m.Set = wire.MutSetattr, wire.SetMode
	}
	return true
}

func (cl *client) xattr(rng *rand.Rand) string {
	return []string{"user.a", "user.b", "trusted.a"}[rng.IntN(3)]
}

// metaRead makes some reads about attributes, or about files without a name.
func (cl *client) metaRead(rng *rand.Rand, o *op) {
	if len(cl.unnamed) > 0 && rng.IntN(4) == 0 {
		o.at = wire.At{Dir: cl.unnamed[rng.IntN(len(cl.unnamed))]}
	}
	if rng.IntN(4) == 0 {
		o.kind, o.name = []wire.ReadKind{wire.ReadGetxattr, wire.ReadListxattr}[rng.IntN(2)], cl.xattr(rng)
	}
}

// leave ends the client's session; the coordinator may hear of it.
func (cl *client) leave() {
	w := cl.w
	w.left = append(w.left, cl.session)
	if (w.metaShare > 0 || w.mounts) && w.cur != nil && w.chance(2) {
		c, s := w.cur, cl.session
		c.turn(func() { c.m.Detach(s) })
	}
}

// endSessions ends all sessions: what they held without a name has to go.
func (w *world) endSessions() bool {
	if w.metaShare == 0 && !w.mounts {
		return true
	}
	w.closing = true
	c := w.cur
	for _, cl := range w.clients {
		cl.linkLost()
		w.left = append(w.left, cl.session)
		cl.begin()
	}
	c.turn(func() {
		for _, s := range w.left {
			c.m.Detach(s)
		}
	})
	defer func() { w.closing = false }()
	return w.quiesce()
}

// listUnnamed mirrors Coordinator.readOrphans: what it has read it hears of
// later, and no page is long.
func (c *reign) listUnnamed() {
	if r := c.listed; r != nil {
		c.listed = nil
		c.m.Orphans(*r)
		return
	}
	if c.listing == nil || c.readPoint == 0 {
		return
	}
	req := *c.listing
	req.Limit = 2
	for i := range c.conns {
		k := c.conns[(i+c.w.steps)%len(c.conns)]
		if k == nil || !k.opened || k.outside || k.cut || !k.member.up || k.member.silent {
			continue
		}
		if open, err := k.member.gateOpen(c.epoch, c.readPoint); !open || err != nil {
			continue
		}
		reply, err := k.member.store.Read(req, nil)
		if k.member.storeError(err); err == nil {
			c.listing, c.listed = nil, &reply
			return
		}
	}
}

// reclaim is a transaction of a coordinator's own.
type reclaim struct {
	ino        wire.Ino
	call, done int64 // prepared by the first, decided at the first; 0: not
}

// reclaimVoted is told of every PREPARE that a participant has handled.
func (w *world) reclaimVoted(p *wire.Prepare, yes bool) {
	if len(p.Mutations) != 1 || p.Mutations[0].Kind != wire.MutReclaim || !yes {
		return
	}
	w.linked = true // what conflicts with it need not share a name with any op
	if w.reclaims[p.Tx] == nil {
		w.reclaims[p.Tx] = &reclaim{ino: p.Mutations[0].At.Dir, call: w.clock()}
	}
}

// unnamed is told of every transaction that has committed, once: who holds what,
// and that a reclaim takes what nobody holds.
func (w *world) unnamed(tx *vote.Tx) {
	for _, ino := range tx.Outcome.Orphans {
		w.holders[ino] = tx.Op.Session
	}
	w.takes(tx.Op.Session, append(slices.Clone(tx.Left), tx.Outcome.Orphans...))
	r := w.reclaims[tx.ID]
	if r == nil {
		return
	}
	r.done = w.clock()
	if !tx.Bounds[0].Orphan {
		w.reach(reachNamedAgain)
		return
	}
	w.reach(reachReclaim)
	w.openAtMount(tx.ID, r.ino)
	s, idle := w.holders[r.ino], int64(500_000)
	if w.mounts {
		idle = 50_000
	}
	if s != (wire.SessionID{}) && !slices.Contains(w.left, s) && w.now < idle { // no session is forgotten yet
		w.violate("F7", "transaction %v reclaims inode %d, which session %v holds", tx.ID, r.ino, s)
	}
}

// reclaimHistory is what porcupine is told of reclaims.
func (w *world) reclaimHistory() []porcupine.Operation {
	var h []porcupine.Operation
	for _, id := range slices.Sorted(maps.Keys(w.reclaims)) {
		r := w.reclaims[id]
		if r.done == 0 {
			continue
		}
		o := &op{id: wire.OpID{Seq: 1}, num: -1, muts: []wire.Mutation{{Kind: wire.MutReclaim, At: wire.At{Dir: r.ino}}}}
		s := &step{o: o, tx: id}
		h = append(h, porcupine.Operation{ClientId: len(w.clients), Input: s, Output: s, Call: r.call, Return: r.done})
	}
	return h
}

// checkUnnamed: no session is left, so nothing is held.
func (w *world) checkUnnamed() {
	if w.metaShare == 0 && !w.mounts || !w.settling {
		return
	}
	for _, p := range w.there() {
		reply, err := p.store.Read(wire.Read{Kind: wire.ReadOrphans}, nil)
		if err != nil && (p.rotten || p.lossy) {
			continue
		}
		if err != nil || len(reply.Entries) > 0 {
			w.violate("F7", "P%d keeps %v of %v, which nobody holds (error %v)", p.i, reply.Entries, reply.Holders, err)
		}
	}
}

// dumpMeta lists a file's number, links and extended attributes.
func (w *world) dumpMeta(b *strings.Builder, p *member, a *wire.Attr) {
	fmt.Fprintf(b, " %d links %d rdev %d", a.Ino, a.Nlink, a.Rdev)
	at := wire.At{Dir: a.Ino}
	reply, err := p.store.Read(wire.Read{Kind: wire.ReadListxattr, At: at}, nil)
	for _, name := range reply.Names {
		var v wire.ReadReply
		if v, err = p.store.Read(wire.Read{Kind: wire.ReadGetxattr, At: at, Name: name}, nil); err != nil {
			break
		}
		fmt.Fprintf(b, " %s=%q", name, v.Value)
	}
	if err != nil && !p.rotten && !p.lossy {
		w.violate("read", "P%d cannot read the attributes of inode %d: %v", p.i, a.Ino, err)
	}
}

// dumpUnnamed lists the files without a name.
func (w *world) dumpUnnamed(b *strings.Builder, p *member) {
	reply, err := p.store.Read(wire.Read{Kind: wire.ReadOrphans}, nil)
	if err != nil && !p.rotten && !p.lossy {
		w.violate("read", "P%d cannot list what has no name: %v", p.i, err)
	}
	for i, e := range reply.Entries {
		fmt.Fprintf(b, "no name: %o %d %s of %v", e.Attr.Mode, e.Attr.Size, e.Attr.Version, reply.Holders[i])
		w.dumpMeta(b, p, &e.Attr)
		b.WriteString("\n")
	}
}

// left lists the inodes that a transaction has left without a name.
func (c *change) left() []wire.Ino {
	var list []wire.Ino
	for _, ino := range slices.Sorted(maps.Keys(c.orphans)) {
		if f := c.t[ino]; f != nil && f.links == 0 {
			list = append(list, ino)
		}
	}
	return list
}

// lose takes a name from a file, or a directory away.
func (c *change) lose(ino wire.Ino, hold bool) {
	f := c.t[ino]
	if f.is(wire.ModeDir) || f.links == 1 && !hold && !(c.keep && ino < wire.Ino(c.tx)) {
		delete(c.t, ino)
		return
	}
	if c.edit(ino).links--; f.links == 1 && hold {
		c.orphans[ino] = true
	}
}

func (c *change) exchange(from, to place) wire.Code {
	f, g := c.t[from.ino], c.t[to.ino]
	switch {
	case g == nil:
		return wire.CodeNotExist
	case f.is(wire.ModeDir) && c.below(to.dir, from.ino), g.is(wire.ModeDir) && c.below(from.dir, to.ino):
		return wire.CodeInvalid
	case from.ino == to.ino:
		return 0
	}
	c.enter(from, to.ino)
	c.enter(to, from.ino)
	if f.is(wire.ModeDir) {
		c.edit(from.ino).parent = to.dir
	}
	if g.is(wire.ModeDir) {
		c.edit(to.ino).parent = from.dir
	}
	return 0
}

// meta does the mutations of names without contents and of attributes.
func (c *change) meta(m *wire.Mutation, p place, f *file, newIno wire.Ino) (wire.Result, wire.Code) {
	r := wire.Result{Ino: p.ino}
	switch {
	case f == nil:
		return r, wire.CodeNotExist
	case m.Kind == wire.MutCreateUnlinked && f.is(wire.ModeSymlink) && m.At.Path != "":
		return r, wire.CodeSymlink
	case m.Kind == wire.MutCreateUnlinked && !f.is(wire.ModeDir):
		return r, wire.CodeNotDir
	case m.Kind == wire.MutLink && f.is(wire.ModeDir):
		return r, wire.CodePermission
	case !version(m, f):
		return r, wire.CodeVersion
	}
	switch m.Kind {
	case wire.MutLink:
		return r, c.link(m, p, f)
	case wire.MutCreateUnlinked:
		c.t[newIno] = &file{mode: wire.ModeRegular | m.Mode, version: c.tx, linkable: true}
		c.orphans[newIno] = true
		return wire.Result{Ino: newIno, Created: true}, 0
	case wire.MutReclaim:
		if f.links == 0 && !f.is(wire.ModeDir) {
			delete(c.t, p.ino)
		}
		return r, 0
	default:
		return r, c.setxattr(m, p, f)
	}
}

func (c *change) link(m *wire.Mutation, p place, f *file) wire.Code {
	if m.To.Path == "" {
		return wire.CodeExist
	}
	to, code := c.t.find(m.To)
	switch {
	case code != 0:
		return code
	case to.ino != 0:
		return wire.CodeExist
	case f.links == 0 && !f.linkable:
		return wire.CodeNotExist
	}
	g := c.edit(p.ino)
	g.links++
	g.linkable = false
	c.enter(to, p.ino)
	return 0
}

func (c *change) setxattr(m *wire.Mutation, p place, f *file) wire.Code {
	_, has := f.xattrs[m.Name]
	set := m.Kind == wire.MutSetxattr
	switch {
	case set && strings.HasPrefix(m.Name, "user.") && !f.is(wire.ModeRegular) && !f.is(wire.ModeDir):
		return wire.CodePermission
	case set && has && m.Xattr == wire.XattrCreate:
		return wire.CodeExist
	case !has && (!set || m.Xattr == wire.XattrReplace):
		return wire.CodeNoAttr
	}
	g := c.edit(p.ino)
	g.xattrs = maps.Clone(g.xattrs)
	if delete(g.xattrs, m.Name); !set {
		return 0
	}
	if g.xattrs == nil {
		g.xattrs = map[string]string{}
	}
	g.xattrs[m.Name] = string(m.Value)
	return 0
}
