package meter

import (
	"testing"
	"time"
)

func TestQuantiles(t *testing.T) {
	var h Histogram
	for i := range 1000 {
		h.Add(time.Duration(i+1) * time.Millisecond)
	}
	q := h.Quantiles(0.5, 0.9, 0.99, 1)
	for i, want := range []time.Duration{500, 900, 990, 1000} {
		want *= time.Millisecond
		if q[i] < want || q[i] > want+want/25 {
			t.Errorf("%v, want %v", q[i], want)
		}
	}
	for _, d := range []time.Duration{0, 1, 63, 64, 65, 1 << 40, 1<<63 - 1} {
		var h Histogram
		h.Add(d)
		if got := h.Quantiles(0.5)[0]; got != d {
			t.Errorf("%d: %d", d, got)
		}
	}
	if got := new(Histogram).Quantiles(0.5)[0]; got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestMergeIsAdding(t *testing.T) {
	var a, b, both Histogram
	for i := range 500 {
		a.Add(time.Duration(i))
		b.Add(time.Duration(i) * time.Second)
		both.Add(time.Duration(i))
		both.Add(time.Duration(i) * time.Second)
	}
	a.Merge(&b)
	for _, part := range []float64{0.1, 0.5, 0.9, 1} {
		if got, want := a.Quantiles(part)[0], both.Quantiles(part)[0]; got != want {
			t.Errorf("quantile %v: %v, want %v", part, got, want)
		}
	}
}

// What is older than the window is forgotten, totals are not; the rate is that
// of the last seconds.
func TestWindow(t *testing.T) {
	var m Meter
	rate := func(now time.Duration) float64 { r, _ := m.Recent(now); return r }
	slowest := func(now time.Duration) time.Duration { _, h := m.Recent(now); return h.Quantiles(1)[0] }
	for i := range 100 { // ten a second for ten seconds
		m.Add(time.Duration(i)*100*time.Millisecond, time.Second, Done)
	}
	if got := rate(10 * time.Second); got != 10 {
		t.Errorf("ten a second are %v", got)
	}
	if got := rate(30 * time.Second); got != 0 {
		t.Errorf("twenty seconds later it is %v", got)
	}
	m.Add(55*time.Second, time.Millisecond, Conflict)
	if got := slowest(59 * time.Second); got != time.Second {
		t.Errorf("within the minute the slowest took %v", got)
	}
	if got := slowest(65 * time.Second); got != time.Millisecond {
		t.Errorf("after the minute the slowest took %v", got)
	}
	m.Add(65*time.Second, time.Microsecond, Failed) // in the place of the first slice
	if got := slowest(80 * time.Second); got != time.Millisecond {
		t.Errorf("the slowest took %v", got)
	}
	if got := slowest(10 * time.Minute); got != 0 {
		t.Errorf("long after, the slowest took %v", got)
	}
	if done, conflicts, failed := m.Counts(); done != 100 || conflicts != 1 || failed != 1 {
		t.Errorf("counted %d done, %d conflicts, %d failed", done, conflicts, failed)
	}
}
