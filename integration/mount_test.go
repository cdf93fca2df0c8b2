package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tpcfs/integration/harness"
)

// shell runs a script of ordinary commands in a directory. The test's own
// process never touches the mount (F6a).
func shell(t *testing.T, ctx context.Context, dir, script string) string {
	t.Helper()
	r := harness.Run(ctx, nil, nil, "bash", "-euo", "pipefail", "-c", "cd \"$0\"; "+script, dir)
	if r.Code != 0 {
		t.Fatalf("exit %d of\n%s\n%s%s", r.Code, script, r.Out, r.Err)
	}
	return r.Out
}

// mountDir is a directory to mount on, unmounted at the end whatever happened.
func mountDir(t *testing.T, dir string) string {
	t.Helper()
	mnt := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) })
	return mnt
}

const everyday = `
echo hello > a
[ "$(cat a)" = hello ]
echo again >> a
[ "$(wc -l < a)" = 2 ]
mkdir -p d/e
cp a d/e/copy
cmp a d/e/copy
mv d/e/copy d/moved
[ ! -e d/e/copy ]
rmdir d/e
head -c 3000000 /dev/urandom > d/big
cp d/big d/big2
cmp d/big d/big2
ln -s moved d/link
[ "$(readlink d/link)" = moved ]
cmp d/link a
chmod 640 a
[ "$(stat -c %a a)" = 640 ]
touch -d @1000000000 a
[ "$(stat -c %Y a)" = 1000000000 ]
truncate -s 3 a
[ "$(cat a)" = hel ]
printf X | dd of=d/big bs=1 seek=100 conv=notrunc status=none
! cmp -s d/big d/big2
for i in $(seq 50); do echo $i > d/n$i; done
[ "$(ls d | grep -c '^n')" = 50 ]
! mkdir d 2> /dev/null
! rmdir d 2> /dev/null
! cat none 2> /dev/null
rm d/n*
[ "$(ls d)" = "$(printf 'big\nbig2\nlink\nmoved')" ]
df . > /dev/null
sync a
cp -r d d-copy
diff -r d d-copy
rm -r d-copy
tar cf t.tar d
mkdir x
tar xf t.tar -C x
diff -r d x/d
`

func TestMountOfUp(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	mnt := mountDir(t, dir)
	p, addr := up(t, ctx, dir+"/data", mnt)
	shell(t, ctx, mnt, everyday)

	// The mount and the command line see the same files.
	shell(t, ctx, mnt, "echo from the mount > m")
	if r := run(t, ctx, nil, "", "get", "--coordinator", addr, "m"); r.Out != "from the mount\n" {
		t.Errorf("get of a file written on the mount: %q, %s", r.Out, r.Err)
	}
	if r := run(t, ctx, nil, "from the command line", "put", "--coordinator", addr, "-", "c"); r.Code != 0 {
		t.Error(r.Err)
	}
	if got := shell(t, ctx, mnt, "cat c"); got != "from the command line" {
		t.Errorf("cat of a file that put wrote: %q", got)
	}
	before := shell(t, ctx, mnt, "find . -type f | sort | xargs sha256sum")

	// kill -9 in the middle of writing leaves a dead mount, which the next
	// start clears; what was closed is there.
	writer, err := harness.Start("writer", nil, "bash", "-c", `cd "$0"; i=0; while echo $i > loop; do cp loop done; echo wrote; i=$((i+1)); done`, mnt)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writer.WaitLine(ctx, "wrote"); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := writer.Kill(); err != nil {
		t.Fatal(err)
	}
	p, _ = up(t, ctx, dir+"/data", mnt)
	if got := shell(t, ctx, mnt, "find . -type f ! -name loop ! -name done | sort | xargs sha256sum"); got != before {
		t.Errorf("files differ after kill -9:\n%s\nbefore:\n%s", got, before)
	}
	shell(t, ctx, mnt, `[ "$(cat done)" -ge 0 ]; echo on > loop; [ "$(cat loop)" = on ]`)

	// SIGTERM unmounts.
	if err := p.Terminate(patience); err != nil {
		t.Fatal(err)
	}
	if p.ExitCode() != 0 {
		t.Errorf("exit %d\n%s", p.ExitCode(), p.Output())
	}
	if got := shell(t, ctx, mnt, "ls"); got != "" {
		t.Errorf("still mounted: %q", got)
	}
}

