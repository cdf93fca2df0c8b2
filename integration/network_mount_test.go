package integration

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"tpcfs/integration/harness"
)

// looks reads a file again and again, and says when each look began and what it
// found, until a file is there that ends it. All looks of one machine have one clock.
const looks = `
import os, sys, time
while not os.path.exists(sys.argv[2]):
    began = time.monotonic()
    size = os.stat(sys.argv[1]).st_size
    with open(sys.argv[1]) as f: text = f.read()
    print(began, text, size, flush=True)
    time.sleep(0.005)
`

// changes writes a file and says when that was answered.
const changes = `
import sys, time
with open(sys.argv[1], "w") as f: f.write(sys.argv[2])
print(time.monotonic())
`

// Mounts that cannot reach the coordinator, cannot be answered by it, or both, go on
// running: what they have read they show no longer than their leases (F9), their locks
// go to who waits for them, and who held one hears of it (F10).
func TestNetworkCutsMounts(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	hosts := []string{"whole", "silent", "deaf", "alone"}
	c, n := networked(t, ctx, hosts...)
	startAll(t, ctx, c)
	mnt := map[string]string{}
	for _, h := range hosts {
		mnt[h] = mountOn(t, ctx, n, h)
	}
	shell(t, ctx, mnt["whole"], "printf one > f")
	enough := tempDir(t) + "/enough"
	python := func(name, script string, args ...string) *harness.Proc {
		p, err := harness.Start(name, nil, "python3", append([]string{"-c", script}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Kill() })
		return p
	}
	looking, holders := map[string]*harness.Proc{}, map[string]*holder{}
	var waiters []*harness.Proc
	for _, h := range hosts[1:] {
		looking[h] = python("looks on "+h, looks, mnt[h]+"/f", enough)
		if _, err := looking[h].WaitText(ctx, " one 3"); err != nil {
			t.Fatal(err)
		}
		holders[h] = startHolder(t, ctx, mnt[h])
		holders[h].wants("(fd := os.open('lock-"+h+"', os.O_RDWR|os.O_CREAT, 0o644)) > 0", "True")
		holders[h].wants("(fcntl := __import__('fcntl')).flock(fd, fcntl.LOCK_EX)", "None")
		holders[h].wants("os.pwrite(fd, b'mine', 0)", "4")
		waiters = append(waiters, locker(t, mnt["whole"]+"/lock-"+h, "flock ex 0 0 wait", "write 0 theirs", "flock un 0 0"))
	}
	cut := func(from, to string) {
		if err := n.Cut(ctx, from, to); err != nil {
			t.Fatal(err)
		}
	}
	cut("silent", harness.Coordinator)
	cut(harness.Coordinator, "deaf")
	cut("alone", harness.Coordinator)
	cut(harness.Coordinator, "alone")
	change := python("change", changes, mnt["whole"]+"/f", "three")
	answered, err := strconv.ParseFloat(outcome(t, ctx, change), 64)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range waiters {
		if got := outcome(t, ctx, w); got != "ok ok ok" {
			t.Error(got)
		}
	}
	if err := n.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	for h, p := range looking {
		if _, err := p.WaitText(ctx, " three 5"); err != nil {
			t.Fatal(err)
		}
		holders[h].wants("os.pwrite(fd, b'more', 4)", "EIO")
	}
	if err := os.WriteFile(enough, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for h, p := range looking {
		before := 0
		for line := range strings.Lines(outcomeLines(t, ctx, p)) {
			var began float64
			var text string
			var size int
			if _, err := fmt.Sscan(line, &began, &text, &size); err != nil {
				t.Fatalf("%s: %q: %v", h, line, err)
			}
			if began < answered {
				before++
			} else if text != "three" || size != 5 {
				t.Errorf("%s shows %s of %d bytes %.3f s after another mount was told that it has been replaced", h, text, size, began-answered)
			}
		}
		if got := shell(t, ctx, mnt[h], "cat lock-"+h); got != "theirs" {
			t.Errorf("what %s had locked holds %q", h, got)
		}
		t.Logf("%s: %d looks before the change was answered", h, before)
	}
	settle(t, ctx, c)
}

// outcomeLines are outcome's, line by line, of a helper that has to end well.
func outcomeLines(t *testing.T, ctx context.Context, p *harness.Proc) string {
	t.Helper()
	outcome(t, ctx, p)
	if p.ExitCode() != 0 {
		t.Errorf("%s: exit %d: %s", p.Name, p.ExitCode(), p.Output())
	}
	return p.Output()
}
