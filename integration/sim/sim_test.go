package sim

import "testing"

func TestFirst(t *testing.T) {
	for seed := range uint64(2000) {
		r := Run(seed, Options{})
		if r.Violation != nil {
			Run(seed, Options{Trace: func(s string) { t.Log(s) }})
			t.Fatalf("seed %d: %v", seed, r.Violation)
		}
	}
}
