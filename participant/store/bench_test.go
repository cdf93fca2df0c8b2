package store

import (
	"fmt"
	"testing"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// How many 4 KiB writes a second the owner can apply, checkpoints beside it.
func BenchmarkApply4K(b *testing.B) {
	for _, kind := range []string{"create", "overwrite"} {
		b.Run(kind, func(b *testing.B) {
			f := real(b)
			data := fill(4096, 1)
			sum := wire.Sum(data)
			var done chan error
			for i := range 1000 {
				f.create(fmt.Sprintf("old%06d", i), data)
			}
			f.checkpoint()
			first := wire.Ino(wire.MakeID(1, 2))
			b.ResetTimer()
			for i := range b.N {
				id := wire.MakeID(1, f.next)
				f.next++
				f.lsn++
				bound := vote.Bound{Kind: wire.MutWriteFile, Ino: first + wire.Ino(i%1000), Content: wire.Content{Size: 4096, Sum: sum}}
				if kind == "create" {
					bound.Ino, bound.Created, bound.Dir, bound.Name = wire.Ino(id), true, 1, fmt.Sprintf("n%08d", i)
				}
				op := wire.OpID{Session: wire.SessionID{1}, Seq: uint64(i) + 1}
				tx := &vote.Tx{ID: id, Op: op, Lowest: op.Seq, Time: 1, ServiceTime: int64(i), Outcome: wire.Outcome{Tx: id, Results: []wire.Result{{Ino: bound.Ino}}},
					Bounds: []vote.Bound{bound}, Payload: data}
				if err := f.Apply(tx, wire.Position{Epoch: 1, Index: uint64(i) + 2000}); err != nil {
					b.Fatal(err)
				}
				for f.TableFull() && done != nil {
					if err := <-done; err != nil {
						b.Fatal(err)
					}
					done = nil
				}
				if f.NeedCheckpoint() {
					if done != nil {
						if err := <-done; err != nil {
							b.Fatal(err)
						}
					}
					c, err := f.Freeze(f.lsn, nil)
					if err != nil {
						b.Fatal(err)
					}
					done = make(chan error, 1)
					go func(done chan error) { done <- c.Run(func() error { return nil }) }(done)
				}
			}
			b.StopTimer()
			if done != nil {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What a lookup, a stat and a 4 KiB readFile cost, out of the kv and out of the table.
func BenchmarkRead(b *testing.B) {
	f := real(b)
	for i := range 5000 {
		f.create(fmt.Sprintf("f%06d", i), fill(4096, byte(i)))
	}
	f.checkpoint()
	for i := range 500 {
		f.create(fmt.Sprintf("t%06d", i), fill(4096, byte(i)))
	}
	f.create("large", fill(10<<20, 1))
	for _, from := range []string{"f", "t"} {
		n := map[string]int{"f": 5000, "t": 500}[from]
		where := map[string]string{"f": "kv", "t": "table"}[from]
		b.Run("stat/"+where, func(b *testing.B) {
			for i := range b.N {
				if _, err := f.Read(wire.Read{Kind: wire.ReadStat, At: wire.At{Dir: 1, Path: fmt.Sprintf("%s%06d", from, i*7%n)}}, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("readFile4K/"+where, func(b *testing.B) {
			for i := range b.N {
				if _, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: fmt.Sprintf("%s%06d", from, i*7%n)}, Length: -1}, failing{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("list1000", func(b *testing.B) {
		for range b.N {
			if _, err := f.Read(wire.Read{Kind: wire.ReadList, At: wire.At{Dir: 1}}, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("readFile10M", func(b *testing.B) {
		b.SetBytes(10 << 20)
		for range b.N {
			if _, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: "large"}, Length: -1}, failing{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A checkpoint of 4,000 small files, and of 500 that are objects.
func BenchmarkCheckpoint(b *testing.B) {
	for _, tt := range []struct{ files, size int }{{4000, 4096}, {500, 20_000}} {
		b.Run(fmt.Sprintf("%dx%d", tt.files, tt.size), func(b *testing.B) {
			f := real(b)
			data := fill(tt.size, 1)
			for round := range b.N {
				b.StopTimer()
				for i := range tt.files {
					f.create(fmt.Sprintf("%d-%d", round, i), data)
				}
				b.StartTimer()
				f.checkpoint()
			}
		})
	}
}

// Staging, with its sync.
func BenchmarkStage(b *testing.B) {
	f := real(b)
	data := fill(16<<20, 1)
	b.SetBytes(int64(len(data)))
	for range b.N {
		r := f.stage(data)
		b.StopTimer()
		f.Unstage([]wire.ID{r.ID})
		b.StartTimer()
	}
}

// Opening must not depend on the number of files.
func BenchmarkOpen(b *testing.B) {
	f := real(b)
	for range 100 {
		var bounds []vote.Bound
		for i := range 1000 {
			bounds = append(bounds, vote.Bound{Kind: wire.MutWriteFile, Created: true, Dir: 1, Name: fmt.Sprintf("%d-%d", f.next, i)})
		}
		f.apply(nil, bounds...)
		f.checkpoint()
	}
	b.ResetTimer()
	for range b.N {
		f.reopen()
	}
}
