package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// coherent changes names and files in one mount and looks at them in another:
// what one has been told is done, the other sees at its next call (F9). Both
// look at everything first, so that there is something outdated to be shown.
const coherent = `
import errno, os, sys
a, b = sys.argv[1], sys.argv[2]
def read(d, n):
    with open(d + "/" + n) as f: return f.read()
def write(d, n, text, mode="w"):
    with open(d + "/" + n, mode) as f: f.write(text)
def absent(d, n):
    try: os.stat(d + "/" + n)
    except OSError as e: return e.errno == errno.ENOENT
    return False
def check(what, got, want): assert got == want, "%s: %r, not %r" % (what, got, want)
for round in range(5):
    for x, y in (a, b), (b, a):
        for n in "f", "g", "h", "new", "d": check("before", (absent(x, n), absent(y, n)), (True, True))
        write(x, "f", "one")
        check("a file that came", read(y, "f"), "one"); check("size", os.stat(y + "/f").st_size, 3)
        for d in x, y: check("ctime of what was written", os.stat(d + "/f").st_ctime_ns, os.stat(d + "/f").st_mtime_ns)
        held = open(y + "/f")
        write(x, "f", "two!")
        check("contents", read(y, "f"), "two!"); check("open before", held.read(), "two!"); check("fstat", os.fstat(held.fileno()).st_size, 4)
        write(y, "f", " and", "a"); write(x, "f", " more", "a")
        check("appended", read(y, "f"), "two! and more"); check("appended", read(x, "f"), "two! and more")
        before = os.stat(x + "/f").st_mtime_ns
        os.chmod(x + "/f", 0o640); check("mode", os.stat(y + "/f").st_mode & 0o777, 0o640); check("mode of an open file", os.fstat(held.fileno()).st_mode & 0o777, 0o640)
        os.utime(y + "/f", (5, 7)); check("mtime", os.stat(x + "/f").st_mtime, 7)
        os.truncate(x + "/f", 2); check("truncated", read(y, "f"), "tw"); held.close()
        os.link(x + "/f", x + "/g"); check("links", os.stat(y + "/f").st_nlink, 2); check("another name", read(y, "g"), "tw")
        os.rename(x + "/g", x + "/h"); check("moved away", absent(y, "g"), True); check("moved", read(y, "h"), "tw")
        write(x, "new", "replaces"); os.rename(x + "/new", x + "/f"); check("replaced", read(y, "f"), "replaces"); check("what was replaced", os.stat(y + "/h").st_nlink, 1)
        os.mkdir(x + "/d"); write(y, "d/in", "1"); check("entries", os.listdir(x + "/d"), ["in"]); check("of a directory", os.stat(x + "/d").st_nlink, 2)
        os.unlink(x + "/d/in"); check("gone", absent(y, "d/in"), True); os.rmdir(y + "/d"); check("gone", absent(x, "d"), True)
        os.makedirs(x + "/d/p"); os.makedirs(x + "/d/q/c/in"); check("entries", os.listdir(y + "/d/q/c"), ["in"])
        os.rename(x + "/d/q/c", x + "/d/p/b"); os.rename(y + "/d/p/b", y + "/d/moved on"); check("moved twice", os.listdir(x + "/d/moved on"), ["in"])
        os.rename(x + "/d/moved on", x + "/d/q/c"); os.rename(y + "/d/q/c", y + "/d/p/b"); check("moved by both", os.listdir(x + "/d/p/b/in"), [])
        for n in "p/b/in", "p/b", "p", "q", "": os.rmdir(y + "/d/" + n)
        for d in x, y: check("links", sorted(os.listdir(d)), ["f", "h"])
        check("no attributes", (os.listxattr(x + "/h"), os.listxattr(y + "/h")), ([], []))
        os.setxattr(x + "/h", "user.a", b"1"); check("an attribute", (os.listxattr(y + "/h"), os.getxattr(y + "/h", "user.a")), (["user.a"], b"1"))
        os.setxattr(y + "/h", "user.a", b"2"); check("changed", os.getxattr(x + "/h", "user.a"), b"2")
        os.removexattr(x + "/h", "user.a"); check("removed", os.listxattr(y + "/h"), [])
        def told(d, n):
            try: return os.getxattr(d + "/" + n, "user.a")
            except OSError as e: assert e.errno == errno.ENODATA; return None
        write(x, "x", "bare"); os.mkdir(y + "/y"); os.rename(x + "/x", x + "/y/x"); os.link(x + "/y/x", x + "/x")
        for n in "x", "y", "y/x": # known by now to have none: as read, and as foreseen
            for d in x, y: os.lstat(d + "/" + n); check("none", (told(d, n), os.listxattr(d + "/" + n)), (None, []))
        os.chmod(x + "/x", 0o600); os.setxattr(y + "/y/x", "user.a", b"3")
        for d in x, y: check("an attribute by another name", (told(d, "x"), told(d, "y/x"), os.listxattr(d + "/x"), told(d, "y")), (b"3", b"3", ["user.a"], None))
        os.setxattr(x + "/y", "user.a", b"4"); check("a directory's", (told(y, "y"), told(x, "y")), (b"4", b"4"))
        os.removexattr(y + "/x", "user.a"); os.utime(x + "/x"); check("the last one goes", [told(d, n) for d in (x, y) for n in ("x", "y/x")], [None] * 4)
        os.setxattr(x + "/x", "user.a", b"5"); write(y, "x", "other contents"); check("it stays", (told(x, "x"), told(y, "x")), (b"5", b"5"))
        os.unlink(x + "/x"); check("by its other name", (told(x, "y/x"), told(y, "y/x")), (b"5", b"5"))
        write(y, "x", "new"); check("a new file of that name", (told(x, "x"), told(y, "x")), (None, None))
        os.rename(x + "/y/x", x + "/x"); check("moved over it", (told(x, "x"), told(y, "x")), (b"5", b"5"))
        os.unlink(y + "/x"); os.rmdir(x + "/y")
        os.symlink("here", x + "/l"); check("a link", os.readlink(y + "/l"), "here"); check("listed", sorted(os.listdir(x)), ["f", "h", "l"])
        os.symlink("there", y + "/m"); os.rename(y + "/m", y + "/l"); check("another link", os.readlink(x + "/l"), "there"); check("listed", sorted(os.listdir(x)), ["f", "h", "l"])
        os.chmod(y + "/f", 0o604); check("listed with attributes", [e.stat().st_mode & 0o777 for e in os.scandir(x) if e.name == "f"], [0o604])
        os.unlink(x + "/l"); check("listed", sorted(os.listdir(y)), ["f", "h"])
        for n in "f", "h": os.unlink(y + "/" + n); check("gone", absent(x, n), True)
print("done")
`

