package participant

import (
	"fmt"
	"testing"
	"time"

	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// BenchmarkCommit is one 4 KiB write after the other on the real disk: the
// time from the PREPARE to its vote, with the COMMIT riding along. bare is a
// write and a sync of as much.
func BenchmarkCommit(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		fsys, dir := disk.New(), b.TempDir()
		f, err := fsys.Create(dir + "/f")
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		buf := make([]byte, 4096)
		for i := range int64(4096) {
			if _, err := f.WriteAt(buf, i*4096); err != nil {
				b.Fatal(err)
			}
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		for i := range b.N {
			if _, err := f.WriteAt(buf, int64(i%4096)*4096); err != nil {
				b.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("commit", func(b *testing.B) {
		p, err := Open(Options{Dir: b.TempDir(), Ballast: 1 << 20})
		if err != nil {
			b.Fatal(err)
		}
		r := &rig{t: b, p: p}
		defer r.close()
		r.begin(1)
		data := string(make([]byte, 4096))
		r.write(2, "warm", data)
		b.ResetTimer()
		for i := range b.N {
			r.write(uint64(3+i), fmt.Sprint("f", i%1000), data)
		}
	})
}

// BenchmarkRestart opens a participant that was killed with a full journal:
// as much as there can be before a checkpoint begins.
func BenchmarkRestart(b *testing.B) {
	dir := b.TempDir()
	o := Options{Dir: dir, Ballast: 1 << 20, CheckpointSegments: 1000, TableBytes: 1 << 30, QuietForce: time.Second}
	p, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	r := &rig{t: b, p: p}
	r.begin(1)
	random := rng(1)
	var last uint64
	for n := uint64(0); p.writer.Stats().Segments < 4; n++ {
		data := make([]byte, 4096) // that zstd cannot shrink
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		last = r.prepare(2+n, data, wire.Mutation{Kind: wire.MutWriteFile, At: at(fmt.Sprint("f", n)), Mode: 0o644, Content: wire.Content{Size: 4096, Sum: wire.Sum(data)}})
		if n%64 == 63 {
			r.want(last, wire.VoteYes)
		}
		r.commit(2 + n)
	}
	r.durable(r.next - 1)
	r.close()
	b.ResetTimer()
	for range b.N {
		rec, err := recoverState(&Options{Dir: dir, FS: disk.New(), Ballast: 1 << 20, TableBytes: 1 << 30, Logger: p.log})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(rec.replayed), "records")
		if err := rec.log.Close(); err != nil {
			b.Fatal(err)
		}
		if err := rec.store.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
