package main

import (
	"runtime"
	"testing"
	"time"
)

// Who has set the number of processors gets it; else a coordinator takes one of two.
func TestProcessors(t *testing.T) {
	for _, c := range []struct {
		env        map[string]string
		have, want int
	}{
		{nil, 1, 1},
		{nil, 2, 1},
		{nil, 3, 3},
		{nil, 64, 64},
		{map[string]string{"GOMAXPROCS": ""}, 2, 1},
		{map[string]string{"GOMAXPROCS": "2"}, 2, 2},
	} {
		lookup := func(name string) (string, bool) { v, ok := c.env[name]; return v, ok }
		if got := processors(lookup, c.have); got != c.want {
			t.Errorf("%v, of %d: %d, want %d", c.env, c.have, got, c.want)
		}
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	undo := useProcessors(func(string) (string, bool) { return "", false })
	if got := runtime.GOMAXPROCS(0); got != 1 {
		t.Errorf("it runs on %d, want 1", got)
	}
	undo()
	if got := runtime.GOMAXPROCS(0); got != 2 {
		t.Errorf("afterwards %d, want 2", got)
	}
}

// A participant runs on both processors while changes of several clients come at
// once, or one processor is not enough, and goes back to one after that.
func TestEffortProcessors(t *testing.T) {
	const took = time.Second
	for _, c := range []struct {
		what           string
		records, syncs uint64
		cpu            time.Duration
		from1, from2   int
	}{
		{"nothing", 0, 0, 0, 1, 1},
		{"one client", 2000, 1000, took / 4, 1, 1},
		{"some", 3500, 1000, took / 4, 1, 2},
		{"many clients", 9000, 1000, took / 4, 2, 2},
		{"staging", 2, 1, took, 2, 2},
		{"less of it", 2, 1, took / 2, 1, 2},
		{"records that no sync has come for", 9000, 0, 0, 1, 2},
	} {
		e := effort{c.records, c.syncs, c.cpu, took}
		if got := e.processors(1, 1, 2); got != c.from1 {
			t.Errorf("%s, on one: %d, want %d", c.what, got, c.from1)
		}
		if got := e.processors(2, 1, 2); got != c.from2 {
			t.Errorf("%s, on two: %d, want %d", c.what, got, c.from2)
		}
	}
}

func TestShareProcessors(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	unset := func(string) (string, bool) { return "", false }
	is := func(what string, want int) {
		t.Helper()
		if got := runtime.GOMAXPROCS(0); got != want {
			t.Errorf("%s: it runs on %d, want %d", what, got, want)
		}
	}
	var looks uint64
	many := func() (records, syncs uint64) { looks++; return 1000 * looks, looks }
	ticks := make(chan time.Time)
	undo := shareWhen(ticks, unset, many)
	is("at the beginning", 1)
	ticks <- time.Time{}
	ticks <- time.Time{} // it is taken when the first one is done
	is("while many changes come at once", 2)
	undo()
	is("afterwards", 2)
	undo = shareProcessors(unset, func() (records, syncs uint64) { return 0, 0 })
	is("at the beginning", 1)
	undo()
	is("afterwards", 2)
	undo = shareProcessors(func(string) (string, bool) { return "2", true }, many)
	is("with GOMAXPROCS=2", 2)
	undo()
}
