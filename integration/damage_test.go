package integration

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/rpc"
)

// garble changes bytes of a file at an offset.
func garble(t *testing.T, name string, offset int64, n int) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, offset); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] ^= 0x5a
	}
	if _, err := f.WriteAt(b, offset); err != nil {
		t.Fatal(err)
	}
}

// filled makes the data directory of an `up` that has worked and was killed. Its
// coordinator's journal has a block after the second, which says that the second was
// synced: without it damage to the second is a torn tail, and is cut.
func filled(t *testing.T, ctx context.Context) string {
	t.Helper()
	dir := filepath.Join(tempDir(t), "data")
	p, addr := up(t, ctx, dir)
	for _, name := range []string{"a", "b", "c"} {
		if r := run(t, ctx, nil, string(noise(1, 50_000)), "put", "--coordinator", addr, "-", name); r.Code != 0 {
			t.Fatal(r.Err)
		}
	}
	name := firstSegment(t, dir+"/coordinator/journal")
	for magic := make([]byte, 4); string(magic) != "TPJB"; { // written lazily
		if err := ctx.Err(); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.ReadAt(magic, 8192)
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func onlyFile(t *testing.T, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: no such file, %v", pattern, err)
	}
	return names[0]
}

// Damage that shows in service ends that participant and is said in one line,
// once; the file is read from another.
func TestUpSaysOnceWhatIsDamaged(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := filepath.Join(tempDir(t), "data")
	p, addr := up(t, ctx, dir, "--segment-size", "1048576")
	env := []string{"TPCFS_COORDINATOR=" + addr}
	meta := dir + "/participant-b/meta.db"
	const name = "a-name-that-stands-nowhere-else"
	if r := run(t, ctx, env, "sound", "put", "-", name); r.Code != 0 {
		t.Fatal(r.Err)
	}
	var at []int // of the name's entries, once a checkpoint has brought them there
	for i := 0; len(at) == 0; i++ {
		if r := run(t, ctx, env, string(noise(int64(i), 60_000)), "put", "-", "filler"); r.Code != 0 {
			t.Fatal(r.Err)
		}
		b, err := os.ReadFile(meta)
		if err != nil {
			t.Fatal(err)
		}
		for j := 0; ; j++ {
			k := bytes.Index(b[j:], []byte(name))
			if k < 0 {
				break
			}
			j += k
			at = append(at, j+len(name))
		}
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, j := range at {
		garble(t, meta, int64(j), 2)
	}
	p, addr = up(t, ctx, dir)
	env = []string{"TPCFS_COORDINATOR=" + addr}
	for range 100 { // any participant may be asked
		if r := run(t, ctx, env, "", "get", name); r.Code != 0 || r.Out != "sound" {
			t.Fatalf("get: exit %d, %q %q", r.Code, r.Out, r.Err)
		}
		if strings.Contains(p.Output(), "participant b ended") {
			break
		}
	}
	if err := p.Terminate(patience); err != nil {
		t.Fatal(err)
	}
	if out := p.Output(); strings.Count(out, "\n") != 2 || strings.Count(out, meta) > 1 || strings.Count(out, "is damaged") != 1 || p.ExitCode() != 1 {
		t.Errorf("exit %d; want that it is ready and, once, what is damaged:\n%s", p.ExitCode(), out)
	}
}

// What ends up's coordinator is said in one line, once. Here its journal is of
// before the last start.
func TestUpSaysOnceWhyItEnds(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := filepath.Join(tempDir(t), "data")
	for i := range 2 {
		p, _ := up(t, ctx, dir)
		if err := p.Terminate(patience); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if r := harness.Run(ctx, nil, nil, "cp", "-a", dir+"/coordinator", dir+"/old"); r.Code != 0 {
				t.Fatal(r.Err)
			}
		}
	}
	if err := os.RemoveAll(dir + "/coordinator"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+"/old", dir+"/coordinator"); err != nil {
		t.Fatal(err)
	}
	r := run(t, ctx, nil, "", "up", "--dir", dir, "--listen", "127.0.0.1:0")
	oneLine(t, "up", r, 1, "journal is empty, old or another's")
	if strings.Count(r.Err, "journal is empty") != 1 {
		t.Errorf("it says so more than once: %s", r.Err)
	}
}

// A journal or store that is damaged is refused at the start, with the file
// and what to do, and is never cut. All are needed here, so that up ends with that.
func TestDamageIsRefusedAndNamed(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	clean := filled(t, ctx)
	tests := []struct {
		name   string
		damage func(t *testing.T, dir string) string // returns what the error must name
		who    string                                // whose directory the error must name
	}{
		{"participant's journal", func(t *testing.T, dir string) string {
			name := firstSegment(t, dir+"/participant-b/journal")
			garble(t, name, 8192+20, 40)
			return filepath.Base(name)
		}, "participant-b"},
		{"coordinator's journal", func(t *testing.T, dir string) string {
			name := firstSegment(t, dir+"/coordinator/journal")
			garble(t, name, 4096+20, 40)
			return filepath.Base(name)
		}, "coordinator"},
		{"FORMAT", func(t *testing.T, dir string) string {
			garble(t, dir+"/participant-a/FORMAT", 0, 4)
			return "FORMAT"
		}, "participant-a"},
		{"metadata", func(t *testing.T, dir string) string {
			garble(t, dir+"/participant-c/meta.db", 0, 8192)
			return "meta.db"
		}, "participant-c"},
		{"metadata gone", func(t *testing.T, dir string) string {
			if err := os.Remove(dir + "/participant-c/meta.db"); err != nil {
				t.Fatal(err)
			}
			return "meta.db"
		}, "participant-c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(tempDir(t), "data")
			if r := harness.Run(ctx, nil, nil, "cp", "-a", clean, dir); r.Code != 0 {
				t.Fatal(r.Err)
			}
			want := tt.damage(t, dir)
			before := checksums(t, ctx, dir+"/"+tt.who)
			r := run(t, ctx, nil, "", "up", "--dir", dir, "--listen", "127.0.0.1:0", "--min-in-sync", "3")
			oneLine(t, "up", r, 1, want, tt.who)
			t.Log(strings.TrimSpace(r.Err))
			if after := checksums(t, ctx, dir+"/"+tt.who); before != after {
				t.Errorf("what was damaged was changed:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
	t.Run("journal gone", func(t *testing.T) {
		dir := filepath.Join(tempDir(t), "data")
		if r := harness.Run(ctx, nil, nil, "cp", "-a", clean, dir); r.Code != 0 {
			t.Fatal(r.Err)
		}
		if err := os.RemoveAll(dir + "/participant-a/journal"); err != nil {
			t.Fatal(err)
		}
		r := run(t, ctx, nil, "", "up", "--dir", dir, "--listen", "127.0.0.1:0", "--min-in-sync", "3")
		if r.Code != 1 || !strings.Contains(r.Err, "lost") {
			t.Errorf("exit %d, %q", r.Code, r.Err)
		}
	})
	r := run(t, ctx, nil, "", "journal", "verify", clean+"/participant-a")
	if r.Code != 0 || !strings.Contains(r.Out, "ok") {
		t.Errorf("journal verify: exit %d, %q %q", r.Code, r.Out, r.Err)
	}
	for _, who := range []string{"participant-a", "coordinator"} {
		r = run(t, ctx, nil, "", "journal", "dump", clean+"/"+who)
		if r.Code != 0 || !strings.Contains(r.Out, "CONFIG") || !strings.Contains(r.Out, "EPOCH") {
			t.Errorf("journal dump of %s: exit %d, %.1000q %q", who, r.Code, r.Out, r.Err)
		}
	}
	r = run(t, ctx, nil, "", "journal", "dump", "-o", "json", clean+"/participant-a")
	if r.Code != 0 || !strings.Contains(r.Out, `"kind":"PREPARE"`) {
		t.Errorf("journal dump as JSON: exit %d, %.1000q %q", r.Code, r.Out, r.Err)
	}
	garble(t, firstSegment(t, clean+"/participant-a/journal"), 8192+20, 40)
	if r := run(t, ctx, nil, "", "journal", "verify", clean+"/participant-a"); r.Code != 1 || !strings.Contains(r.Err, "corrupt") {
		t.Errorf("journal verify of a damaged one: exit %d, %q", r.Code, r.Err)
	}
	if r := run(t, ctx, nil, "", "journal", "verify", t.TempDir()); r.Code != 3 || !strings.Contains(r.Err, "holds no journal") {
		t.Errorf("journal verify of another directory: exit %d, %q", r.Code, r.Err)
	}
	if r := run(t, ctx, nil, "", "journal", "verify", "/no/such/dir"); r.Code != 3 {
		t.Errorf("journal verify of nothing: exit %d, %q", r.Code, r.Err)
	}
}

func firstSegment(t *testing.T, journal string) string {
	t.Helper()
	return onlyFile(t, journal+"/*.seg")
}

// checksums are those of the journals below dir.
func checksums(t *testing.T, ctx context.Context, dir string) string {
	t.Helper()
	script := `find "$0" -path '*/journal/*.seg' -type f -exec sha256sum {} + | sort`
	r := harness.Run(ctx, nil, nil, "bash", "-c", script, dir)
	if r.Code != 0 {
		t.Fatal(r.Err)
	}
	return r.Out
}

// One rotten block is served from another participant, and the read has it rewritten.
func TestRottenObjectIsReadElsewhereAndRepaired(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := newCluster(t)
	startAll(t, ctx, c)
	want := noise(11, 400_000)
	cl := dial(t, ctx, c, 0)
	mustWrite(t, ctx, cl, "f", want)
	settle(t, ctx, c)
	objects, err := filepath.Glob(c.DataDir("a") + "/objects/*/*")
	if err != nil || len(objects) == 0 {
		objects, err = filepath.Glob(c.DataDir("a") + "/objects/*")
	}
	if err != nil || len(objects) == 0 {
		t.Fatalf("no objects: %v", err)
	}
	var rotten []string
	for _, o := range objects {
		if info, err := os.Stat(o); err == nil && info.Size() > 100_000 {
			garble(t, o, 70_000, 10)
			garble(t, o, 200_000, 10)
			rotten = append(rotten, o)
		}
	}
	sound := func(name string) bool {
		b, err := os.ReadFile(name)
		return err == nil && len(b) >= len(want) && bytes.Equal(b[:len(want)], want)
	}
	if len(rotten) != 1 || sound(rotten[0]) {
		t.Fatalf("the objects are %v", rotten)
	}
	for n := 0; n < 12 || !sound(rotten[0]); n++ { // each at a participant picked at random, until ctx ends
		if b, err := cl.ReadFile(ctx, "f"); err != nil || !bytes.Equal(b, want) {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
	}
	settle(t, ctx, c)
}

// Peers of another protocol version tell each other which they speak.
func TestProtocolVersionMismatch(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := newCluster(t)
	startAll(t, ctx, c)
	newer := rpc.DialOptions{Versions: wire.VersionRange{From: 7, Upto: 9}}
	_, err := rpc.DialService(ctx, c.Addr(harness.Coordinator), newer)
	wantVersions(t, "a newer client", err)
	_, err = rpc.DialReplica(ctx, c.Addr("a"), newer)
	wantVersions(t, "a newer coordinator", err)

	// A newer server, as the command line meets it.
	dir := tempDir(t)
	l, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := io.CopyN(io.Discard, conn, wire.PrefacePrefix); err == nil {
				_, _ = conn.Write(wire.AppendPreface(nil, wire.Preface{
					Versions: newer.Versions, Role: wire.RoleCoordinator, Channel: wire.ChannelControl, Refusal: "versions 7-9 are spoken here",
				}))
			}
			conn.Close()
		}
	}()
	oneLine(t, "a newer coordinator", run(t, ctx, nil, "", "status", "--coordinator", "unix:"+dir+"/s"), 1, "7-9", wire.Versions.String())
	oneLine(t, "a newer coordinator", run(t, ctx, nil, "", "ls", "--wait", "5s", "--coordinator", "unix:"+dir+"/s"), 1, "7-9")
}

func wantVersions(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s was accepted", what)
		return
	}
	for _, want := range []string{"7-9", wire.Versions.String()} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not name versions %s", what, err, want)
		}
	}
}

// A participant of up that is damaged is left behind: up says so and goes on
// with the others. Its directory emptied, it gets everything from them.
func TestUpGoesOnWithoutWhoIsDamaged(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := filled(t, ctx)
	bad := dir + "/participant-b"
	garble(t, firstSegment(t, bad+"/journal"), 8192+20, 40)
	p, addr := up(t, ctx, dir)
	env := []string{"TPCFS_COORDINATOR=" + addr}
	if r := run(t, ctx, env, "made without b", "put", "-", "new"); r.Code != 0 {
		t.Errorf("put: exit %d, %s", r.Code, r.Err)
	}
	if r := run(t, ctx, env, "", "status"); r.Code != 8 || !strings.Contains(r.Out, "changes are kept on 2") {
		t.Errorf("status: exit %d, %s", r.Code, r.Out)
	}
	if err := p.Terminate(patience); err != nil {
		t.Fatal(err)
	}
	if out := p.Output(); strings.Count(out, "\n") != 2 || !strings.Contains(out, "participant b does not start") ||
		!strings.Contains(out, "changes go on without it") || p.ExitCode() != 1 {
		t.Errorf("exit %d; want that it is ready and, once, what is wrong:\n%s", p.ExitCode(), out)
	}
	if err := os.RemoveAll(bad); err != nil {
		t.Fatal(err)
	}
	p, addr = up(t, ctx, dir)
	env = []string{"TPCFS_COORDINATOR=" + addr}
	for {
		r := run(t, ctx, env, "", "status")
		if r.Code == 0 {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("b is not in sync: %s", r.Out)
		}
	}
	if err := p.Terminate(patience); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b", "a"} {
		if r := run(t, ctx, nil, "", "export", dir+"/participant-"+name, dir+"/out-"+name); r.Code != 0 {
			t.Fatal(r.Err)
		}
	}
	if r := harness.Run(ctx, nil, nil, "diff", "-r", dir+"/out-a", dir+"/out-b"); r.Code != 0 {
		t.Errorf("what b and a hold differs:\n%s", r.Out)
	}
	if b, err := os.ReadFile(dir + "/out-b/new"); err != nil || string(b) != "made without b" {
		t.Errorf("what was made without b: %q, %v", b, err)
	}
}

