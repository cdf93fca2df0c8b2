package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

const (
	gib        = int64(1) << 30
	transfers  = 3   // of each measurement of large contents, in turns
	readTurns  = 12  // of small reads
	readsATurn = 400 // small reads, or round trips, in one turn
)

// pattern gives n bytes that do not compress and cost little to make.
type pattern struct {
	block []byte
	at, n int64
}

func newPattern(n int64) *pattern {
	b := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(b) // never fails
	return &pattern{block: b, n: n}
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.at == p.n {
		return 0, io.EOF
	}
	off := p.at % int64(len(p.block))
	n := copy(b[:min(int64(len(b)), p.n-p.at)], p.block[off:])
	p.at += int64(n)
	return n, nil
}

// patternContent is a pattern as a client's contents.
type patternContent struct{ n int64 }

func (c patternContent) Size() int64                  { return c.n }
func (c patternContent) Open() (io.ReadCloser, error) { return io.NopCloser(newPattern(c.n)), nil }

// largeContents measures put and get of large files and small reads, each role
// in its own process.
func largeContents(ctx context.Context, bin, dir string, o options) (rows []row, err error) {
	c, err := o.newCluster(bin)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.Start(ctx, c.All()...); err != nil {
		return nil, err
	}
	cl, err := c.Client(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cl.Close()) }()
	h, err := openHops(ctx, c.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()

	put, err := putRow(ctx, cl, c.Dir)
	if err != nil {
		return nil, err
	}
	get, err := getRow(ctx, cl, h)
	if err != nil {
		return nil, err
	}
	small, err := smallReads(ctx, cl, h)
	if err != nil {
		return nil, err
	}
	parts, err := partRows(ctx, cl)
	if err != nil {
		return nil, err
	}
	memory, err := memoryRow(ctx, c, cl, o.large)
	return append([]row{put, get, small, memory}, parts...), err
}

// partRows compare 4 KiB rewritten in, and appended to, a large file with the
// same in a small one.
func partRows(ctx context.Context, cl *client.Client) ([]row, error) {
	sizes := map[string]int64{"part-large": gib, "part-small": 1 << 20}
	for name, size := range sizes {
		if _, err := cl.WriteFile(ctx, name, patternContent{size}, client.WriteOptions{}); err != nil {
			return nil, err
		}
	}
	data := client.Bytes(random(block, 1))
	rng := rand.New(rand.NewPCG(1, 2))
	var rows []row
	for _, kind := range []struct {
		what  string
		write func(name string) error
	}{
		{"rewritten", func(name string) error {
			at := rng.Int64N(sizes[name]/block) * block
			_, err := cl.WriteExtents(ctx, name, []client.Extent{{Offset: at, Content: data}}, client.ExtentOptions{})
			return err
		}},
		{"appended", func(name string) error {
			_, err := cl.Append(ctx, name, data, client.WriteOptions{})
			return err
		}},
	} {
		times := map[string][]time.Duration{}
		for turn := range rounds + 1 {
			for name := range sizes {
				for range perTurn {
					began := time.Now()
					if err := kind.write(name); err != nil {
						return nil, err
					}
					if turn > 0 { // the first one warms up
						times[name] = append(times[name], time.Since(began))
					}
				}
			}
		}
		large, small := median(times["part-large"]), median(times["part-small"])
		rows = append(rows, row{"4 KiB " + kind.what + " in a file of 1 GiB, to one of 1 MiB", 100 * (float64(large)/float64(small) - 1), "% more", 20, 5, true,
			fmt.Sprintf("%v to %v", large.Round(time.Microsecond), small.Round(time.Microsecond))})
	}
	return rows, nil
}

// putRow compares 1 GiB written to the service with three local copies and a sync.
func putRow(ctx context.Context, cl *client.Client, dir string) (row, error) {
	var local, remote []time.Duration
	for range transfers {
		began := time.Now()
		if err := localCopies(dir, gib); err != nil {
			return row{}, err
		}
		local = append(local, time.Since(began))
		began = time.Now()
		if _, err := cl.WriteFile(ctx, "large", patternContent{gib}, client.WriteOptions{}); err != nil {
			return row{}, err
		}
		remote = append(remote, time.Since(began))
	}
	l, r := median(local), median(remote)
	return row{"1 GiB put, to three local copies and a sync", 100 * l.Seconds() / r.Seconds(), "%", 30, 60, false,
		fmt.Sprintf("%v to %v", r.Round(time.Millisecond), l.Round(time.Millisecond))}, nil
}

