package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"tpcfs/coordinator"
)

// evictFlags say when the others go on without a participant, and how it is
// brought back.
type evictFlags struct {
	minInSync  int
	evictAfter time.Duration
	evictSlow  time.Duration
	resyncRate string
}

// Bounds of --evict-after: six heartbeats come in that time.
const (
	leastEvictAfter = 100 * time.Millisecond
	mostEvictAfter  = time.Hour
)

// leastEvictSlow bounds --evict-slow: a wait counts when it lasts for a second.
const leastEvictSlow = time.Second

func (f *evictFlags) add(cmd *cobra.Command) {
	cmd.Flags().IntVar(&f.minInSync, "min-in-sync", 0, "changes go on while so many participants `N` hold all of them; one that fails is left behind, and catches up when it is back (0: a majority; with all of them a change waits for whoever is missing)")
	cmd.Flags().DurationVar(&f.evictAfter, "evict-after", 3*time.Second, "how long a participant may be silent or away before the others go on without it; of one at whose address nobody listens 200ms are enough")
	cmd.Flags().DurationVar(&f.evictSlow, "evict-slow", 10*time.Second, "how long a participant whose disk is slow, or hangs, may keep the others waiting before they go on without it: waits of a second and more add up, time without them is taken off; a read that gets nothing for as long asks another (0: for ever)")
	cmd.Flags().StringVar(&f.resyncRate, "resync-rate", "0", "`bytes` a second (k, m, g) that are brought to a participant that catches up; 0: no limit, but while clients make changes most of the time is theirs")
}

func (f *evictFlags) check(command string) error {
	if f.minInSync < 0 {
		return usage(command, "--min-in-sync %d: 1 or more, or 0 for a majority", f.minInSync)
	}
	if f.evictAfter < leastEvictAfter || f.evictAfter > mostEvictAfter {
		return usage(command, "--evict-after %s: %s to %s", f.evictAfter, leastEvictAfter, mostEvictAfter)
	}
	if f.evictSlow != 0 && (f.evictSlow < leastEvictSlow || f.evictSlow > mostEvictAfter) {
		return usage(command, "--evict-slow %s: %s to %s, or 0", f.evictSlow, leastEvictSlow, mostEvictAfter)
	}
	if _, err := parseSize(f.resyncRate); err != nil {
		return usage(command, "--resync-rate %v", err)
	}
	return nil
}

// enough refuses a --min-in-sync of more participants than there are.
func (f *evictFlags) enough(command string, participants int) error {
	there := fmt.Sprintf("there are %d participants", participants)
	if participants == 1 {
		there = "there is 1 participant"
	}
	if f.minInSync > participants {
		return usage(command, "--min-in-sync %d: %s: give no more, or 0 for a majority", f.minInSync, there)
	}
	return nil
}

// fill puts what check has found right into a coordinator's options.
func (f *evictFlags) fill(o *coordinator.Options) {
	o.MinInSync, o.EvictAfter, o.EvictSlow = f.minInSync, f.evictAfter, f.evictSlow
	if f.evictSlow == 0 {
		o.EvictSlow = -1
	}
	o.ResyncRate, _ = parseSize(f.resyncRate)
}
