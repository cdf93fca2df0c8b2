package vote

import (
	"fmt"
	"slices"
	"testing"

	"tpcfs/wire"
)

// A mount forgets what is in here and keeps all else: what a bound changes must
// be, and of more than can be told everything is.
func TestTouched(t *testing.T) {
	for _, tc := range []struct {
		bound Bound
		inos  []wire.Ino
		names string
	}{
		{Bound{Kind: wire.MutSetattr, Ino: 5}, []wire.Ino{5}, "[]"},
		{Bound{Kind: wire.MutWriteFile, Ino: 5, Dir: 1, Name: "f", Created: true}, []wire.Ino{5, 1}, "[1/f]"},
		{Bound{Kind: wire.MutDeleteFile, Ino: 5, Dir: 1, Name: "f"}, []wire.Ino{5, 1}, "[1/f]"},
		{Bound{Kind: wire.MutRename, Ino: 5, Dir: 1, Name: "f", ToDir: 2, ToName: "g", Replaced: 6}, []wire.Ino{5, 1, 2, 6}, "[1/f 2/g]"},
		{Bound{Kind: wire.MutRename, Ino: 5, Dir: 1, Name: "f", ToDir: 1, ToName: "g"}, []wire.Ino{5, 1}, "[1/f 1/g]"},
	} {
		got := (&Tx{Bounds: []Bound{tc.bound, tc.bound}}).touched()
		var names []string
		for _, at := range got.Names {
			names = append(names, fmt.Sprintf("%d/%s", at.Dir, at.Path))
		}
		if got.Wide || !slices.Equal(got.Inos, tc.inos) || fmt.Sprint(names) != tc.names {
			t.Errorf("%+v: %+v", tc.bound, got)
		}
	}
	many := &Tx{}
	for i := range wire.MaxTouched + 1 {
		if many.touched().Wide {
			t.Fatalf("%d inodes are too many", i)
		}
		many.Bounds = append(many.Bounds, Bound{Kind: wire.MutSetattr, Ino: wire.Ino(i + 2)})
	}
	if got := many.touched(); !got.Wide || len(got.Inos) > 0 {
		t.Errorf("%d inodes: %+v", len(many.Bounds), got)
	}
}
