package client

import (
	"slices"
	"testing"

	"tpcfs/wire"
)

// Names, nodes and extended attributes, with symbolic links on the way.
func TestNamesAndAttributes(t *testing.T) {
	f := NewFake()
	c := newClient(t, f, Options{UID: 5})
	ctx := t.Context()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(what, err)
		}
	}
	code := func(what string, err error, want wire.Code, name string) {
		t.Helper()
		e, ok := err.(*wire.Error) //nolint:errorlint // the client's errors are what they are
		if !ok || e.Code != want || e.Name != name {
			t.Errorf("%s: %v, want %v of %q", what, err, want, name)
		}
	}
	must("mkdir", c.Mkdir(ctx, "d", 0o755))
	must("symlink", c.Symlink(ctx, "d", "l"))
	_, err := c.WriteFile(ctx, "a", Bytes([]byte("1")), WriteOptions{})
	must("write", err)
	must("link", c.Link(ctx, "a", "l/b"))
	one, err := c.Stat(ctx, "a")
	must("stat", err)
	two, err := c.Stat(ctx, "d/b")
	if err != nil || one.Ino != two.Ino {
		t.Errorf("%d and %d are to be one file (%v)", one.Ino, two.Ino, err)
	}
	code("link over a name", c.Link(ctx, "a", "l/b"), wire.CodeExist, "l/b")
	code("rename over a name", c.RenameNoReplace(ctx, "a", "l/b"), wire.CodeExist, "l/b")
	_, err = c.WriteFile(ctx, "c", Bytes([]byte("2")), WriteOptions{})
	must("write", err)
	must("exchange", c.Exchange(ctx, "c", "l/b"))
	if attr, err := c.Stat(ctx, "c"); err != nil || attr.Ino != one.Ino {
		t.Errorf("after an exchange: %+v, %v", attr, err)
	}
	must("mknod", c.Mknod(ctx, "l/p", wire.ModeFifo|0o600, 0))
	if attr, err := c.Stat(ctx, "d/p"); err != nil || attr.Mode != wire.ModeFifo|0o600 || attr.UID != 5 {
		t.Errorf("fifo: %+v, %v", attr, err)
	}

	must("symlink", c.Symlink(ctx, "d/b", "to-b"))
	must("setxattr", c.Setxattr(ctx, "to-b", "user.a", []byte("v"), wire.XattrCreate))
	must("setxattr", c.Setxattr(ctx, "d/b", "user.b", []byte("w"), wire.XattrEither))
	if v, err := c.Getxattr(ctx, "d/b", "user.a"); err != nil || string(v) != "v" {
		t.Errorf("attribute %q, %v", v, err)
	}
	if names, err := c.Listxattr(ctx, "to-b"); err != nil || !slices.Equal(names, []string{"user.a", "user.b"}) {
		t.Errorf("attributes %q, %v", names, err)
	}
	must("removexattr", c.Removexattr(ctx, "to-b", "user.a"))
	_, err = c.Getxattr(ctx, "to-b", "user.a")
	code("getxattr of what is gone", err, wire.CodeNoAttr, "to-b")

	code("setxattr of too much", c.Setxattr(ctx, "a", "user.a", make([]byte, wire.MaxXattrValue+1), 0), wire.CodeTooMany, "a")
	code("setxattr of a name too long", c.Setxattr(ctx, "a", "user."+string(make([]byte, 251)), nil, 0), wire.CodeNameTooLong, "a")

	ino, err := c.CreateUnlinked(ctx, "l", 0)
	must("createUnlinked", err)
	must("link of what has no name", c.LinkUnlinked(ctx, ino, "l/named"))
	if attr, err := c.Stat(ctx, "d/named"); err != nil || attr.Ino != ino || attr.Mode&wire.ModePerm != 0o600 {
		t.Errorf("the file that was made without a name: %+v, %v", attr, err)
	}
}
