package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

const streamBytes = gib / 2

// mountStreams measures one large file that is written, and read, through a mount.
func mountStreams(ctx context.Context, bin, dir string, o options) (rows []row, err error) {
	s, err := openSides(ctx, bin, dir, o, "streams")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	write, err := streamWrite(s)
	if err != nil {
		return nil, err
	}
	reads, err := streamReads(ctx, s)
	if err != nil {
		return nil, err
	}
	return append([]row{write}, append(reads, s.memory("large files", 256, 128))...), nil
}

// streamWrite compares a file written through the mount, with an fsync at its
// end, with three local copies and a sync.
func streamWrite(s *sideBySide) (row, error) {
	defer s.watch()()
	var local, remote []time.Duration
	for range transfers {
		began := time.Now()
		if err := localCopies(s.bare, streamBytes); err != nil {
			return row{}, err
		}
		local = append(local, time.Since(began))
		began = time.Now()
		f, err := filled(filepath.Join(s.mnt, "large"), streamBytes)
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return row{}, err
		}
		remote = append(remote, time.Since(began))
	}
	l, r := median(local), median(remote)
	return row{"mount: 512 MiB written, fsync, to three local copies and a sync", 100 * l.Seconds() / r.Seconds(), "%", 30, 60, false,
		fmt.Sprintf("%v to %v", r.Round(time.Millisecond), l.Round(time.Millisecond))}, nil
}

// streamReads compares a file read through the mount with the loopback whose
// contents go through FUSE too. What the kernel passes through is the disk's own
// page cache, which no file system that brings its contents from elsewhere comes near.
func streamReads(ctx context.Context, s *sideBySide) ([]row, error) {
	f, err := filled(filepath.Join(s.loop, "large"), streamBytes)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, to := range []struct {
		point, name string
		cold, warm  [2]float64 // floor and aim, in percent; 0: of no consequence
	}{
		{s.through, "the loopback", [2]float64{30, 70}, [2]float64{80, 100}},
		{s.loop, "one passed through", [2]float64{}, [2]float64{}},
	} {
		var cold, warm [2][]time.Duration // of what it is compared with, of the mount
		for range transfers {
			if err := s.cool(ctx); err != nil {
				return nil, err
			}
			stop := s.watch()
			for _, times := range []*[2][]time.Duration{&cold, &warm} {
				for i, point := range []string{to.point, s.mnt} {
					took, err := readAll(filepath.Join(point, "large"))
					if err != nil {
						return nil, err
					}
					times[i] = append(times[i], took)
				}
			}
			stop()
		}
		ratio := func(what string, times [2][]time.Duration, bounds [2]float64) row {
			loop, mnt := median(times[0]), median(times[1])
			return row{"mount: 512 MiB read, " + what + ", to " + to.name, 100 * loop.Seconds() / mnt.Seconds(), "%", bounds[0], bounds[1], false,
				fmt.Sprintf("%v to %v", mnt.Round(time.Millisecond), loop.Round(time.Millisecond))}
		}
		rows = append(rows, ratio("cold", cold, to.cold), ratio("warm", warm, to.warm))
	}
	return rows, nil
}

// readAll reads a file from its beginning to its end.
func readAll(name string) (took time.Duration, err error) {
	began := time.Now()
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	n, buf := int64(0), make([]byte, 1<<20)
	for err == nil {
		var k int
		k, err = f.Read(buf)
		n += int64(k)
	}
	if !errors.Is(err, io.EOF) || n != streamBytes {
		return 0, fmt.Errorf("%s: %d bytes, %w", name, n, err)
	}
	return time.Since(began), nil
}