// unchanged looks again and again at what nobody changes.
const unchanged = `
for i in $(seq 20); do
  stat d d/f d/g > /dev/null
  [ "$(cat d/f)" = contents ]
  [ ! -e d/none ]
  cmp d/f d/g
  ls -lR . > /dev/null
  find . -printf '%s %l\n' > /dev/null
  [ "$(readlink d/l)" = "f g" ]
done
python3 -c '
import os
for i in range(20):
    assert os.listxattr("d/f") == ["user.a"] and os.getxattr("d/f", "user.a") == b"1", "xattrs"
    try: os.getxattr("d/f", "user.none"); raise AssertionError("user.none")
    except OSError: pass
'
`

// setBack changes contents in one mount and sets size and mtime back to what they
// were, while the file is open, and mapped, in another one. What of the first change
// the mapping's mount has not told its kernel for a second yet it may not show.
const setBack = `
import mmap, os, sys, time
a, b = sys.argv[1], sys.argv[2]
def check(what, got, want): assert got == want, "%s: %r, not %r" % (what, got[:4], want[:4])
size = 300000
with open(a + "/f", "wb") as f: f.write(b"0" * size)
os.utime(a + "/f", ns=(5, 7))
open_a, open_b = os.open(a + "/f", os.O_RDONLY), os.open(b + "/f", os.O_RDONLY)
def whole(fd): return os.pread(fd, size + 1, 0)
check("at first", whole(open_b), b"0" * size); check("at first", whole(open_a), b"0" * size)
mapped = mmap.mmap(open_b, size, prot=mmap.PROT_READ)
for i in range(1, 10):
    if i in (1, 4):
        os.fstat(open_b); time.sleep(2) # it has been told all for a second
        check("mapped", mapped[:], whole(open_b))
    want = b"%d" % i * size
    if i % 3 == 0:
        with open(a + "/new", "wb") as f: f.write(want)
        with open(a + "/f", "r+b") as f, open(a + "/new", "rb") as g: os.copy_file_range(g.fileno(), f.fileno(), size, 0, 0)
    else:
        with open(a + "/f", "r+b") as f: f.write(want)
    os.utime(a + "/f", ns=(5, 7))
    if i in (1, 4): check("mapped, after the other mount's change", mapped[:], want)
    if i % 2: os.stat(b + "/f"); os.listdir(b)
    check("open before, change %d" % i, whole(open_b), want); check("the changer's", whole(open_a), want)
    check("mapped, looked at", mapped[:], want)
print("done")
`

