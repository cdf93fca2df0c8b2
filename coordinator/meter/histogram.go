// Package meter counts what a service does and how long it takes.
package meter

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Histogram counts durations in buckets each about 3 % wide. The zero value is
// empty. It is safe for concurrent use.
type Histogram struct {
	counts [59 * 32]atomic.Int64
	max    atomic.Int64 // ns
}

// Add counts a duration.
func (h *Histogram) Add(d time.Duration) {
	v := uint64(max(d, 0))
	shift := max(0, bits.Len64(v)-6)
	h.counts[shift*32+int(v>>shift)].Add(1)
	h.atLeast(int64(d))
}

// Max is the longest of all.
func (h *Histogram) Max() time.Duration { return time.Duration(h.max.Load()) }

func (h *Histogram) atLeast(ns int64) {
	for {
		old := h.max.Load()
		if ns <= old || h.max.CompareAndSwap(old, ns) {
			return
		}
	}
}

// Merge adds all that another has counted.
func (h *Histogram) Merge(other *Histogram) {
	for i := range other.counts {
		if n := other.counts[i].Load(); n != 0 {
			h.counts[i].Add(n)
		}
	}
	h.atLeast(other.max.Load())
}

// bound is the greatest duration of a bucket.
func bound(bucket int) time.Duration {
	shift := max(0, bucket/32-1)
	return time.Duration((uint64(bucket-shift*32)+1)<<shift - 1)
}

// Quantiles are the durations within which those parts of all were done; 0
// where nothing was.
func (h *Histogram) Quantiles(parts ...float64) []time.Duration {
	var total int64
	for i := range h.counts {
		total += h.counts[i].Load()
	}
	found := make([]time.Duration, len(parts))
	for n, part := range parts {
		left := int64(part*float64(total) + 0.5)
		for i := range h.counts {
			if left -= h.counts[i].Load(); left <= 0 {
				found[n] = min(bound(i), time.Duration(h.max.Load()))
				break
			}
		}
	}
	return found
}
