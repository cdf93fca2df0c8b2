package main

import (
	"context"
	"math"

	"github.com/spf13/cobra"
)

func (a *app) rmCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "rm NAME...",
		Short: "Delete files",
		Long: `Deletes files, one after the other. Each is deleted everywhere or nowhere. A
name that cannot be deleted is reported and the next one is tried; the exit
code is that of the first failure.`,
		Example: `  tpcfs rm docs/notes
  tpcfs rm old/a old/b && tpcfs rmdir old`,
		Args: takes(1, math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error { return a.rm(cmd.Context(), f, args) },
	}
	f.add(cmd, defaultWait)
	return cmd
}

// nameResult is what -o json prints for each name that was dealt with.
type nameResult struct {
	Name string `json:"name"`
	Done string `json:"done"`
}

func (a *app) rm(ctx context.Context, f clientFlags, names []string) error {
	c, err := a.connect(ctx, "rm", f)
	if err != nil {
		return err
	}
	defer closeClient(c)
	var failed *exitError
	for _, name := range names {
		err := about(name, c.DeleteFile(ctx, name))
		if err == nil {
			err = a.print(nameResult{name, "deleted"}, "")
		}
		if err == nil {
			continue
		}
		if code := a.report("rm", err); failed == nil {
			failed = &exitError{code: code, err: err, silent: true}
		}
		if ctx.Err() != nil {
			break
		}
	}
	if failed != nil {
		return failed
	}
	return nil
}
