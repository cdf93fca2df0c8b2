// Command proof runs what is meant to show that tpcfs loses nothing, at full
// length, and writes what came of it into integration/PROOF.md: what ran, how
// much of it, for how long, on which commit, and what it found.
//
//	go run ./integration/proof [-only NAME,...] [-scale 1] [-list] [-render]
//
// Each row can be run by itself; the others keep what they last found
// (integration/proof/results.json). Everything together takes most of a day on
// two cores. It ends with 1 when a row found something.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Outcome is what became of a row when it last ran.
type Outcome struct {
	Commit  string           `json:"commit"`
	Date    string           `json:"date"`    // YYYY-MM-DD
	Seconds float64          `json:"seconds"` // of the whole command, builds included
	Totals  map[string]int64 `json:"totals"`  // by their unit
	Failed  bool             `json:"failed"`
}

const (
	resultsFile = "integration/proof/results.json"
	pageFile    = "integration/PROOF.md"
)

func main() {
	only := flag.String("only", "", "run these rows alone (names, with commas between them)")
	scale := flag.Float64("scale", 1, "multiplies how much of each row runs: 0.01 is a try")
	list := flag.Bool("list", false, "print the rows and their commands, run nothing")
	render := flag.Bool("render", false, "write the page from the results that are there, run nothing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	failed, err := run(ctx, *only, *scale, *list, *render)
	stop()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "proof:", err)
		os.Exit(2)
	case failed:
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, scale float64, list, render bool) (failed bool, err error) {
	if _, err := os.Stat("integration/proof/main.go"); err != nil {
		return false, fmt.Errorf("run it in the top folder of the sources: %w", err)
	}
	chosen, err := choose(only)
	if err != nil {
		return false, err
	}
	if list {
		for _, r := range chosen {
			fmt.Printf("%-12s %s\n", r.name, strings.Join(r.command(scale), " "))
		}
		return false, nil
	}
	results, err := load()
	if err != nil {
		return false, err
	}
	if !render {
		commit, err := head(ctx)
		if err != nil {
			return false, err
		}
		for _, r := range chosen {
			o, err := r.run(ctx, scale)
			if err != nil {
				return false, err
			}
			o.Commit = commit
			results[r.name] = o
			failed = failed || o.Failed
			if err := save(results); err != nil {
				return false, err
			}
		}
	}
	return failed, replace(pageFile, page(results))
}

// choose finds rows by their names; "" are all.
func choose(only string) ([]row, error) {
	if only == "" {
		return rows, nil
	}
	var chosen []row
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(rows, func(r row) bool { return r.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no row is named %q (-list prints them)", name)
		}
		chosen = append(chosen, rows[i])
	}
	return chosen, nil
}

// run runs the row's command; what it prints goes to standard output, too.
func (r *row) run(ctx context.Context, scale float64) (Outcome, error) {
	args := r.command(scale)
	fmt.Printf("== %s: %s\n", r.name, strings.Join(args, " "))
	began := time.Now()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	var out bytes.Buffer
	cmd.Stdout = io.MultiWriter(&out, os.Stdout)
	cmd.Stderr = cmd.Stdout
	err := cmd.Run()
	if ctx.Err() != nil {
		return Outcome{}, fmt.Errorf("%s was interrupted; its last result stays", r.name)
	}
	o := Outcome{
		Date: began.Format(time.DateOnly), Seconds: time.Since(began).Round(time.Second / 10).Seconds(),
		Totals: r.totals(out.String()), Failed: err != nil,
	}
	// A command that ends well and has done nothing shows nothing.
	for _, u := range r.units {
		if !o.Failed && o.Totals[u.name] == 0 && !u.mayBeNone {
			return Outcome{}, fmt.Errorf("%s ended well, but says nothing of %s: does its pattern still fit?", r.name, u.name)
		}
	}
	return o, nil
}

// head is the commit that is proved; what is not committed cannot be.
func head(ctx context.Context) (string, error) {
	changed, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!"+resultsFile, ":!"+pageFile).Output()
	if err != nil {
		return "", fmt.Errorf("git status: %w", err)
	}
	if len(bytes.TrimSpace(changed)) > 0 {
		return "", fmt.Errorf("there are changes that are not committed; commit them first:\n%s", changed)
	}
	commit, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=9", "HEAD").Output()
	if err != nil {
		return "", fmt.Errorf("git rev-parse: %w", err)
	}
	return string(bytes.TrimSpace(commit)), nil
}

func load() (map[string]Outcome, error) {
	results := map[string]Outcome{}
	b, err := os.ReadFile(resultsFile)
	if os.IsNotExist(err) {
		return results, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &results)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", resultsFile, err)
	}
	return results, nil
}

func save(results map[string]Outcome) error {
	b, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return replace(resultsFile, append(b, '\n'))
}

// replace writes a file such that an interrupted run leaves the old one.
func replace(name string, b []byte) error {
	temporary := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".new")
	if err := os.WriteFile(temporary, b, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, name)
}
