package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/integration/harness"
	"tpcfs/wire/client"
)

// bare is three files that three threads write and sync at once: what three
// participants on one disk cannot beat.
type bare struct{ files [3]*os.File }

const bareSize = 16 << 20

func newBare(dir string) (*bare, error) {
	b := &bare{}
	zeros := make([]byte, bareSize)
	for i := range b.files {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("bare%d", i)))
		if err != nil {
			return nil, err
		}
		if _, err := f.Write(zeros); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
		b.files[i] = f
	}
	return b, nil
}

// turn is how long each of n rounds took: all three have written and synced.
func (b *bare) turn(at *int64, n int) ([]time.Duration, error) {
	times := make([]time.Duration, n)
	data := make([]byte, block)
	var errs [3]error
	for i := range times {
		start := time.Now()
		var wg sync.WaitGroup
		for k, f := range b.files {
			wg.Go(func() {
				if _, errs[k] = f.WriteAt(data, *at%bareSize); errs[k] == nil {
					errs[k] = unix.Fdatasync(int(f.Fd()))
				}
			})
		}
		wg.Wait()
		times[i] = time.Since(start)
		*at += block
	}
	return times, errors.Join(errs[:]...)
}

func (b *bare) close() error {
	return errors.Join(b.files[0].Close(), b.files[1].Close(), b.files[2].Close())
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}

// commits is how long each of n writes of 4 KiB by one client took.
func commits(ctx context.Context, c *client.Client, n int) ([]time.Duration, error) {
	times := make([]time.Duration, n)
	data := make([]byte, block)
	for i := range times {
		start := time.Now()
		if _, err := c.WriteFile(ctx, "bench", client.Bytes(data), client.WriteOptions{Mode: 0o644}); err != nil {
			return nil, err
		}
		times[i] = time.Since(start)
	}
	return times, nil
}

// latency measures one client against the bare disk, in turns.
func latency(ctx context.Context, dir string, open func(context.Context) (*client.Client, error)) (commit, disk time.Duration, err error) {
	b, err := newBare(dir)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	c, err := open(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	var at int64
	var commitTimes, diskTimes []time.Duration
	for i := range rounds + 1 {
		d, err := b.turn(&at, perTurn)
		if err != nil {
			return 0, 0, err
		}
		t, err := commits(ctx, c, perTurn)
		if err != nil {
			return 0, 0, err
		}
		if i > 0 { // the first turn warms up
			diskTimes, commitTimes = append(diskTimes, d...), append(commitTimes, t...)
		}
	}
	return median(commitTimes), median(diskTimes), nil
}

// throughput is commits a second of one client and of many, each on files of
// its own, measured in turns.
func throughput(ctx context.Context, open func(context.Context) (*client.Client, error)) (one, many float64, err error) {
	const turns = 3
	all := make([]*client.Client, clients)
	for i := range all {
		c, err := open(ctx)
		if err != nil {
			return 0, 0, err
		}
		defer func() { _ = c.Close() }() // measured already
		all[i] = c
	}
	for range turns {
		a, err := rate(ctx, all[:1])
		if err != nil {
			return 0, 0, err
		}
		b, err := rate(ctx, all)
		if err != nil {
			return 0, 0, err
		}
		one, many = one+a/turns, many+b/turns
	}
	return one, many, nil
}

// rate is how many commits a second some clients do.
func rate(ctx context.Context, some []*client.Client) (float64, error) {
	const duration = 1500 * time.Millisecond
	counts, errs := make([]int, len(some)), make([]error, len(some))
	data := make([]byte, block)
	var wg sync.WaitGroup
	start := time.Now()
	for i, c := range some {
		wg.Go(func() {
			name := fmt.Sprintf("client%d", i)
			for time.Since(start) < duration && errs[i] == nil {
				if _, errs[i] = c.WriteFile(ctx, name, client.Bytes(data), client.WriteOptions{Mode: 0o644}); errs[i] == nil {
					counts[i]++
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	total := 0
	for _, n := range counts {
		total += n
	}
	return float64(total) / took.Seconds(), errors.Join(errs...)
}

// figures are the latency and throughput rows of one way to run tpcfs.
func figures(ctx context.Context, dir, where string, floor, aim float64, open func(context.Context) (*client.Client, error)) ([]row, error) {
	commit, disk, err := latency(ctx, dir, open)
	if err != nil {
		return nil, err
	}
	one, many, err := throughput(ctx, open)
	if err != nil {
		return nil, err
	}
	return []row{
		{"commit of 4 KiB, one client, " + where + ", to three parallel syncs", float64(commit) / float64(disk), "x", floor, aim, true,
			fmt.Sprintf("%s to %s", commit.Round(time.Microsecond), disk.Round(time.Microsecond))},
		{fmt.Sprintf("commits/s of %d clients, %s, to one client", clients, where), many / one, "x", 4, 10, false,
			fmt.Sprintf("%.0f to %.0f a second", many, one)},
	}, nil
}

func inOneProcess(ctx context.Context, _, dir string, _ options) (rows []row, err error) {
	dir = filepath.Join(dir, "one")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	p, err := harness.OpenInProcess(ctx, dir, 3, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	floor := make([]byte, 16<<20) // as the collector is told by cmd/tpcfs
	defer runtime.KeepAlive(floor)
	return figures(ctx, dir, "all in one process", 2, 1.4, p.Client)
}

func inProcesses(ctx context.Context, bin, dir string, o options) (rows []row, err error) {
	c, err := o.newCluster(bin)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.Start(ctx, c.All()...); err != nil {
		return nil, err
	}
	open := func(ctx context.Context) (*client.Client, error) { return c.Client(ctx, 0) }
	return figures(ctx, c.Dir, "each in its own process", 3, 2, open)
}
