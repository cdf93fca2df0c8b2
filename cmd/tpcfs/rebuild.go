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
	force   bool
}

func (f *rebuildFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.rebuild, "rebuild", false, "the coordinator's directory is lost for good, or older than what the participants hold: take who takes part, and all else, from them. All that are in sync have to be there. The coordinator that it replaces must not run any more; take the flag away afterwards")
	cmd.Flags().StringSliceVar(&f.lost, "lost", nil, "with --rebuild: the participants `NAME,...` have lost their data for good, too; all others have to be there. While fewer than --min-in-sync are lost, nothing that was acknowledged is")
	cmd.Flags().BoolVar(&f.force, "force", false, "with --lost: go on also where what was acknowledged may be lost with so many")
}

func (f *rebuildFlags) check(command string) error {
	if len(f.lost) > 0 && !f.rebuild {
		return usage(command, "--lost says with --rebuild who does not count; on a running cluster it is tpcfs resolve --lost")
	}
	if f.force && len(f.lost) == 0 {
		return usage(command, "--force goes with --rebuild --lost")
	}
	return nil
}

// rebuild does so before the coordinator is opened.
func (a *app) rebuild(ctx context.Context, f rebuildFlags, o coordinator.Options) error {
	if !f.rebuild {
		return nil
	}
	_, err := coordinator.Rebuild(ctx, o, coordinator.Word{Lost: f.lost, Force: f.force, By: whoAmI()})
	return err
}
