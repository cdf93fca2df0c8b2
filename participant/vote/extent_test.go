package vote

import (
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
