package main

import (
	"fmt"
	"io"
)

// waiting are weaker wordings of rules that nothing here leaves out yet, and why.
var waiting = []struct{ rule, leaves, why string }{
	{"P8", "a config's id has no epoch", "an id without one cannot be written down"},
	{"P13", "an old journal adopts the newest config that it is told", "it has no code that adopts one"},
	{"P13", "a journal's age is judged against its own new config", "what the journal held at the start is kept apart"},
	{"P8, P11", "who is evicted and lives is read from", "its own gate is shut too; TestNoReadsFromOutside has the coordinator's part"},
	{"P11", "changed keys are found by version", "the index has no versions"},
}

func printWaiting(w io.Writer) {
	for _, r := range waiting {
		fmt.Fprintf(w, "%-8s %-74s         %s\n", "later", r.rule+": "+r.leaves, r.why)
	}
}
