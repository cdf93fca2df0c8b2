package main

import (
	"context"
	"path"

	"github.com/spf13/cobra"

	"tpcfs/wire"
)

func (a *app) mvCommand() *cobra.Command {
	var f clientFlags
	var exact bool
	cmd := &cobra.Command{
		Use:   "mv FROM TO",
		Short: "Rename a file or a directory",
		Long: `Renames FROM to TO in one step: nobody sees both names or none. A file at TO is
replaced. If TO is a directory, FROM moves into it (not with -T).`,
		Example: `  tpcfs mv draft report
  tpcfs mv report archive/2026
  tpcfs mv -T new-config config    # config is an empty directory that new-config replaces`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.mv(cmd.Context(), f, exact, args[0], args[1]) },
	}
	f.add(cmd, defaultWait)
	cmd.Flags().BoolVarP(&exact, "exact", "T", false, "TO is the new name, also where it is a directory")
	return cmd
}

func (a *app) mv(ctx context.Context, f clientFlags, exact bool, from, to string) error {
	c, err := a.connect(ctx, "mv", f)
	if err != nil {
		return err
	}
	defer closeClient(c)
	if !exact {
		attr, err := c.Stat(ctx, to)
		switch {
		case err == nil && attr.Mode&wire.ModeType == wire.ModeDir:
			to = path.Join(to, path.Base("/"+from))
		case err != nil && wire.CodeOf(err) != wire.CodeNotExist:
			return about(to, err)
		}
	}
	if err := c.Rename(ctx, from, to); err != nil {
		return about(from, err)
	}
	return a.print(nameResult{to, "renamed from " + from}, "")
}
