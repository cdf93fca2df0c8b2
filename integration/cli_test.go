package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/wire"
)

// up starts `tpcfs up` and returns it with the address it serves.
func up(t *testing.T, ctx context.Context, dir string, args ...string) (p *harness.Proc, addr string) {
	t.Helper()
	p = started(t, "up", nil, append([]string{"up", "-o", "json", "--dir", dir, "--listen", "127.0.0.1:0"}, args...)...)
	line, err := p.WaitLine(ctx, `{"ready"`)
	if err != nil {
		t.Fatal(err)
	}
	var r struct{ Listen string }
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		t.Fatal(err)
	}
	return p, r.Listen
}

// oneLine wants an error that is one line, begins as errors do and says what is wanted.
func oneLine(t *testing.T, what string, r harness.Result, code int, wants ...string) {
	t.Helper()
	if r.Code != code || strings.Count(r.Err, "\n") != 1 || !strings.HasPrefix(r.Err, "tpcfs: ") {
		t.Errorf("%s: exit %d, error %q; want exit %d and one line", what, r.Code, r.Err, code)
	}
	for _, want := range wants {
		if !strings.Contains(r.Err, want) {
			t.Errorf("%s: %q does not say %q", what, r.Err, want)
		}
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	_, addr := up(t, ctx, dir+"/data")
	env := []string{"TPCFS_COORDINATOR=" + addr}
	do := func(stdin string, args ...string) harness.Result { return run(t, ctx, env, stdin, args...) }
	ok := func(stdin string, args ...string) string {
		t.Helper()
		r := do(stdin, args...)
		if r.Code != 0 || r.Err != "" {
			t.Errorf("%v: exit %d, %q", args, r.Code, r.Err)
		}
		return r.Out
	}
	long := string(noise(9, 500_000))
	ok("hello\n", "put", "-", "a")
	ok(long, "put", "-", "long")
	ok("", "mkdir", "-p", "d/e/f")
	ok("", "mkdir", "-p", "d/e")
	if got := ok("", "get", "a"); got != "hello\n" {
		t.Errorf("get a: %q", got)
	}
	if got := ok("", "get", "long"); got != long {
		t.Errorf("get long: %d bytes that differ", len(got))
	}
	if got := ok("", "get", "--offset", "70000", "--length", "100", "long"); got != long[70000:70100] {
		t.Errorf("get of a range: %d bytes that differ", len(got))
	}
	ok("", "get", "a", dir+"/local")
	if b, err := os.ReadFile(dir + "/local"); err != nil || string(b) != "hello\n" {
		t.Errorf("get into a file: %q, %v", b, err)
	}
	ok("", "mv", "a", "d/e")
	ok("", "put", dir+"/local", "b")
	ok("", "mv", "b", "d/e/a")
	if got := ok("", "ls", "d/e"); got != "a\nf\n" {
		t.Errorf("ls: %q", got)
	}
	if got := ok("", "ls", "-l"); !strings.Contains(got, "500000") || !strings.Contains(got, "drwxr-xr-x") {
		t.Errorf("ls -l: %q", got)
	}
	var st struct {
		Type, Version string
		Size          int64
	}
	if err := json.Unmarshal([]byte(ok("", "stat", "-o", "json", "long")), &st); err != nil || st.Size != 500_000 || st.Type != "file" {
		t.Errorf("stat: %+v, %v", st, err)
	}
	ok("two", "put", "--if-version", st.Version, "-", "long")
	oneLine(t, "put over another version", do("x", "put", "--if-version", st.Version, "-", "long"), 5, "long")
	oneLine(t, "put --exclusive", do("x", "put", "--exclusive", "-", "long"), 1, "long", "file exists")
	ok("", "rm", "long", "d/e/a")
	ok("", "rmdir", "d/e/f")
	if got := ok("", "ls", "-o", "json", "d/e"); strings.TrimSpace(got) != "[]" {
		t.Errorf("ls -o json of an empty directory: %q", got)
	}
	var status wire.Status
	if err := json.Unmarshal([]byte(ok("", "status", "-o", "json")), &status); err != nil || !status.Serving || len(status.Members) != 3 {
		t.Errorf("status: %+v, %v", status, err)
	}
	if got := ok("", "status"); !strings.Contains(got, "in sync") {
		t.Errorf("status: %q", got)
	}
	badNames(t, do)
}

// badNames are refused with one line that names them.
func badNames(t *testing.T, do func(stdin string, args ...string) harness.Result) {
	t.Helper()
	oneLine(t, "get of a missing file", do("", "get", "no/such"), 3, "no/such", "no such file")
	oneLine(t, "rm of a missing file", do("", "rm", "none"), 3, "none", "no such file")
	oneLine(t, "put below a missing directory", do("x", "put", "-", "no/such"), 3, "no/such")
	oneLine(t, "put of a missing local file", do("", "put", "/no/such/local", "x"), 3, "/no/such/local")
	oneLine(t, "rmdir of a full directory", do("", "rmdir", "d"), 1, "not empty")
	oneLine(t, "rm of a directory", do("", "rm", "d"), 1, "is a directory")
	oneLine(t, "get of a directory", do("", "get", "d"), 1, "is a directory")
	oneLine(t, "..", do("x", "put", "-", "d/../x"), 1, "d/../x")
	oneLine(t, "//", do("x", "put", "-", "d//x"), 1, "d//x")
	oneLine(t, "256 bytes", do("x", "put", "-", strings.Repeat("n", 256)), 1, "name too long")
	if r := do("x", "put", "-", strings.Repeat("n", 255)); r.Code != 0 {
		t.Errorf("a name of 255 bytes: exit %d, %q", r.Code, r.Err)
	}
	r := do("", "get", "-o", "json", "none")
	var p struct {
		Error, Code, Name string
		Exit              int
		Retry             bool
	}
	if err := json.Unmarshal([]byte(r.Err), &p); err != nil || p.Exit != 3 || p.Name != "none" || p.Retry {
		t.Errorf("error as JSON: %q, %v", r.Err, err)
	}
	r = do("", "rm", "none1", "none2")
	if r.Code != 3 || strings.Count(r.Err, "\n") != 2 {
		t.Errorf("rm of two missing files: exit %d, %q", r.Code, r.Err)
	}
}

func TestGetLeavesNothingHalfDone(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	_, addr := up(t, ctx, dir+"/data")
	out := dir + "/out"
	if err := os.Mkdir(out, 0o700); err != nil {
		t.Fatal(err)
	}
	r := run(t, ctx, nil, "", "get", "--coordinator", addr, "missing", out+"/x")
	if r.Code != 3 {
		t.Errorf("exit %d", r.Code)
	}
	if left, err := os.ReadDir(out); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestWrongAddresses(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	nobody := "unix:" + dir + "/nobody"

	oneLine(t, "nobody there", run(t, ctx, nil, "", "ls", "--wait", "300ms", "--coordinator", nobody), 4, "nobody")
	oneLine(t, "status of nobody", run(t, ctx, nil, "", "status", "--coordinator", nobody), 4, "nobody")
	oneLine(t, "port in use", run(t, ctx, nil, "", "up", "--dir", dir+"/d1", "--listen", taken), 1, taken, "in use")
	oneLine(t, "port in use", run(t, ctx, nil, "", "participant", "--dir", dir+"/d2", "--listen", taken), 1, taken, "in use")
	oneLine(t, "public address", run(t, ctx, nil, "", "participant", "--dir", dir+"/d3", "--listen", "0.0.0.0:0"), 1, "insecure")
	oneLine(t, "no such mount point", run(t, ctx, nil, "", "up", "--dir", dir+"/d4", dir+"/none"), 1, "mkdir")

	// Somebody who is no tpcfs, and says nothing.
	oneLine(t, "a mute server", run(t, ctx, nil, "", "ls", "--wait", "1s", "--coordinator", taken), 4, taken)
	// A participant is no coordinator.
	p, err := harness.Start("participant", nil, binary, "participant", "--dir", dir+"/p", "--listen", "unix:"+dir+"/p.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	if _, err := p.WaitLine(ctx, "ready"); err != nil {
		t.Fatal(err)
	}
	r := run(t, ctx, nil, "", "ls", "--wait", "1s", "--coordinator", "unix:"+dir+"/p.sock")
	if r.Code == 0 || strings.Count(r.Err, "\n") != 1 {
		t.Errorf("ls at a participant: exit %d, %q", r.Code, r.Err)
	}
}

func TestSecondProcessOnTheSameData(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	first, _ := up(t, ctx, dir+"/data")
	pid := fmt.Sprint(first.PID())
	oneLine(t, "second up", run(t, ctx, nil, "", "up", "--dir", dir+"/data", "--listen", "127.0.0.1:0"), 1, pid)
	oneLine(t, "participant on up's data",
		run(t, ctx, nil, "", "participant", "--dir", dir+"/data/participant-a", "--listen", "127.0.0.1:0"), 1, pid)
	oneLine(t, "export of a running one", run(t, ctx, nil, "", "export", dir+"/data/participant-a", dir+"/out"), 1, pid)
	oneLine(t, "coordinator on up's data",
		run(t, ctx, nil, "", "coordinator", "--dir", dir+"/data/coordinator", "--listen", "127.0.0.1:0", "--participant", "a=127.0.0.1:1"), 1, pid)
}

// A participant that is away: writes wait and then are refused, reads and
// status go on; when it is back, so is everything.
func TestParticipantAway(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := newCluster(t)
	startAll(t, ctx, c)
	cl := dial(t, ctx, c, 0)
	mustWrite(t, ctx, cl, "f", []byte("before"))
	settle(t, ctx, c)
	if err := c.Kill("b"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WaitStatus(ctx, "without b", func(st wire.Status) bool { return !harness.Settled(st) }); err != nil {
		t.Fatal(err)
	}
	addr := c.Addr(harness.Coordinator)
	start := time.Now()
	r := run(t, ctx, nil, "x", "put", "--coordinator", addr, "--wait", "1s", "-", "f")
	oneLine(t, "put without b", r, 4, "f")
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("--wait 1s took %s", took)
	}
	if r := run(t, ctx, nil, "", "get", "--coordinator", addr, "f"); r.Code != 0 || r.Out != "before" {
		t.Errorf("get without b: exit %d, %q, %q", r.Code, r.Out, r.Err)
	}
	if r := run(t, ctx, nil, "", "status", "--coordinator", addr); r.Code != 8 || !strings.Contains(r.Out, "b ") {
		t.Errorf("status without b: exit %d, %q", r.Code, r.Out)
	}
	// A restarted coordinator serves nothing until all have answered, and says for whom it waits.
	if err := c.Kill(harness.Coordinator); err != nil {
		t.Fatal(err)
	}
	if err := c.Launch(harness.Coordinator); err != nil {
		t.Fatal(err)
	}
	st, err := c.WaitStatus(ctx, "waiting for b", func(st wire.Status) bool { return len(st.WaitsFor) == 1 && st.WaitsFor[0] == "b" })
	if err != nil {
		t.Fatal(err)
	}
	if st.Serving {
		t.Error("it serves without having heard b")
	}
	if r := run(t, ctx, nil, "", "status", "--coordinator", addr); r.Code != 4 || !strings.Contains(r.Out, "waits for b") {
		t.Errorf("status without b after a restart: exit %d, %q %q", r.Code, r.Out, r.Err)
	}
	oneLine(t, "get while nothing is served", run(t, ctx, nil, "", "get", "--coordinator", addr, "--wait", "500ms", "f"), 4, "f")
	if err := c.Start(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, ctx, cl, "f", []byte("after"))
	settle(t, ctx, c)
}

// A hung participant (SIGSTOP) is like one that is away, and comes back.
func TestParticipantHangs(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := newCluster(t)
	startAll(t, ctx, c)
	cl := dial(t, ctx, c, 0)
	mustWrite(t, ctx, cl, "f", []byte("before"))
	if err := c.Proc("c").Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r := run(t, ctx, nil, "x", "put", "--coordinator", c.Addr(harness.Coordinator), "--wait", "1s", "-", "f")
	if r.Code != 4 && r.Code != 6 {
		t.Errorf("put with c hung: exit %d, %q", r.Code, r.Err)
	}
	if r := run(t, ctx, nil, "", "get", "--coordinator", c.Addr(harness.Coordinator), "f"); r.Code != 0 || r.Out != "before" {
		t.Errorf("get with c hung: exit %d, %q %q", r.Code, r.Out, r.Err)
	}
	if err := c.Proc("c").Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, ctx, cl, "f", []byte("after"))
	settle(t, ctx, c)
}

func TestUpStartsAgainAndExports(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	for round := range 3 {
		p, addr := up(t, ctx, dir+"/data")
		name := fmt.Sprintf("f%d", round)
		if r := run(t, ctx, nil, name, "put", "--coordinator", addr, "-", name); r.Code != 0 {
			t.Fatal(r.Err)
		}
		for i := range round + 1 {
			if r := run(t, ctx, nil, "", "get", "--coordinator", addr, fmt.Sprintf("f%d", i)); r.Out != fmt.Sprintf("f%d", i) {
				t.Errorf("round %d: f%d is %q: %s", round, i, r.Out, r.Err)
			}
		}
		if round == 1 {
			if err := p.Kill(); err != nil { // as good as any other stop
				t.Fatal(err)
			}
			continue
		}
		if err := p.Terminate(patience); err != nil {
			t.Fatal(err)
		}
		if p.ExitCode() != 0 {
			t.Errorf("SIGTERM: exit %d\n%s", p.ExitCode(), p.Output())
		}
	}
	oneLine(t, "another number of participants",
		run(t, ctx, nil, "", "up", "--dir", dir+"/data", "--listen", "127.0.0.1:0", "--participants", "5"), 2, "3 participants")
	for _, name := range []string{"a", "b", "c"} {
		out := filepath.Join(dir, "out-"+name)
		if r := run(t, ctx, nil, "", "export", dir+"/data/participant-"+name, out); r.Code != 0 {
			t.Fatal(r.Err)
		}
		tree, err := harness.ReadTree(out)
		if err != nil {
			t.Fatal(err)
		}
		want := harness.Tree{"f0": harness.File([]byte("f0")), "f1": harness.File([]byte("f1")), "f2": harness.File([]byte("f2"))}
		if diff := harness.Diff(tree, want); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	if r := run(t, ctx, nil, "", "export", dir+"/data", dir+"/out"); r.Code == 0 || !strings.Contains(r.Err, "participant-a") {
		t.Errorf("export of the whole directory: exit %d, %q", r.Code, r.Err)
	}
}

// Ctrl-C ends what waits, with its own exit code.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	nobody := "unix:" + dir + "/nobody"
	for _, args := range [][]string{{"ls"}, {"get", "x"}, {"put", "/dev/null", "x"}, {"mount", "--foreground", dir}} {
		p, err := harness.Start("waits", nil, plain, append(args, "--log-level", "info", "--wait", "0", "--coordinator", nobody)...)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Kill()
		if _, err := p.WaitLine(ctx, "time="); err != nil { // it has tried once
			t.Fatal(err)
		}
		if err := p.Terminate(patience); err != nil {
			t.Fatal(err)
		}
		if p.ExitCode() != 130 {
			t.Errorf("%v: exit %d, %s", args, p.ExitCode(), p.Output())
		}
	}
}

// Without /dev/fuse a mount says what to do, before anything is started.
func TestNoFuse(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	unshare := "-rm"
	if os.Geteuid() == 0 {
		unshare = "-m"
	}
	script := `mount -t tmpfs none /dev && exec "$0" up --dir "$1/data" "$1"/mnt`
	if err := os.Mkdir(dir+"/mnt", 0o700); err != nil {
		t.Fatal(err)
	}
	r := harness.Run(ctx, nil, nil, "unshare", unshare, "bash", "-c", script, plain, dir)
	oneLine(t, "up without /dev/fuse", r, 1, "/dev/fuse", "modprobe")
	if _, err := os.Stat(dir + "/data"); err == nil {
		t.Error("the data directory was made all the same")
	}
}
