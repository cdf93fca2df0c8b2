package vote

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"tpcfs/wire"
)

// history draws entries as a coordinator may put them and keeps what it would
// need to put them again.
type history struct {
	t        *rapid.T
	view     *fakeView
	m        *Machine
	prepares map[wire.Position]*wire.Entry
	records  [][]byte
	before   [][]byte                 // before[i] is the machine's snapshot before records[i]
	stages   map[wire.ID]wire.Content // all that there ever were
	doubt    []wire.ID
	next     uint64 // id counter
	seq      uint64
	now      int64
}

var testNames = []string{"a", "b", "d", "d/a", "d/b", "e", "e/a", "d/e", "e/d"}

func (h *history) name(label string) wire.At {
	if len(h.view.inodes) > 1 && rapid.IntRange(0, 2).Draw(h.t, "by inode") == 0 {
		inos := slices.Sorted(maps.Keys(h.view.inodes))
		return wire.At{Dir: rapid.SampledFrom(inos).Draw(h.t, "dir"), Path: rapid.SampledFrom([]string{"", "a", "d"}).Draw(h.t, label)}
	}
	return wire.At{Dir: wire.RootIno, Path: rapid.SampledFrom(testNames).Draw(h.t, label)}
}

func (h *history) mutation(e *wire.Entry) wire.Mutation {
	m := wire.Mutation{At: h.name("at"), Mode: 0o644}
	if rapid.IntRange(0, 2).Draw(h.t, "names and attributes") == 0 {
		h.metadata(&m)
		return m
	}
	switch rapid.IntRange(0, 9).Draw(h.t, "kind") {
	case 0:
		m.Kind, m.Hold = wire.MutDeleteFile, rapid.Bool().Draw(h.t, "hold")
	case 1, 2:
		m.Kind, m.Mode = wire.MutMkdir, 0o2755
	case 3:
		m.Kind = wire.MutRmdir
	case 4, 5:
		m.Kind, m.To = wire.MutRename, h.name("to")
		m.Rename = wire.RenameMode(rapid.IntRange(0, 2).Draw(h.t, "rename"))
		m.Hold = rapid.Bool().Draw(h.t, "hold")
	case 6:
		m.Kind, m.Target = wire.MutSymlink, "a"
	case 7:
		m.Kind, m.Set, m.Size, m.GID = wire.MutSetattr, wire.SetSize, 2, 5
		if rapid.Bool().Draw(h.t, "gid") {
			m.Set = wire.SetGID
		}
	default:
		m.Kind = wire.MutWriteFile
		if rapid.IntRange(0, 1).Draw(h.t, "parts") == 0 {
			h.parts(e, &m)
			return m
		}
		data := []byte(rapid.SampledFrom([]string{"", "x", "contents"}).Draw(h.t, "data"))
		m.Content = wire.Content{Size: int64(len(data)), Sum: wire.Sum(data)}
		if rapid.IntRange(0, 4).Draw(h.t, "staged") == 0 {
			h.next++
			m.Content = wire.Content{Stage: wire.MakeID(h.m.fence.Number, h.next), Size: 9, Sum: 9}
			h.view.stages[m.Content.Stage], h.stages[m.Content.Stage] = m.Content, m.Content
			return m
		}
		e.Payload = append(e.Payload, data...)
	}
	return m
}

// parts draws extents, an append, or a change of a range.
func (h *history) parts(e *wire.Entry, m *wire.Mutation) {
	at := int64(rapid.SampledFrom([]int{0, 3, 10, wire.BlockSize - 2, wire.BlockSize, wire.BlockSize + 5}).Draw(h.t, "at"))
	switch rapid.IntRange(0, 5).Draw(h.t, "how") {
	case 0:
		m.Kind = rapid.SampledFrom([]wire.MutationKind{wire.MutAllocate, wire.MutPunchHole, wire.MutZeroRange}).Draw(h.t, "range")
		m.Offset, m.Length = at, int64(rapid.SampledFrom([]int{1, 4, wire.BlockSize}).Draw(h.t, "length"))
		m.KeepSize = rapid.Bool().Draw(h.t, "keep size")
		return
	case 1, 2:
		m.Write, at = wire.WriteAppend, 0
	default:
		m.Write = wire.WriteExtents
		if rapid.IntRange(0, 3).Draw(h.t, "cut") == 0 {
			m.Set, m.Size = wire.SetSize, int64(rapid.SampledFrom([]int{0, 2, wire.BlockSize + 1}).Draw(h.t, "size"))
		}
	}
	for range rapid.IntRange(1, 2).Draw(h.t, "extents") {
		data := []byte(rapid.SampledFrom([]string{"x", "extent"}).Draw(h.t, "data"))
		x := wire.Extent{Offset: at, Size: int64(len(data)), Sum: wire.Sum(data)}
		if rapid.IntRange(0, 2).Draw(h.t, "staged") == 0 {
			h.next++
			x.Stage, x.Sum = wire.MakeID(h.m.fence.Number, h.next), 9
			c := wire.Content{Stage: x.Stage, Size: x.Size, Sum: 9}
			h.view.stages[x.Stage], h.stages[x.Stage] = c, c
			h.view.skews[x.Stage] = rapid.SampledFrom([]int64{at % wire.BlockSize, 7}).Draw(h.t, "skew")
		} else {
			e.Payload = append(e.Payload, data...)
		}
		m.Extents = append(m.Extents, x)
		at += x.Size + 1
	}
}

