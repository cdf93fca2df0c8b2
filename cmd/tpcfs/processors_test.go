package main

import (
	"runtime"
	"testing"
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
