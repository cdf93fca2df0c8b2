package main

import (
	"context"
	"path"

	"github.com/spf13/cobra"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

func (a *app) lnCommand() *cobra.Command {
	var f clientFlags
	var symbolic, exact bool
	cmd := &cobra.Command{
		Use:   "ln TARGET NAME",
		Short: "Give a file one more name, or make a symbolic link",
		Long: `Gives the file TARGET the name NAME as well: both are the same file, which goes
when its last name goes. With -s NAME becomes a symbolic link instead, which
holds the text TARGET; that need not exist, and counts from the directory of
NAME unless it begins with "/". If NAME is a directory, the new name is made in
it (not with -T). What exists is not replaced.`,
		Example: `  tpcfs ln report archive/report-2026
  tpcfs ln -s ../shared/config config`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ln(cmd.Context(), f, symbolic, exact, args[0], args[1])
		},
	}
	f.add(cmd, defaultWait)
	cmd.Flags().BoolVarP(&symbolic, "symbolic", "s", false, "make a symbolic link")
	cmd.Flags().BoolVarP(&exact, "exact", "T", false, "NAME is the new name, also where it is a directory")
	return cmd
}

func (a *app) ln(ctx context.Context, f clientFlags, symbolic, exact bool, target, name string) error {
	c, err := a.connect(ctx, "ln", f)
	if err != nil {
		return err
	}
	defer closeClient(c)
	if !exact {
		if name, err = inside(ctx, c, name, target); err != nil {
			return err
		}
	}
	how := "linked to "
	if symbolic {
		how = "symbolic link to "
		err = about(name, c.Symlink(ctx, target, name))
	} else {
		err = about(target, c.Link(ctx, target, name))
	}
	if err != nil {
		return err
	}
	return a.print(nameResult{name, how + target}, "")
}

// inside is to, or the last component of from in it if to is a directory.
func inside(ctx context.Context, c *client.Client, to, from string) (string, error) {
	attr, err := c.Stat(ctx, to)
	switch {
	case err == nil && attr.Mode&wire.ModeType == wire.ModeDir:
		return path.Join(to, path.Base("/"+from)), nil
	case err != nil && wire.CodeOf(err) != wire.CodeNotExist:
		return "", about(to, err)
	}
	return to, nil
}