func TestMountIsUnmountedWhileInUse(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	mnt := mountDir(t, dir)
	p, _ := up(t, ctx, dir+"/data", mnt)
	user, err := harness.Start("user", nil, "bash", "-c", `cd "$0"; echo here; read -r`, mnt)
	if err != nil {
		t.Fatal(err)
	}
	defer user.Kill()
	if _, err := user.WaitLine(ctx, "here"); err != nil {
		t.Fatal(err)
	}
	if err := p.Terminate(patience); err != nil {
		t.Fatal(err)
	}
	if got := shell(t, ctx, mnt, "ls"); got != "" {
		t.Errorf("still mounted: %q", got)
	}
}

// The mount of a cluster of processes waits while the coordinator is away and
// goes on by itself.
func TestMountOfProcesses(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := newCluster(t)
	startAll(t, ctx, c)
	dir := tempDir(t)
	mnt := mountDir(t, dir)
	addr := c.Addr(harness.Coordinator)
	logFile := dir + "/log"
	r := run(t, ctx, nil, "", "mount", "--coordinator", addr, "--log-file", logFile, mnt)
	if r.Code != 0 {
		t.Fatalf("exit %d: %s", r.Code, r.Err)
	}
	oneLine(t, "mounting twice", run(t, ctx, nil, "", "mount", "--coordinator", addr, mnt), 1, "already")
	shell(t, ctx, mnt, everyday)

	if err := c.Kill(harness.Coordinator); err != nil {
		t.Fatal(err)
	}
	waiting, err := harness.Start("waiting", nil, "bash", "-c", `cd "$0" && echo begins && echo waited > w && cat w && echo went on`, mnt)
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Kill()
	if err := c.Start(ctx, harness.Coordinator); err != nil {
		t.Fatal(err)
	}
	if _, err := waiting.WaitLine(ctx, "went on"); err != nil {
		t.Error(err)
	}
	shell(t, ctx, mnt, `[ "$(cat w)" = waited ]`)
	settle(t, ctx, c)
	if r := run(t, ctx, nil, "", "umount", mnt); r.Code != 0 {
		t.Errorf("umount: exit %d, %s", r.Code, r.Err)
	}
	oneLine(t, "umount again", run(t, ctx, nil, "", "umount", mnt), 1, "not a tpcfs mount")
	if b, err := os.ReadFile(logFile); err != nil || strings.Contains(string(b), "DATA RACE") {
		t.Errorf("log of the mount: %v\n%s", err, b)
	}
}

func TestReadOnlyMount(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	mnt := mountDir(t, dir)
	_, addr := up(t, ctx, dir+"/data")
	if r := run(t, ctx, nil, "x", "put", "--coordinator", addr, "-", "x"); r.Code != 0 {
		t.Fatal(r.Err)
	}
	m, err := harness.Start("mount", nil, binary, "mount", "--foreground", "--read-only", "--coordinator", addr, mnt)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	if _, err := m.WaitLine(ctx, "ready"); err != nil {
		t.Fatal(err)
	}
	shell(t, ctx, mnt, `[ "$(cat x)" = x ]; ! touch y 2> /dev/null; ! rm x 2> /dev/null`)
	if err := m.Terminate(patience); err != nil {
		t.Fatal(err)
	}
	if m.ExitCode() != 0 {
		t.Errorf("exit %d: %s", m.ExitCode(), m.Output())
	}
}
