package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"path/filepath"
	"sync"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/wire/client"
)

// restart fills the journals to where a checkpoint is about to start, kills
// `tpcfs up` and measures how long the next one takes until it serves.
func restart(ctx context.Context, bin, dir string, _ options) (rows []row, err error) {
	sock := "unix:" + filepath.Join(dir, "s")
	start := func() (*harness.Proc, time.Duration, error) {
		began := time.Now()
		p, err := harness.Start("up", nil, bin, "up", "--dir", filepath.Join(dir, "up"), "--listen", sock)
		if err != nil {
			return nil, 0, err
		}
		_, err = p.WaitLine(ctx, "ready")
		return p, time.Since(began), err
	}
	p, _, err := start()
	if err != nil {
		return nil, err
	}
	if err := fillJournals(ctx, sock); err != nil {
		return nil, errors.Join(err, p.Kill())
	}
	if err := p.Kill(); err != nil {
		return nil, err
	}
	p, took, err := start()
	if err != nil {
		return nil, err
	}
	return []row{{"restart after kill -9 with full journals, to serving", took.Seconds(), "s", 2, 0.5, true, "three participants in one process"}}, p.Kill()
}

// fillJournals writes 14 MB of contents that live in the metadata and 44 MB
// that live in objects: just less than what starts a checkpoint.
func fillJournals(ctx context.Context, addr string) error {
	const workers = 32
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { errs[w] = fillPart(ctx, addr, w) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func fillPart(ctx context.Context, addr string, worker int) error {
	c, err := client.Dial(ctx, addr, client.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // all is answered
	for i := range 130 {
		size := block
		if i%6 == 0 {
			size = 60_000
		}
		name := fmt.Sprintf("fill-%d-%d", worker, i)
		if _, err := c.WriteFile(ctx, name, client.Bytes(random(size, int64(worker*1000+i))), client.WriteOptions{Mode: 0o644}); err != nil {
			return err
		}
	}
	return nil
}

// random is n bytes that do not compress.
func random(n int, seed int64) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return b
}
