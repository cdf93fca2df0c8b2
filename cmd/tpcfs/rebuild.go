package main

import (
	"context"

	"github.com/spf13/cobra"

	"tpcfs/coordinator"
)

// rebuildFlags are those with which a coordinator's lost directory is made up for (P13).
type rebuildFlags struct {
	rebuild bool
	lost    []string
}

func (f *rebuildFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.rebuild, "rebuild", false, "the coordinator's directory is lost for good, or older than what the participants hold: take who takes part, and all else, from them. All that are in sync have to be there. The coordinator that it replaces must not run any more")
	cmd.Flags().StringSliceVar(&f.lost, "lost", nil, "with --rebuild: the participants `NAME,...` have lost their data for good, too; all others have to be there. Of what had been acknowledged each that was in sync has everything")
}

func (f *rebuildFlags) check(command string) error {
	if len(f.lost) > 0 && !f.rebuild {
		return usage(command, "--lost says with --rebuild who does not count; on a running cluster it is tpcfs resolve --lost")
	}
	return nil
}

// rebuild does so before the coordinator is opened.
func (a *app) rebuild(ctx context.Context, f rebuildFlags, o coordinator.Options) error {
	if !f.rebuild {
		return nil
	}
	done, err := coordinator.Rebuild(ctx, o, f.lost, whoAmI())
	if err == nil && !done {
		a.logger().Warn("--rebuild has nothing to do: the journal is as new as what the participants hold; leave the flag out", "dir", o.Dir)
	}
	return err
}
