package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"tpcfs/integration/harness"
)

// mountParts are scripts that change parts of files. Each prints the same in a
// mount and in a local directory.
var mountParts = []struct{ name, script string }{
	{"dd in the middle", `head -c 3000000 /dev/zero | tr '\0' a > f; printf xyz | dd of=f bs=1 seek=1234567 conv=notrunc status=none; yes | head -c 70000 | dd of=f bs=4096 seek=10 conv=notrunc,fsync status=none; cksum < f; stat -c %s f`},
	{"truncate", `yes | head -c 100000 > f; truncate -s 50001 f; truncate -s 200000 f; cksum < f; exec 3<>f; printf end >> f; truncate -s 7 f; printf Z >&3; truncate -s 9000 f; printf tail >> f; cksum < f; exec 3>&-; stat -c %s f; truncate -s 0 f; stat -c %s f`},
	{"appends and writes", `exec 3<>f; for i in 1 2 3; do echo line $i >> f; printf $i >&3; done; cat f; exec 3>&-; cat f`},
	{"holes", `truncate -s 1M f; printf data | dd of=f bs=1 seek=524288 conv=notrunc status=none; python3 -c '
import os
fd = os.open("f", os.O_RDWR)
def seek(off, how):
    try: return os.lseek(fd, off, how)
    except OSError as e: return e.errno
def show(): # what is a hole may be told less exactly than here
    print([(o, seek(o, os.SEEK_DATA)) for o in (0, 1, 524288, 524289, 1048575, 1048576)], [seek(o, os.SEEK_HOLE) for o in (100000, 1048575, 1048576)], 4 <= seek(524288, os.SEEK_HOLE) - 524288 <= 65536)
show(); os.pwrite(fd, b"x" * 8192, 0); show(); os.ftruncate(fd, 1 << 21); show()
'; cp --sparse=always f g; cmp f g; cp --sparse=auto f h; cmp f h; cp f i; cmp f i; for f in f g h; do [ $(stat -c %b $f) -lt 1000 ] && echo sparse; done`},
	{"fallocate", `yes | head -c 1000000 > f; fallocate -p -o 8192 -l 100000 f; cksum < f; stat -c %s f; fallocate -z -o 300000 -l 5000 f; cksum < f; fallocate -z -n -o 990000 -l 50000 f; cksum < f; stat -c %s f; fallocate -n -l 2000000 f; stat -c %s f; fallocate -l 1500000 f; stat -c %s f; cksum < f; exec 3<>f; printf new >&3; fallocate -p -o 1 -l 1 f; head -c 3 f | od -c; exec 3>&-`},
	{"copy_file_range", `yes | head -c 5000001 > f; python3 -c '
import os
a = os.open("f", os.O_RDWR); b = os.open("g", os.O_RDWR | os.O_CREAT)
os.pwrite(a, b"gathered", 4096)
done = 0
while True:
    n = os.copy_file_range(a, b, 1 << 30)
    if n == 0: break
    done += n
print(done, os.copy_file_range(a, b, 100, 4096, 10), os.pread(b, 12, 8), os.copy_file_range(a, b, 5, 5000001, 0))
'; cksum < g; cmp f g | head -c 20`},
	{"many small extents", `truncate -s 40M f; python3 -c '
import os, random
r = random.Random(5); fd = os.open("f", os.O_RDWR)
for i in range(6000): os.pwrite(fd, bytes([i % 251]) * 3000, r.randrange(10000) * 4096 + 100)
os.fsync(fd)
'; cksum < f`},
}

func TestMountParts(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	mnt := mountDir(t, dir)
	up(t, ctx, dir+"/data", mnt)
	local := t.TempDir()
	output := func(dir string, i int, script string) string {
		r := harness.Run(ctx, nil, nil, "bash", "-c", fmt.Sprintf("cd \"$0\" && mkdir p%d && cd p%d || exit 9\n(\n%s\n) 2>&1", i, i, script), dir)
		return strings.ReplaceAll(r.Out+r.Err, dir, "DIR")
	}
	for i, c := range mountParts {
		if got, want := output(mnt, i, c.script), output(local, i, c.script); got != want {
			t.Errorf("%s: %s\n--- in the mount:\n%s\n--- in a local directory:\n%s", c.name, c.script, got, want)
		}
	}
}

