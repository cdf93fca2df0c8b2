package meter

import (
	"sync"
	"time"
)

// slice is how long a slice of a Meter's window is, slices how many there are.
const (
	slice  = 10 * time.Second
	slices = 6
)

// Window is what Recent tells about: the last minute, by slices.
const Window = slice * slices

// Outcome says how an operation went.
type Outcome uint8

// The outcomes. Done is also an answer such as "no such file".
const (
	Done     Outcome = iota
	Conflict         // another came first
	Failed           // the service could not do it
)

// Meter counts the operations of one kind. The zero value is empty. It is safe
// for concurrent use. Time is the caller's: what has passed since its start,
// never backwards by more than a little.
type Meter struct {
	mu     sync.Mutex // guards what follows
	totals [Failed + 1]uint64
	ring   [slices]struct {
		number int64 // of the slice, from 1; 0: unused
		count  uint64
		took   Histogram
	}
}

// Add counts an operation that ended at now and took so long.
func (m *Meter) Add(now, took time.Duration, outcome Outcome) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.totals[outcome]++
	number := int64(now/slice) + 1
	s := &m.ring[number%slices]
	if s.number != number {
		s.number, s.count, s.took = number, 0, Histogram{}
	}
	s.count++
	s.took.Add(took)
}

// Counts are the operations since the start.
func (m *Meter) Counts() (done, conflicts, failed uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.totals[Done], m.totals[Conflict], m.totals[Failed]
}

// Recent tells of the window that ends at now: how many a second there were in
// its last 10 to 20 seconds, and how long all of it took.
func (m *Meter) Recent(now time.Duration) (perSecond float64, took *Histogram) {
	m.mu.Lock()
	defer m.mu.Unlock()
	current := int64(now/slice) + 1
	took = &Histogram{}
	var count uint64
	for i := range m.ring {
		s := &m.ring[i]
		if s.number == 0 || s.number <= current-slices {
			continue
		}
		took.Merge(&s.took)
		if s.number >= current-1 {
			count += s.count
		}
	}
	passed := now % slice
	if current > 1 {
		passed += slice
	}
	return float64(count) / max(passed, time.Second).Seconds(), took
}
