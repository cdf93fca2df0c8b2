package integration

import (
	"strings"
	"testing"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/integration/powerloss"
	"tpcfs/wire"
)

// A participant whose disk hangs, or is slow, while its heartbeats go on (P15): it is
// shown, evicted when it has kept the others waiting, and back when its disk is fast
// again. No operation fails.

// newSlow is a cluster under load in which participant c has a disk that can be slow.
func newSlow(t *testing.T) (*leaving, *powerloss.Machines) {
	t.Helper()
	t.Parallel()
	l := &leaving{T: t, ctx: testContext(t), c: newCluster(t)}
	m, err := powerloss.Start(l.c.Dir, "c")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // before the cluster's
		if err := m.Slow(0, "c"); err != nil {
			t.Error(err)
		}
		if err := l.c.Kill("c"); err != nil {
			t.Error(err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	l.startAll("--evict-slow", "2s")
	l.progress()
	return l, m
}

func (l *leaving) disk(m *powerloss.Machines, by time.Duration) {
	l.Helper()
	if err := m.Slow(by, "c"); err != nil {
		l.Fatal(err)
	}
}

// slow waits until status says something of the kind of c.
func (l *leaving) slow(what string, ok func(m wire.MemberStatus, warnings string) bool) {
	l.Helper()
	_, err := l.c.WaitStatus(l.ctx, what, func(st wire.Status) bool {
		for _, m := range st.Members {
			if m.Name == "c" && m.Slow != nil && ok(m, strings.Join(st.Warnings, "\n")) {
				return true
			}
		}
		return false
	})
	if err != nil {
		l.Fatal(err)
	}
}

func TestEvictHungDisk(t *testing.T) {
	l, m := newSlow(t)
	l.disk(m, time.Hour)
	l.slow("slow", func(m wire.MemberStatus, _ string) bool { return m.InSync && m.Slow.WaitMS >= 1000 })
	l.slow("evicted", func(m wire.MemberStatus, warnings string) bool {
		return !m.InSync && m.Slow.Evicted && strings.Contains(warnings, "c was evicted because its disk")
	})
	l.progress()
	if r := run(t, l.ctx, nil, "", "status", "--coordinator", l.c.Addr(harness.Coordinator)); r.Code != 8 || !strings.Contains(r.Out, "too slow") {
		t.Errorf("status: exit %d\n%s", r.Code, r.Out)
	}
	l.disk(m, 0)
	l.ends()
}

func TestEvictSlowDisk(t *testing.T) {
	l, m := newSlow(t)
	l.disk(m, 1200*time.Millisecond)
	l.slow("evicted", func(m wire.MemberStatus, _ string) bool { return !m.InSync && m.Slow.Evicted })
	l.slow("kept out", func(m wire.MemberStatus, warnings string) bool {
		return m.State == "catching up" && m.Slow.WaitMS >= 4000 && m.Slow.ReturnMS > 0 && strings.Contains(warnings, "it comes back when it has been fast")
	})
	l.progress()
	l.disk(m, 0)
	l.ends()
}
