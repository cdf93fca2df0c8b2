package integration

import (
	"os"
	"strings"
	"testing"
)

// tpcfs up's participants are replaced by processes of their own while it runs, one of
// them damaged, and removed; that is so at its next starts, also where the directories of
// those that were removed are empty.
func TestUpMembers(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := filled(t, ctx)
	garble(t, firstSegment(t, dir+"/participant-b/journal"), 8192+20, 40)
	p, addr := up(t, ctx, dir)
	tpcfs := func(code int, want string, args ...string) {
		t.Helper()
		r := run(t, ctx, []string{"TPCFS_COORDINATOR=" + addr}, "", args...)
		if r.Code != code || !strings.Contains(r.Out+r.Err, want) {
			t.Fatalf("tpcfs %s: exit %d, want %d and %q\n%s%s", strings.Join(args, " "), r.Code, code, want, r.Out, r.Err)
		}
	}
	inSync := func() {
		t.Helper()
		for run(t, ctx, []string{"TPCFS_COORDINATOR=" + addr}, "", "status").Code != 0 {
			if ctx.Err() != nil {
				t.Fatal("not all are in sync:", run(t, ctx, []string{"TPCFS_COORDINATOR=" + addr}, "", "status").Out)
			}
		}
	}
	beside := func(name string) (listen string) {
		t.Helper()
		listen = "unix:" + dir + "-" + name + ".sock"
		q := started(t, name, nil, "participant", "--dir", dir+"-"+name, "--listen", listen)
		if _, err := q.WaitLine(ctx, "ready"); err != nil {
			t.Fatal(err)
		}
		return listen
	}
	again := func(between func()) {
		t.Helper()
		if err := p.Terminate(patience); err != nil {
			t.Fatal(err)
		}
		between()
		p, addr = up(t, ctx, dir)
		inSync()
		tpcfs(0, "", "get", "a", dir+"-got")
	}
	tpcfs(4, "no participant answers at unix:", "members", "add", "d=unix:"+dir+"-d.sock")
	tpcfs(4, "no participant answers at in-process:1", "members", "add", "d=in-process:1")
	at := beside("d")
	tpcfs(0, "b was replaced by d", "members", "replace", "b", "d="+at)
	inSync()
	at = beside("c")
	tpcfs(0, "c was replaced by c", "members", "replace", "c", "c="+at) // of the same name, elsewhere
	inSync()
	// What has become of the disks of those that were replaced is nobody's trouble.
	again(func() { garble(t, firstSegment(t, dir+"/participant-c/journal"), 8192+20, 40) })
	if out := p.Output(); strings.Count(out, "\n") != 1 {
		t.Errorf("it says more than that it is ready:\n%s", out)
	}
	tpcfs(0, at, "status")
	at = beside("e")
	tpcfs(0, "was added", "members", "add", "e="+at)
	inSync()
	tpcfs(0, "a was removed; in sync: d, c, e", "members", "remove", "a")
	again(func() {
		if p.ExitCode() != 0 {
			t.Errorf("exit %d:\n%s", p.ExitCode(), p.Output())
		}
	}) // nobody of its own is left
	if err := p.Terminate(patience); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		if err := os.RemoveAll(dir + "/participant-" + name); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(dir+"/participant-"+name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	p, addr = up(t, ctx, dir)
	inSync()
	if out := p.Output(); strings.Count(out, "\n") != 1 {
		t.Errorf("it says more than that it is ready:\n%s", out)
	}
	if b, err := os.ReadFile(dir + "-got"); err != nil || string(b) != string(noise(1, 50_000)) {
		t.Errorf("what was there at the beginning: %d bytes, %v", len(b), err)
	}
}
