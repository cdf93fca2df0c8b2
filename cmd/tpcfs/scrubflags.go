package main

import (
	"time"

	"github.com/spf13/cobra"

	"tpcfs/coordinator"
)

// scrubFlags say when a coordinator scrubs by itself, and how fast.
type scrubFlags struct {
	every time.Duration
	rate  string
}

func (f *scrubFlags) add(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.every, "scrub-every", 7*24*time.Hour, "how often all that the participants hold is verified, compared and repaired in the background (tpcfs scrub); 0: only where a scrub was cut short, or what it has found is lost")
	cmd.Flags().StringVar(&f.rate, "scrub-rate", "64m", "`bytes` a second (k, m, g) that a scrub reads at each participant; 0: no limit")
}

func (f *scrubFlags) check(command string) error {
	if f.every < 0 || f.every > 0 && f.every < time.Minute {
		return usage(command, "--scrub-every %s: 1m or more, or 0 for never", f.every)
	}
	if _, err := parseSize(f.rate); err != nil {
		return usage(command, "--scrub-rate %v", err)
	}
	return nil
}

// fill puts what check has found right into a coordinator's options.
func (f *scrubFlags) fill(o *coordinator.Options) {
	o.ScrubEvery = f.every
	if o.ScrubRate, _ = parseSize(f.rate); o.ScrubRate == 0 {
		o.ScrubRate = -1
	}
}
