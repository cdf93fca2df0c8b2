package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxSeeds bounds every search: what is rarer needs a trace.
const maxSeeds = 20_000

// mutant is a rule left out, and who has to notice: seeds, trace, test, or
// several of them, each by itself. One that makes no difference to the whole
// (equivalent) may still have a test, of its package alone, that insists on it.
type mutant struct {
	rule   string // its number, as in DESIGN.md
	leaves string // what is left out
	edits  []edit

	seeds      int    // schedules within which one fails
	hint       uint64 // one that is known to fail, tried first
	tune       string // how the schedules are made; "": as ever
	trace      string // a test of integration/sim
	test       string // a package and a test of its own: "./journal TestCrash"
	equivalent string // why no behaviour differs, and what will show it one day
}

// edit is one change of a file's text, which stands there exactly once.
type edit struct{ file, before, after string }

// mutants is the whole table.
var mutants = slices.Concat(voteMutants, commitMutants, storeMutants, journalMutants, shellMutants, unnamedMutants, extentMutants, evictMutants, adoptMutants, repairMutants, editMutants, scrubMutants, leaseMutants, rebuildMutants)

// check tells whether the table fits the sources: cheap, and part of the tests.
func (m *mutant) check(root string) error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("mutant %q: %s", m.name(), fmt.Sprintf(format, args...))
	}
	switch {
	case m.rule == "" || m.leaves == "" || len(m.edits) == 0:
		return wrong("rule, sentence or edit is missing")
	case m.equivalent == "" && m.seeds == 0 && m.trace == "" && m.test == "":
		return wrong("it needs somebody who notices, or a reason why nobody can")
	case m.equivalent != "" && (m.seeds > 0 || m.trace != ""):
		return wrong("schedules cannot notice what makes no difference")
	case m.seeds > maxSeeds || m.hint > uint64(m.seeds):
		return wrong("more than %d seeds, or a hint beyond them", maxSeeds)
	}
	_, err := m.apply(root)
	return err
}

// apply returns the changed files' texts, by name.
func (m *mutant) apply(root string) (map[string]string, error) {
	texts := map[string]string{}
	for _, e := range m.edits {
		text, ok := texts[e.file]
		if !ok {
			b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(e.file)))
			if err != nil {
				return nil, err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.before); n != 1 {
			return nil, fmt.Errorf("mutant %q is stale: its text stands %d times in %s, not once:\n%s", m.name(), n, e.file, e.before)
		}
		texts[e.file] = strings.Replace(text, e.before, e.after, 1)
	}
	return texts, nil
}

func (m *mutant) name() string { return m.rule + ": " + m.leaves }