func TestMountsSeeWhatLooksTheSame(t *testing.T) { bothWays(t, setBack) }

// bothWays runs a script that is given two mounts, the one first and then the other.
func bothWays(t *testing.T, script string) {
	t.Helper()
	t.Parallel()
	ctx := testContext(t)
	_, _, mnt := twoMounts(t, ctx)
	for _, way := range [][2]string{mnt, {mnt[1], mnt[0]}} {
		if r := harness.Run(ctx, nil, nil, "python3", "-c", script, way[0], way[1]); r.Code != 0 || r.Out != "done\n" {
			t.Errorf("%s%s", r.Out, r.Err)
		}
	}
}

// readersBeside overwrites a file in one mount while three threads read it in the other:
// a read that began when the n-th change was done shows that, or a later one that had begun.
const readersBeside = `
import os, sys, threading
a, b = (d + "/read" for d in sys.argv[1:3])
size, rounds = 200000, 100
with open(a, "wb") as f: f.write(b"0" * size)
began, done, over, bad = [0], [0], [], []
def read():
    fd = os.open(b, os.O_RDONLY)
    while not over:
        least = done[0]
        got = os.pread(fd, size, 0)
        most = began[0]
        if len(got) != size or got[0] not in [48 + n % 10 for n in range(least, most + 1)]:
            bad.append((least, got[:1], most))
readers = [threading.Thread(target=read) for _ in range(3)]
for r in readers: r.start()
for n in range(1, rounds):
    began[0] = n
    fd = os.open(a, os.O_RDWR)
    os.pwrite(fd, bytes([48 + n % 10]) * size, 0)
    os.close(fd)
    if n % 3 == 0: os.utime(a, ns=(5, 7))
    done[0] = n
over.append(1)
for r in readers: r.join()
print(bad[:5] or "done")
`

// Several who read at once have answers under way at once, of which the kernel believes one.
func TestMountsReadersBesideAWriter(t *testing.T) { bothWays(t, readersBeside) }

// twoMounts starts a cluster and two mounts of it.
func twoMounts(t *testing.T, ctx context.Context, env ...string) (c *harness.Cluster, p [2]*harness.Proc, mnt [2]string) {
	t.Helper()
	c = newCluster(t)
	startAll(t, ctx, c)
	for i := range mnt {
		mnt[i], p[i] = mountOf(t, ctx, c, fmt.Sprint("mount ", i), env...)
	}
	return c, p, mnt
}

func TestMountsAreCoherent(t *testing.T) {
	t.Parallel()
	for _, procs := range []string{"1", "2"} {
		t.Run("GOMAXPROCS="+procs, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			_, _, mnt := twoMounts(t, ctx, "GOMAXPROCS="+procs)
			if r := harness.Run(ctx, nil, nil, "python3", "-c", coherent, mnt[0], mnt[1]); r.Code != 0 || r.Out != "done\n" {
				t.Errorf("%s%s", r.Out, r.Err)
			}
		})
	}
}

