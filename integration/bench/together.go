package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"tpcfs/integration/harness"
)

const togetherFor = 3 * time.Second

// mountsTogether measures two mounts that write to one file and make each write
// durable, beside one alone: how long somebody has to wait, and what they get done.
func mountsTogether(ctx context.Context, bin, dir string, o options) (rows []row, err error) {
	cluster, err := o.newCluster(bin)
	if err != nil {
		return nil, err
	}
	served := map[string]*harness.Proc{}
	defer func() {
		for _, p := range served {
			err = errors.Join(err, p.Terminate(stopWithin))
		}
		err = errors.Join(err, cluster.Close())
	}()
	if err := cluster.Start(ctx, cluster.All()...); err != nil {
		return nil, err
	}
	points := []string{filepath.Join(dir, "together", "first"), filepath.Join(dir, "together", "second")}
	for _, point := range points {
		if err := os.MkdirAll(point, 0o755); err != nil {
			return nil, err
		}
		p, err := harness.Start("mount", nil, bin, "mount", "--foreground", "--coordinator", cluster.Addr(harness.Coordinator), point)
		if err != nil {
			return nil, err
		}
		served[point] = p
		if _, err := p.WaitLine(ctx, "ready"); err != nil {
			return nil, err
		}
	}
	for _, kind := range []struct {
		what  string
		write synced
	}{
		{"4 KiB rewritten + fsync", synced{block, false, unix.Fsync}},
		{"100 bytes appended + fsync", synced{100, true, unix.Fsync}},
	} {
		alone, err := kind.write.together(ctx, points[:1])
		if err != nil {
			return nil, err
		}
		both, err := kind.write.together(ctx, points)
		if err != nil {
			return nil, err
		}
		rows = append(rows,
			row{"two mounts, one file: " + kind.what + ", the longest", both[len(both)-1].Seconds(), "s", 0.25, 0.05, true,
				fmt.Sprintf("of %d; 99 of 100 within %v, half within %v", len(both), both[len(both)*99/100].Round(100*time.Microsecond), median(both).Round(100*time.Microsecond))},
			row{"two mounts, one file: changes a second of both, to one alone", float64(len(both)) / float64(len(alone)), "x", 0, 0, false,
				fmt.Sprintf("%d to %d in %v", len(both), len(alone), togetherFor)})
	}
	return rows, nil
}

// together writes to a file through all mounts at once, and returns how long each took,
// the longest last.
func (w synced) together(ctx context.Context, points []string) ([]time.Duration, error) {
	took := make([][]time.Duration, len(points))
	group, ctx := errgroup.WithContext(ctx)
	until := time.Now().Add(togetherFor)
	for i, point := range points {
		flags := os.O_RDWR | os.O_CREATE
		if w.atEnd {
			flags |= os.O_APPEND
		}
		f, err := os.OpenFile(filepath.Join(point, fmt.Sprintf("file-%v", w.atEnd)), flags, 0o644)
		if err != nil {
			return nil, errors.Join(err, group.Wait())
		}
		group.Go(func() (err error) {
			defer func() { err = errors.Join(err, f.Close()) }()
			data := make([]byte, w.bytes)
			for began := time.Now(); began.Before(until) && ctx.Err() == nil; {
				if w.atEnd {
					_, err = f.Write(data)
				} else {
					_, err = f.WriteAt(data, 0)
				}
				if err == nil {
					err = w.sync(int(f.Fd()))
				}
				if err != nil {
					return err
				}
				now := time.Now()
				took[i] = append(took[i], now.Sub(began))
				began = now
			}
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	return all, nil
}
