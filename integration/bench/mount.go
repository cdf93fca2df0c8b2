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

	"tpcfs/integration/harness"
)

// mountWrites measures small synced writes through a mount, each role in its
// own process: in a large file and in a small one, and beside the bare disk.
func mountWrites(ctx context.Context, bin, dir string, _ options) (rows []row, err error) {
	c, err := harness.NewCluster(bin, 3)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.Start(ctx, c.All()...); err != nil {
		return nil, err
	}
	mnt := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		return nil, err
	}
	if r := harness.Run(ctx, nil, nil, bin, "mount", "--coordinator", c.Addr(harness.Coordinator), mnt); r.Code != 0 {
		return nil, fmt.Errorf("mount: %s", r.Err)
	}
	defer func() {
		if r := harness.Run(ctx, nil, nil, bin, "umount", mnt); r.Code != 0 {
			err = errors.Join(err, fmt.Errorf("umount: %s", r.Err))
		}
	}()
	files := map[string]*os.File{}
	for name, size := range map[string]int64{"large": gib, "small": 1 << 20, "bare": gib} {
		at := filepath.Join(mnt, name)
		if name == "bare" {
			at = filepath.Join(dir, name)
		}
		f, err := filled(at, size)
		if err != nil {
			return nil, err
		}
		defer f.Close() // nothing in it is looked at again
		files[name] = f
	}
	for _, kind := range []string{"rewritten", "appended"} {
		times, err := syncedWrites(files, kind == "appended")
		if err != nil {
			return nil, err
		}
		large, small, bare := median(times["large"]), median(times["small"]), median(times["bare"])
		rows = append(rows,
			row{"mount: 4 KiB " + kind + " + fdatasync, bare disk to a file of 1 GiB", 100 * float64(bare) / float64(large), "%", 25, 50, false,
				fmt.Sprintf("%v to %v", bare.Round(time.Microsecond), large.Round(time.Microsecond))},
			row{"mount: the same in a file of 1 GiB, to one of 1 MiB", float64(large) / float64(small), "x", 2, 1.2, true,
				fmt.Sprintf("%v to %v", large.Round(time.Microsecond), small.Round(time.Microsecond))})
	}
	return rows, nil
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

// syncedWrites times 4 KiB written and synced in each file, in turns.
func syncedWrites(files map[string]*os.File, atEnd bool) (map[string][]time.Duration, error) {
	data, rng := random(block, 1), rand.New(rand.NewPCG(1, 2))
	times := map[string][]time.Duration{}
	for turn := range rounds + 1 {
		for name, f := range files {
			info, err := f.Stat()
			if err != nil {
				return nil, err
			}
			for i := range int64(perTurn) {
				at := rng.Int64N(info.Size()/block) * block
				if atEnd {
					at = info.Size() + i*block
				}
				began := time.Now()
				if _, err := f.WriteAt(data, at); err != nil {
					return nil, err
				}
				if err := unix.Fdatasync(int(f.Fd())); err != nil {
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
