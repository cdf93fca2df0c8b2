package integration

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/wire/client"
)

// paced comes in small pieces until it is told to hurry.
type paced struct {
	size  int64
	began chan struct{} // closed when the first bytes were taken
	hurry chan struct{}
}

func (c *paced) Size() int64 { return c.size }

func (c *paced) Open() (io.ReadCloser, error) { return io.NopCloser(&pacedReader{c: c}), nil }

type pacedReader struct {
	c  *paced
	at int64
}

func (r *pacedReader) Read(b []byte) (int, error) {
	if r.at == r.c.size {
		return 0, io.EOF
	}
	select {
	case <-r.c.hurry:
	case <-time.After(2 * time.Millisecond): // the pace of a slow link, not to wait for anything
	}
	n := int(min(int64(len(b)), r.c.size-r.at))
	clear(b[:n])
	if r.at == 0 {
		close(r.c.began)
	}
	r.at += int64(n)
	return n, nil
}

// While a large file is on its way to the participants, small writes and reads
// go on as if it were not there.
func TestSmallBesideLarge(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := newCluster(t)
	startAll(t, ctx, c)
	cl, other := dial(t, ctx, c, 0), dial(t, ctx, c, 0)
	alone := smallWork(t, ctx, cl)

	large := &paced{size: 1 << 30, began: make(chan struct{}), hurry: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		_, err := other.WriteFile(ctx, "large", large, client.WriteOptions{})
		done <- err
	}()
	select {
	case <-large.began:
	case err := <-done:
		t.Fatal("the large file was not long on its way:", err)
	}
	beside := smallWork(t, ctx, cl)
	select {
	case err := <-done:
		t.Fatal("the large file was not long on its way:", err)
	default:
	}
	t.Logf("median of a write and a read: %v alone, %v beside a large write", alone, beside)
	if beside > 20*alone+50*time.Millisecond {
		t.Errorf("a write and a read took %v beside a large write, %v alone", beside, alone)
	}
	if _, err := cl.Stat(ctx, "large"); err == nil {
		t.Error("a part of the large file can be seen")
	}
	if err := other.Close(); err != nil { // gives it up
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("a write that was given up half way has succeeded")
	}
	wantNoStages(t, ctx, c)
}

// smallWork is the median of some small writes, each with a read.
func smallWork(t *testing.T, ctx context.Context, cl *client.Client) time.Duration {
	t.Helper()
	var times []time.Duration
	for range 60 {
		began := time.Now()
		mustWrite(t, ctx, cl, "small", make([]byte, 4096))
		if _, err := cl.ReadFile(ctx, "small"); err != nil {
			t.Fatal(err)
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	return times[len(times)/2]
}

// wantNoStages waits until no participant holds an object.
func wantNoStages(t *testing.T, ctx context.Context, c *harness.Cluster) {
	t.Helper()
	for {
		left := 0
		for _, name := range c.Names {
			err := filepath.WalkDir(filepath.Join(c.DataDir(name), "objects"), func(_ string, d os.DirEntry, err error) error {
				if err == nil && !d.IsDir() {
					left++
				}
				return nil // it may go meanwhile
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if left == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d objects are left of a write that was given up", left)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// A put that is interrupted leaves nothing behind, and can be started again.
func TestInterruptedPut(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := newCluster(t)
	startAll(t, ctx, c)
	local := tempDir(t) + "/large"
	f, err := os.Create(local)
	if err == nil {
		err = f.Truncate(2 << 30)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	env := []string{"TPCFS_COORDINATOR=" + c.Addr(harness.Coordinator)}
	p, err := harness.Start("put", env, binary, "put", local, "large")
	if err != nil {
		t.Fatal(err)
	}
	waitForObject(t, ctx, c)
	if err := p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if p.ExitCode() != 130 || !strings.Contains(p.Output(), "interrupted") {
		t.Errorf("exit %d, %q", p.ExitCode(), p.Output())
	}
	wantNoStages(t, ctx, c)
	if err := os.Truncate(local, 4<<20); err != nil {
		t.Fatal(err)
	}
	if r := run(t, ctx, env, "", "put", local, "large"); r.Code != 0 {
		t.Errorf("started again: exit %d, %s", r.Code, r.Err)
	}
	settle(t, ctx, c)
}

// waitForObject waits until a participant has the beginning of an object.
func waitForObject(t *testing.T, ctx context.Context, c *harness.Cluster) {
	t.Helper()
	for {
		names, err := filepath.Glob(filepath.Join(c.DataDir(c.Names[0]), "objects", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if info, err := os.Stat(name); err == nil && info.Size() > 1<<20 {
				return
			}
		}
		select {
		case <-ctx.Done():
			t.Fatal("nothing of the file arrives")
		case <-time.After(5 * time.Millisecond):
		}
	}
}
