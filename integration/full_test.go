package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// smallDisks is a mount namespace of its own: what is mounted there nobody
// else sees, and it is gone with the last process in it. One thread is in it.
type smallDisks struct {
	calls chan func()
	done  chan struct{}
}

// newSmallDisks mounts a tmpfs of that many bytes at each directory.
func newSmallDisks(t *testing.T, sizes map[string]int64) *smallDisks {
	t.Helper()
	d := &smallDisks{calls: make(chan func()), done: make(chan struct{})}
	ready := make(chan error, 1)
	go func() {
		defer close(d.done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := harness.OwnMounts()
		for dir, size := range sizes {
			if err == nil {
				err = os.MkdirAll(dir, 0o700)
			}
			if err == nil {
				err = syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size))
			}
		}
		ready <- err
		for f := range d.calls {
			f()
		}
	}()
	t.Cleanup(func() { close(d.calls); <-d.done })
	if err := <-ready; err != nil {
		t.Fatalf("a small disk (this test needs root): %v", err)
	}
	return d
}

// do runs f among the small disks; processes that it starts live there.
func (d *smallDisks) do(t *testing.T, f func() error) {
	t.Helper()
	result := make(chan error, 1)
	d.calls <- func() { result <- f() }
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}

// fill leaves so many bytes of the disk at dir, besides what a file of an
// earlier fill held.
func (d *smallDisks) fill(t *testing.T, dir string, leave int64) {
	t.Helper()
	d.do(t, func() error {
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if n := int64(st.Bavail)*st.Bsize - leave; n > 0 {
			err = syscall.Fallocate(int(f.Fd()), 0, info.Size(), n)
		}
		if errors.Is(err, syscall.ENOSPC) { // somebody was faster
			err = nil
		}
		return err
	})
}

// free gives back what fill has taken.
func (d *smallDisks) free(t *testing.T, dir string) {
	t.Helper()
	d.do(t, func() error { return os.Remove(filepath.Join(dir, "filler")) })
}

// fullRig is a cluster whose participant b, and whose coordinator, have small disks.
type fullRig struct {
	t     *testing.T
	ctx   context.Context
	c     *harness.Cluster
	disks *smallDisks
	cl    *client.Client
	want  harness.Tree
	n     int
}

func newFullRig(t *testing.T) *fullRig {
	ctx := testContext(t)
	c := newCluster(t, "--segment-size", "2097152")
	r := &fullRig{t: t, ctx: ctx, c: c, want: harness.Tree{}}
	r.disks = newSmallDisks(t, map[string]int64{c.DataDir("b"): 112 << 20, c.DataDir(harness.Coordinator): 24 << 20})
	r.disks.do(t, func() error { return c.Start(ctx, c.All()...) })
	r.cl = dial(t, ctx, c, patience)
	return r
}

// put writes a file of n bytes that must get through.
func (r *fullRig) put(name string, n int) {
	r.t.Helper()
	r.n++
	b := noise(int64(r.n), n)
	mustWrite(r.t, r.ctx, r.cl, name, b)
	r.want[name] = harness.File(b)
}

func (r *fullRig) remove(name string) {
	r.t.Helper()
	if err := r.cl.DeleteFile(r.ctx, name); err != nil {
		r.t.Fatalf("delete %s while the disk is full: %v", name, err)
	}
	delete(r.want, name)
}

// refused looks at an error that a full disk is the reason of.
func (r *fullRig) refused(what string, err error) {
	r.t.Helper()
	if wire.CodeOf(err) != wire.CodeNoSpace || !strings.Contains(err.Error(), "no space left") || !strings.Contains(err.Error(), "participant b") {
		r.t.Fatalf("%s on a full disk of b: %v", what, err)
	}
}

// again waits until writes go through.
func (r *fullRig) again() {
	r.t.Helper()
	for {
		_, err := r.cl.WriteFile(r.ctx, "again", client.Bytes([]byte("x")), client.WriteOptions{Mode: 0o644})
		if err == nil {
			r.want["again"] = harness.File([]byte("x"))
			return
		}
		if wire.CodeOf(err) != wire.CodeNoSpace {
			r.t.Fatalf("after there is space again: %v", err)
		}
		r.pause()
	}
}

func (r *fullRig) pause() {
	r.t.Helper()
	select {
	case <-time.After(20 * time.Millisecond):
	case <-r.ctx.Done():
		r.t.Fatal(r.ctx.Err())
	}
}

// same: nothing has changed but what was acknowledged, anywhere.
func (r *fullRig) same() {
	r.t.Helper()
	settle(r.t, r.ctx, r.c)
	list, err := r.cl.List(r.ctx, "")
	if err != nil || len(list) != len(r.want) {
		r.t.Fatalf("%d files, want %d: %v", len(list), len(r.want), err)
	}
}

