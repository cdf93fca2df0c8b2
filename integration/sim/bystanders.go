package sim

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"

	"tpcfs/journal/disk"
	"tpcfs/participant/store"
	"tpcfs/wire"
)

// bystanders are files below /z that no client names after the beginning: what is wrong
// with them is met by nobody but scrubs, and who catches up. Their rows stay what they were.
type bystanders struct {
	dir     wire.Ino
	inos    map[wire.Ino]bool
	objects map[wire.ID]wire.Ino
	names   []string          // of the directory's entries
	rows    map[string][]byte // as they are in a kv, by key
	files   map[string][]byte // of objects, by name
	truth   map[string]string // digest and name of each
	// hurt is when what was done to a row (by its key) or a block of a member was done last.
	hurt   [3]map[string]int
	spread map[string]bool // rows of which two members have had the same that is wrong: nobody can tell
	// sound is what one had that is evicted for a scrub, which began at soundAt, on which of its disks.
	sound   [3]map[string]bool
	soundAt [3]int
	soundOn [3]uint64
}

// scrubbing makes some schedules with scrubs, of those in which members are evicted: rows
// of some are other ones than those of the rest, and blocks rot.
func scrubbing(rng *rand.Rand, p *profile) {
	if p.minInSync != 2 || !p.warm || rng.IntN(3) > 0 {
		return
	}
	p.may[faultScrub], p.may[faultWrong] = faultWeight[faultScrub], faultWeight[faultWrong]
	p.faultShare = max(p.faultShare, 20)
}

// bystand makes the bystanders, at the beginning of a schedule with scrubs.
func (w *world) bystand() {
	w.settling = true
	defer func() { w.settling = false }()
	cl := &client{w: w, n: len(w.clients)}
	cl.begin()
	w.clients = append(w.clients, cl)
	o := &op{cl: cl, num: len(w.ops), begun: w.clock()}
	at := func(name string) wire.At { return wire.At{Dir: wire.RootIno, Path: name} }
	o.muts = append(o.muts, wire.Mutation{Kind: wire.MutMkdir, At: at("z"), Mode: 0o755})
	for n, size := range []int{9, 300, 700} {
		data := make([]byte, size)
		for k := range data {
			data[k] = byte(n*57 + k*(n+3))
		}
		m := wire.Mutation{Kind: wire.MutWriteFile, At: at(fmt.Sprintf("z/%d", n)), Mode: 0o644, Create: wire.MustNotExist}
		m.Content = wire.Content{Size: int64(size), Sum: wire.Sum(data)}
		o.payload = append(o.payload, data...)
		o.muts = append(o.muts, m)
	}
	o.muts = append(o.muts, wire.Mutation{Kind: wire.MutSetxattr, At: at("z/0"), Name: "user.z", Value: []byte("bystander")})
	o.staged, o.bulk = make([][]byte, len(o.muts)), make([][]byte, len(o.muts))
	w.ops = append(w.ops, o)
	cl.ops = append(cl.ops, o)
	cl.seq++
	o.id = wire.OpID{Session: cl.session, Seq: cl.seq}
	w.byID[o.id] = o
	ok := w.quietWithin(quietSteps)
	for _, p := range w.members {
		p.maybeFreeze()
	}
	ok = ok && w.quietWithin(quietSteps) && o.fate == committed
	cl.linkLost()
	w.clients = w.clients[:len(w.clients)-1]
	if ok {
		w.capture()
	}
}

// capture notes what the bystanders' rows are.
func (w *world) capture() {
	p := w.members[0]
	b := &bystanders{inos: map[wire.Ino]bool{}, objects: map[wire.ID]wire.Ino{}, rows: map[string][]byte{}, files: map[string][]byte{}, spread: map[string]bool{}}
	for i := range b.hurt {
		b.hurt[i] = map[string]int{}
	}
	a, err := p.store.Read(wire.Read{Kind: wire.ReadStat, At: wire.At{Dir: wire.RootIno, Path: "z"}}, nil)
	if err != nil {
		w.violate("read", "there is no z: %v", err)
		return
	}
	b.dir = a.Attr.Ino
	list, err := p.store.Read(wire.Read{Kind: wire.ReadList, At: wire.At{Dir: b.dir}}, nil)
	if err != nil {
		w.violate("read", "z cannot be listed: %v", err)
		return
	}
	for _, e := range list.Entries {
		b.inos[e.Attr.Ino] = true
		b.names = append(b.names, e.Name)
	}
	w.bystanders = b
	tx, err := p.kv.View()
	if err != nil {
		w.violate("read", "P0's kv: %v", err)
		return
	}
	defer tx.Close()
	for ino := range b.inos {
		inode, _, _ := tx.Get("i" + number(uint64(ino)))
		const object, inodeLen = 78, 94
		if len(inode) >= inodeLen && binary.BigEndian.Uint64(inode[object:]) != 0 {
			b.objects[wire.ID(binary.BigEndian.Uint64(inode[object:]))] = ino
		}
	}
	b.truth = w.rowsOf(p)
	for key := range b.truth {
		val, ok, err := tx.Get(key)
		if err != nil || !ok {
			w.violate("read", "P0's kv has no row %q: %v", key, err)
		}
		b.rows[key] = slices.Clone(val)
	}
	for object := range b.objects {
		name := p.objectFile(object)
		if b.files[name], err = disk.ReadWhole(p.fs, name, 1<<20); err != nil {
			w.violate("read", "P0's object %v: %v", object, err)
		}
	}
	if len(b.objects) != 2 || len(b.truth) < 10 {
		w.violate("read", "bystanders have %d objects, %d rows", len(b.objects), len(b.truth))
	}
}

