package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"tpcfs/participant"
	"tpcfs/wire"
)

func (a *app) exportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "export DATADIR OUT",
		Short: "Write one participant's files to a plain directory",
		Long: `Writes all files out of one participant's data directory into the directory
OUT, which must be missing or empty. Nothing else of tpcfs need run, and the
participant itself must not. For ` + "`tpcfs up`" + ` that is one of the directories
participant-a, participant-b, ... below its --dir.`,
		Example: `  tpcfs export tpcfs-data/participant-a /backup/today
  tpcfs export -o json /srv/tpcfs-a ./copy`,
		Args: takes(2, 2),
		RunE: func(c *cobra.Command, args []string) error { return a.export(c.Context(), args[0], args[1]) },
	}
}

// exportResult is what -o json prints.
type exportResult struct {
	Out   string `json:"out"`
	Files int    `json:"files"`
	Bytes int64  `json:"bytes"`
}

func (a *app) export(ctx context.Context, dir, out string) error {
	if parts, _ := filepath.Glob(filepath.Join(dir, participantDirs)); len(parts) > 0 {
		return fmt.Errorf("%s holds several participants: export one of them, as in tpcfs export %s %s", dir, parts[0], out)
	}
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	result := exportResult{Out: out}
	bar := a.meter("export", -1)
	err := participant.Export(ctx, participant.Options{Dir: dir, Logger: a.logger()}, out, func(files int, bytes int64) {
		result.Files, result.Bytes = files, bytes
		bar.set(bytes)
	})
	bar.done()
	if err != nil {
		return err
	}
	return a.print(result, fmt.Sprintf("%d files, %s in %s", result.Files, wire.SizeText(uint64(result.Bytes)), out))
}
