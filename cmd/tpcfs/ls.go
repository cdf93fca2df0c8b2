package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

func (a *app) lsCommand() *cobra.Command {
	var f clientFlags
	var long bool
	cmd := &cobra.Command{
		Use:   "ls [NAME]",
		Short: "List a directory",
		Long: `Lists the directory NAME (default: the root), one name a line, in byte order.
A NAME that is a file is shown itself. With -l: mode, links, user, group, size
in bytes, time of the last change, name.`,
		Example: `  tpcfs ls
  tpcfs ls -l docs
  tpcfs ls -o json docs | jq -r '.[].name'`,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ls(cmd.Context(), f, long, strings.Join(args, ""))
		},
	}
	f.add(cmd, defaultWait)
	cmd.Flags().BoolVarP(&long, "long", "l", false, "one line of attributes for each name")
	return cmd
}

func (a *app) ls(ctx context.Context, f clientFlags, long bool, name string) error {
	c, err := a.connect(ctx, "ls", f)
	if err != nil {
		return err
	}
	defer closeClient(c)
	entries, err := c.List(ctx, name)
	if wire.CodeOf(err) == wire.CodeNotDir {
		var attr wire.Attr
		if attr, err = c.Stat(ctx, name); err == nil {
			entries = []wire.DirEntry{{Name: name, Attr: attr}}
		}
	}
	if err != nil {
		return about(name, err)
	}
	if a.json() {
		files := make([]fileInfo, 0, len(entries))
		for _, e := range entries {
			files = append(files, newFileInfo(e.Name, e.Attr))
		}
		return a.print(files, "")
	}
	if !long {
		for _, e := range entries {
			if _, err := fmt.Fprintln(a.out, a.show(e.Name)); err != nil {
				return err
			}
		}
		return nil
	}
	for _, e := range entries {
		at := e.Attr
		if _, err := fmt.Fprintf(a.out, "%s %3d %5d %5d %12d %s %s\n", client.FileMode(at.Mode), at.Nlink, at.UID, at.GID, at.Size,
			time.Unix(0, at.Mtime).Format("2006-01-02 15:04:05"), a.show(e.Name)); err != nil {
			return err
		}
	}
	return nil
}