// localCopies writes the same contents to three files, at once, and syncs them.
func localCopies(dir string, n int64) error {
	var g errgroup.Group
	for i := range 3 {
		g.Go(func() error {
			name := filepath.Join(dir, "copy"+strconv.Itoa(i))
			f, err := os.Create(name)
			if err != nil {
				return err
			}
			_, err = io.CopyBuffer(plain{f}, newPattern(n), make([]byte, 1<<20))
			if err == nil {
				err = unix.Fdatasync(int(f.Fd()))
			}
			return errors.Join(err, f.Close(), os.Remove(name))
		})
	}
	return g.Wait()
}

// getRow compares 1 GiB read with the bare relay.
func getRow(ctx context.Context, cl *client.Client, h *hops) (row, error) {
	var bare, got []time.Duration
	buf := make([]byte, wire.PieceSize)
	for range transfers {
		began := time.Now()
		if err := h.get(gib, buf); err != nil {
			return row{}, err
		}
		bare = append(bare, time.Since(began))
		began = time.Now()
		if _, err := cl.ReadTo(ctx, "large", io.Discard, client.ReadOptions{}); err != nil {
			return row{}, err
		}
		got = append(got, time.Since(began))
	}
	b, g := median(bare), median(got)
	return row{"1 GiB get, to a bare two-hop yamux relay", 100 * b.Seconds() / g.Seconds(), "%", 60, 90, false,
		fmt.Sprintf("%v to %v", g.Round(time.Millisecond), b.Round(time.Millisecond))}, nil
}

// smallReads compares readFile of 4 KiB with the bare relay's round trip.
func smallReads(ctx context.Context, cl *client.Client, h *hops) (row, error) {
	if _, err := cl.WriteFile(ctx, "small", client.Bytes(make([]byte, block)), client.WriteOptions{}); err != nil {
		return row{}, err
	}
	var bare, got []time.Duration
	buf := make([]byte, wire.PieceSize)
	for turn := range readTurns + 1 {
		var b, g []time.Duration
		for range readsATurn {
			began := time.Now()
			if err := h.get(block, buf); err != nil {
				return row{}, err
			}
			b = append(b, time.Since(began))
		}
		for range readsATurn {
			began := time.Now()
			if _, err := cl.ReadFile(ctx, "small"); err != nil {
				return row{}, err
			}
			g = append(g, time.Since(began))
		}
		if turn > 0 { // the first one warms up
			bare, got = append(bare, b...), append(got, g...)
		}
	}
	b, g := median(bare), median(got)
	return row{"4 KiB readFile, one client, to a bare two-hop yamux round trip", float64(g) / float64(b), "x", 2, 1.3, true,
		fmt.Sprintf("%v to %v", g.Round(time.Microsecond), b.Round(time.Microsecond))}, nil
}

// memoryRow puts and gets a file of n bytes and tells the most memory that any
// process took meanwhile.
func memoryRow(ctx context.Context, c *harness.Cluster, cl *client.Client, n int64) (row, error) {
	watchCtx, stop := context.WithCancel(ctx)
	most := make(chan uint64, 1)
	go func() { most <- watchMemory(watchCtx, c) }()
	_, err := cl.WriteFile(ctx, "large", patternContent{n}, client.WriteOptions{})
	if err == nil {
		_, err = cl.ReadTo(ctx, "large", io.Discard, client.ReadOptions{})
	}
	stop()
	bytes := <-most
	return row{fmt.Sprintf("memory of any process moving a file of %s", wire.SizeText(uint64(n))), float64(bytes) / (1 << 20), "MiB", 256, 128, true,
		"anonymous, servers and client"}, err
}

// watchMemory is the greatest anonymous memory of the cluster's processes and
// of this one until ctx ends.
func watchMemory(ctx context.Context, c *harness.Cluster) uint64 {
	most := uint64(0)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		pids := []int{os.Getpid()}
		for _, name := range c.All() {
			pids = append(pids, c.Proc(name).PID())
		}
		for _, pid := range pids {
			most = max(most, anonymous(pid))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return most
		}
	}
}

// anonymous is a process's RssAnon in bytes; 0 when it is gone.
func anonymous(pid int) uint64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(status), "\n") {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}
