package sim

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"tpcfs/journal"
	"tpcfs/participant/store"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// rot is what a host's disk holds that was not written to it: flipped bits, until
// the operator restores them from a copy, or, in an object, until a read meets them
// and has them repaired (repair.go). One host at a time, so that its copy is
// the only one that is rotten.
//
// What must hold: nobody is ever given what a flipped bit made. A process
// refuses to start on a journal or a kv that is damaged, or ends when it meets
// the row, and says so; a rotten object is read from another member. When the
// bits are restored, all is as if they had never flipped.
//
// Not flipped, since nothing can tell, by design: a journal's newest block,
// before a later one promises it (J3: it looks torn); a whole row that is gone
// (S1: only scrub sees that).
type rot struct {
	rotten bool
	mends  int                  // weight of the step that restores the bits
	rows   map[string]int       // bits of rows of the kv, by key
	keys   map[string]bool      // rows of the kv
	last   [2]int64             // where the kv's last transaction lies
	bad    map[wire.Ino]bool    // files of which a rotten block was cut, or got a rotten part (S5)
	parts  map[wire.ID]wire.Ino // staged objects that are a part of a file: a checkpoint copies them
	rotted map[wire.ID]bool     // objects that had a flipped bit
}

// rotPart notes the file that a staged part with a flipped bit is copied into:
// the copy cannot be mended, and its checksum, which the record has, tells that.
func (r *rot) rotPart(stage wire.ID) {
	ino, part := r.parts[stage]
	if !part || !r.rotted[stage] {
		return
	}
	if r.bad == nil {
		r.bad = map[wire.Ino]bool{}
	}
	r.bad[ino] = true
}

// mayRot: on one host at a time, and on no disk that stands in for another.
func (w *world) mayRot(h *host) bool {
	for n := range len(w.members) + 1 {
		if o := w.host(n); o.kept != nil || o != h && o.rotten {
			return false
		}
	}
	return w.truth == nil && w.served.Epoch != 0 && !w.lying()
}

// rots flips a bit.
func (w *world) rots(h *host) {
	h.mends = w.upTo(3) / 3
	if h == w.coordinator {
		if w.chance(10) || !w.rotsJournal(h, reignDir) {
			w.rotsFile(h, reignDir)
		}
		return
	}
	up := slices.ContainsFunc(w.members, func(p *member) bool { return p.host == h && p.up })
	switch kind := w.upTo(9); {
	case w.objectsRot:
		w.rotsObject(h)
	case !up && kind < 5 && w.rotsKV(h):
	case kind < 5 && w.rotsObject(h):
	case kind < 7 && w.rotsRow(h):
	case kind < 9 && w.rotsJournal(h, memberDir+"/journal"):
	case w.chance(4):
		w.rotsFile(h, memberDir, memberDir+"/journal")
	}
}

// flips flips a bit of the bytes [from, to) of a file.
func (w *world) flips(h *host, name string, from, to int64) bool {
	if to <= from {
		return false
	}
	bit := 8*from + w.rng.Int64N(8*(to-from))
	if err := h.fs.FlipBit(name, bit); err != nil {
		return false
	}
	w.tracef("a bit FLIPS on %s: bit %d of byte %d of %s", h.name, bit%8, bit/8, name)
	h.rotten = true
	return true
}

// rotsJournal flips a bit of a block that a durable block promises: one with
// two behind it, since each is written when the one before is synced.
func (w *world) rotsJournal(h *host, dir string) bool {
	var blocks []journal.BlockInfo
	err := journal.Dump(h.fs, dir, func(b journal.BlockInfo) error {
		if len(b.Records) > 0 {
			b.Records = nil
			blocks = append(blocks, b)
		}
		return nil
	})
	var already *journal.CorruptError
	if err != nil && !errors.As(err, &already) || len(blocks) < 3 {
		return false
	}
	b := blocks[w.rng.IntN(len(blocks)-2)]
	if !w.flips(h, b.File, b.Offset, b.Offset+min(b.Length, int64(b.Stored)+64)) {
		return false
	}
	w.reach(reachRotJournal)
	return true
}