// randomParts does random operations to a file in a mount and to a local one,
// and compares them after each.
const randomParts = `
import os, random, sys, ctypes
seed, steps, names = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
r = random.Random(seed)
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
fds = [os.open(n, os.O_RDWR | os.O_CREAT) for n in names]
logs = [os.open(n, os.O_WRONLY | os.O_APPEND) for n in names]
most = 300000
def data(n): return bytes([r.randrange(1, 256)]) * n if r.random() < .5 else r.randbytes(n)
def both(do): return [do(fd) for fd in fds]
for step in range(steps):
    op = r.choice("write write write append append read truncate extend punch zero allocate fsync reopen cut syncappend".split())
    off, n = r.randrange(most), r.choice([1, 10, 4096, 5000, r.randrange(1, 70000)])
    if r.random() < .3: off -= off % 4096
    note = (op, off, n)
    try:
        if op == "write": b = data(n); both(lambda fd: os.pwrite(fd, b, off))
        elif op in ("append", "syncappend"):
            b = data(n % 6000 + 1)
            if os.fstat(fds[1]).st_size < most: [os.write(fd, b) for fd in logs]
            if op == "syncappend": [os.fsync(fd) for fd in logs]
        elif op == "truncate": both(lambda fd: os.ftruncate(fd, off))
        elif op == "extend": both(lambda fd: os.ftruncate(fd, os.fstat(fd).st_size + n))
        elif op in ("punch", "zero", "allocate"):
            mode = {"punch": 3, "zero": r.choice([0x10, 0x11]), "allocate": r.choice([0, 1])}[op]
            got = both(lambda fd: libc.fallocate(fd, mode, off, n))
            assert got[0] == got[1], got
        elif op == "fsync": both(os.fsync)
        elif op == "cut" and r.random() < .2: [os.close(os.open(name, os.O_WRONLY | os.O_TRUNC)) for name in names]
        elif op == "reopen":
            for fd in fds + logs: os.close(fd)
            fds = [os.open(name, os.O_RDWR) for name in names]
            logs = [os.open(name, os.O_WRONLY | os.O_APPEND) for name in names]
        sizes = both(lambda fd: os.fstat(fd).st_size)
        assert sizes[0] == sizes[1], sizes
        if step % 5 == 0: off, n = 0, sizes[0] + 1
        a, b = both(lambda fd: os.pread(fd, n, off))
        if a != b:
            at = next((i for i in range(min(len(a), len(b))) if a[i] != b[i]), min(len(a), len(b)))
            raise AssertionError("bytes differ from %d on, lengths %d and %d" % (off + at, len(a), len(b)))
    except BaseException:
        print("seed", seed, "step", step, note, flush=True)
        raise
print("done")
`

func TestMountRandomParts(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	mnt := mountDir(t, dir)
	up(t, ctx, dir+"/data", mnt)
	local := t.TempDir()
	steps := 2000
	if s, err := strconv.Atoi(os.Getenv("PARTSTEPS")); err == nil {
		steps = s
	}
	seed := rand.Uint32()
	if s, err := strconv.ParseUint(os.Getenv("PARTSEED"), 10, 32); err == nil {
		seed = uint32(s)
	}
	t.Log("seed", seed)
	r := harness.Run(ctx, nil, nil, "python3", "-c", randomParts, fmt.Sprint(seed), fmt.Sprint(steps), filepath.Join(mnt, "f"), filepath.Join(local, "f"))
	if r.Code != 0 {
		t.Errorf("exit %d: %s%s", r.Code, r.Out, r.Err)
	}
}

// mountOf mounts a cluster once more.
func mountOf(t *testing.T, ctx context.Context, c *harness.Cluster, name string, env ...string) (string, *harness.Proc) {
	t.Helper()
	dir := tempDir(t)
	mnt := mountDir(t, dir)
	p := started(t, name, env, "mount", "--foreground", "--coordinator", c.Addr(harness.Coordinator), mnt)
	eventually(ctx, t, "the mount is there", func() bool { return mounted(t, mnt) })
	return mnt, p
}

// Two mounts append to one log: none loses or mixes a line.
func TestMountsAppend(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	_, _, mnt := twoMounts(t, ctx)
	one, two := mnt[0], mnt[1]
	const lines = 400
	done := make(chan harness.Result, 2)
	for name, mnt := range map[string]string{"one": one, "two": two} {
		go func() {
			done <- harness.Run(ctx, nil, nil, "python3", "-c", `
import os, sys
fd = os.open(sys.argv[1] + "/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
for i in range(int(sys.argv[3])):
    line = ("%s %d " % (sys.argv[2], i)).encode() + b"." * (i * 37 % 300) + b"\n"
    assert os.write(fd, line) == len(line)
    os.fsync(fd)
`, mnt, name, fmt.Sprint(lines))
		}()
	}
	for range 2 {
		if r := <-done; r.Code != 0 {
			t.Errorf("exit %d: %s", r.Code, r.Err)
		}
	}
	next := map[string]int{}
	for line := range strings.Lines(shell(t, ctx, one, "cat log")) {
		f := strings.Fields(line)
		if len(f) < 2 || f[1] != fmt.Sprint(next[f[0]]) || len(line) != len(f[0])+len(f[1])+3+next[f[0]]*37%300 {
			t.Fatalf("a line that nobody has written, or not here: %q", line)
		}
		next[f[0]]++
	}
	if next["one"] != lines || next["two"] != lines {
		t.Errorf("lines: %v", next)
	}
	if a, b := shell(t, ctx, one, "cksum < log"), shell(t, ctx, two, "cksum < log"); a != b {
		t.Errorf("the mounts differ: %s, %s", a, b)
	}
}

// A small transaction of a large database sends what it changes.
func TestMountSqlite(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := newCluster(t)
	startAll(t, ctx, c)
	mnt, p := mountOf(t, ctx, c, "db")
	shell(t, ctx, mnt, `sqlite3 db "create table t(id integer primary key, v); insert into t select value, randomblob(4000) from generate_series(1, 5000);"; [ $(stat -c %s db) -gt 20000000 ]`)
	before := wroteBytes(t, p.PID())
	const transactions = 40
	got := shell(t, ctx, mnt, fmt.Sprintf(`for i in $(seq %d); do echo "update t set v = 'new' || $i where id = $i * 119;"; done | sqlite3 db
		sqlite3 db "select count(*) from generate_series(1, %[1]d) join t on t.id = value * 119 where v = 'new' || value"`, transactions))
	if got != fmt.Sprintf("%d\n", transactions) {
		t.Error(got)
	}
	each := (wroteBytes(t, p.PID()) - before) / transactions
	t.Log(each, "bytes a transaction")
	if each > 300e3 {
		t.Errorf("%d bytes written for each transaction", each)
	}
}

// wroteBytes is how many bytes a process has given to write(2) and its like.
func wroteBytes(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "wchar: "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no wchar")
	return 0
}
