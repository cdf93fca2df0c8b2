package main

import (
	"fmt"
	"io"
)

// waiting are rules that nothing here leaves out, because they are about
// members that are evicted, catch up and join again: as long as every
// configured participant is a member there is nothing to leave out. They come
// with evictions.
var waiting = []struct{ rule, leaves, why string }{
	{"P8", "an eviction is not forced at the coordinator", "nobody is evicted"},
	{"P8", "an eviction is not durable at the members left", "nobody is evicted"},
	{"P8", "a config's id has no epoch", "an epoch issues one config, the same members each time"},
	{"P9", "W runs ahead of an eviction", "W is what is durable at all configured participants"},
	{"P13", "an old journal adopts the newest config that it is told", "all configs have the same members"},
	{"P13", "members are evicted before the others have answered", "all have to answer"},
	{"P13", "a journal's age is judged against its own new config", "all have answered before it is issued"},
	{"P11", "the pause for a newcomer does not drain; what is copied is decided, and not durable everywhere", "nobody joins"},
	{"P11", "the pause ends when the newcomer drops", "nobody joins"},
	{"P11", "a greeting moves the position that a newcomer is copied from", "nobody joins"},
	{"P11", "changed keys are found by version", "nobody is copied from"},
	{"P11", "what is in doubt is kept at a rejoin; there is no needs-resync mark", "nobody joins"},
	{"P8, P11", "an evicted member that lives serves reads", "nobody is evicted"},
}

func printWaiting(w io.Writer) {
	for _, r := range waiting {
		fmt.Fprintf(w, "%-8s %-74s         %s\n", "later", r.rule+": "+r.leaves, r.why)
	}
}