// finish compares what each participant has on its disk.
func (r *fullRig) finish() {
	r.t.Helper()
	r.same()
	var trees map[string]harness.Tree
	r.disks.do(r.t, func() error { trees = exports(r.t, r.ctx, r.c); return nil })
	for name, tree := range trees {
		if d := harness.Diff(tree, r.want); d != "" {
			r.t.Errorf("%s: %s", name, d)
		}
	}
	if out := r.c.Output(); strings.Contains(out, "panic") || strings.Contains(out, "fatal error") {
		r.t.Errorf("a panic:\n%s", out)
	}
}

// refusedAll tries everything that needs space.
func (r *fullRig) refusedAll() {
	r.t.Helper()
	_, err := r.cl.WriteFile(r.ctx, "new", client.Bytes(noise(1, 50_000)), client.WriteOptions{Mode: 0o644})
	r.refused("a small file", err)
	_, err = r.cl.WriteFile(r.ctx, "new", client.Bytes(noise(1, 40<<20)), client.WriteOptions{Mode: 0o644})
	r.refused("a large file", err)
	muts, contents := manyFiles("tree", 3000)
	_, err = r.cl.Transact(r.ctx, muts, contents)
	r.refused("a tree", err)
	if err := r.cl.Mkdir(r.ctx, "dir", 0o755); err != nil {
		r.refused("mkdir", err)
	} else {
		r.want["dir"] = harness.Dir
	}
}

// One participant's disk is full: what needs space is refused and says whose
// disk it is, nothing changes anywhere, deletes work, and service goes on when
// there is space again. So also over kill -9 and a restart on the full disk.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	r := newFullRig(t)
	dir := r.c.DataDir("b")
	for i := range 20 {
		r.put(fmt.Sprintf("f%d", i), 40_000)
	}
	r.put("big", 2<<20)
	r.disks.fill(t, dir, 4<<20)
	r.refusedAll()
	if p := run(t, r.ctx, []string{"TPCFS_COORDINATOR=" + r.c.Addr(harness.Coordinator)}, strings.Repeat("x", 20_000), "put", "-", "new"); p.Code != 1 ||
		!strings.Contains(p.Err, "no space left") || !strings.Contains(p.Err, "participant b") {
		t.Errorf("put: exit %d, %q", p.Code, p.Err)
	}
	r.same()
	r.remove("f0")
	r.disks.fill(t, dir, 0)
	r.remove("f1")
	r.refusedAll()
	r.disks.free(t, dir)
	r.again()
	r.put("f20", 50_000)
	r.same()

	// Killed and started again with not a byte left.
	r.disks.fill(t, dir, 0)
	if err := r.c.Kill("b"); err != nil {
		t.Fatal(err)
	}
	r.disks.fill(t, dir, 0)
	r.disks.do(t, func() error { return r.c.Start(r.ctx, "b") })
	r.remove("f2")
	r.remove("big")
	r.refusedAll()
	r.same()
	r.disks.free(t, dir)
	r.again()
	r.put("after", 300_000)
	r.finish()
}

// What was written through a mount and could not be committed is lost when the last one who
// has it open has gone: the mount's exit code, its last words and its log say so, also when
// it runs in the background.
func TestMountTellsWhatIsLost(t *testing.T) {
	t.Parallel()
	r := newFullRig(t)
	addr := r.c.Addr(harness.Coordinator)
	r.put("f", 100)
	r.put("g", 100)
	const lost = "since it was mounted, gathered writes to %d files were given up: they could not be committed, and are lost"
	mnt, p := foreground(t, addr, nil)
	dir := tempDir(t)
	behind, logFile := mountDir(t, dir), dir+"/log"
	if got := run(t, r.ctx, nil, "", "mount", "--coordinator", addr, "--log-file", logFile, behind); got.Code != 0 {
		t.Fatalf("mount: exit %d, %s", got.Code, got.Err)
	}
	write := func(mnt string) *harness.Proc {
		t.Helper()
		w, err := harness.Start("writer", nil, "sh", "-c", `cd "$0" && exec 3<>f 4<>g && cd / || exit
for file in 3 4; do echo changed >&$file; done # closed once, which fails, and still open
echo done; exec sleep 1000`, mnt)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = w.Kill() })
		if _, err := w.WaitLine(r.ctx, "done"); err != nil {
			t.Fatal(err)
		}
		return w
	}
	r.disks.fill(t, r.c.DataDir("b"), 0)

	w := write(mnt)
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitText(r.ctx, "writes to 2 files are not committed yet"); err != nil {
		t.Fatal(err)
	}
	if err := w.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-r.ctx.Done():
		t.Fatal("the mount does not end")
	}
	if out := p.Output(); p.ExitCode() != 1 || !strings.Contains(out, "tpcfs: mount: "+mnt+": "+fmt.Sprintf(lost, 2)) || strings.Count(out, "gathered writes are given up") != 2 {
		t.Errorf("exit %d:\n%s", p.ExitCode(), out)
	}

	w = write(behind)
	if err := w.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := run(t, r.ctx, nil, "", "umount", behind); got.Code != 0 {
		t.Errorf("umount: exit %d, %s", got.Code, got.Err)
	}
	for {
		b, err := os.ReadFile(logFile)
		if err != nil {
			t.Fatal(err)
		}
		if log := string(b); strings.Contains(log, "tpcfs: mount: "+behind+": "+fmt.Sprintf(lost, 2)) && strings.Count(log, "gathered writes are given up") == 2 {
			break
		}
		if r.pause(); t.Failed() {
			return
		}
	}
	r.disks.free(t, r.c.DataDir("b"))
	r.again()
	r.finish()
}