// metadata draws a mutation of names, nodes or extended attributes.
func (h *history) metadata(m *wire.Mutation) {
	switch rapid.IntRange(0, 6).Draw(h.t, "kind") {
	case 0, 1:
		m.Kind, m.To = wire.MutLink, h.name("to")
	case 2:
		m.Kind, m.Rdev = wire.MutMknod, 5
		m.Mode = rapid.SampledFrom([]uint32{0, wire.ModeRegular, wire.ModeFifo, wire.ModeChar, wire.ModeDir}).Draw(h.t, "type") | 0o600
	case 3, 4:
		m.Kind, m.Name, m.Value = wire.MutSetxattr, rapid.SampledFrom([]string{"user.a", "user.b", "trusted.a"}).Draw(h.t, "name"), []byte("v")
		m.Xattr = wire.XattrMode(rapid.IntRange(0, 2).Draw(h.t, "mode"))
		if rapid.IntRange(0, 2).Draw(h.t, "remove") == 0 {
			m.Kind, m.Value, m.Xattr = wire.MutRemovexattr, nil, 0
		}
	case 5:
		m.Kind = wire.MutCreateUnlinked
	default:
		m.Kind, m.At.Path = wire.MutReclaim, ""
	}
}

func (h *history) draw() *wire.Entry {
	e := &wire.Entry{}
	switch k := rapid.IntRange(0, 9).Draw(h.t, "entry"); {
	case k < 4 || len(h.doubt) == 0 && k < 8:
		e.Kind = wire.EntryPrepare
		n := rapid.IntRange(1, 3).Draw(h.t, "mutations")
		h.next++
		h.seq++
		p := &wire.Prepare{Tx: wire.MakeID(h.m.fence.Number, h.next), Config: h.m.config.ID, Op: wire.OpID{Seq: h.seq}, ServiceTime: h.now, Sent: h.now, W: h.m.w}
		if rapid.IntRange(0, 5).Draw(h.t, "again") == 0 {
			p.Op.Seq = uint64(rapid.IntRange(1, int(h.seq)).Draw(h.t, "op"))
		}
		for range n {
			p.Mutations = append(p.Mutations, h.mutation(e))
		}
		if rapid.IntRange(0, 3).Draw(h.t, "pack") == 0 {
			h.pack(e, p)
		}
		h.next += uint64(n)
		h.now += 100
		e.Prepare = p
	case k < 8:
		i := rapid.IntRange(0, len(h.doubt)-1).Draw(h.t, "which")
		e.Tx, e.Kind = h.doubt[i], wire.EntryCommit
		if k == 7 {
			e.Kind = wire.EntryAbort
		}
		h.doubt = append(h.doubt[:i:i], h.doubt[i+1:]...)
	case k == 8:
		e.Kind = wire.EntryVoid
	default:
		h.next++
		e.Kind, e.Tx = wire.EntryAbort, wire.MakeID(h.m.fence.Number, h.next)
	}
	return e
}