// alone changes things through a client and through the only mount there is, in
// turn, and looks at them through both. The mount has the kernel keep names and
// attributes, and that there are none.
func alone(t *testing.T, ctx context.Context, c *client.Client, mnt string, rounds int, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	names := []string{"a", "b", "d/a", "d/b", "d"}
	by := func(n string) string { return filepath.Join(mnt, n) }
	acts := []struct{ client, mount func(n, to string) error }{
		{func(n, _ string) error {
			_, err := c.WriteFile(ctx, n, client.Bytes([]byte(fmt.Sprint(rng.Uint64()))), client.WriteOptions{})
			return err
		}, func(n, _ string) error { return os.WriteFile(by(n), []byte("by the mount"), 0o644) }},
		{func(n, _ string) error { return c.DeleteFile(ctx, n) }, func(n, _ string) error { return unix.Unlink(by(n)) }},
		{func(n, to string) error { return c.Rename(ctx, n, to) }, func(n, to string) error { return unix.Rename(by(n), by(to)) }},
		{func(n, _ string) error { return c.Mkdir(ctx, n, 0o755) }, func(n, _ string) error { return unix.Mkdir(by(n), 0o755) }},
		{func(n, _ string) error { return c.Rmdir(ctx, n) }, func(n, _ string) error { return unix.Rmdir(by(n)) }},
		{func(n, _ string) error {
			return c.SetAttr(ctx, n, wire.Mutation{Set: wire.SetMode, Mode: 0o600 | uint32(rng.IntN(0o200))})
		},
			func(n, _ string) error { return unix.Chmod(by(n), 0o600|uint32(rng.IntN(0o200))) }},
	}
	for i := range rounds {
		n, to := names[rng.IntN(len(names))], names[rng.IntN(len(names))]
		act := acts[rng.IntN(len(acts))]
		do := act.client
		if rng.IntN(3) == 0 {
			do = act.mount
		}
		_ = do(n, to) // where it makes no sense it is an error
		for _, n := range names {
			want, wantErr := c.Stat(ctx, n)
			var got unix.Stat_t
			err := unix.Lstat(by(n), &got)
			if code := wire.CodeOf(wantErr); code != wire.CodeNone && code != wire.CodeNotExist && code != wire.CodeNotDir || err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
				t.Fatalf("seed %d, round %d: %s: %v by the client, %v by the mount", seed, i, n, wantErr, err)
			}
			if there := wantErr == nil; there != (err == nil) {
				t.Fatalf("seed %d, round %d: %s is %v by the client, %v by the mount", seed, i, n, wantErr, err)
			}
			if err == nil && (got.Ino != uint64(want.Ino) || got.Size != want.Size || got.Mode != want.Mode || got.Mtim.Nano() != want.Mtime || got.Ctim.Nano() != want.Ctime) {
				t.Fatalf("seed %d, round %d: %s is %+v by the client, %+v by the mount", seed, i, n, want, got)
			}
			if err != nil || got.Mode&unix.S_IFMT != unix.S_IFREG {
				continue
			}
			text, err := os.ReadFile(by(n))
			if whole, wrong := c.ReadFile(ctx, n); err != nil || wrong != nil || string(text) != string(whole) {
				t.Fatalf("seed %d, round %d: %s has %q by the client, %v, %q by the mount, %v", seed, i, n, whole, wrong, text, err)
			}
		}
	}
}

// What the kernel keeps while only one mount is there, it forgets before a client
// hears that a change is done.
func TestMountAloneIsCoherent(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := newCluster(t)
	startAll(t, ctx, c)
	mnt, _ := mountOf(t, ctx, c, "mount")
	alone(t, ctx, dial(t, ctx, c, patience), mnt, 120, uint64(seed(t)))
}

