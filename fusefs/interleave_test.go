package fusefs

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestCutThatFails changes nothing.
func TestCutThatFails(t *testing.T) {
	c := newContents(testDepot(t))
	if _, err := c.WriteAt([]byte(strings.Repeat("x", 4*pageSize)), 0); err != nil || !c.Spilled() {
		t.Fatal(err)
	}
	shared := c.Snapshot()
	good := c.spill.f
	full, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(good.Fd()))) // takes no writes
	if err != nil {
		t.Fatal(err)
	}
	c.spill.f = full
	if err := c.Truncate(pageSize / 2); err == nil {
		t.Fatal("a cut of a page that a snapshot shares needs another")
	}
	got := make([]byte, 4*pageSize)
	if k, err := c.ReadAt(got, 0); k != len(got) || strings.Count(string(got), "x") != len(got) {
		t.Errorf("after a cut that failed %d bytes are there, %d of them right (%v)", k, strings.Count(string(got), "x"), err)
	}
	shared.Release()
	c.Close()
	_ = good.Close()
}
