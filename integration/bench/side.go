package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/integration/harness"
)

// stopWithin is how long a mount may take to commit what is left and end.
const stopWithin = time.Minute

// sideBySide is a mount of a cluster, each role in its own process, with what
// it is measured against: a loopback mount of the disk and the bare disk.
type sideBySide struct {
	cluster *harness.Cluster
	bin     string
	mnt     string // the mount of the cluster
	loop    string // the loopback mount, of a directory of its own
	through string // another one of that, whose contents go through its process
	bare    string // a directory of the disk
	served  map[string]*harness.Proc

	most atomic.Uint64 // of the mount's anonymous memory so far, bytes
}

// openSides starts them all. Their directories are below dir, and are gone with it.
func openSides(ctx context.Context, bin, dir string, o options, name string) (s *sideBySide, err error) {
	cluster, err := o.newCluster(bin)
	if err != nil {
		return nil, err
	}
	at := func(part string) string { return filepath.Join(dir, name, part) }
	s = &sideBySide{cluster: cluster, bin: bin, mnt: at("mnt"), loop: at("loop"), through: at("through"), bare: at("bare"), served: map[string]*harness.Proc{}}
	for _, d := range []string{s.mnt, s.loop, s.through, s.bare, s.under()} {
		err = errors.Join(err, os.MkdirAll(d, 0o755))
	}
	if err == nil {
		err = cluster.Start(ctx, cluster.All()...)
	}
	if err == nil {
		err = s.mount(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// under is the directory that the loopback mount shows.
func (s *sideBySide) under() string { return s.loop + ".disk" }

// mount starts the processes that serve the mounts.
func (s *sideBySide) mount(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := s.serve(ctx, s.loop, self, "-loopback", s.under(), s.loop); err != nil {
		return err
	}
	if err := s.serve(ctx, s.through, self, "-loopback", s.under(), "-through", s.through); err != nil {
		return err
	}
	return s.serve(ctx, s.mnt, s.mountCommand()...)
}

func (s *sideBySide) mountCommand() []string {
	return []string{s.bin, "mount", "--foreground", "--coordinator", s.cluster.Addr(harness.Coordinator), s.mnt}
}

// serve starts the process that serves a mount.
func (s *sideBySide) serve(ctx context.Context, point string, command ...string) error {
	p, err := harness.Start("mount", nil, command[0], command[1:]...)
	if err != nil {
		return err
	}
	s.served[point] = p
	_, err = p.WaitLine(ctx, "ready")
	return err
}

// unmount ends them, which unmounts.
func (s *sideBySide) unmount() error {
	var err error
	for point, p := range s.served {
		err = errors.Join(err, p.Terminate(stopWithin))
		delete(s.served, point)
	}
	return err
}

// cool has nothing of the files left in memory: the mounts begin anew, and
// the kernel forgets what it has read.
func (s *sideBySide) cool(ctx context.Context) error {
	if err := s.unmount(); err != nil {
		return err
	}
	if err := dropCaches(); err != nil {
		return err
	}
	return s.mount(ctx)
}

// dropCaches has the kernel write all that is dirty, then forget it.
func dropCaches() error {
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return fmt.Errorf("measuring what nobody has in memory needs root: %w", err)
	}
	return nil
}

// watch notes the mount's memory until the returned function is called.
func (s *sideBySide) watch() (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	pid := s.served[s.mnt].PID()
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			s.most.Store(max(s.most.Load(), anonymous(pid)))
			select {
			case <-tick.C:
			case <-quit:
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

// memory is the row of what watch has seen.
func (s *sideBySide) memory(what string, floor, aim float64) row {
	return row{"mount: its memory, " + what, float64(s.most.Load()) / (1 << 20), "MiB", floor, aim, true, "anonymous"}
}

func (s *sideBySide) close() error {
	return errors.Join(s.unmount(), s.cluster.Close())
}

// run runs a command that has to succeed, and is how long it took.
func run(ctx context.Context, name string, args ...string) (time.Duration, error) {
	began := time.Now()
	r := harness.Run(ctx, nil, nil, name, args...)
	if r.Code != 0 {
		return 0, fmt.Errorf("%s %v: exit code %d: %s%s", name, args, r.Code, r.Out, r.Err)
	}
	return time.Since(began), nil
}
