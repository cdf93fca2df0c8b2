package load

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tpcfs/coordinator/meter"
	"tpcfs/wire"
)

// stats is what has been counted so far.
type stats struct {
	latency [kinds]meter.Histogram
	done    [kinds]atomic.Int64
	missing [kinds]atomic.Int64
	bytes   [kinds]atomic.Int64
	failed  atomic.Int64

	mu     sync.Mutex // guards what follows
	errors map[wire.Code]int64
	first  error // the first one that is not to be expected
	last   error
}

// expected reports whether a service that is busy, or loses processes, may
// answer so.
func expected(code wire.Code) bool {
	switch code {
	case wire.CodeConflict, wire.CodeUnavailable, wire.CodeUnknownOutcome, wire.CodeCanceled, wire.CodeChanged, wire.CodeBusy:
		return true
	default:
		return false
	}
}

func (s *stats) add(k Kind, missing bool, size int64, took time.Duration) {
	s.latency[k].Add(took)
	if missing {
		s.missing[k].Add(1)
		return
	}
	s.done[k].Add(1)
	s.bytes[k].Add(size)
}

func (s *stats) fail(err error) {
	s.failed.Add(1)
	code := wire.CodeOf(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errors[code]++
	s.last = err
	if !expected(code) && s.first == nil {
		s.first = err
	}
}

// Snapshot is how far a load has come.
type Snapshot struct {
	Elapsed time.Duration
	Ops     [3]int64 // answered, by Kind
	Failed  int64
}

func (s *stats) snapshot(elapsed time.Duration) Snapshot {
	n := Snapshot{Elapsed: elapsed, Failed: s.failed.Load()}
	for k := range kinds {
		n.Ops[k] = s.done[k].Load() + s.missing[k].Load()
	}
	return n
}

// KindReport is what one kind of operation came to. Latencies are in
// milliseconds, of the operations that were answered.
type KindReport struct {
	Done      int64   `json:"done"`
	Missing   int64   `json:"missing,omitempty"` // answered: no such file
	Bytes     int64   `json:"bytes,omitempty"`
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_ms"`
	P90       float64 `json:"p90_ms"`
	P99       float64 `json:"p99_ms"`
	P999      float64 `json:"p99_9_ms"`
	Max       float64 `json:"max_ms"`
}

// Report is what a load came to.
type Report struct {
	Clients   int              `json:"clients"`
	Names     int              `json:"names"`
	Seed      uint64           `json:"seed"`
	Seconds   float64          `json:"seconds"`
	PerSecond float64          `json:"per_second"`
	Write     KindReport       `json:"write"`
	Read      KindReport       `json:"read"`
	Delete    KindReport       `json:"delete"`
	Errors    map[string]int64 `json:"errors,omitempty"`
	Check     *Check           `json:"check,omitempty"`

	// Unexpected is the first error that a service which is only busy, or loses
	// processes, would not have given.
	Unexpected error `json:"-"`
	// Last is the last error of all.
	Last error `json:"-"`
}

// Answered is the number of operations that were.
func (r *Report) Answered() int64 {
	var n int64
	for _, k := range []KindReport{r.Write, r.Read, r.Delete} {
		n += k.Done + k.Missing
	}
	return n
}

func (s *stats) report(elapsed time.Duration) Report {
	seconds := max(elapsed.Seconds(), 1e-9)
	kind := func(k Kind) KindReport {
		r := KindReport{Done: s.done[k].Load(), Missing: s.missing[k].Load(), Bytes: s.bytes[k].Load()}
		r.PerSecond = float64(r.Done+r.Missing) / seconds
		q := s.latency[k].Quantiles(0.5, 0.9, 0.99, 0.999)
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		r.P50, r.P90, r.P99, r.P999, r.Max = ms(q[0]), ms(q[1]), ms(q[2]), ms(q[3]), ms(s.latency[k].Max())
		return r
	}
	r := Report{Seconds: elapsed.Seconds(), Write: kind(Write), Read: kind(Read), Delete: kind(Delete)}
	r.PerSecond = float64(r.Answered()) / seconds
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Errors, r.Unexpected, r.Last = map[string]int64{}, s.first, s.last
	for code, n := range s.errors {
		r.Errors[code.String()] = n
	}
	return r
}

// String tells a report in a few lines.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d clients, %d names, seed %d: %d operations in %.1f s, %.0f/s\n", r.Clients, r.Names, r.Seed, r.Answered(), r.Seconds, r.PerSecond)
	fmt.Fprintf(&b, "%-7s %9s %9s %9s %9s %9s %9s %9s %9s %9s\n", "", "done", "missing", "per s", "MiB/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms")
	for k, one := range []KindReport{r.Write, r.Read, r.Delete} {
		fmt.Fprintf(&b, "%-7s %9d %9d %9.0f %9.1f %9.2f %9.2f %9.2f %9.2f %9.2f\n", Kind(k), one.Done, one.Missing, one.PerSecond,
			float64(one.Bytes)/max(r.Seconds, 1e-9)/(1<<20), one.P50, one.P90, one.P99, one.P999, one.Max)
	}
	if len(r.Errors) == 0 {
		b.WriteString("errors: none")
	} else {
		b.WriteString("errors:")
		for i, what := range slices.Sorted(maps.Keys(r.Errors)) {
			if i > 0 {
				b.WriteString(",")
			}
			fmt.Fprintf(&b, " %s %d", what, r.Errors[what])
		}
	}
	if c := r.Check; c != nil {
		b.WriteString("\nhistory: " + c.String())
	}
	return b.String()
}

func (c *Check) String() string {
	text := fmt.Sprintf("%d operations on %d files in %d pieces, %d outcomes unknown", c.Ops, c.Files, c.Pieces, c.Unknown)
	switch {
	case len(c.Faults) > 0:
		return text + ": NOT linearizable"
	case c.Undecided > 0:
		return fmt.Sprintf("%s: no fault found, but %d pieces could not be judged in time", text, c.Undecided)
	default:
		return text + ": linearizable"
	}
}
