package fusefs

import (
	"os"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

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

// TestLinkOfWhatHasGone says nothing of the directory either.
func TestLinkOfWhatHasGone(t *testing.T) {
	s := newFake()
	s.put("f", "")
	s.before = func(m []wire.Mutation) error {
		if m[0].Kind == wire.MutLink {
			return fakeErr(wire.CodeStale)
		}
		return nil
	}
	a, _ := rawOf(t, s)
	ino := a.lookup("f")
	a.wantLinks(wire.RootIno, 2)
	in := &fuse.LinkIn{InHeader: a.header(wire.RootIno), Oldnodeid: uint64(ino)}
	if status := a.fs.Link(nil, in, "g", &fuse.EntryOut{}); status != fuse.Status(syscall.ESTALE) {
		t.Errorf("link: %v", status)
	}
	a.wantLinks(wire.RootIno, 2)
}

// TestNewFileIsNotSaidToBeOpen: another mount may remove what is made here before this
// mount has it open, and be told that it is not. Then it is reclaimed, and must not be
// opened: what is written to it would be lost. It is made once more.
func TestNewFileIsNotSaidToBeOpen(t *testing.T) {
	s := newFake()
	a, _ := rawOf(t, s)
	s.after = func(m []wire.Mutation, out wire.Outcome) error {
		s.after = nil
		ino := out.Results[0].Ino
		s.inodes[ino].attr.Nlink = 0 // until it is reclaimed
		delete(s.inodes[wire.RootIno].names, "f")
		if holds := a.fs.heldOf([]wire.Ino{ino}); len(holds) != 0 {
			t.Errorf("it is held: %v", holds)
		}
		return nil
	}
	make := func() (uint64, fuse.Status) {
		out := &fuse.CreateOut{}
		status := a.fs.Create(nil, &fuse.CreateIn{InHeader: a.header(wire.RootIno), Flags: uint32(os.O_CREATE | os.O_EXCL | os.O_RDWR), Mode: 0o644}, "f", out)
		return out.Fh, status
	}
	if _, status := make(); status != fuse.Status(syscall.ESTALE) {
		t.Errorf("a file that is reclaimed is open: %v", status)
	}
	fh, status := make()
	if status != fuse.OK {
		t.Fatal(status)
	}
	a.release(fh)
}
