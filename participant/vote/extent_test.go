package vote

import (
	"bytes"
	"slices"
	"testing"

	"tpcfs/wire"
)

// A PREPARE's extents name their stages as contents do: until the decision
// nobody else may have them, and nobody sweeps them.
func TestStagesOfExtents(t *testing.T) {
	tx := &Tx{Bounds: []Bound{{Content: wire.Content{Stage: 3}}, {Extents: []wire.Extent{{Stage: 5}, {}, {Stage: 7}}}}}
	if got := tx.Stages(); !slices.Equal(got, []wire.ID{3, 5, 7}) {
		t.Errorf("stages %v", got)
	}
}

// What no file can take is refused by every replica alike.
func TestExtentLimits(t *testing.T) {
	many := make([]wire.Extent, wire.MaxExtents+1)
	for i := range many {
		many[i] = wire.Extent{Offset: int64(i), Size: 1}
	}
	for _, c := range []struct {
		name string
		m    wire.Mutation
		want wire.Code
	}{
		{"fits", wire.Mutation{Extents: many[:wire.MaxExtents]}, 0},
		{"too many", wire.Mutation{Extents: many}, wire.CodeTooMany},
		{"to the last byte", wire.Mutation{Extents: []wire.Extent{{Offset: wire.MaxFileSize - 1, Size: 1}}}, 0},
		{"beyond it", wire.Mutation{Extents: []wire.Extent{{Offset: wire.MaxFileSize - 1, Size: 2}}}, wire.CodeTooLarge},
		{"far beyond it", wire.Mutation{Extents: []wire.Extent{{Offset: 1 << 62, Size: 1 << 62}}}, wire.CodeTooLarge},
		{"append beyond it", wire.Mutation{Write: wire.WriteAppend, Extents: []wire.Extent{{Size: wire.MaxFileSize - 99}}}, wire.CodeTooLarge},
		{"append up to it", wire.Mutation{Write: wire.WriteAppend, Extents: []wire.Extent{{Size: wire.MaxFileSize - 100}}}, 0},
		{"empty", wire.Mutation{Extents: []wire.Extent{{Offset: 1}}}, wire.CodeInvalid},
		{"overlapping", wire.Mutation{Extents: []wire.Extent{{Size: 5}, {Offset: 4, Size: 1}}}, wire.CodeInvalid},
		{"negative", wire.Mutation{Extents: []wire.Extent{{Offset: -1, Size: 5}}}, wire.CodeInvalid},
		{"size too large", wire.Mutation{Set: wire.SetSize, Size: wire.MaxFileSize + 1}, wire.CodeTooLarge},
		{"size of an append", wire.Mutation{Write: wire.WriteAppend, Set: wire.SetSize, Extents: many[:1]}, wire.CodeInvalid},
		{"contents as well", wire.Mutation{Content: wire.Content{Size: 1}}, wire.CodeInvalid},
	} {
		if c.m.Write == 0 {
			c.m.Write = wire.WriteExtents
		}
		if err := checkExtents(&c.m, 100); wire.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want code %d", c.name, err, c.want)
		}
	}
}

// An image whose memory another prepare has used holds nothing of that.
func TestImagesBeginClean(t *testing.T) {
	v := newFakeView()
	v.data[7] = []byte("decided")
	b := &binder{overlay: newOverlay(v, lockTable{}, 1), spare: &spareImages{}}
	for name, c := range map[string]struct {
		contents
		want []byte
	}{
		"a new file":     {contents{base: baseNone}, nil},
		"inline":         {contents{base: baseData, data: []byte("inline")}, []byte("inline")},
		"past inline":    {contents{base: baseData}, nil},
		"staged":         {contents{base: baseStage, stage: 3, size: 5}, v.stagedBytes(3, 5)},
		"past staged":    {contents{base: baseStage, stage: 3}, nil},
		"what it was":    {contents{base: baseView}, []byte("decided")},
		"with its rot":   {contents{base: baseView}, nil},
		"behind its end": {contents{base: baseView}, nil},
	} {
		used := &image{rotten: []span{{1, 2}}, done: 9}
		for i := range used.data {
			used.data[i] = 0xff
		}
		b.spare.put(map[imageKey]*image{{}: used})
		img := b.spare.get()
		if img != used || img.rotten != nil || img.done != 0 {
			t.Fatalf("%s: not the one that was put, as a new one: %v, %d", name, img.rotten, img.done)
		}
		ino := wire.Ino(7)
		if name == "behind its end" {
			ino = 8
		}
		v.rotten[7] = name == "with its rot"
		if err := b.base(&node{Inode: Inode{Attr: wire.Attr{Ino: ino}}, contents: &c.contents}, 0, img, wire.At{}); err != nil {
			t.Fatal(err)
		}
		want := make([]byte, wire.BlockSize)
		copy(want, c.want)
		if !bytes.Equal(img.data[:], want) {
			t.Errorf("%s: it begins with %q", name, img.data[:10])
		}
	}
	many := map[imageKey]*image{}
	for i := range int64(maxSpare + 1) {
		many[imageKey{block: i}] = &image{}
	}
	if b.spare.put(many); len(b.spare.free) != maxSpare || len(many) != 0 {
		t.Errorf("%d images are kept, want %d", len(b.spare.free), maxSpare)
	}
}
