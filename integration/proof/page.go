package main

import (
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// around is the page by hand: what was found and fixed, and what is not shown.
//
//go:embed page.md
var around string

// page puts the table of results where the hand-written page wants it.
func page(results map[string]Outcome) []byte {
	var b strings.Builder
	b.WriteString("| what ran | how much | how long | found now | when |\n|---|---|---|---|---|\n")
	for _, r := range rows {
		o, ok := results[r.name]
		if !ok {
			fmt.Fprintf(&b, "| **%s** | not run yet at full length | | | |\n", r.name)
			continue
		}
		found := "nothing"
		if o.Failed {
			found = "**a fault**"
		}
		fmt.Fprintf(&b, "| **%s** | %s | %s | %s | %s, %s |\n", r.name, o.amounts(r.units),
			time.Duration(o.Seconds*float64(time.Second)).Round(time.Second), found, o.Date, o.Commit)
	}
	b.WriteString("\nWhat each of them does, and how to run it alone:\n\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "- **%s**: %s\n  `%s`\n", r.name, r.what, strings.Join(r.command(1), " "))
	}
	return []byte(strings.Replace(around, "{{results}}\n", b.String(), 1))
}

// amounts tells totals in the order of the row's units.
func (o Outcome) amounts(units []unit) string {
	var all []string
	for _, u := range units {
		all = append(all, grouped(o.Totals[u.name])+" "+u.name)
	}
	return strings.Join(all, ", ")
}

// grouped writes a number with commas between groups of three digits.
func grouped(n int64) string {
	digits := strconv.FormatInt(n, 10)
	var groups []string
	for len(digits) > 3 {
		groups = append(groups, digits[len(digits)-3:])
		digits = digits[:len(digits)-3]
	}
	groups = append(groups, digits)
	slices.Reverse(groups)
	return strings.Join(groups, ",")
}
