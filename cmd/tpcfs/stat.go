package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

func (a *app) statCommand() *cobra.Command {
	var f clientFlags
	var follow bool
	cmd := &cobra.Command{
		Use:   "stat NAME",
		Short: "Show what is known of a file",
		Long: `Shows a file's type, size, owner, number of names, times, inode, version and
extended attributes. The version names
the transaction that last changed the contents; put --if-version takes it. A
symbolic link is shown itself unless --follow is given.`,
		Example: `  tpcfs stat docs/notes
  tpcfs stat -o json docs/notes | jq -r .version`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.stat(cmd.Context(), f, follow, args[0]) },
	}
	f.add(cmd, defaultWait)
	cmd.Flags().BoolVarP(&follow, "follow", "L", false, "show what a symbolic link leads to")
	return cmd
}

func (a *app) stat(ctx context.Context, f clientFlags, follow bool, name string) error {
	c, err := a.connect(ctx, "stat", f)
	if err != nil {
		return err
	}
	defer closeClient(c)
	look := c.Lstat
	if follow {
		look = c.Stat
	}
	attr, err := look(ctx, name)
	if err != nil {
		return about(name, err)
	}
	info := newFileInfo(name, attr)
	if attr.Mode&wire.ModeType == wire.ModeSymlink {
		if info.Target, err = c.Readlink(ctx, name); err != nil {
			return about(name, err)
		}
	} else if info.Xattrs, err = xattrs(ctx, c, name); err != nil {
		return about(name, err)
	}
	return a.print(info, a.statText(info, attr.Mode))
}

// xattrs reads a file's extended attributes; one that goes meanwhile is left out.
func xattrs(ctx context.Context, c *client.Client, name string) (map[string][]byte, error) {
	names, err := c.Listxattr(ctx, name)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	values := map[string][]byte{}
	for _, n := range names {
		value, err := c.Getxattr(ctx, name, n)
		if err != nil && wire.CodeOf(err) != wire.CodeNoAttr {
			return nil, err
		}
		if err == nil {
			values[n] = value
		}
	}
	return values, nil
}

func (a *app) statText(i fileInfo, mode uint32) string {
	name := a.show(i.Name)
	if i.Target != "" {
		name += " -> " + a.show(i.Target)
	}
	at := func(t time.Time) string { return t.Format("2006-01-02 15:04:05.000000000 -0700") }
	kind := i.Type
	if i.Device != "" {
		kind += " " + i.Device
	}
	text := fmt.Sprintf(`    Name: %s
    Type: %s
    Size: %d bytes, %d blocks
    Mode: %s (%s)
   Owner: %d:%d
   Links: %d
   Inode: %d
 Version: %s
Modified: %s
 Changed: %s`, name, kind, i.Size, i.Blocks, i.Mode, client.FileMode(mode), i.UID, i.GID, i.Links, i.Inode, i.Version,
		at(i.Modified), at(i.Changed))
	for _, n := range slices.Sorted(maps.Keys(i.Xattrs)) {
		text += fmt.Sprintf("\n   Xattr: %s = %q", a.show(n), i.Xattrs[n])
	}
	return text
}
