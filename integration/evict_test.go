package integration

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
	"tpcfs/wire/rpc"
)

// Participants that die, hang, lose their disk or flap while clients work: they
// are evicted, changes go on with the others, and they catch up when they are back
// (G8). Clients see a pause: every operation is done, or meets a conflict, and the
// history is linearizable; at the end all three hold the same.

// evictFast are a coordinator's flags for that. Not so fast that a busy machine
// evicts by itself: who dies while another one is evicted has to come back itself.
var evictFast = []string{"--evict-after", "2s"}

// loadClients are the clients that work meanwhile.
const loadClients = 4

// leaving is a cluster under load, whose participants come and go.
type leaving struct {
	*testing.T
	ctx  context.Context
	c    *harness.Cluster
	load *harness.Proc
	away []string // were killed, and not started since
}

func newLeaving(t *testing.T, flags ...string) *leaving {
	t.Helper()
	t.Parallel()
	l := &leaving{T: t, ctx: testContext(t), c: newCluster(t)}
	l.startAll(flags...)
	return l
}

// startAll starts cluster and load.
func (l *leaving) startAll(flags ...string) {
	l.Helper()
	l.c.Evicts = append(append([]string{}, evictFast...), flags...)
	startAll(l.T, l.ctx, l.c)
	l.begin([]string{plain}, l.c.Addr(harness.Coordinator), time.Minute)
}

// begin starts the load, with a command that is tpcfs.
func (l *leaving) begin(command []string, addr string, limit time.Duration) {
	l.Helper()
	command = append(command, "load", "--coordinator", addr, "-o", "json", "--check", "--clients", strconv.Itoa(loadClients),
		"--names", "12", "--size", "40-100k", "--mix", "4/5/2", "--wait", "60s", "--duration", limit.String(), "--keep")
	load, err := harness.Start("load", nil, command[0], command[1:]...)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = load.Kill() })
	l.load = load
}

// kill kills some while the others, but those killed before, are in sync.
func (l *leaving) kill(names ...string) {
	l.Helper()
	l.away = append(l.away, names...)
	for _, name := range l.c.Names {
		if !slices.Contains(l.away, name) {
			l.state(name, "in sync")
		}
	}
	if err := l.c.Kill(names...); err != nil {
		l.Fatal(err)
	}
}

func (l *leaving) start(names ...string) {
	l.Helper()
	l.away = slices.DeleteFunc(l.away, func(name string) bool { return slices.Contains(names, name) })
	if err := l.c.Start(l.ctx, names...); err != nil {
		l.Fatal(err)
	}
}

// onEmpty starts a participant that is not running on an empty directory.
func (l *leaving) onEmpty(name string) {
	l.Helper()
	if err := os.RemoveAll(l.c.DataDir(name)); err != nil {
		l.Fatal(err)
	}
	l.start(name)
}

func (l *leaving) signal(name string, s syscall.Signal) {
	l.Helper()
	if err := l.c.Proc(name).Signal(s); err != nil {
		l.Fatal(err)
	}
}

// state waits until a participant is in one of the states.
func (l *leaving) state(name string, states ...string) wire.MemberStatus {
	l.Helper()
	var found wire.MemberStatus
	_, err := l.c.WaitStatus(l.ctx, name+" "+strings.Join(states, " or "), func(st wire.Status) bool {
		for _, m := range st.Members {
			for _, s := range states {
				if m.Name == name && m.State == s {
					found = m
					return true
				}
			}
		}
		return false
	})
	if err != nil {
		l.Fatal(err)
	}
	return found
}

// progress waits until changes are made that were not when it was called.
func (l *leaving) progress() {
	l.Helper()
	var before *wire.Status
	_, err := l.c.WaitStatus(l.ctx, "making changes", func(st wire.Status) bool {
		if before == nil {
			before = &st
		}
		return st.Changes.Done > before.Changes.Done+5
	})
	if err != nil {
		l.Fatal(err)
	}
}

// ends stops the load: nothing has failed, all hold the same.
func (l *leaving) ends() {
	l.Helper()
	for _, name := range l.c.Names {
		l.state(name, "in sync")
	}
	l.progress()
	l.loadEnds()
	settle(l.T, l.ctx, l.c)
}

