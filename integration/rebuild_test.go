package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tpcfs/integration/harness"
)

// The machine of the coordinator and of a participant is lost with both disks, while
// clients work: a coordinator on an empty directory begins only by what the participants
// hold and an operator's word, and all goes on as if it had been restarted (P13).
func TestRebuild(t *testing.T) {
	l := newLeaving(t)
	l.progress()
	l.kill(harness.Coordinator, "a")
	for _, name := range []string{harness.Coordinator, "a"} {
		if err := os.RemoveAll(l.c.DataDir(name)); err != nil {
			t.Fatal(err)
		}
	}
	l.start("a")
	evicts := l.c.Evicts
	l.ended("with --rebuild")
	l.c.Evicts = append(evicts, "--rebuild")
	l.ended("a (" + l.c.Addr("a") + ") has the data of another one, or none")
	l.c.Evicts = append(evicts, "--rebuild", "--lost", "a")
	l.start(harness.Coordinator)
	l.progress()
	if r := l.members("members"); r.Code != 0 || !strings.Contains(r.Out, "rebuilt from what the participants hold; a declared lost") {
		t.Errorf("members: exit %d\n%s%s", r.Code, r.Out, r.Err)
	}
	l.kill(harness.Coordinator) // and the flags are still there
	l.start(harness.Coordinator)
	l.equal("a", "b", "c")
}

// A second coordinator, on a new directory and with the first one's participants, is
// refused however often it is started, and the first one goes on.
func TestSecondCoordinatorOnANewDirectory(t *testing.T) {
	t.Parallel()
	ctx, c := testContext(t), newCluster(t)
	startAll(t, ctx, c)
	args := []string{"coordinator", "--dir", filepath.Join(c.Dir, "new"), "--listen", "127.0.0.1:0"}
	for _, name := range c.Names {
		args = append(args, "--participant", name+"="+c.Addr(name))
	}
	for range 3 {
		if r := run(t, ctx, nil, "", args...); r.Code != 1 || !strings.Contains(r.Err, "Nothing was changed") {
			t.Errorf("exit %d, %q", r.Code, r.Err)
		}
	}
	if r := run(t, ctx, nil, "x", "put", "-", "f", "--coordinator", c.Addr(harness.Coordinator)); r.Code != 0 {
		t.Errorf("put: exit %d, %q; the coordinator said %q", r.Code, r.Err, c.Proc(harness.Coordinator).Output())
	}
}

// ended wants the coordinator to end by itself, with these words.
func (l *leaving) ended(words string) {
	l.Helper()
	if err := l.c.Launch(harness.Coordinator); err != nil {
		l.Fatal(err)
	}
	p := l.c.Proc(harness.Coordinator)
	select {
	case <-p.Done():
	case <-l.ctx.Done():
		l.Fatalf("it goes on; it said %q", p.Output())
	}
	if p.ExitCode() == 0 || !strings.Contains(p.Output(), words) {
		l.Fatalf("exit %d, it said %q, want %q", p.ExitCode(), p.Output(), words)
	}
}

// up's own coordinator's directory is lost: the same flag.
func TestRebuildUp(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := filepath.Join(tempDir(t), "data")
	sock := "unix:" + filepath.Join(tempDir(t), "s")
	up := func(flags ...string) *harness.Proc {
		return started(t, "up", nil, append([]string{"up", "--dir", dir, "--listen", sock}, flags...)...)
	}
	ready := func(p *harness.Proc) {
		t.Helper()
		if _, err := p.WaitLine(ctx, "ready"); err != nil {
			t.Fatal(err)
		}
	}
	p := up()
	ready(p)
	if r := run(t, ctx, nil, "kept\n", "put", "-", "f", "--coordinator", sock); r.Code != 0 {
		t.Fatalf("put: %q", r.Err)
	}
	if err := p.Terminate(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "coordinator")); err != nil {
		t.Fatal(err)
	}
	p = up()
	<-p.Done()
	if p.ExitCode() == 0 || !strings.Contains(p.Output(), "with --rebuild") {
		t.Fatalf("without the flag: exit %d, %q", p.ExitCode(), p.Output())
	}
	p = up("--rebuild")
	ready(p)
	if r := run(t, ctx, nil, "", "get", "f", "-", "--coordinator", sock); r.Code != 0 || r.Out != "kept\n" {
		t.Fatalf("get: %q, %q", r.Out, r.Err)
	}
	if err := p.Terminate(time.Minute); err != nil {
		t.Fatal(err)
	}
	// All but one are lost with it, the first ones or the last: that takes both words.
	loses := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	refused := func(words string, flags ...string) {
		t.Helper()
		p := up(flags...)
		<-p.Done()
		if p.ExitCode() == 0 || !strings.Contains(p.Output(), words) {
			t.Fatalf("%v: exit %d, %q, want %q", flags, p.ExitCode(), p.Output(), words)
		}
	}
	loses("coordinator", "participant-a", "participant-b")
	refused("missing, and 2 of 3", "--rebuild")
	for _, lost := range []string{"a,b", "b,c"} {
		refused("may have gone on without them", "--rebuild", "--lost", lost)
		p = up("--rebuild", "--lost", lost, "--force")
		ready(p)
		if r := run(t, ctx, nil, "", "get", "f", "-", "--coordinator", sock); r.Code != 0 || r.Out != "kept\n" {
			t.Fatalf("without %s: get: %q, %q", lost, r.Out, r.Err)
		}
		if r := run(t, ctx, nil, "and more\n", "put", "-", "more", "--coordinator", sock); r.Code != 0 { // when two have caught up
			t.Fatalf("without %s: put: %q", lost, r.Err)
		}
		for all := false; !all; {
			r := run(t, ctx, nil, "", "status", "--coordinator", sock)
			if all = r.Code == 0; !all && ctx.Err() != nil {
				t.Fatalf("without %s: not all catch up: %s", lost, r.Out)
			}
		}
		if err := p.Terminate(time.Minute); err != nil {
			t.Fatal(err)
		}
		loses("coordinator", "participant-b", "participant-c")
	}
	if r := run(t, ctx, nil, "", "up", "--dir", dir+"-typo", "--rebuild"); r.Code != 1 || !strings.Contains(r.Err, "holds no participant's directory") {
		t.Errorf("of nothing: exit %d, %q", r.Code, r.Err)
	}
	if r := run(t, ctx, nil, "", "up", "--dir", dir, "--lost", "a"); r.Code != 2 || !strings.Contains(r.Err, "--rebuild") {
		t.Errorf("--lost alone: exit %d, %q", r.Code, r.Err)
	}
}
