package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// manyFiles makes many files of 1 KiB and tells a participant's memory and how
// long a restart takes after it was killed.
func manyFiles(ctx context.Context, bin, dir string, o options) (rows []row, err error) {
	c, err := o.newCluster(bin)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.Start(ctx, c.All()...); err != nil {
		return nil, err
	}
	memory, made := uint64(0), 0
	fill := func(total int) error {
		cl, err := c.Client(ctx, 0)
		if err != nil {
			return err
		}
		watchCtx, stop := context.WithCancel(ctx)
		most := make(chan uint64, 1)
		go func() { most <- watchMemory(watchCtx, c) }()
		for ; made < total && err == nil; made += filesATurn {
			err = makeFiles(ctx, cl, made)
		}
		stop()
		memory = <-most
		return errors.Join(err, cl.Close())
	}
	for _, s := range []struct {
		files       int
		floor, aim  float64 // MiB
		restartMost float64 // seconds; 0: not measured
		restartAim  float64
	}{{100_000, 400, 300, 0, 0}, {o.files, 1024, 300, 5, 1}} {
		if s.files <= made {
			continue
		}
		if err := fill(s.files); err != nil {
			return nil, err
		}
		rows = append(rows, row{fmt.Sprintf("%d files of 1 KiB: memory of any process", s.files), float64(memory) / (1 << 20), "MiB", s.floor, s.aim, true, "anonymous, while they are made"})
		if s.restartMost == 0 {
			continue
		}
		if err := c.Kill(c.All()...); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := c.Start(ctx, c.All()...); err != nil {
			return nil, err
		}
		rows = append(rows, row{fmt.Sprintf("%d files: restart after kill -9, to serving", s.files), time.Since(began).Seconds(), "s", s.restartMost, s.restartAim, true, "each in its own process"})
	}
	looked, err := lookedUp(ctx, bin, dir, c, made)
	return append(rows, looked), err
}

// lookedUp is the most memory that a mount takes while all files are looked up
// through it, and found again when the kernel has forgotten them.
func lookedUp(ctx context.Context, bin, dir string, c *harness.Cluster, files int) (r row, err error) {
	s := &sideBySide{cluster: c, bin: bin, mnt: filepath.Join(dir, "million"), served: map[string]*harness.Proc{}}
	if err := os.Mkdir(s.mnt, 0o755); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.unmount()) }()
	if err := s.serve(ctx, s.mnt, s.mountCommand()...); err != nil {
		return r, err
	}
	stop := s.watch()
	defer stop()
	began := time.Now()
	for range 2 {
		if _, err := run(ctx, "find", s.mnt, "-type", "f", "-size", "+100k"); err != nil {
			return r, err
		}
		if err := dropCaches(); err != nil {
			return r, err
		}
	}
	r = s.memory(fmt.Sprintf("%d files looked up", files), 512, 256)
	r.detail += fmt.Sprintf("; found twice in %v", time.Since(began).Round(time.Second))
	return r, nil
}

const filesATurn = 5000

// makeFiles makes a directory with filesATurn files in one transaction.
func makeFiles(ctx context.Context, cl *client.Client, first int) error {
	at := func(path string) wire.At { return wire.At{Dir: wire.RootIno, Path: path} }
	dir := fmt.Sprintf("d%d", first)
	muts := []wire.Mutation{{Kind: wire.MutMkdir, At: at(dir), Mode: 0o755}}
	contents := []client.Content{nil}
	data := random(1024, int64(first))
	for i := range filesATurn {
		muts = append(muts, wire.Mutation{Kind: wire.MutWriteFile, At: at(filepath.Join(dir, fmt.Sprintf("file%d", i))), Mode: 0o644})
		contents = append(contents, client.Bytes(data))
	}
	_, err := cl.Transact(ctx, muts, contents)
	return err
}
