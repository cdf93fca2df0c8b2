package journal

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tpcfs/journal/disk"
)

// bareFile is what a journal is compared with: 4 KiB written one after another
// into a file of zeros, and synced each time.
func bareFile(b *testing.B) (disk.File, int64) {
	b.Helper()
	const size = 64 << 20
	m := files{fs: disk.New(), dir: b.TempDir(), size: size}
	f, err := m.fs.Create(m.path("bare"))
	ok(b, err)
	ok(b, m.fill(f, "bare"))
	ok(b, m.syncDir())
	return f, size
}

// BenchmarkAppendSync: one forced record of 4 KiB after another, by 1 and by
// 64 clients at once, against the same number of bare writes with fdatasync.
// The two take turns, since a disk's speed changes from second to second.
// ratio is the median latency against a bare write and sync with 1 client,
// per-bare the commits in the mean time of one bare write and sync.
func BenchmarkAppendSync(b *testing.B) {
	for _, kind := range []string{"text", "random"} {
		for _, clients := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/clients=%d", kind, clients), func(b *testing.B) {
				record := randomBytes(4096)
				if kind == "text" {
					record = []byte(fmt.Sprintf("%04096d", 1))
				}
				benchAppendSync(b, record, clients)
			})
		}
	}
}

func benchAppendSync(b *testing.B, record []byte, clients int) {
	bare, size := bareFile(b)
	defer bare.Close()
	page := randomBytes(4096)
	l, err := Open(Options{FS: disk.New(), Dir: b.TempDir()})
	ok(b, err)
	w := NewWriter(l, nil)
	for w.Stats().Spares < 1 {
		ok(b, w.Err())
		runtime.Gosched()
	}
	var bareTimes, times []time.Duration
	at := int64(0)
	const turn = 50
	var journalTotal time.Duration
	done := 0
	b.ResetTimer()
	for done < b.N {
		for range turn {
			start := time.Now()
			_, err := bare.WriteAt(page, at)
			ok(b, err)
			ok(b, bare.Sync())
			bareTimes = append(bareTimes, time.Since(start))
			at = (at + 4096) % size
		}
		start := time.Now()
		times = append(times, commits(b, w, record, clients, turn*clients)...)
		journalTotal += time.Since(start)
		done += turn * clients
		ok(b, w.Cut(w.Synced()))
	}
	b.StopTimer()
	ok(b, w.Close())
	bareTotal := time.Duration(0)
	for _, d := range bareTimes {
		bareTotal += d
	}
	bareMean := float64(bareTotal) / float64(len(bareTimes))
	median := func(d []time.Duration) float64 { slices.Sort(d); return float64(d[len(d)/2]) }
	bm := median(bareTimes)
	b.ReportMetric(bm/1e3, "bare-us")
	b.ReportMetric(median(times)/1e3, "commit-us")
	b.ReportMetric(median(times)/bm, "ratio")
	b.ReportMetric(float64(done)*bareMean/float64(journalTotal), "per-bare")
}

// commits makes n commits by that many clients and returns how long each took.
func commits(b *testing.B, w *Writer, record []byte, clients, n int) []time.Duration {
	times := make([]time.Duration, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				start := time.Now()
				_, err := w.Append([][]byte{record}, true)
				if err == nil {
					err = w.Sync(context.Background())
				}
				if err != nil {
					b.Error(err)
					return
				}
				times[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	return times
}

// BenchmarkCompress shows what zstd costs before a sync, for compressFrom.
func BenchmarkCompress(b *testing.B) {
	for _, size := range []int{4200, 8 << 10, 12 << 10, 64 << 10, 1 << 20} {
		for _, kind := range []string{"text", "random"} {
			b.Run(fmt.Sprintf("%s/%d", kind, size), func(b *testing.B) {
				src := randomBytes(size)
				if kind == "text" {
					src = nil
					for i := 0; len(src) < size; i++ {
						src = fmt.Appendf(src, "line %d of some file with %x in it\n", i, i*7919)
					}
					src = src[:size]
				}
				b.SetBytes(int64(size))
				var out []byte
				for b.Loop() {
					out = encoder.EncodeAll(src, out[:0])
				}
				b.ReportMetric(float64(len(out))/float64(size), "stored/raw")
			})
		}
	}
}

// BenchmarkOpen: a start with a full journal of four segments.
func BenchmarkOpen(b *testing.B) {
	o := Options{FS: disk.New(), Dir: b.TempDir()}
	l := open(b, o)
	record := randomBytes(4096)
	for l.Stats().Segments < 4 {
		for range 100 {
			_, err := l.Append(record)
			ok(b, err)
		}
		ok(b, l.Flush())
	}
	ok(b, l.Close())
	for b.Loop() {
		l := open(b, o)
		ok(b, l.Replay(0, func(LSN, []byte) error { return nil }))
		ok(b, l.Close())
	}
}
