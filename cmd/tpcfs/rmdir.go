package main

import (
	"context"

	"github.com/spf13/cobra"
)

func (a *app) rmdirCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:     "rmdir NAME",
		Short:   "Delete an empty directory",
		Long:    "Deletes the directory NAME, which must be empty.",
		Example: "  tpcfs rmdir archive/2025\n  tpcfs rm old/a old/b && tpcfs rmdir old",
		Args:    takes(1, 1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.rmdir(cmd.Context(), f, args[0]) },
	}
	f.add(cmd, defaultWait)
	return cmd
}

func (a *app) rmdir(ctx context.Context, f clientFlags, name string) error {
	c, err := a.connect(ctx, "rmdir", f)
	if err != nil {
		return err
	}
	defer closeClient(c)
	if err := c.Rmdir(ctx, name); err != nil {
		return about(name, err)
	}
	return a.print(nameResult{name, "deleted"}, "")
}