func (l *leaving) loadEnds() {
	l.Helper()
	if st, err := l.c.Status(l.ctx); err != nil || st.Changes.Failed > 0 || st.Reads.Failed > 0 {
		l.Errorf("changes %+v, reads %+v, error %v", st.Changes, st.Reads, err)
	}
	if err := l.load.Signal(syscall.SIGINT); err != nil {
		l.Fatal(err)
	}
	select {
	case <-l.load.Done():
	case <-l.ctx.Done():
		l.Fatalf("the load does not end:\n%s", l.load.Output())
	}
	var r struct {
		Linearizable bool
		Faults       []string
		Errors       map[string]int64
		Write        struct{ Done int64 }
		Check        struct{ Operations, Unknown int64 }
	}
	out, _, _ := strings.Cut(l.load.Output()[max(0, strings.Index(l.load.Output(), `{"clients"`)):], "\n")
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		l.Fatalf("%v: exit %d\n%s", err, l.load.ExitCode(), l.load.Output())
	}
	l.Logf("%d writes, history %+v, errors %v", r.Write.Done, r.Check, r.Errors)
	if !r.Linearizable || r.Check.Operations == 0 || r.Write.Done == 0 {
		l.Errorf("exit %d: %s\n%s", l.load.ExitCode(), strings.Join(r.Faults, "\n"), l.load.Output())
	}
	delete(r.Errors, "conflict")
	delete(r.Errors, "canceled") // by the interrupt
	if cut := r.Errors["outcome unknown"]; cut <= loadClients {
		delete(r.Errors, "outcome unknown")
	}
	if len(r.Errors) > 0 {
		l.Errorf("operations have failed: %v", r.Errors)
	}
}

func TestEvictKilled(t *testing.T) {
	l := newLeaving(t)
	l.progress()
	l.kill("b")
	l.state("b", "evicted")
	l.progress()
	r := run(t, l.ctx, nil, "", "status", "--coordinator", l.c.Addr(harness.Coordinator))
	if r.Code != 8 || !strings.Contains(r.Out, "1 of 3 participants out of sync: b; changes are kept on 2") || !strings.Contains(r.Out, "evicted since") {
		t.Errorf("status: exit %d\n%s", r.Code, r.Out)
	}
	l.start("b")
	l.ends()
	if r := run(t, l.ctx, nil, "", "status", "--coordinator", l.c.Addr(harness.Coordinator)); r.Code != 0 {
		t.Errorf("status at the end: exit %d\n%s", r.Code, r.Out)
	}
}

func TestEvictHung(t *testing.T) {
	l := newLeaving(t)
	l.progress()
	l.signal("a", syscall.SIGSTOP)
	l.state("a", "evicted")
	l.progress()
	l.signal("a", syscall.SIGCONT)
	l.ends()
}

// A participant's disk is lost; an empty one takes its place.
func TestEvictWiped(t *testing.T) {
	l := newLeaving(t, "--resync-rate", "2m")
	l.progress()
	mustWrite(t, l.ctx, dial(t, l.ctx, l.c, time.Minute), "large", noise(1, 16<<20))
	l.kill("c")
	l.onEmpty("c")
	l.catchesUp()
	l.ends()
}

