package main

import (
	"github.com/spf13/cobra"

	"tpcfs/fusefs"
	"tpcfs/wire"
)

func (a *app) umountCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "umount MOUNTPOINT",
		Short: "Unmount",
		Long: `Takes the mount on MOUNTPOINT away. While it is in use, it disappears from its
directory at once, and those who have files open keep them until they close
them. A mount that a killed process has left is taken away too.`,
		Example: "  tpcfs umount /tmp/files\n  tpcfs umount ./mnt    # of a tpcfs mount or tpcfs up, also one that was killed",
		Args:    takes(1, 1),
		RunE:    func(_ *cobra.Command, args []string) error { return a.umount(args[0]) },
	}
}

// umountResult is what -o json prints.
type umountResult struct {
	Mountpoint string `json:"mountpoint"`
	Busy       bool   `json:"busy"` // in use: only detached
}

func (a *app) umount(mountpoint string) error {
	result := umountResult{Mountpoint: mountpoint}
	err := fusefs.Unmount(mountpoint, false)
	if wire.CodeOf(err) == wire.CodeBusy {
		result.Busy = true
		err = fusefs.Unmount(mountpoint, true)
	}
	if err != nil {
		return err
	}
	text := ""
	if result.Busy {
		text = mountpoint + " was in use: it is detached now and ends when the last user closes it"
	}
	return a.print(result, text)
}