func (w *world) rotsObject(h *host) bool {
	var names []string
	var sizes []int64
	live := 0                                       // the last of those that are a file's contents
	dirs, _ := h.fs.ReadDir(memberDir + "/objects") // none: nothing there yet
	for _, d := range dirs {
		list, _ := h.fs.ReadDir(path.Join(memberDir, "objects", d.Name))
		for _, e := range list {
			names, sizes = append(names, path.Join(memberDir, "objects", d.Name, e.Name)), append(sizes, e.Size)
			if h.names(e.Name) && !w.chance(4) {
				live = len(names)
			}
		}
	}
	if len(names) == 0 {
		return false
	}
	for range 1 + w.upTo(3) {
		n := w.rng.IntN(len(names))
		if live > 0 {
			n, live = live-1, 0
		}
		to := sizes[n]
		if !w.chance(4) {
			to = min(to, 128) // not in what lies past the contents
		}
		if w.flips(h, names[n], 0, to) {
			w.reach(reachRotObject)
			h.rotObject(path.Base(names[n]))
		}
	}
	return true
}

// rotObject notes that an object has a flipped bit.
func (r *rot) rotObject(name string) {
	raw, err := hex.DecodeString(name)
	if err != nil || len(raw) != 8 { // the checksums of one
		return
	}
	if r.rotted == nil {
		r.rotted = map[wire.ID]bool{}
	}
	id := wire.ID(binary.BigEndian.Uint64(raw))
	r.rotted[id] = true
	r.rotPart(id)
}

// names: does a row of the kv name the object?
func (h *host) names(object string) bool {
	id, err := hex.DecodeString(object)
	return err == nil && h.keys["s"+string(id)+"\x00\x00\x00\x00"]
}

// rotsRow flips a bit of a few rows' values, under the kv's feet.
func (w *world) rotsRow(h *host) bool {
	keys := slices.Sorted(maps.Keys(h.keys))
	if len(keys) == 0 {
		return false
	}
	if h.rows == nil {
		h.rows = map[string]int{}
	}
	for range 1 + w.upTo(3) {
		key := keys[w.rng.IntN(len(keys))]
		h.rows[key], h.rotten = w.rng.IntN(1<<12), true
		w.tracef("a bit FLIPS on %s: in the row %q", h.name, key)
		w.reach(reachRotRow)
	}
	return true
}

// rotsKV flips a bit of the kv's last transaction, which is then as if it had
// never been: bbolt, too, falls back to its other meta page.
func (w *world) rotsKV(h *host) bool {
	if !w.flips(h, memberDir+"/meta.db", h.last[0], h.last[1]) {
		return false
	}
	w.reach(reachRotKV)
	return true
}

// rotsFile flips a bit of a small file: FORMAT, the journal's identity.
func (w *world) rotsFile(h *host, dirs ...string) {
	var names []string
	for _, dir := range dirs {
		list, _ := h.fs.ReadDir(dir)
		for _, e := range list {
			if !e.IsDir && e.Size > 0 && e.Size < 4096 && e.Name != "meta.db" && e.Name != "LOCK" && !strings.HasPrefix(e.Name, "torn") {
				names = append(names, path.Join(dir, e.Name))
			}
		}
	}
	if len(names) > 0 && w.flips(h, names[w.rng.IntN(len(names))], 0, 16) {
		w.reach(reachRotFile)
	}
}

// mend restores the bits. What a process has met of them it may still hold
// against its disk.
func (w *world) mend(h *host) {
	w.tracef("%s's flipped bits are restored", h.name)
	h.fs.Mend()
	h.rows, h.rotten, h.hurt = nil, false, true
}

// excuses: is the error a consequence of what was done to the host? That of a
// rotten disk says that something is damaged.
func (h *host) excuses(err error) bool {
	if h.hurt {
		return true
	}
	var bad *journal.CorruptError
	var damaged *store.DamageError
	var we *wire.Error
	return (h.rotten || h.lossy) && (errors.As(err, &bad) || errors.As(err, &damaged) || errors.As(err, &we) && we.Code == wire.CodeCorrupt)
}

// corrupt mirrors damaged of package participant.
func corrupt(format string, args ...any) *wire.Error {
	return wire.NewError(wire.CodeCorrupt, fmt.Sprintf(format, args...))
}

