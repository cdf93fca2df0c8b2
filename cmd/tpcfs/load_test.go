package main

import (
	"strings"
	"testing"
)

func TestSizesAndMixes(t *testing.T) {
	for s, want := range map[string][2]int64{"512": {512, 512}, "4k": {4096, 4096}, "1k-64K": {1024, 65536}, "0": {0, 0}, "1m": {1 << 20, 1 << 20}} {
		least, most, err := parseSizes(s)
		if err != nil || least != want[0] || most != want[1] {
			t.Errorf("%s: %d to %d, %v", s, least, most, err)
		}
	}
	for _, s := range []string{"", "k", "4x", "-1", "8k-4k", "1-2-3", "9999999999g"} {
		if _, _, err := parseSizes(s); err == nil {
			t.Errorf("size %q was taken", s)
		}
	}
	for _, s := range []string{"", "1", "1/2", "1/2/3/4", "0/0/0", "a/b/c", "-1/2/3"} {
		if _, err := parseMix(s); err == nil {
			t.Errorf("mix %q was taken", s)
		}
	}
	for _, args := range []string{"--clients 0", "--names 0", "--ops -1", "--duration -1s", "--size 10 --check", "--size 1g", "--mix 1/2", "extra"} {
		code, _, errOut := command(nil, strings.Fields("load "+args)...)
		if code != exitUsage || strings.Count(errOut, "\n") != 1 {
			t.Errorf("load %s: exit %d, %q", args, code, errOut)
		}
	}
}
