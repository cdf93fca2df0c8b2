package integration

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// ln, mv -n, mv --exchange and stat of what they make; attributes come along.
func TestNames(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	_, addr := up(t, ctx, tempDir(t)+"/data")
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
	ok("one", "put", "-", "a")
	ok("two", "put", "-", "b")
	ok("", "mkdir", "d")
	ok("", "ln", "a", "d")
	ok("", "ln", "-s", "d/a", "l")
	if got := ok("", "get", "l"); got != "one" {
		t.Errorf("through two links: %q", got)
	}
	oneLine(t, "ln over a file", do("", "ln", "a", "b"), 1, "b", "file exists")
	oneLine(t, "ln of a directory", do("", "ln", "d", "d2"), 1, "d", "not permitted")
	oneLine(t, "mv -n over a file", do("", "mv", "-n", "a", "b"), 1, "b", "file exists")
	ok("", "mv", "--exchange", "a", "b")
	if got := ok("", "get", "a") + ok("", "get", "b"); got != "twoone" {
		t.Errorf("after an exchange: %q", got)
	}
	if r := do("", "mv", "-n", "--exchange", "a", "b"); r.Code != 2 {
		t.Errorf("mv -n --exchange: exit %d, %q", r.Code, r.Err)
	}

	c, err := client.Dial(ctx, addr, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.Setxattr(ctx, "b", "user.k", []byte("v"), wire.XattrEither); err != nil {
		t.Fatal(err)
	}
	if err := c.Mknod(ctx, "null", wire.ModeChar|0o666, 259); err != nil {
		t.Fatal(err)
	}
	var st struct {
		Type, Device string
		Links        int
		Xattrs       map[string][]byte
	}
	if err := json.Unmarshal([]byte(ok("", "stat", "-o", "json", "b")), &st); err != nil || st.Links != 2 || string(st.Xattrs["user.k"]) != "v" {
		t.Errorf("stat: %+v, %v", st, err)
	}
	if got := ok("", "stat", "null"); !strings.Contains(got, "character device 1:3") {
		t.Errorf("stat of a device: %q", got)
	}
	if got := ok("", "stat", "b"); !strings.Contains(got, `Xattr: user.k = "v"`) {
		t.Errorf("stat of a file with an attribute: %q", got)
	}
}

// A file without a name goes with its client's session; one whose client was
// there before the coordinator's restart stays.
func TestUnnamedFiles(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	p, addr := up(t, ctx, dir+"/data")
	files := func(c *client.Client) uint64 {
		s, err := c.Statfs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return s.Files
	}
	look, err := client.Dial(ctx, addr, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = look.Close() }()
	none := files(look)
	holder, err := client.Dial(ctx, addr, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ino, err := holder.CreateUnlinked(ctx, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Transact(ctx, []wire.Mutation{
		{Kind: wire.MutWriteFile, At: wire.At{Dir: ino}}, {Kind: wire.MutWriteFile, At: wire.At{Dir: 1, Path: "x"}},
		{Kind: wire.MutDeleteFile, At: wire.At{Dir: 1, Path: "x"}, Hold: true}}, []client.Content{client.Bytes([]byte("held"))}); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(patience); files(look) != none+2 && time.Now().Before(until); {
	}
	if got := files(look); got != none+2 {
		t.Fatalf("%d files, want two without a name beside %d", got, none)
	}
	// The same data, a new coordinator.
	if err := p.Terminate(patience); err != nil {
		t.Fatal(err)
	}
	_, addr2 := up(t, ctx, dir+"/data", "--listen", addr)
	if addr2 != addr {
		t.Fatalf("it listens on %s", addr2)
	}
	if attr, err := holder.Read(ctx, wire.Read{Kind: wire.ReadStat, At: wire.At{Dir: ino}}, nil); err != nil || attr.Attr.Nlink != 0 || attr.Attr.Size != 4 {
		t.Fatalf("after a restart: %+v, %v", attr.Attr, err)
	}
	if _, err := holder.Transact(ctx, []wire.Mutation{{Kind: wire.MutSetattr, At: wire.At{Dir: ino}, Set: wire.SetMode, Mode: 0o640}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(patience); files(look) != none && time.Now().Before(until); {
		time.Sleep(10 * time.Millisecond)
	}
	if got := files(look); got != none {
		t.Errorf("%d files, want %d: what has no name is still there", got, none)
	}
	if _, err := look.Read(ctx, wire.Read{Kind: wire.ReadOrphans, At: wire.At{Dir: 1}}, nil); wire.CodeOf(err) != wire.CodePermission {
		t.Errorf("a client asks for what has no name: %v", err)
	}
}