// cuts notes the files of which a committed transaction cuts a rotten block, or
// writes a part of it.
func (p *member) cuts(tx *vote.Tx) {
	for i := range tx.Bounds {
		d := &tx.Bounds[i]
		for _, x := range d.Extents {
			if x.Stage == 0 {
				continue
			}
			if p.parts == nil {
				p.parts = map[wire.ID]wire.Ino{}
			}
			p.parts[x.Stage] = d.Ino
			p.rotPart(x.Stage)
		}
		if (d.Tail == nil || !d.Tail.Bad) && !slices.ContainsFunc(d.Sums, func(s vote.BlockSum) bool { return s.Bad }) {
			continue
		}
		if p.bad == nil {
			p.bad = map[wire.Ino]bool{}
		}
		if p.bad[d.Ino] = true; p.up {
			p.w.reach(reachRotTail)
		}
	}
}

// rottingKV is a kv some of whose rows have a flipped bit, until they are
// written again.
type rottingKV struct {
	store.KV
	h *host
}

// View implements store.KV.
func (k *rottingKV) View() (store.KVTx, error) {
	tx, err := k.KV.View()
	return &rottingTx{tx, k.h}, err
}

// Update implements store.KV.
func (k *rottingKV) Update(fn func(w store.KVWriter) error) error {
	var writes *rottingWriter
	before, fs := k.size(), k.h.fs
	err := k.KV.Update(func(w store.KVWriter) error {
		writes = &rottingWriter{w, map[string]bool{}}
		return fn(writes)
	})
	if err != nil || fs != k.h.fs {
		return err
	}
	k.h.last = [2]int64{before, k.size()}
	if k.h.keys == nil {
		k.h.keys = map[string]bool{}
	}
	for key, there := range writes.keys {
		delete(k.h.rows, key)
		if delete(k.h.keys, key); there {
			k.h.keys[key] = true
		}
	}
	return nil
}

// size is the length of the kv's file.
func (k *rottingKV) size() int64 {
	list, _ := k.h.fs.ReadDir(memberDir)
	for _, e := range list {
		if e.Name == "meta.db" {
			return e.Size
		}
	}
	return 0
}

type rottingWriter struct {
	store.KVWriter
	keys map[string]bool // false: deleted
}

func (w *rottingWriter) Put(key string, val []byte) error {
	w.keys[key] = true
	return w.KVWriter.Put(key, val)
}

func (w *rottingWriter) Delete(key string) error {
	w.keys[key] = false
	return w.KVWriter.Delete(key)
}

type rottingTx struct {
	store.KVTx
	h *host
}

// flip spoils a row's value, if it is to be.
func (h *host) flip(key string, val []byte) []byte {
	if bit, ok := h.rows[key]; ok && len(val) > 0 {
		bit %= 8 * len(val)
		val[bit/8] ^= 1 << (bit % 8)
	}
	return val
}

func (t *rottingTx) Get(key string) ([]byte, bool, error) {
	val, ok, err := t.KVTx.Get(key)
	return t.h.flip(key, val), ok, err
}

func (t *rottingTx) Seek(from string) store.KVCursor {
	return &rottingCursor{t.KVTx.Seek(from), t.h}
}

type rottingCursor struct {
	store.KVCursor
	h *host
}

func (c *rottingCursor) Next() (string, []byte, bool, error) {
	key, val, ok, err := c.KVCursor.Next()
	return key, c.h.flip(key, val), ok, err
}

// settleRotten lets all other faults end while a participant's disk is rotten.
// If it comes to rest, what can be read there is what the others have.
func (w *world) settleRotten() {
	at := slices.IndexFunc(w.members, func(p *member) bool { return p.rotten })
	if at < 0 {
		return
	}
	w.tracef("--- the faults end, but P%d's disk is rotten", at)
	w.endFaults()
	p, other := w.members[at], w.members[(at+1)%len(w.members)]
	if !w.quietWithin(quietSteps / 4) {
		return
	}
	w.scrubs()
	same := w.same(other, p)
	if why := p.store.Damaged(); why != "" { // it answers nothing any more
		p.fail(corrupt("%s", why))
		w.afterStep()
		return
	}
	if w.reach(reachRotSettled); !same {
		w.violate("G7", "P%d's disk is rotten, and it shows other files:\n%s\nP%d:\n%s", at, w.dump(p), other.i, w.dump(other))
	}
}
