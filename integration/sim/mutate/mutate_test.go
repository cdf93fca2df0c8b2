package main

import (
	"strings"
	"testing"
)

// TestTable: every mutant's text still stands in its file, once, so that
// nobody's change makes the table lie; and every test that it names is there.
func TestTable(t *testing.T) {
	root, err := findRoot()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for i := range mutants {
		m := &mutants[i]
		if err := m.check(root); err != nil {
			t.Error(err)
		}
		if names[m.name()] {
			t.Errorf("two mutants are called %q", m.name())
		}
		names[m.name()] = true
	}
}

// TestQuickMutants runs a few mutants that are found soon: the way from a
// text to a violation works.
func TestQuickMutants(t *testing.T) {
	root, err := findRoot()
	if err != nil {
		t.Fatal(err)
	}
	if testing.Short() {
		return
	}
	l := &lab{root: root, dir: t.TempDir()}
	for _, sentence := range []string{
		"a stage is not synced", "a sync is reported before it is done",
	} {
		for _, m := range choose(sentence) {
			if r := l.try(t.Context(), m, 0); r.err != nil || !r.ok || r.how == "" {
				t.Errorf("%s: noticed %v, by %q, error %v", m.name(), r.ok, r.how, r.err)
			}
		}
	}
}

// TestMissed: a change that makes no difference is not taken for noticed, one
// that cannot be built is a mistake of the table, and so is a stale one.
func TestMissed(t *testing.T) {
	root, err := findRoot()
	if err != nil {
		t.Fatal(err)
	}
	const file, text = "coordinator/commit/tx.go", "const maxNames = 8"
	change := func(before, after string) *mutant {
		return &mutant{rule: "P0", leaves: "nothing", edits: []edit{{file, before, after}}, test: "./coordinator/commit TestAllNo"}
	}
	if err := change("no such text", "").check(root); err == nil || !strings.Contains(err.Error(), "stale") {
		t.Errorf("a stale mutant: %v", err)
	}
	if err := change("return", "").check(root); err == nil || !strings.Contains(err.Error(), "stale") {
		t.Errorf("a text that stands there more than once: %v", err)
	}
	if testing.Short() {
		return
	}
	l := &lab{root: root, dir: t.TempDir()}
	if r := l.try(t.Context(), change(text, "const maxNames = 9"), 0); r.err != nil || r.ok {
		t.Errorf("a change that nobody can notice: noticed %v, error %v", r.ok, r.err)
	}
	if r := l.try(t.Context(), change(text, "const maxNames = "), 0); r.err == nil {
		t.Error("a change that cannot be built counts as run")
	}
}