// catchesUp waits until status tells of c how far it is, how fast, and for how long yet:
// all of it before it is in sync. A status with digests would wait for its end.
func (l *leaving) catchesUp() {
	l.Helper()
	conn, err := rpc.DialService(l.ctx, l.c.Addr(harness.Coordinator), rpc.DialOptions{})
	if err != nil {
		l.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // only asked
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for began := false; ; {
		st, err := conn.Status(l.ctx, wire.StatusRequest{})
		if err != nil {
			l.Fatal(err)
		}
		for _, m := range st.Members {
			if began = began || m.CatchUp != nil; began && m.Name == "c" && m.State == "in sync" {
				l.Fatalf("c has caught up, and that was not seen: %+v", m)
			}
			c := m.CatchUp
			if c == nil {
				continue
			}
			if c.Rate > 4<<20 {
				l.Errorf("at 2 MiB a second: %+v", *c)
			}
			done, all := c.Work()
			if c.Rate > 0 && c.LeftMS > 0 && c.FilesDone > 0 && c.Files > 0 && c.BytesTotal >= 16<<20 && c.Lacking > 0 && done > 0 && done < all {
				return
			}
		}
		<-tick.C
	}
}

func TestEvictFlapping(t *testing.T) {
	l := newLeaving(t)
	for range 4 {
		l.progress()
		l.kill("b")
		l.state("b", "evicted", "catching up")
		if err := l.c.Launch("b"); err != nil { // killed at any moment of its way back
			t.Fatal(err)
		}
	}
	l.ends()
}

// The coordinator is restarted with one participant gone, and dies at the
// same time as another.
func TestEvictCoordinatorRestarts(t *testing.T) {
	l := newLeaving(t)
	l.progress()
	l.kill("b")
	l.state("b", "evicted")
	l.kill(harness.Coordinator)
	l.start(harness.Coordinator)
	l.progress()
	l.start("b")
	l.state("b", "in sync")
	l.progress()
	l.kill(harness.Coordinator, "c")
	l.start(harness.Coordinator)
	l.state("c", "evicted")
	l.progress()
	l.start("c")
	l.ends()
}

// Two of three are gone: changes wait, and say for whom, reads go on; one is
// back, and changes go on.
func TestEvictBelowTheMinimum(t *testing.T) {
	l := newLeaving(t)
	l.progress()
	l.loadEnds() // its operations would wait for long
	addr := l.c.Addr(harness.Coordinator)
	cl := dial(t, l.ctx, l.c, time.Minute)
	mustWrite(t, l.ctx, cl, "f", []byte("before"))
	l.kill("b", "c")
	r := run(t, l.ctx, nil, "x", "put", "--coordinator", addr, "--wait", "2s", "-", "g")
	if r.Code != 4 && r.Code != 6 || !strings.Contains(r.Err, "b") || !strings.Contains(r.Err, "c") {
		t.Errorf("put with one of three: exit %d, %q", r.Code, r.Err)
	}
	if r := run(t, l.ctx, nil, "", "get", "--coordinator", addr, "f"); r.Code != 0 || r.Out != "before" {
		t.Errorf("get with one of three: exit %d, %q, %q", r.Code, r.Out, r.Err)
	}
	waits := make(chan error, 1)
	go func() {
		_, err := cl.WriteFile(l.ctx, "f", client.Bytes([]byte("after")), client.WriteOptions{Mode: 0o644})
		waits <- err
	}()
	l.start("c")
	if err := <-waits; err != nil {
		t.Errorf("a change that waited: %v", err)
	}
	l.state("b", "evicted")
	l.start("b")
	settle(t, l.ctx, l.c)
}

// An ordinary job on a mount goes on while a participant is killed, wiped and
// comes back: no command of it fails, and what it has made is right.
func TestEvictUnderAMount(t *testing.T) {
	l := newLeaving(t)
	dir := l.c.Dir
	mnt := mountDir(t, dir)
	p, err := harness.Start("mount", nil, binary, "mount", mnt, "--foreground", "--coordinator", l.c.Addr(harness.Coordinator))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Terminate(patience); err != nil {
			t.Error(err)
		}
	})
	if _, err := p.WaitLine(l.ctx, "ready"); err != nil {
		t.Fatal(err)
	}
	job := make(chan string, 1)
	go func() {
		r := harness.Run(l.ctx, nil, nil, "bash", "-euo", "pipefail", "-c", `cd "$0"
mkdir ../src; for i in $(seq 30); do head -c $((i * 1500)) /dev/urandom > ../src/$i; done
for n in 1 2; do cp -a ../src copy$n; tar cf $n.tar copy$n; mkdir out$n; tar xf $n.tar -C out$n; diff -r ../src out$n/copy$n; rm -r copy$n; done
echo fine`, mnt)
		job <- r.Err + r.Out
	}()
	l.kill("b")
	l.state("b", "evicted")
	l.onEmpty("b")
	l.state("b", "in sync")
	l.state("a", "in sync")
	l.signal("c", syscall.SIGSTOP)
	l.state("c", "evicted")
	l.signal("c", syscall.SIGCONT)
	l.ends()
	if got := <-job; !strings.HasSuffix(got, "fine\n") {
		t.Errorf("the job on the mount: %s", got)
	}
	settle(t, l.ctx, l.c)
}