// With a minimum of one a participant that does not start may have what no other has (P8): up
// says that it waits, and for whom; an operator's word that its data are lost ends that.
func TestUpWaitsForWhoMayKnowMore(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := filled(t, ctx)
	garble(t, dir+"/participant-b/FORMAT", 0, 4)
	p := started(t, "up", nil, "up", "--dir", dir, "--listen", "unix:"+dir+"/s", "--min-in-sync", "1")
	const words = "the start waits for it, since with --min-in-sync 1 it may have what no other has"
	if line, err := p.WaitLine(ctx, "tpcfs: up: participant b does not start"); err != nil || !strings.Contains(line, words) || !strings.Contains(line, "resolve --lost b --force") {
		t.Fatalf("%q, %v", line, err)
	}
	env := []string{"TPCFS_COORDINATOR=unix:" + dir + "/s"}
	for { // who does not start is not seen at once
		r := run(t, ctx, env, "", "status")
		if r.Code == 4 && strings.Contains(r.Out, "the start waits for b") {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("status: exit %d, %s", r.Code, r.Out)
		}
	}
	if r := run(t, ctx, env, "", "resolve", "--lost", "b", "--force"); r.Code != 0 {
		t.Fatalf("resolve: exit %d, %s%s", r.Code, r.Out, r.Err)
	}
	if _, err := p.WaitLine(ctx, "ready"); err != nil {
		t.Fatal(err)
	}
	if r := run(t, ctx, env, "", "get", "a"); r.Code != 0 || r.Out != string(noise(1, 50_000)) {
		t.Errorf("get: exit %d, %d bytes, %s", r.Code, len(r.Out), r.Err)
	}
}
