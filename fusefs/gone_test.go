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

// TestOpenFifoWithoutAName: the kernel opens a fifo without a word to the mount. Who has
// it open when its name goes, here or elsewhere, goes on with it as on a local disk.
func TestOpenFifoWithoutAName(t *testing.T) {
	for _, c := range []struct{ name, remove string }{
		{"unlinked", "rm $D/p"},
		{"replaced", ": > $D/f; mv $D/f $D/p"},
		{"by another", "mkdir $D/go"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newFake()
			s.before = func(m []wire.Mutation) error {
				if m[0].At.Path == "go" {
					s.drop("p")
				}
				return nil
			}
			dir, _ := mountAt(t, s, Options{})
			got := sh(t, dir, "mkfifo -m 640 $D/p; exec 3<>$D/p; "+c.remove+`
				chmod 600 /dev/fd/3; stat -Lc '%F %h %a' /dev/fd/3; echo through >&3; head -n 1 <&3; echo again > /dev/fd/3; head -n 1 /dev/fd/3`)
			if want := "fifo 0 600\nthrough\nagain\n"; got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
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
