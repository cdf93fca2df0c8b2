// Command mutate leaves out one rule of the program after the other, and
// demands that a test notices (DESIGN.md section 10).
//
// A mutant is a change of the sources' text, built by the compiler's -overlay:
// nothing in the tree changes. Most are looked for by the simulator, from the
// first seed on within a bound; a seed that is known to find it is tried first.
// What is too rare for that has a trace, a schedule by hand, of its own, and
// what the simulator does not reach a test of its package. Where no behaviour
// differs the table says why, and the run makes sure that nothing is found.
//
//	go run ./integration/sim/mutate [-rule SUBSTRING] [-jobs 2] [-list]
//
// It ends with 1 when a mutant is missed, and with 2 when the table does not
// fit the sources.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

func main() {
	rule := flag.String("rule", "", "only mutants whose rule or sentence contains this")
	jobs := flag.Int("jobs", 2, "mutants at a time, each on one processor")
	list := flag.Bool("list", false, "print the table, run nothing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	code, err := run(ctx, *rule, *jobs, *list)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
	}
	stop()
	os.Exit(code)
}

func run(ctx context.Context, rule string, jobs int, list bool) (int, error) {
	root, err := findRoot()
	if err != nil {
		return 2, err
	}
	chosen := choose(rule)
	if len(chosen) == 0 && len(chooseSwitches(rule)) == 0 {
		return 2, fmt.Errorf("no mutant's rule or sentence contains %q", rule)
	}
	for _, m := range chosen {
		if err := m.check(root); err != nil {
			return 2, err
		}
	}
	if list {
		printTable(os.Stdout, rule)
		return 0, nil
	}
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return 2, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a directory of temporary files
	began := time.Now()
	l := &lab{root: root, dir: dir}
	if err := l.asTheyAre(ctx, chosen); err != nil {
		return 2, err
	}
	sum := runAll(ctx, l, chosen, jobs)
	if err := ctx.Err(); err != nil {
		return 2, err
	}
	if err := runSwitches(ctx, root, rule, &sum); err != nil {
		return 2, err
	}
	if rule == "" {
		printWaiting(os.Stdout)
	}
	fmt.Printf("%d rules left out, %d noticed, %d without a difference, %d missed, %d not run, in %.0f s\n",
		sum.total, sum.noticed, sum.equivalent, sum.missed, sum.broken, time.Since(began).Seconds())
	switch {
	case sum.broken > 0:
		return 2, nil
	case sum.missed > 0:
		return 1, nil
	}
	return 0, nil
}

// summary counts what became of mutants.
type summary struct{ total, noticed, equivalent, missed, broken int }

func (s *summary) add(r *result) {
	s.total++
	switch {
	case r.err != nil:
		s.broken++
	case !r.ok:
		s.missed++
	case r.m.equivalent != "":
		s.equivalent++
	default:
		s.noticed++
	}
}

// runAll runs mutants, some at a time, and prints a line for each.
func runAll(ctx context.Context, l *lab, chosen []*mutant, jobs int) summary {
	var sum summary
	var mu sync.Mutex // guards sum and the output
	var wg sync.WaitGroup
	next := make(chan *mutant)
	for n := range max(jobs, 1) {
		wg.Go(func() {
			for m := range next {
				began := time.Now()
				r := l.try(ctx, m, n)
				mu.Lock()
				if ctx.Err() == nil {
					sum.add(&r)
					fmt.Println(r.line(time.Since(began)))
				}
				mu.Unlock()
			}
		})
	}
	for _, m := range chosen {
		select {
		case next <- m:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	return sum
}

// choose returns the mutants that contain a text.
func choose(text string) []*mutant {
	var list []*mutant
	for i := range mutants {
		if m := &mutants[i]; strings.Contains(m.rule+" "+m.leaves, text) {
			list = append(list, m)
		}
	}
	return list
}

// findRoot looks for the module's directory, upwards.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod here or above: run it in the sources")
		}
		dir = up
	}
}
