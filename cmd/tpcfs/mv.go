package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"tpcfs/wire/client"
)

func (a *app) mvCommand() *cobra.Command {
	var f clientFlags
	var exact, keep, exchange bool
	cmd := &cobra.Command{
		Use:   "mv FROM TO",
		Short: "Rename a file or a directory",
		Long: `Renames FROM to TO in one step: nobody sees both names or none. A file at TO is
replaced, with -n it is an error instead. If TO is a directory, FROM moves into
it (not with -T). With --exchange both names must exist and change places,
whatever they name.`,
		Example: `  tpcfs mv draft report
  tpcfs mv report archive/2026
  tpcfs mv -T new-config config    # config is an empty directory that new-config replaces
  tpcfs mv --exchange blue green   # in one step`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if keep && exchange {
				return &usageError{err: errors.New("--no-clobber and --exchange exclude each other"), help: cmd.CommandPath()}
			}
			rename := (*client.Client).Rename
			switch {
			case keep:
				rename = (*client.Client).RenameNoReplace
			case exchange:
				rename = (*client.Client).Exchange
			}
			return a.mv(cmd.Context(), f, rename, exact || exchange, args[0], args[1])
		},
	}
	f.add(cmd, defaultWait)
	cmd.Flags().BoolVarP(&exact, "exact", "T", false, "TO is the new name, also where it is a directory")
	cmd.Flags().BoolVarP(&keep, "no-clobber", "n", false, "replace nothing")
	cmd.Flags().BoolVar(&exchange, "exchange", false, "let FROM and TO change places")
	return cmd
}

func (a *app) mv(ctx context.Context, f clientFlags, rename func(*client.Client, context.Context, string, string) error, exact bool, from, to string) error {
	c, err := a.connect(ctx, "mv", f)
	if err != nil {
		return err
	}
	defer closeClient(c)
	if !exact {
		if to, err = inside(ctx, c, to, from); err != nil {
			return err
		}
	}
	if err := rename(c, ctx, from, to); err != nil {
		return about(from, err)
	}
	return a.print(nameResult{to, "renamed from " + from}, "")
}
