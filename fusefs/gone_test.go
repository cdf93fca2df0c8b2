package fusefs

import (
	"testing"

	"tpcfs/wire"
)

// drop removes what a name of the root leads to, as another client does. f.mu is held.
func (f *fake) drop(name string) {
	root := f.inodes[wire.RootIno]
	delete(f.inodes, root.names[name])
	delete(root.names, name)
	root.sorted = nil
}

// TestNewFileGoesAtOnce: what is made, and removed by another before its attributes were
// asked for, says nothing of its directory: that is still there, and can be changed.
func TestNewFileGoesAtOnce(t *testing.T) {
	s := newFake()
	s.after = func(m []wire.Mutation, _ wire.Outcome) error {
		if m[0].At.Path == "f" {
			s.after = nil
			s.drop("f")
		}
		return nil
	}
	dir, _ := mountAt(t, s, Options{})
	if got, want := sh(t, dir, ": > $D/f; chmod 750 $D; stat -c '%h %a' $D"), "2 750\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	s.set(func(s *fake) {
		if mode := s.inodes[wire.RootIno].attr.Mode & wire.ModePerm; mode != 0o750 {
			t.Errorf("the service has mode %o", mode)
		}
	})
}
