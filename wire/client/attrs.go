package client

import (
	"cmp"
	"context"

	"tpcfs/wire"
)

// Mknod makes a regular file, fifo, socket or device: mode holds the type and
// the permission bits, rdev the number of a device, as in mknod(2).
func (c *Client) Mknod(ctx context.Context, name string, mode, rdev uint32) error {
	return c.mutate(ctx, "mknod", name, wire.Mutation{Kind: wire.MutMknod, Mode: mode, Rdev: rdev, UID: c.o.UID, GID: c.o.GID})
}

// Setxattr gives a file an extended attribute, as mode says (setxattr(2)):
// CodeExist if it must be new and is not, CodeNoAttr if it must exist and does
// not. A symbolic link as the last component is followed.
func (c *Client) Setxattr(ctx context.Context, name, attr string, value []byte, mode wire.XattrMode) error {
	return c.followLast(ctx, "setxattr", name, func(o *operation, a wire.Attr) error {
		return o.mutate(wire.Mutation{Kind: wire.MutSetxattr, At: wire.At{Dir: a.Ino}, Name: attr, Value: value, Xattr: mode})
	})
}

// Removexattr takes an extended attribute away; CodeNoAttr if there is none of
// that name. A symbolic link as the last component is followed.
func (c *Client) Removexattr(ctx context.Context, name, attr string) error {
	return c.followLast(ctx, "removexattr", name, func(o *operation, a wire.Attr) error {
		return o.mutate(wire.Mutation{Kind: wire.MutRemovexattr, At: wire.At{Dir: a.Ino}, Name: attr})
	})
}

// Getxattr returns the value of an extended attribute; CodeNoAttr if there is
// none of that name. A symbolic link as the last component is followed.
func (c *Client) Getxattr(ctx context.Context, name, attr string) ([]byte, error) {
	var value []byte
	err := c.followLast(ctx, "getxattr", name, func(o *operation, a wire.Attr) error {
		reply, err := o.read(wire.Read{Kind: wire.ReadGetxattr, At: wire.At{Dir: a.Ino}, Name: attr}, nil)
		value = reply.Value
		return err
	})
	return value, err
}

// Listxattr returns the names of a file's extended attributes, in the order of
// their bytes. A symbolic link as the last component is followed.
func (c *Client) Listxattr(ctx context.Context, name string) ([]string, error) {
	var names []string
	err := c.followLast(ctx, "listxattr", name, func(o *operation, a wire.Attr) error {
		reply, err := o.read(wire.Read{Kind: wire.ReadListxattr, At: wire.At{Dir: a.Ino}}, nil)
		names = reply.Names
		return err
	})
	return names, err
}

// CreateUnlinked makes an empty regular file without a name, as if in the
// directory dir (open(2) with O_TMPFILE). Mode 0 is 0600. It is reached by its
// number, wire.At{Dir: ino}, and goes with the client's session unless
// LinkUnlinked has given it a name.
func (c *Client) CreateUnlinked(ctx context.Context, dir string, mode uint32) (wire.Ino, error) {
	var outcome wire.Outcome
	err := c.followLast(ctx, "createUnlinked", dir, func(o *operation, a wire.Attr) error {
		t, err := o.prepare([]wire.Mutation{{Kind: wire.MutCreateUnlinked, At: wire.At{Dir: a.Ino},
			Mode: cmp.Or(mode, 0o600), UID: c.o.UID, GID: c.o.GID}}, nil)
		if err != nil {
			return err
		}
		outcome, err = only(t.commit())
		return err
	})
	if err != nil {
		return 0, err
	}
	return outcome.Results[0].Ino, nil
}

// LinkUnlinked gives a file that CreateUnlinked has made its name.
func (c *Client) LinkUnlinked(ctx context.Context, ino wire.Ino, name string) error {
	return c.follow(ctx, "link", name, func(o *operation, path string) error {
		return o.mutate(wire.Mutation{Kind: wire.MutLink, At: wire.At{Dir: ino}, To: wire.At{Dir: wire.RootIno, Path: path}})
	})
}