func number(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

// has: is the row with that key a bystander's?
func (b *bystanders) has(key string) bool {
	if len(key) < 9 {
		return false
	}
	n := binary.BigEndian.Uint64([]byte(key[1:9]))
	switch key[0] {
	case 'e':
		return wire.Ino(n) == b.dir
	case 'i', 'c', 'a':
		return b.inos[wire.Ino(n)]
	case 's':
		_, ok := b.objects[wire.ID(n)]
		return ok
	default:
		return false
	}
}

// rowsOf are the bystanders' rows as a member shows them: digests and names, by key.
func (w *world) rowsOf(p *member) map[string]string {
	m, err := p.store.Moment()
	if err != nil {
		return nil
	}
	defer m.Close()
	return w.bystanders.rowsIn(m)
}

func (b *bystanders) rowsIn(m *store.Moment) map[string]string {
	rows := map[string]string{}
	for from, more := []byte(nil), true; more; {
		c, body, err := m.Compare(wire.Compare{From: from, Choose: true, Rows: true})
		if err != nil {
			return nil
		}
		list, err := wire.DecodeRows(body)
		if err != nil {
			return nil
		}
		for _, row := range list {
			if b.has(row.Key) {
				rows[row.Key] = string(row.Val)
			}
		}
		from, more = c.Next, len(c.Next) > 0
	}
	return rows
}

// wrongOf is what of a member's bystanders' rows is not what it was: by key, what there is.
func (w *world) wrongOf(p *member) map[string]string {
	wrong := map[string]string{}
	rows := w.rowsOf(p)
	if rows == nil {
		return wrong
	}
	for key, val := range w.bystanders.truth {
		if rows[key] != val {
			wrong[key] = rows[key]
		}
	}
	for key, val := range rows {
		if _, ok := w.bystanders.truth[key]; !ok {
			wrong[key] = val
		}
	}
	return wrong
}

// wrongIn is that, of the rows that a Compare asks for.
func (w *world) wrongIn(p *member, req *wire.Compare) map[string]string {
	wrong := w.wrongOf(p)
	maps.DeleteFunc(wrong, func(key, _ string) bool { return !inRange(key, req) })
	return wrong
}

// rottenOf are a member's bystanders' blocks that it finds rotten.
func (w *world) rottenOf(p *member) map[string]bool {
	rotten := map[string]bool{}
	for req := (wire.Verify{Bytes: wire.MaxVerify}); ; {
		v, err := p.store.Verify(background, req)
		if err != nil {
			return rotten
		}
		for _, l := range v.Rotten {
			for _, block := range l.Blocks {
				if w.bystanders.inos[l.Ino] {
					rotten[blockName(l.Ino, block)] = true
				}
			}
		}
		if req.Cursor = v.Cursor; len(req.Cursor) == 0 {
			return rotten
		}
	}
}

func blockName(ino wire.Ino, block int64) string {
	return fmt.Sprintf("block %d of inode %d", block, ino)
}

// soundOf is what of the bystanders a member has as it was: rows and blocks.
func (w *world) soundOf(p *member) map[string]bool {
	sound := map[string]bool{}
	wrong, rotten := w.wrongOf(p), w.rottenOf(p)
	for key := range w.bystanders.truth {
		if _, is := wrong[key]; !is {
			sound[key] = true
		}
	}
	for _, ino := range w.bystanders.objects {
		if b := blockName(ino, 0); !rotten[b] {
			sound[b] = true
		}
	}
	return sound
}

// objectFile is where a member keeps an object; "": it has none.
func (p *member) objectFile(object wire.ID) string {
	dirs, _ := p.fs.ReadDir(memberDir + "/objects") // none: nothing there yet
	for _, d := range dirs {
		list, _ := p.fs.ReadDir(path.Join(memberDir, "objects", d.Name))
		for _, e := range list {
			if e.Name == fmt.Sprintf("%016x", uint64(object)) {
				return path.Join(memberDir, "objects", d.Name, e.Name)
			}
		}
	}
	return ""
}

// restoresObject writes an object of a bystander as it was.
func (w *world) restoresObject(p *member, object wire.ID) {
	w.tracef("object %v of %s is restored", object, p.name)
	for name, data := range w.bystanders.files {
		if path.Base(name) != fmt.Sprintf("%016x", uint64(object)) {
			continue
		}
		err := p.fs.MkdirAll(path.Dir(name))
		if err == nil {
			err = disk.WriteWhole(p.fs, name, name+".tmp", data)
		}
		if err != nil {
			w.violate("read", "%s cannot be restored: %v", name, err)
		}
	}
}

// mayHurt: can something be done to a member's bystanders, and shows at once?
func (w *world) mayHurt(p *member) bool {
	return w.bystanders != nil && !w.settling && p.up && !p.removed && p.ck == nil && p.fatal == nil && !p.squeezed && !p.failSync && !p.silent &&
		p.m.Resync() == "" && len(p.resyncs) == 0 && !p.struck()
}

// hurts makes a row of a member's another sound one, or takes it away, or has a block rot.
func (w *world) hurts(p *member) {
	b := w.bystanders
	objects := slices.Sorted(maps.Keys(b.objects))
	if w.chance(3) {
		object := objects[w.rng.IntN(len(objects))]
		file := p.objectFile(object)
		if bit := w.rng.Int64N(8 * 300); p.fs.FlipBit(file, bit) == nil {
			w.tracef("a bit FLIPS on %s: bit %d of %s", p.name, bit, file)
			b.hurt[p.i][blockName(b.objects[object], 0)] = w.steps
			w.reach(reachHurtBlock)
		}
		return
	}
	inos := slices.Sorted(maps.Keys(b.inos))
	key, val := "", []byte(nil)
	switch w.upTo(5) {
	case 0: // an entry is gone
		key = "e" + number(uint64(b.dir)) + b.names[w.rng.IntN(len(b.names))]
	case 1: // an attribute too much
		key = "a" + number(uint64(inos[w.rng.IntN(len(inos))])) + "user.y"
		val = w.sealed(key, []byte{byte(w.upTo(255)), byte(w.upTo(255)), byte(w.steps)})
	case 2: // ... or another value
		key = "a" + number(uint64(inos[0])) + "user.z"
		val = w.sealed(key, []byte{byte(w.upTo(255)), byte(w.upTo(255)), byte(w.steps)})
	case 3, 4: // another mtime
		key = "i" + number(uint64(inos[w.rng.IntN(len(inos))]))
		const mtime = 46
		row := slices.Clone(b.rows[key])
		row = row[:len(row)-4]
		binary.BigEndian.PutUint64(row[mtime:], uint64(w.steps)<<8+uint64(w.upTo(255)))
		val = w.sealed(key, row)
	default: // a checksum is forgotten
		key = "s" + number(uint64(objects[w.rng.IntN(len(objects))])) + "\x00\x00\x00\x00"
		row := slices.Clone(b.rows[key])
		row = row[:len(row)-4]
		const bad = 2
		copy(row, []byte{bad, 0, 0, 0, 0})
		val = w.sealed(key, row)
	}
	w.puts(p, key, val)
}

// puts writes a row, or none, below the store's feet.
func (w *world) puts(p *member, key string, val []byte) {
	was := w.wrongOf(p)[key]
	err := p.kv.Update(func(kw store.KVWriter) error {
		if val == nil {
			return kw.Delete(key)
		}
		return kw.Put(key, val)
	})
	if err != nil {
		return // the power has failed meanwhile
	}
	now, is := w.wrongOf(p)[key]
	if w.settling || is && now == was && was != "" {
		return
	}
	w.tracef("the row %q of %s is another one: %v", key, p.name, is)
	w.bystanders.hurt[p.i][key] = w.steps
	w.reach(reachHurtRow)
	w.spreads()
}

func (w *world) sealed(key string, val []byte) []byte {
	head := append(binary.BigEndian.AppendUint16(nil, uint16(len(key))), key...)
	return binary.BigEndian.AppendUint32(val, wire.SumUpdate(wire.Sum(head), val))
}

// spreads notes the rows, but those of checksums, of which two members have the same that is
// wrong: of those nobody can tell who is right.
func (w *world) spreads() {
	seen := map[string]bool{}
	for _, p := range w.members {
		if !p.up || p.removed {
			continue
		}
		for key, val := range w.wrongOf(p) {
			if at := key + "\x00" + val; key[0] != 's' && seen[at] {
				w.bystanders.spread[key] = true
			} else {
				seen[at] = true
			}
		}
	}
}

// lastBlocks is what an operator does in the end, where who is in sync has no sound copy of a block:
// nobody comes back in sync then. The bits of one are restored.
func (w *world) lastBlocks(c *reign) {
	b := w.bystanders
	if b == nil || !w.settling {
		return
	}
	var in []*member
	for _, p := range w.there() {
		if p.up && c.inSyncAt(p.i) {
			in = append(in, p)
		}
	}
	for object, ino := range b.objects {
		if len(in) == 0 || slices.ContainsFunc(in, func(p *member) bool { return !w.rottenOf(p)[blockName(ino, 0)] }) {
			continue
		}
		p := in[0]
		w.reach(reachLastBlock)
		w.restoresObject(p, object)
		if key := "s" + number(uint64(object)) + "\x00\x00\x00\x00"; p.ck == nil {
			w.puts(p, key, b.rows[key])
		}
	}
}
