package main

import "testing"

// Who has set the collector gets what was set, and no floor beside it.
func TestGCFloor(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want int
	}{
		{nil, gcFloorBytes},
		{map[string]string{"GOGC": ""}, gcFloorBytes},
		{map[string]string{"GOGC": "50"}, 0},
		{map[string]string{"GOMEMLIMIT": "100MiB"}, 0},
	} {
		floor := gcFloor(func(name string) (string, bool) { v, ok := c.env[name]; return v, ok })
		if len(floor) != c.want {
			t.Errorf("%v: a floor of %d bytes, want %d", c.env, len(floor), c.want)
		}
	}
}
