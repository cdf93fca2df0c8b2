// Package posix shows that a mount behaves as a local disk does. Everything
// is done twice, by other processes than the serving one (F6a): in the mount of a cluster of
// processes, and in a local directory, which is the judge.
package posix

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/integration/harness"
)

var (
	// plain is tpcfs as users get it, for servers: what they do is not what is
	// tested here.
	plain string
	// raced is tpcfs with the race detector, for mounts.
	raced string
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "helper" {
		os.Exit(helper(os.Args[2], os.Args[3:]))
	}
	dir, err := os.MkdirTemp("", "tpcfs-bin-")
	code := 1
	if err == nil {
		err = harness.Runtime(dir + "/run")
	}
	if err == nil {
		built := make(chan error, 1)
		go func() {
			var err error
			plain, err = harness.Build(dir+"/tpcfs", false)
			built <- err
		}()
		raced, err = harness.Build(dir+"/tpcfs-race", true)
		if err = errors.Join(err, <-built); err == nil {
			code = m.Run()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// patience bounds each test: on a busy machine, under the race detector,
// things are slow.
const patience = 5 * time.Minute

// world is a cluster with mounts of it, all processes.
type world struct {
	*harness.Cluster
	mounts []string
	tmp    string // where the mounts' processes have their temporary files
	procs  []*harness.Proc
}

// newWorld starts a cluster and mounts it n times with bin; env is the mounts'. When
// the test ends everything is to have ended well, leaving nothing behind.
func newWorld(t *testing.T, ctx context.Context, bin string, n int, env ...string) *world {
	t.Helper()
	return startWorld(t, ctx, bin, n, nil, env...)
}

// startWorld is newWorld of a cluster that set, if not nil, has changed.
func startWorld(t *testing.T, ctx context.Context, bin string, n int, set func(*harness.Cluster), env ...string) *world {
	t.Helper()
	c, err := harness.NewCluster(plain, 3)
	if err != nil {
		t.Fatal(err)
	}
	if set != nil {
		set(c)
	}
	w := &world{Cluster: c, tmp: filepath.Join(c.Dir, "tmp")}
	// What is tested here is not what a disk keeps: none has to be waited for.
	// Without the right to mount one the tests only take longer.
	memory := unix.Mount("tmpfs", c.Dir, "tmpfs", 0, "size=2g,mode=711") == nil
	t.Cleanup(func() {
		for _, mnt := range w.mounts {
			_ = unix.Unmount(mnt, unix.MNT_DETACH) // only if the test has failed is it there
		}
		if t.Failed() {
			t.Log(c.Output())
		}
		err := c.Kill(c.All()...)
		if memory {
			err = errors.Join(err, unix.Unmount(c.Dir, unix.MNT_DETACH))
		}
		if err := errors.Join(err, c.Close()); err != nil {
			t.Error(err)
		}
	})
	if err := c.Start(ctx, c.All()...); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(w.tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		w.mount(t, ctx, bin, i, env)
	}
	t.Cleanup(func() { w.end(t) })
	return w
}

func (w *world) mount(t *testing.T, ctx context.Context, bin string, i int, env []string) {
	t.Helper()
	mnt := filepath.Join(w.Dir, fmt.Sprint("m", i))
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := harness.Start("mount", append(env, "TMPDIR="+w.tmp), bin, "mount", "--foreground", "--allow-other", "--coordinator", w.Addr(harness.Coordinator), mnt)
	if err != nil {
		t.Fatal(err)
	}
	w.mounts, w.procs = append(w.mounts, mnt), append(w.procs, p)
	if _, err := p.WaitLine(ctx, "ready"); err != nil {
		t.Fatal(err)
	}
}

// end unmounts, and looks for what should not be there.
func (w *world) end(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, p := range w.procs {
		if err := p.Terminate(time.Minute); err != nil {
			t.Error(err)
		} else if p.ExitCode() != 0 {
			t.Errorf("the mount's exit code: %d", p.ExitCode())
		}
		if t.Failed() || strings.Contains(p.Output(), "DATA RACE") || strings.Contains(p.Output(), "panic") {
			t.Errorf("the mount said:\n%s", p.Output())
		}
	}
	if b, err := os.ReadFile("/proc/thread-self/mountinfo"); err != nil || strings.Contains(string(b), w.Dir+"/") {
		t.Errorf("something is still mounted (%v):\n%s", err, b)
	}
	if left, err := os.ReadDir(w.tmp); err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
	st, err := w.WaitStatus(ctx, "settled", harness.Settled)
	if err != nil {
		t.Error(err)
	} else if !harness.SameDigest(st) {
		t.Errorf("the participants differ: %+v", st.Members)
	}
	for _, name := range w.All() {
		if out := w.Proc(name).Output(); strings.Contains(out, "DATA RACE") || strings.Contains(out, "panic") {
			t.Errorf("%s said:\n%s", name, out)
		}
	}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// helper is what this binary does as another process.
func helper(what string, args []string) int {
	var err error
	switch what {
	case "table":
		err = runTable(args[0])
	case "stress":
		err = stressArgs(args)
	default:
		err = fmt.Errorf("no such helper: %s", what)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