// pack moves a prepare's mutations and contents into a pack.
func (h *history) pack(e *wire.Entry, p *wire.Prepare) {
	h.next++
	b, err := wire.EncodePack(p.Mutations, e.Payload)
	if err != nil {
		h.t.Fatal(err)
	}
	p.Tx++ // the pack's stage has its number
	p.Pack = &wire.Pack{Stage: wire.MakeID(h.m.fence.Number, h.next-1), Size: int64(len(b)), Sum: 5, Count: len(p.Mutations), Name: "pack"}
	for i := range p.Mutations {
		p.Pack.Stages = append(p.Pack.Stages, p.Mutations[i].Stages()...)
	}
	p.Mutations, e.Payload = nil, nil
	c := wire.Content{Stage: p.Pack.Stage, Size: p.Pack.Size, Sum: 5}
	h.view.stages[c.Stage], h.stages[c.Stage], h.view.packs[c.Stage] = c, c, b
}

func (h *history) handle(e *wire.Entry) {
	e.Index = h.m.position.Index + 1
	h.before = append(h.before, h.m.Snapshot()) // of the state before
	r, err := h.m.Handle(e)
	if err != nil {
		h.t.Fatalf("entry %+v: %v", e, err)
	}
	h.records = append(h.records, bytes.Clone(r.Record))
	h.view.give(&r)
	if e.Kind == wire.EntryPrepare {
		h.prepares[r.Position] = e
	}
	for _, v := range r.SendAfterSync {
		h.doubt = append(h.doubt, v.Tx)
	}
}

func (h *history) greet(n uint64) {
	h.before = append(h.before, h.m.Snapshot())
	_, r, err := h.m.Greet(wire.Greet{Epoch: wire.Epoch{Number: n}}, wire.UUID{1})
	if err != nil {
		h.t.Fatal(err)
	}
	h.records = append(h.records, bytes.Clone(r.Record))
	h.next = 1
	h.handle(&wire.Entry{Kind: wire.EntryConfig, Config: &wire.Config{ID: wire.ConfigID{Epoch: n, Counter: 1}}, Root: &wire.Root{Mode: 0o755}})
	h.handle(&wire.Entry{Kind: wire.EntryOpen})
}

func (h *history) beat() {
	h.before = append(h.before, h.m.Snapshot())
	w := h.m.position
	for _, t := range h.m.txs {
		if t.state == wire.TxPrepared && !w.Before(t.prepared) {
			w = wire.Position{Epoch: t.prepared.Epoch, Index: t.prepared.Index - 1}
		}
	}
	r, err := h.m.Heartbeat(w, h.now)
	if err != nil {
		h.t.Fatal(err)
	}
	if r.Record == nil {
		h.before = h.before[:len(h.before)-1]
		return
	}
	h.records = append(h.records, bytes.Clone(r.Record))
}

// TestReplayEqualsTheMachine runs random entries; crashes at a random durable
// prefix; restores from the snapshot of an even earlier moment, which a
// checkpoint kept, and replays the rest; compares with the machine as it was
// then; resumes the stream from there (P10) and compares with the machine that
// never crashed.
func TestReplayEqualsTheMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := newFakeView()
		h := &history{t: t, view: v, m: New(v), prepares: map[wire.Position]*wire.Entry{}, stages: map[wire.ID]wire.Content{}, now: 1}
		h.greet(1)
		epoch := uint64(1)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 19).Draw(t, "step") {
			case 0:
				epoch++
				h.greet(epoch)
			case 1, 2:
				h.beat()
			default:
				h.handle(h.draw())
			}
		}
		checkTree(t, v)
		durable := rapid.IntRange(0, len(h.records)).Draw(t, "durable")
		checkpoint := rapid.IntRange(0, durable).Draw(t, "checkpoint")
		again := h.restart(checkpoint, durable)
		if err := h.resume(again, durable); err != nil {
			t.Fatal(err)
		}
		if err := sameMachine(h.m, again.m); err != nil {
			t.Fatalf("resumed: %v", err)
		}
		if fmt.Sprint(again.v.entries) != fmt.Sprint(v.entries) || fmt.Sprint(again.v.inodes) != fmt.Sprint(v.inodes) ||
			fmt.Sprint(again.v.xattrs) != fmt.Sprint(v.xattrs) || fmt.Sprint(again.v.holders) != fmt.Sprint(v.holders) {
			t.Fatalf("resumed: the files differ\n%v\n%v", again.v.entries, v.entries)
		}
	})
}

type restarted struct {
	v *fakeView
	m *Machine
}

