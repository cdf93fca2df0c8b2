package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
)

// switches are the rules that the simulator's own shells leave out when told
// to (TestRulesAreMissed): it mirrors the shells, whose sources it does not run.
// The sentences are those of the test.
var switches = []string{
	"P3: a reply is given before reads know of it",
	"P5: a participant answers reads at once",
	"P5: reads are served before recovery is over",
	"P2: YES goes before its record is durable",
	"P4, P9: what is handled counts as durable",
	"P6: the greeting is answered before the fence is durable",
	"P6: nobody waits for the EPOCH record",
	"P10: lost votes are not repeated",
	"S3: the kv commits before the journal is durable",
	"P13: a SNAPSHOT goes before records of its turn",
	"S3: objects of undecided transactions are swept",
	"P3: lazy records wait for traffic",
}

func chooseSwitches(text string) []string {
	var list []string
	for _, s := range switches {
		if strings.Contains(s, text) {
			list = append(list, s)
		}
	}
	return list
}

var (
	switchFound  = regexp.MustCompile(`_test\.go:\d+: (.*): found after (\d+) seeds: (.*)$`)
	switchMissed = regexp.MustCompile(`_test\.go:\d+: (.*): not found in (\d+) seeds$`)
)

// runSwitches runs the simulator's test of its switches, and prints the lines
// of those that contain a text. One that the test does not know is an error.
func runSwitches(ctx context.Context, root, text string, sum *summary) error {
	chosen := map[string]bool{}
	for _, s := range chooseSwitches(text) {
		chosen[s] = true
	}
	if len(chosen) == 0 {
		return nil
	}
	cmd := exec.CommandContext(ctx, "go", "test", "./integration/sim", "-count=1", "-run", "^TestRulesAreMissed$", "-v", "-timeout", patience.String())
	cmd.Dir = root
	out, testErr := cmd.CombinedOutput()
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		if f := switchFound.FindStringSubmatch(s.Text()); f != nil && chosen[f[1]] {
			delete(chosen, f[1])
			sum.total, sum.noticed = sum.total+1, sum.noticed+1
			fmt.Printf("%-8s %-74s         seed %s: %s\n", "noticed", f[1], f[2], f[3])
		} else if f := switchMissed.FindStringSubmatch(s.Text()); f != nil && chosen[f[1]] {
			delete(chosen, f[1])
			sum.total, sum.missed = sum.total+1, sum.missed+1
			fmt.Printf("%-8s %-74s         not in %s seeds\n", "MISSED", f[1], f[2])
		}
	}
	if len(chosen) > 0 {
		return errors.Join(fmt.Errorf("TestRulesAreMissed says nothing of %d switches, %q first", len(chosen), first(chosen)), testErr)
	}
	return nil
}

func first(set map[string]bool) string {
	least := ""
	for s := range set {
		if least == "" || s < least {
			least = s
		}
	}
	return least
}

// printTable prints the table without running it.
func printTable(w io.Writer, rule string) {
	for _, m := range choose(rule) {
		var by []string
		if m.seeds > 0 {
			by = append(by, strings.TrimSpace(fmt.Sprintf("%d seeds %s", m.seeds, m.tune)))
		}
		if m.trace != "" {
			by = append(by, m.trace)
		}
		if m.test != "" {
			by = append(by, m.test)
		}
		if m.equivalent != "" {
			by = append(by, "no difference: "+m.equivalent)
		}
		fmt.Fprintf(w, "%-80s %s\n", m.name(), strings.Join(by, "; "))
	}
	for _, s := range chooseSwitches(rule) {
		fmt.Fprintf(w, "%-80s a switch of the simulator's shells\n", s)
	}
	printWaiting(w)
}
