package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// mountWrites measures small synced writes through a mount, each role in its
// own process: in a large file and in a small one, and beside the bare disk.
func mountWrites(ctx context.Context, bin, dir string, o options) (rows []row, err error) {
	s, err := openSides(ctx, bin, dir, o, "writes")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	defer s.watch()()
	files := map[string]*os.File{}
	for name, size := range map[string]int64{"large": gib, "small": 1 << 20, "bare": gib} {
		at := filepath.Join(s.mnt, name)
		if name == "bare" {
			at = filepath.Join(s.bare, name)
		}
		f, err := filled(at, size)
		if err != nil {
			return nil, err
		}
		defer f.Close() // nothing in it is looked at again
		files[name] = f
	}
	for _, kind := range []struct {
		what  string
		write synced
	}{
		{"4 KiB rewritten + fdatasync", synced{block, false, unix.Fdatasync}},
		{"4 KiB appended + fdatasync", synced{block, true, unix.Fdatasync}},
		{"100 bytes appended + fsync", synced{100, true, unix.Fsync}},
	} {
		times, err := kind.write.times(files)
		if err != nil {
			return nil, err
		}
		large, small, bare := median(times["large"]), median(times["small"]), median(times["bare"])
		rows = append(rows,
			row{"mount: " + kind.what + ", bare disk to a file of 1 GiB", 100 * float64(bare) / float64(large), "%", 25, 50, false,
				fmt.Sprintf("%v to %v", bare.Round(time.Microsecond), large.Round(time.Microsecond))},
			row{"mount: the same in a file of 1 GiB, to one of 1 MiB", float64(large) / float64(small), "x", 2, 1.2, true,
				fmt.Sprintf("%v to %v", large.Round(time.Microsecond), small.Round(time.Microsecond))})
	}
	return append(rows, s.memory("synced writes", 256, 128)), nil
}

// filled makes a file of n bytes, synced and open.
func filled(name string, n int64) (*os.File, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	p, buf := newPattern(n), make([]byte, 1<<20)
	for at := int64(0); at < n; at += int64(len(buf)) {
		k, _ := p.Read(buf) // never fails before n
		if _, err := f.Write(buf[:k]); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, f.Sync()
}

// synced is a write of some bytes, somewhere or at the end, and what makes it durable.
type synced struct {
	bytes int64
	atEnd bool
	sync  func(fd int) error
}

// times tells how long it takes in each file, in turns.
func (w synced) times(files map[string]*os.File) (map[string][]time.Duration, error) {
	data, rng := random(int(w.bytes), 1), rand.New(rand.NewPCG(1, 2))
	times := map[string][]time.Duration{}
	for turn := range rounds + 1 {
		for name, f := range files {
			info, err := f.Stat()
			if err != nil {
				return nil, err
			}
			for i := range int64(perTurn) {
				at := rng.Int64N(info.Size()/block) * block
				if w.atEnd {
					at = info.Size() + i*w.bytes
				}
				began := time.Now()
				if _, err := f.WriteAt(data, at); err != nil {
					return nil, err
				}
				if err := w.sync(int(f.Fd())); err != nil {
					return nil, err
				}
				if turn > 0 { // the first one warms up
					times[name] = append(times[name], time.Since(began))
				}
			}
		}
	}
	return times, nil
}
