package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// lab builds mutants and runs them.
type lab struct {
	root string // of the sources
	dir  string // for temporary files
}

// result is what became of a mutant.
type result struct {
	m   *mutant
	ok  bool
	how string // by what it was noticed, and of what kind the violation was
	err error  // it was not run: a mistake of the table
}

// patience is how long one test of a mutant may take.
const patience = 4 * time.Minute

// The simulator's package, and its scripts.
const (
	simPackage = "./integration/sim"
	allTraces  = "TestTrace.*"
)

// equivalentSeeds is how many schedules a mutant without a difference gets.
const equivalentSeeds = 400

// try builds the mutant and asks everybody who has to notice. n names a place
// for files.
func (l *lab) try(ctx context.Context, m *mutant, n int) result {
	r := result{m: m}
	overlay, err := l.overlay(m, n)
	if err != nil {
		r.err = err
		return r
	}
	ways, err := l.ways(ctx, m, overlay, n)
	if err != nil {
		r.err = err
		return r
	}
	var said []string
	if m.equivalent != "" {
		said = append(said, "no difference: "+m.equivalent)
	}
	r.ok = true
	for _, w := range ways {
		found, err := w.ask()
		if err != nil {
			r.err = err
			return r
		}
		r.ok = r.ok && (found != "") == w.notices
		if found != "" {
			said = append(said, found)
		}
	}
	r.how = strings.Join(said, "; ")
	return r
}

// asTheyAre makes sure that nobody notices anything while nothing is left out.
func (l *lab) asTheyAre(ctx context.Context, chosen []*mutant) error {
	whole := &mutant{rule: "none", leaves: "nothing", equivalent: "nothing is changed"}
	if r := l.try(ctx, whole, 0); r.err != nil || !r.ok {
		return errors.Join(fmt.Errorf("the sources fail as they are: %s", r.how), r.err)
	}
	tests := map[string][]string{} // by package
	for _, m := range chosen {
		if pkg, name, ok := strings.Cut(m.test, " "); ok && !slices.Contains(tests[pkg], name) {
			tests[pkg] = append(tests[pkg], name)
		}
	}
	for pkg, names := range tests {
		overlay, err := l.overlay(whole, 0)
		if err != nil {
			return err
		}
		bin, err := l.build(ctx, overlay, pkg, 0)
		if err != nil {
			return err
		}
		if found, err := l.runTest(ctx, bin, pkg, "("+strings.Join(names, "|")+")"); err != nil || found != "" {
			return errors.Join(fmt.Errorf("the sources fail as they are: %s", found), err)
		}
	}
	return nil
}

// way asks somebody about a mutant, who answers what he has found, or "".
type way struct {
	notices bool // he has to find something
	ask     func() (string, error)
}

// ways builds what a mutant's seeds, traces and tests need.
func (l *lab) ways(ctx context.Context, m *mutant, overlay string, n int) ([]way, error) {
	var ways []way
	if m.seeds > 0 || m.trace != "" || m.equivalent != "" {
		bin, err := l.build(ctx, overlay, simPackage, n)
		if err != nil {
			return nil, err
		}
		seeds, trace := m.seeds, m.trace
		if m.equivalent != "" {
			seeds, trace = equivalentSeeds, allTraces
		}
		if seeds > 0 {
			ways = append(ways, way{m.equivalent == "", func() (string, error) { return l.hunt(ctx, bin, seeds, m.hint, m.tune) }})
		}
		if trace != "" {
			ways = append(ways, way{m.equivalent == "", func() (string, error) { return l.runTest(ctx, bin, simPackage, trace) }})
		}
	}
	if m.test != "" {
		pkg, name, _ := strings.Cut(m.test, " ")
		bin, err := l.build(ctx, overlay, pkg, n)
		if err != nil {
			return nil, err
		}
		ways = append(ways, way{true, func() (string, error) { return l.runTest(ctx, bin, pkg, name) }})
	}
	return ways, nil
}

// overlay writes the file that the compiler is given.
func (l *lab) overlay(m *mutant, n int) (string, error) {
	texts, err := m.apply(l.root)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for file, text := range texts {
		copied := filepath.Join(l.dir, fmt.Sprintf("%d-%s", n, strings.ReplaceAll(file, "/", "-")))
		if err := os.WriteFile(copied, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(l.root, filepath.FromSlash(file))] = copied
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(l.dir, fmt.Sprintf("%d-overlay.json", n))
	return name, os.WriteFile(name, b, 0o600)
}

func (l *lab) build(ctx context.Context, overlay, pkg string, n int) (string, error) {
	bin := filepath.Join(l.dir, fmt.Sprintf("%d-%s.test", n, filepath.Base(pkg)))
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", bin, pkg)
	cmd.Dir = l.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("it cannot be built: %w\n%s", err, out)
	}
	return bin, nil
}

var (
	huntFound = regexp.MustCompile(`found by seed (\d+): (.*)`)
	testSaid  = regexp.MustCompile(`(?m)^\s+\w+\.go:\d+: (.*)$|^panic: (.*)$`)
)

// hunt runs schedules until one fails. "": none has.
func (l *lab) hunt(ctx context.Context, bin string, seeds int, hint uint64, tune string) (string, error) {
	out, err := l.exec(ctx, bin, simPackage, "-test.run", "^TestHunt$", "-hunt", strconv.Itoa(seeds), "-hint", strconv.FormatUint(hint, 10), "-tune", tune)
	if err == nil {
		return "", nil
	}
	if f := huntFound.FindStringSubmatch(out); f != nil {
		return fmt.Sprintf("seed %s: %s", f[1], shorten(f[2])), nil
	}
	return "", fmt.Errorf("the schedules ended without a violation: %w\n%s", err, tail(out))
}

// runTest runs tests by a pattern of their names. "": they pass.
func (l *lab) runTest(ctx context.Context, bin, pkg, name string) (string, error) {
	out, err := l.exec(ctx, bin, pkg, "-test.v", "-test.run", "^"+name+"$")
	ran := strings.Contains(out, "=== RUN")
	switch {
	case !ran:
		return "", fmt.Errorf("there is no test %s in %s", name, pkg)
	case err == nil:
		return "", nil
	}
	failed := regexp.MustCompile(`--- FAIL: (\w+)`).FindStringSubmatch(out)
	if failed == nil {
		return "", fmt.Errorf("%s ended without having failed: %w\n%s", name, err, tail(out))
	}
	why := ""
	if s := testSaid.FindStringSubmatch(out); s != nil {
		why = ": " + shorten(s[1]+s[2])
	}
	return failed[1] + why, nil
}

func (l *lab) exec(ctx context.Context, bin, pkg string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, append(args, "-test.timeout", "0")...)
	cmd.Dir = filepath.Join(l.root, filepath.FromSlash(pkg))
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
	}
	return string(out), err
}

func shorten(s string) string {
	const most = 110
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

func tail(s string) string {
	const most = 2000
	return s[max(0, len(s)-most):]
}

// line is what is printed of it.
func (r *result) line(took time.Duration) string {
	word, how := "noticed", r.how
	switch {
	case r.err != nil:
		word, how = "BROKEN", r.err.Error()
	case !r.ok:
		word = "MISSED"
	case r.m.equivalent != "":
		word = "same"
	}
	return fmt.Sprintf("%-8s %-74s %4.0f s  %s", word, r.m.name(), took.Seconds(), how)
}
