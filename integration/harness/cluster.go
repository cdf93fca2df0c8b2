package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tpcfs/wire"
	"tpcfs/wire/client"
	"tpcfs/wire/rpc"
)

// Coordinator is the name of the coordinator's process in a Cluster.
const Coordinator = "coordinator"

// startTimeout is how long a process may take to be ready. The race detector
// on a busy machine is slow.
const startTimeout = 60 * time.Second

// Cluster is a coordinator and its participants as processes, on unix sockets.
type Cluster struct {
	Bin   string
	Dir   string   // holds everything; short, for the sockets' names
	Names []string // of the participants
	// Flags are those that the coordinator's command line names; nil: Names.
	Flags []string
	Args  []string // for every server
	// Evicts are flags of a coordinator that goes on without who fails, as it does
	// for users. nil: it needs all, for tests that kill one and look at what waits
	// for it, or at what it holds.
	Evicts []string
	// Net has a host of each process's name, on which it runs; nil: this one, on
	// unix sockets.
	Net *Net

	procs map[string]*Proc
}

// NewCluster makes the directory of a cluster of n participants, and starts nothing.
func NewCluster(bin string, n int, args ...string) (*Cluster, error) {
	dir, err := os.MkdirTemp("", "tpcfs-")
	if err != nil {
		return nil, err
	}
	c := &Cluster{Bin: bin, Dir: dir, Args: args, procs: map[string]*Proc{}}
	for i := range n {
		c.Names = append(c.Names, string(rune('a'+i)))
	}
	return c, nil
}

// Close kills what runs and removes everything.
func (c *Cluster) Close() error {
	return errors.Join(c.Kill(c.All()...), os.RemoveAll(c.Dir))
}

// All names every process: the participants, then the coordinator.
func (c *Cluster) All() []string {
	return append(append([]string{}, c.Names...), Coordinator)
}

// Addr is where a process is to be found, by this one.
func (c *Cluster) Addr(name string) string { return "unix:" + filepath.Join(c.Dir, name+".sock") }

// DataDir is a process's data directory.
func (c *Cluster) DataDir(name string) string { return filepath.Join(c.Dir, name) }

// Proc is the process of that name that was started last.
func (c *Cluster) Proc(name string) *Proc { return c.procs[name] }

// listens is where a process listens.
func (c *Cluster) listens(name string) string {
	if c.Net != nil {
		return c.Net.Addr(name)
	}
	return c.Addr(name)
}

// Launch starts a process and does not wait until it is ready.
func (c *Cluster) Launch(name string, env ...string) error {
	args := []string{"participant"}
	if name == Coordinator {
		args = []string{"coordinator"}
		flags := c.Flags
		if flags == nil {
			flags = c.Names
		}
		for _, p := range flags {
			args = append(args, "--participant", p+"="+c.listens(p))
		}
		if c.Evicts == nil {
			args = append(args, "--min-in-sync", strconv.Itoa(len(c.Names)))
		}
		args = append(args, c.Evicts...)
	}
	args = append(args, "--dir", c.DataDir(name), "--listen", c.listens(name))
	command := append(append([]string{c.Bin}, args...), c.Args...)
	if c.Net != nil {
		command = c.Net.Command(name, append(command, "--insecure")...)
	}
	p, err := Start(name, env, command[0], command[1:]...)
	if err != nil {
		return err
	}
	c.procs[name] = p
	return nil
}

// Start starts processes, participants first, and waits until all are ready.
func (c *Cluster) Start(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := c.Launch(name); err != nil {
			return err
		}
	}
	return c.WaitReady(ctx, names...)
}

// WaitReady waits until the processes have printed their ready lines.
func (c *Cluster) WaitReady(ctx context.Context, names ...string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, name := range names {
		if _, err := c.procs[name].WaitLine(ctx, "ready"); err != nil {
			return err
		}
	}
	return nil
}

// Kill ends processes with SIGKILL, all at once, and waits for their end.
func (c *Cluster) Kill(names ...string) error {
	var errs []error
	for _, name := range names {
		if p := c.procs[name]; p != nil {
			errs = append(errs, p.Signal(syscall.SIGKILL))
		}
	}
	for _, name := range names {
		if p := c.procs[name]; p != nil {
			<-p.Done()
		}
	}
	return errors.Join(errs...)
}

// Client opens a client whose operations wait that long.
func (c *Cluster) Client(ctx context.Context, wait time.Duration) (*client.Client, error) {
	return client.Dial(ctx, c.Addr(Coordinator), client.Options{Wait: wait})
}

// Status asks the coordinator once.
func (c *Cluster) Status(ctx context.Context) (wire.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := rpc.DialService(ctx, c.Addr(Coordinator), rpc.DialOptions{})
	if err != nil {
		return wire.Status{}, err
	}
	st, err := conn.Status(ctx, wire.StatusRequest{Digest: true})
	return st, errors.Join(err, conn.Close())
}

// WaitPrepared waits until a participant holds a transaction durably prepared
// and undecided, by its own word.
func (c *Cluster) WaitPrepared(ctx context.Context, name string) error {
	r, err := rpc.DialReplica(ctx, c.Addr(name), rpc.DialOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // only asked
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := r.Status(ctx, wire.StatusRequest{})
		if err != nil {
			return err
		}
		if st.InDoubt > 0 && st.Durable == st.Handled {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("participant %s never was prepared: %+v", name, st)
		case <-tick.C:
		}
	}
}

// WaitStatus asks again and again until the status is as wanted.
func (c *Cluster) WaitStatus(ctx context.Context, what string, ok func(wire.Status) bool) (wire.Status, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := c.Status(ctx)
		if err == nil && ok(st) {
			return st, nil
		}
		select {
		case <-ctx.Done():
			return st, fmt.Errorf("the cluster never was %s: last status %+v, error %v", what, st, err)
		case <-tick.C:
		}
	}
}

// Settled reports whether nothing is open in a cluster: it serves, every
// member is in sync and up to date, nothing is in doubt, all digests are there.
func Settled(st wire.Status) bool {
	if !st.Serving || len(st.InDoubt) > 0 || st.Queued > 0 || len(st.Members) == 0 {
		return false
	}
	for _, m := range st.Members {
		if m.State != "in sync" || m.Lag > 0 || m.Replica == nil || m.Replica.InDoubt > 0 || m.Replica.Digest == "" {
			return false
		}
	}
	return true
}

// SameDigest reports whether all members say that they hold the same.
func SameDigest(st wire.Status) bool {
	for _, m := range st.Members {
		if m.Replica.Digest != st.Members[0].Replica.Digest {
			return false
		}
	}
	return true
}

// Export writes the files of a participant that does not run to a directory
// below Dir and returns it.
func (c *Cluster) Export(ctx context.Context, name string) (string, error) {
	out := filepath.Join(c.Dir, "export-"+name)
	if err := os.RemoveAll(out); err != nil {
		return "", err
	}
	if r := Run(ctx, nil, nil, c.Bin, "export", c.DataDir(name), out); r.Code != 0 {
		return "", fmt.Errorf("export of %s: exit %d: %s", name, r.Code, r.Err)
	}
	return out, nil
}

// Output is what all processes have printed.
func (c *Cluster) Output() string {
	var b strings.Builder
	for _, name := range c.All() {
		if p := c.procs[name]; p != nil {
			fmt.Fprintf(&b, "--- %s (pid %d)\n%s", name, p.PID(), p.Output())
		}
	}
	return b.String()
}