// TestMountForgetsAll: where everything has to be forgotten, for a transaction of more
// changes than are told or a coordinator that starts, names in the only mount are
// what they are by now, and what stays has its path: open files, and directories
// that somebody is in.
func TestMountForgetsAll(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := newCluster(t)
	startAll(t, ctx, c)
	mnt, _ := mountOf(t, ctx, c, "mount")
	cl := dial(t, ctx, c, patience)
	if _, err := cl.Tx().Mkdir("d", 0o755).Mkdir("d/in", 0o755).Mkdir("there", 0o755).WriteFile("d/f", nil, client.WriteOptions{}).WriteFile("0", nil, client.WriteOptions{}).Commit(ctx); err != nil {
		t.Fatal(err)
	}
	var open []*os.File
	for _, name := range []string{"d", "d/in", "d/f"} {
		f, err := os.Open(filepath.Join(mnt, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		open = append(open, f)
	}
	exists := func(i int) bool {
		t.Helper()
		_, err := os.Lstat(filepath.Join(mnt, fmt.Sprint(i)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return err == nil
	}
	for round := range 4 {
		if !exists(round) || exists(round+1) {
			t.Fatalf("before round %d: %v, %v", round, exists(round), exists(round+1))
		}
		for _, f := range open {
			if _, err := os.Stat(f.Name()); err != nil {
				t.Fatal(err)
			}
		}
		tx := cl.Tx().Rename(fmt.Sprint(round), fmt.Sprint(round+1))
		for i := range wire.MaxTouched { // each an inode, and a name
			tx = tx.Mkdir(fmt.Sprintf("there/%d.%d", round, i), 0o755)
		}
		if round == 2 {
			if err := c.Kill(harness.Coordinator); err != nil {
				t.Fatal(err)
			}
			if err := c.Start(ctx, harness.Coordinator); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := tx.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		if exists(round) || !exists(round+1) {
			t.Errorf("after round %d: %v, %v", round, exists(round), exists(round+1))
		}
		for _, f := range open {
			if got, err := os.Readlink(fmt.Sprint("/proc/self/fd/", f.Fd())); err != nil || got != f.Name() {
				t.Errorf("round %d: %s has the path %s, %v", round, f.Name(), got, err)
			}
		}
	}
}

// readsDone is how many reads the coordinator has answered.
func readsDone(t *testing.T, ctx context.Context, c *harness.Cluster) uint64 {
	t.Helper()
	st, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return st.Reads.Done
}

// What nobody changes costs no message, with one mount and with two.
func TestMountsLookAgain(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c, _, mnt := twoMounts(t, ctx)
	shell(t, ctx, mnt[0], "mkdir d; printf contents > d/f; cp d/f d/g; ln -s 'f g' d/l; mkdir d/sub; python3 -c 'import os; os.setxattr(\"d/f\", \"user.a\", b\"1\")'")
	for _, m := range mnt { // a lease comes within a moment of the mount's start
		shell(t, ctx, m, unchanged)
	}
	reads := func() uint64 { return readsDone(t, ctx, c) }
	few := func() bool {
		before := reads()
		for _, m := range mnt {
			shell(t, ctx, m, unchanged)
		}
		n := reads() - before
		t.Logf("%d reads", n)
		return n == 0
	}
	for !few() { // what the mounts have done themselves is told to them within a second
		if ctx.Err() != nil {
			t.Fatal("looking again at what nobody changes always costs messages")
		}
	}
}

// A new mount learns of files and that they have no extended attributes page by page:
// ls -l, which asks for those of each, costs no message a file.
func TestMountLooksAtManyFiles(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := newCluster(t)
	startAll(t, ctx, c)
	const files, most = 2000, 200 // 9 reads where no lease runs out on a busy machine; one by one 2,000
	tree := tempDir(t)
	for i := range files {
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprint("f", i)), []byte("contents"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if r := harness.Run(ctx, nil, nil, binary, "put", "--coordinator", c.Addr(harness.Coordinator), "-r", tree, "many"); r.Code != 0 {
		t.Fatal(r.Err)
	}
	cl := dial(t, ctx, c, 0)
	some := map[string]bool{"many/f7": true, "many/f1000": true, "many/f1001": true}
	for name := range some {
		if err := cl.Setxattr(ctx, name, "user.a", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	leased := func(mnt string) { // a lease comes within a moment of the mount's start
		eventually(ctx, t, "the mount has a lease", func() bool {
			shell(t, ctx, mnt, "ls -d .")
			before := readsDone(t, ctx, c)
			shell(t, ctx, mnt, "ls -ld .")
			return readsDone(t, ctx, c) == before
		})
	}
	for _, look := range []struct {
		what, script string
		most         uint64
	}{
		{"ls -l", "ls -l many | wc -l", most},
		{"listxattr", `python3 -c '
import os
print([n for n in sorted(os.listdir("many")) if os.lstat("many/" + n).st_size == 8 and os.listxattr("many/" + n)])'`, most},
	} {
		mnt, p := mountOf(t, ctx, c, look.what)
		leased(mnt)
		before := readsDone(t, ctx, c)
		out := shell(t, ctx, mnt, look.script)
		n := readsDone(t, ctx, c) - before
		t.Logf("%s: %d reads", look.what, n)
		if n > look.most {
			t.Errorf("%s of %d files in a new mount costs %d reads, more than %d", look.what, files, n, look.most)
		}
		if want := fmt.Sprintln(files + 1); look.what == "ls -l" && out != want {
			t.Errorf("ls -l shows %s lines", out)
		}
		if want := "['f1000', 'f1001', 'f7']\n"; look.what != "ls -l" && out != want {
			t.Errorf("%s have extended attributes, want %s", out, want)
		}
		if err := p.Terminate(time.Minute); err != nil {
			t.Fatal(err)
		}
	}
}

// Who looks at a tree's files one by one, as git status does, learns of most of them by
// the directory; what another mount makes, moves and removes there is seen all the same.
func TestMountLooksNear(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c, _, mnt := twoMounts(t, ctx)
	shell(t, ctx, mnt[0], "for d in $(seq 5); do mkdir d$d; for i in $(seq 60); do echo contents > d$d/f$i; done; done")
	third, _ := mountOf(t, ctx, c, "a new mount")
	for _, m := range []string{third, mnt[1]} {
		eventually(ctx, t, "the mount has a lease", func() bool {
			shell(t, ctx, m, "ls -d .")
			before := readsDone(t, ctx, c)
			shell(t, ctx, m, "ls -ld .")
			return readsDone(t, ctx, c) == before
		})
	}
	before := readsDone(t, ctx, c)
	shell(t, ctx, third, `python3 -c '
import os
for d in range(1, 6):
    for i in range(1, 61): assert os.lstat("d%d/f%d" % (d, i)).st_size == 9
    for i in range(1, 61): assert not os.path.lexists("d%d/none%d" % (d, i))
    assert len(os.listdir("d%d" % d)) == 60
'`)
	n := readsDone(t, ctx, c) - before
	t.Logf("%d reads", n)
	if n > 150 { // 13 where no lease runs out on a busy machine; one by one 600
		t.Errorf("looking at 300 files and for 300 more costs %d reads", n)
	}
	if r := harness.Run(ctx, nil, nil, "python3", "-c", near, third, mnt[1]); r.Code != 0 || r.Out != "done\n" {
		t.Errorf("%s%s", r.Out, r.Err)
	}
}

// near changes in one mount the names of directories that the other knows whole.
const near = `
import os, sys
a, b = sys.argv[1], sys.argv[2]
def there(d, n): return os.path.lexists(d + "/" + n)
def check(what, got, want): assert got == want, "%s: %r, not %r" % (what, got, want)
for x, y, d in (a, b, "/d1"), (b, a, "/d2"):
    x, y = x + d, y + d
    for round in range(8):
        for i in range(1, 61): check("before", there(y, "f%d" % i), True)
        for n in "new", "dir", "moved", "l", "tmp": check("before", there(y, n), False)
        open(x + "/new", "w").close(); check("made", there(y, "new"), True)
        os.mkdir(x + "/dir"); check("a directory", there(y, "dir"), True)
        os.rename(x + "/f7", x + "/moved"); check("moved", (there(y, "f7"), there(y, "moved")), (False, True))
        os.link(x + "/f8", x + "/l"); check("a link", (there(y, "l"), there(x, "l"), os.lstat(y + "/f8").st_nlink), (True, True, 2))
        os.unlink(y + "/l"); check("removed", (there(y, "l"), there(x, "l")), (False, False))
        os.rename(y + "/moved", y + "/f7"); check("moved back", (there(x, "f7"), there(x, "moved"), there(y, "moved")), (True, False, False))
        os.rename(x + "/dir", x + "/../dir"); check("moved away", (there(y, "dir"), there(y, "../dir")), (False, True))
        os.rmdir(y + "/../dir"); os.unlink(x + "/new"); check("removed", (there(y, "new"), there(x, "../dir")), (False, False))
        fd = os.open(x, os.O_TMPFILE | os.O_RDWR); os.link("/proc/self/fd/%d" % fd, x + "/tmp", src_dir_fd=fd, follow_symlinks=True); os.close(fd)
        check("named later", there(y, "tmp"), True); os.unlink(y + "/tmp"); check("removed", (there(x, "tmp"), there(y, "tmp")), (False, False))
print("done")
`

// A mount that stands still holds up another one for a lease, not longer, and
// shows nothing outdated when it goes on.
func TestMountStandsStill(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	_, p, mnt := twoMounts(t, ctx)
	shell(t, ctx, mnt[0], "echo one > f")
	shell(t, ctx, mnt[1], "cat f; stat f; [ ! -e g ]")
	if err := p[1].Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	shell(t, ctx, mnt[0], "echo two > f")
	took := time.Since(began)
	shell(t, ctx, mnt[0], "echo three > f; echo new > g")
	again := time.Since(began) - took
	if err := p[1].Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got := shell(t, ctx, mnt[1], "cat f g"); got != "three\nnew\n" {
		t.Errorf("the mount that stood still shows %q", got)
	}
	if took > 4*wire.Lease*time.Millisecond || again > took {
		t.Errorf("writes beside a mount that stands still took %v, then %v", took, again)
	}
}

// A coordinator that is killed and starts again knows who had a lease.
func TestMountsOverRestart(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c, p, mnt := twoMounts(t, ctx)
	shell(t, ctx, mnt[0], "echo one > f")
	shell(t, ctx, mnt[1], "cat f; stat f; [ ! -e g ]")
	if err := c.Kill(harness.Coordinator); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx, harness.Coordinator); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		shell(t, ctx, mnt[i%2], "echo two > f; echo new > g")
		if got := shell(t, ctx, mnt[1-i%2], "cat f g; rm g"); got != "two\nnew\n" {
			t.Errorf("after the restart the other mount shows %q", got)
		}
	}
	// One that does not come back is waited for, while its lease may last.
	if err := p[1].Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(harness.Coordinator); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx, harness.Coordinator); err != nil {
		t.Fatal(err)
	}
	shell(t, ctx, mnt[0], "echo three > f")
	if err := p[1].Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got := shell(t, ctx, mnt[1], "cat f"); got != "three\n" {
		t.Errorf("a mount that stood still over a restart shows %q", got)
	}
}

// Two mounts that create and remove in one directory do not wait for each other.
func TestMountsCreateTogether(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	_, _, mnt := twoMounts(t, ctx, "GOMAXPROCS=1")
	done := make(chan harness.Result, 2)
	for i, m := range mnt {
		go func() {
			done <- harness.Run(ctx, nil, nil, "bash", "-euc", `cd "$0"; for i in $(seq 30); do echo $1 > $1-$i; cat * > /dev/null || true; [ $((i % 3)) != 0 ] || rm $1-$((i-1)); done`, m, string(rune('a'+i)))
		}()
	}
	for range mnt {
		if r := <-done; r.Code != 0 {
			t.Errorf("%d: %s", r.Code, r.Err)
		}
	}
	for _, m := range mnt {
		if got := shell(t, ctx, m, "ls | wc -l"); got != "40\n" {
			t.Errorf("%s files are left", got)
		}
	}
}

// What a mount has changed itself it tells without a question, and tells right.
func TestMountForesees(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := newCluster(t)
	startAll(t, ctx, c)
	mnt, _ := mountOf(t, ctx, c, "mount")
	cl := dial(t, ctx, c, 0)
	in := func(name string) string { return filepath.Join(mnt, name) }
	touched := time.Unix(1_000_000_000, 5)
	for i, change := range []func() error{
		func() error { return os.Mkdir(in("d"), 0o750) },
		func() error { return os.WriteFile(in("d/f"), nil, 0o640) },
		func() error { return os.Mkdir(in("d/e"), 0o700) },
		func() error { return os.Symlink("target", in("d/s")) },
		func() error { return unix.Mkfifo(in("d/p"), 0o600) },
		func() error { return os.Chmod(in("d/f"), 0o4755) },
		func() error { return os.Chown(in("d/f"), os.Getuid(), os.Getgid()) },
		func() error { return os.Chtimes(in("d/f"), touched, touched) },
		func() error { return os.Chtimes(in("d/e"), time.Time{}, touched) },
		func() error { return os.Chmod(in("d"), 0o2775) },
		func() error { return os.WriteFile(in("d/g"), nil, 0o640) },
		func() error { return os.Mkdir(in("d/h"), 0o755) },
		func() error { return os.WriteFile(in("d/f"), []byte("contents"), 0o640) },
		func() error {
			f, err := os.Create(in("d/w"))
			if err == nil {
				_, err = f.WriteString(strings.Repeat("contents", 3000))
				err = errors.Join(err, f.Chmod(0o600), f.Close())
			}
			return err
		},
		func() error { return os.Truncate(in("d/w"), 70_000) },
		func() error { return os.WriteFile(in("d/w"), []byte("less"), 0o640) },
		func() error { return unix.Lsetxattr(in("d/f"), "user.a", []byte("1"), 0) },
		func() error { return os.Chmod(in("d/f"), 0o640) },
		func() error { return os.WriteFile(in("d/f"), []byte("others"), 0o640) },
		func() error { return unix.Lsetxattr(in("d/e"), "user.a", []byte("1"), 0) },
		func() error { return unix.Lremovexattr(in("d/e"), "user.a") },
		func() error { return os.Rename(in("d/f"), in("d/e/f")) },
		func() error { return os.Link(in("d/e/f"), in("d/l")) },
		func() error { return os.Remove(in("d/e/f")) },
		func() error { return os.Remove(in("d/g")) },
		func() error { return os.Remove(in("d/h")) },
	} {
		if err := change(); err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
		for _, name := range []string{"", "d", "d/f", "d/e", "d/s", "d/p", "d/g", "d/h", "d/w", "d/e/f", "d/l"} {
			var st unix.Stat_t
			err := unix.Lstat(in(name), &st)
			got := wire.Attr{Ino: wire.Ino(st.Ino), Mode: st.Mode, Nlink: uint32(st.Nlink), UID: st.Uid, GID: st.Gid, Rdev: uint32(st.Rdev), Size: st.Size,
				Blocks: st.Blocks, Atime: st.Atim.Nano(), Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano()}
			if size, xattrs := unix.Llistxattr(in(name), nil); xattrs == nil {
				got.NoXattrs = size == 0
			}
			want, wantErr := cl.Lstat(ctx, name)
			want.Version, want.Parent = 0, 0
			if wantErr != nil {
				want, wantErr, got = wire.Attr{}, unix.ENOENT, wire.Attr{}
			}
			if got != want || (err == nil) != (wantErr == nil) {
				t.Errorf("after change %d %q is %+v (%v), want %+v (%v)", i, name, got, err, want, wantErr)
			}
		}
	}
	foreseesMuch(t, ctx, c, in)
}

// foreseesMuch: files made and removed one after the other cost no reads, but for
// those after a push, one a second.
func foreseesMuch(t *testing.T, ctx context.Context, c *harness.Cluster, in func(name string) string) {
	t.Helper()
	reads := func() uint64 { return readsDone(t, ctx, c) }
	for done := false; !done; {
		before := reads()
		for range 3 { // from the second on it is known that the name is free
			if err := errors.Join(os.Mkdir(in("d/e/again"), 0o700), os.Remove(in("d/e/again"))); err != nil {
				t.Fatal(err)
			}
		}
		n := reads() - before
		t.Logf("%d reads", n)
		if done = n <= 1; !done && ctx.Err() != nil {
			t.Fatal("what a mount has changed itself is always read again")
		}
	}
}