// restart is a machine with the state of a crash after durable records.
func (h *history) restart(checkpoint, durable int) restarted {
	v := newFakeView()
	v.skews = h.view.skews
	v.packs = h.view.packs // each stays until a checkpoint has passed its decision
	// The checkpoint holds the files as of its moment.
	m := New(v)
	replayAll(h.t, m, v, h.records[:checkpoint])
	v.stages = map[wire.ID]wire.Content{}
	for id, c := range h.view.stages {
		v.stages[id] = c
	}
	state := m.Snapshot()
	if checkpoint < len(h.before) && !bytes.Equal(state, h.before[checkpoint]) {
		h.t.Fatalf("replay of %d records gives another state than handling them", checkpoint)
	}
	m, err := Restore(v, state)
	if err != nil {
		h.t.Fatal(err)
	}
	replayAll(h.t, m, v, h.records[checkpoint:durable])
	if durable < len(h.before) && !bytes.Equal(m.Snapshot(), h.before[durable]) {
		h.t.Fatalf("replay of %d records from a snapshot gives another state than handling them", durable)
	}
	return restarted{v, m}
}

// resume gives the machine what it has lost, from the records that tell in
// which order it all came. Stages are durable before their prepare is put.
func (h *history) resume(r restarted, durable int) error {
	r.v.stages = maps.Clone(h.stages)
	for _, b := range h.records[durable:] {
		rec, _ := DecodeRecord(b)
		var out Ready
		var err error
		switch rec.Kind {
		case KindEpoch:
			_, out, err = r.m.Greet(wire.Greet{Epoch: rec.Epoch}, wire.UUID{1})
		case KindWatermark:
			out, err = r.m.Heartbeat(rec.W, rec.ServiceTime)
		default:
			out, err = r.m.Handle(h.again(rec))
		}
		if err != nil {
			return fmt.Errorf("%v again: %w", rec.Kind, err)
		}
		if !bytes.Equal(out.Record, b) {
			return fmt.Errorf("%v again: other bytes than the first time", rec.Kind)
		}
		r.v.give(&out)
	}
	return nil
}

// again is the entry that a record came from.
func (h *history) again(rec *Record) *wire.Entry {
	e := &wire.Entry{Index: rec.Position.Index, Tx: rec.ID}
	switch rec.Kind {
	case KindCommit:
		e.Kind = wire.EntryCommit
	case KindAbort:
		e.Kind = wire.EntryAbort
	case KindVoid:
		e.Kind = wire.EntryVoid
	case KindConfig:
		e.Kind, e.Config, e.Root = wire.EntryConfig, rec.Config, rec.Root
	case KindOpen:
		e.Kind = wire.EntryOpen
	default:
		return h.prepares[rec.Position]
	}
	return e
}

// checkTree finds what no order of commits may leave: a directory that is cut
// off from the root, a wrong count of entries or of links, an inode without a name.
func checkTree(t *rapid.T, v *fakeView) {
	entries, names, subdirs := map[wire.Ino]int64{}, map[wire.Ino]uint32{}, map[wire.Ino]uint32{}
	for e, ino := range v.entries {
		n, ok := v.inodes[ino]
		if !ok {
			t.Fatalf("entry %v names inode %d, which is not there", e, ino)
		}
		entries[e.Dir]++
		names[ino]++
		if n.Attr.Mode&wire.ModeType == wire.ModeDir {
			subdirs[e.Dir]++
			if n.Attr.Parent != e.Dir {
				t.Fatalf("directory %d is in %d and says %d", ino, e.Dir, n.Attr.Parent)
			}
		}
	}
	for ino, n := range v.inodes {
		if n.Attr.Mode&wire.ModeType != wire.ModeDir {
			if names[ino] != n.Attr.Nlink {
				t.Fatalf("inode %d has %d names and %d links", ino, names[ino], n.Attr.Nlink)
			}
			if _, held := v.holders[ino]; held != (n.Attr.Nlink == 0) {
				t.Fatalf("inode %d has %d links and is held: %t", ino, n.Attr.Nlink, held)
			}
			continue
		}
		if entries[ino] != n.Attr.Size || subdirs[ino]+2 != n.Attr.Nlink || ino != wire.RootIno && names[ino] != 1 {
			t.Fatalf("directory %d: %d entries, %d directories, %d names, attributes %+v", ino, entries[ino], subdirs[ino], names[ino], n.Attr)
		}
		for depth, at := 0, ino; at != wire.RootIno; depth++ {
			if at = v.inodes[at].Attr.Parent; depth > len(v.inodes) {
				t.Fatalf("directory %d does not lead to the root", ino)
			}
		}
	}
}
