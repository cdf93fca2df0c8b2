// Package integration tests tpcfs as a whole: as processes that are killed,
// as a mount used by ordinary commands, and as a command line.
package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/integration/powerloss"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

var (
	// binary is tpcfs built with the race detector and the failpoints, for
	// servers and mounts.
	binary string
	// plain is tpcfs as users get it, for commands.
	plain string
)

func TestMain(m *testing.M) {
	if attackIfAsked() || lockHelperIfAsked() || powerloss.Serve() {
		return
	}
	dir, err := os.MkdirTemp("", "tpcfs-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := 1
	err = harness.Runtime(dir + "/run")
	if err == nil {
		binary, err = harness.Build(dir+"/tpcfs-race", true, "failpoint")
	}
	if err == nil {
		plain, err = harness.Build(dir+"/tpcfs", false)
	}
	if err == nil {
		err = harness.Parallel(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// patience bounds every wait of these tests: on a busy machine, under the race
// detector, with other tests at the same time, things are slow.
const patience = 3 * time.Minute

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// newCluster makes a cluster of processes, none of them started, that is gone
// when the test ends. What the processes have said is logged on failure.
func newCluster(t *testing.T, args ...string) *harness.Cluster {
	t.Helper()
	c, err := harness.NewCluster(binary, 3, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Output())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		for _, name := range c.All() {
			if p := c.Proc(name); p != nil && strings.Contains(p.Output(), "DATA RACE") {
				t.Errorf("%s: data race:\n%s", name, p.Output())
			}
		}
	})
	return c
}

// started starts tpcfs, which is told to stop when the test ends. What it has
// said is logged on failure.
func started(t *testing.T, name string, env []string, args ...string) *harness.Proc {
	t.Helper()
	return startedBy(t, name, env, append([]string{binary}, args...)...)
}

// startedBy is started with a command that is tpcfs.
func startedBy(t *testing.T, name string, env []string, command ...string) *harness.Proc {
	t.Helper()
	p, err := harness.Start(name, env, command[0], command[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Terminate(patience); err != nil {
			t.Error(err)
		}
		if t.Failed() || strings.Contains(p.Output(), "DATA RACE") {
			t.Errorf("%s:\n%s", name, p.Output())
		}
	})
	return p
}

func startAll(t *testing.T, ctx context.Context, c *harness.Cluster) {
	t.Helper()
	if err := c.Start(ctx, c.All()...); err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T, ctx context.Context, c *harness.Cluster, wait time.Duration) *client.Client {
	t.Helper()
	cl, err := c.Client(ctx, wait)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	return cl
}

func mustWrite(t *testing.T, ctx context.Context, cl *client.Client, name string, b []byte) {
	t.Helper()
	for {
		_, err := cl.WriteFile(ctx, name, client.Bytes(b), client.WriteOptions{Mode: 0o644})
		if err == nil {
			return
		}
		if wire.CodeOf(err) != wire.CodeConflict { // which says that nothing changed
			t.Fatalf("write %s: %v", name, err)
		}
	}
}

// settle waits until nothing is open and all replicas say that they hold the same.
func settle(t *testing.T, ctx context.Context, c *harness.Cluster) wire.Status {
	t.Helper()
	st, err := c.WaitStatus(ctx, "settled", harness.Settled)
	if err != nil {
		t.Fatal(err)
	}
	if !harness.SameDigest(st) {
		t.Fatalf("the replicas differ: %+v", st.Members)
	}
	return st
}

// exports kills everything and returns what each participant's data say.
func exports(t *testing.T, ctx context.Context, c *harness.Cluster) map[string]harness.Tree {
	t.Helper()
	if err := c.Kill(c.All()...); err != nil {
		t.Fatal(err)
	}
	trees := map[string]harness.Tree{}
	for _, name := range c.Names {
		out, err := c.Export(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if trees[name], err = harness.ReadTree(out); err != nil {
			t.Fatal(err)
		}
	}
	return trees
}

// run runs a command to its end.
func run(t *testing.T, ctx context.Context, env []string, stdin string, args ...string) harness.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience/3)
	defer cancel()
	return harness.Run(ctx, env, []byte(stdin), plain, args...)
}

// tempDir is a directory with a short name: sockets' names are short.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpcfs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}