// The disk fills while changes are under way: in the middle of journal
// segments, checkpoints, growth of the kv, a large file and a tree.
func TestDiskFullInTheMiddle(t *testing.T) {
	t.Parallel()
	r := newFullRig(t)
	dir := r.c.DataDir("b")
	for i := range 10 {
		r.put(fmt.Sprintf("keep%d", i), 6000)
	}
	for round, leave := range []int64{9 << 20, 0} {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		results := make([]harness.Tree, 4)
		for w := range results {
			results[w] = harness.Tree{}
			wg.Go(func() { r.writer(fmt.Sprintf("r%dw%d", round, w), stop, results[w]) })
		}
		large := &slowContent{b: noise(int64(round), 24<<20), half: make(chan struct{}), goOn: make(chan struct{})}
		written := make(chan error, 1)
		go func() {
			_, err := r.cl.WriteFile(r.ctx, "large", large, client.WriteOptions{Mode: 0o644})
			written <- err
		}()
		select {
		case <-large.half:
		case err := <-written:
			t.Fatal(err)
		}
		r.disks.fill(t, dir, leave)
		close(large.goOn)
		err := <-written
		close(stop)
		wg.Wait()
		r.refused("a file in the middle", err)
		for _, tree := range results {
			maps.Copy(r.want, tree)
		}
		r.remove(fmt.Sprintf("keep%d", round))
		r.same()
		r.disks.free(t, dir)
		r.again()
	}
	r.finish()
}

// writer writes and deletes files until it is stopped; what is acknowledged is
// in the tree.
func (r *fullRig) writer(prefix string, stop <-chan struct{}, tree harness.Tree) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		name := fmt.Sprint(prefix, "-", i%12)
		b := noise(int64(i), 1000+i*7919%60_000)
		_, err := r.cl.WriteFile(r.ctx, name, client.Bytes(b), client.WriteOptions{Mode: 0o644})
		switch code := wire.CodeOf(err); {
		case err == nil:
			tree[name] = harness.File(b)
		case code != wire.CodeNoSpace:
			r.t.Errorf("write %s: %v", name, err)
			return
		}
	}
}

// slowContent stops in the middle until it is told to go on.
type slowContent struct {
	b          []byte
	half, goOn chan struct{}
	once       sync.Once
}

func (s *slowContent) Size() int64 { return int64(len(s.b)) }

func (s *slowContent) Open() (io.ReadCloser, error) {
	middle := readerFunc(func([]byte) (int, error) {
		s.once.Do(func() { close(s.half) })
		<-s.goOn
		return 0, io.EOF
	})
	n := len(s.b) / 2
	return io.NopCloser(io.MultiReader(bytes.NewReader(s.b[:n]), middle, bytes.NewReader(s.b[n:]))), nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// The coordinator's own disk is full: its journal goes round in the segments
// that it has, over kill -9 and a restart, too.
func TestCoordinatorDiskFull(t *testing.T) {
	t.Parallel()
	r := newFullRig(t)
	dir := r.c.DataDir(harness.Coordinator)
	for round := range 2 {
		r.put("f", 5000)
		r.disks.fill(t, dir, 0)
		for i := range 100 {
			r.put(fmt.Sprintf("g%d", i%3), 1000+i)
		}
		if err := r.c.Kill(harness.Coordinator); err != nil {
			t.Fatal(err)
		}
		r.disks.fill(t, dir, 0)
		r.disks.do(t, func() error { return r.c.Start(r.ctx, harness.Coordinator) })
		r.put("h", 300_000)
		r.same()
		if round == 0 {
			r.disks.free(t, dir)
		}
	}
	r.finish()
}
