package integration

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/integration/harness"
)

// foreground mounts with flags in a process of the test's own.
func foreground(t *testing.T, addr string, env []string, flags ...string) (mnt string, p *harness.Proc) {
	t.Helper()
	ctx := testContext(t)
	mnt = tempDir(t)
	t.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) })
	p = started(t, "mount", env, append(append([]string{"mount", "--foreground", "--coordinator", addr}, flags...), mnt)...)
	if _, err := p.WaitLine(ctx, "ready"); err != nil {
		t.Fatal(err)
	}
	return mnt, p
}

// mount -t fuse.tpcfs, as fstab has it, goes through the helper; what the
// options say holds.
func TestMountByFstab(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	_, addr := up(t, ctx, dir+"/data")
	mnt := dir + "/mnt"
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	// In a mount namespace of its own, where /usr/sbin is the helper alone; the
	// mount's process ends with it at the latest.
	script := `
mount --make-rprivate /
sed -n 's/^[^ ]* \([^ ]*\) fuse.tpcfs .*/\1/p' /proc/self/mounts | while read -r other; do umount -l "$other"; done
mount -t tmpfs tmpfs /usr/sbin
mount -t tmpfs tmpfs "$(readlink -f /sbin)"
ln -s "$BIN" "$(readlink -f /sbin)/mount.fuse.tpcfs"
printf '%s %s fuse.tpcfs noauto,_netdev,noexec,uid=12,gid=34,wait=30s,log_file=%s 0 0\n' "$ADDR" "$MNT" "$DIR/log" >"$DIR/fstab"
mount -T "$DIR/fstab" "$MNT"
echo hello >"$MNT/file"
stat -c %u:%g "$MNT/file"
grep " $MNT fuse.tpcfs " /proc/self/mounts
cp /bin/true "$MNT/true"
"$MNT/true" 2>/dev/null || echo not executed
umount "$MNT"
rm "$(readlink -f /sbin)/mount.fuse.tpcfs" # a copy, or a hard link, is no other helper than a link
cp "$BIN" "$(readlink -f /sbin)/mount.fuse.tpcfs"
mount -t fuse.tpcfs -o ro "$ADDR" "$MNT"
cat "$MNT/file"
touch "$MNT/new" 2>/dev/null || echo read-only
umount "$MNT"
mount -t fuse.tpcfs -o strange "$ADDR" "$MNT" || echo "exit $?"
mount -t fuse.tpcfs -o wait=1s 127.0.0.1:1 "$MNT" || echo "exit $?"
`
	env := []string{"BIN=" + plain, "ADDR=" + addr, "MNT=" + mnt, "DIR=" + dir, "HOME=" + dir}
	r := harness.Run(ctx, env, nil, "unshare", "--mount", "sh", "-ec", script)
	for _, want := range []string{"12:34\n", "noexec", "not executed\n", "hello\n", "read-only\n", "exit 1\n", "exit 32\n"} {
		if !strings.Contains(r.Out, want) {
			t.Errorf("no %q in what it printed", want)
		}
	}
	if r.Code != 0 || !strings.Contains(r.Err, "option strange is not known") || !strings.Contains(r.Err, "connection refused") {
		t.Errorf("exit %d\n%s\n%s", r.Code, r.Out, r.Err)
	}
}

// With --uid and --gid all files are that owner's, by whomever they are stored
// and made, and stay so.
func TestMountOwner(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	_, addr := up(t, ctx, tempDir(t)+"/data")
	if r := run(t, ctx, nil, "x", "put", "-", "old", "--coordinator", addr); r.Code != 0 {
		t.Fatal(r.Err)
	}
	mnt, _ := foreground(t, addr, nil, "--uid", "65534", "--gid", "65533", "--allow-other")
	script := `
echo new >new; mkdir dir; ln -s old link; mkfifo fifo
stat -c '%u:%g %n' . old new dir link fifo
ls -ln | awk 'NR>1 {print $3":"$4, $NF}'
chown 65534:65533 new && echo same
chown 1 new 2>/dev/null || echo refused
chgrp 1 new 2>/dev/null || echo refused
`
	r := harness.Run(ctx, nil, nil, "sh", "-ec", "cd "+mnt+" && ("+script+")")
	if r.Code != 0 || strings.Count(r.Out, "65534:65533 ") != 11 || strings.Count(r.Out, "refused") != 2 || !strings.Contains(r.Out, "same") {
		t.Errorf("exit %d\n%s%s", r.Code, r.Out, r.Err)
	}
	// As that user, who has no right to what is stored as root's elsewhere.
	r = harness.RunAs(ctx, nobody, nil, nil, "sh", "-ec", "cd "+mnt+" && echo more >>old && cat old && rm new")
	if r.Code != 0 || r.Out != "xmore\n" {
		t.Errorf("as the owner: exit %d, %q %s", r.Code, r.Out, r.Err)
	}
	if r := run(t, ctx, nil, "", "stat", "dir", "--coordinator", addr); !strings.Contains(r.Out, "65534:65533") {
		t.Errorf("what the mount made is not the owner's: %s", r.Out)
	}
	if r := run(t, ctx, nil, "", "stat", "old", "--coordinator", addr); !strings.Contains(r.Out, "Owner: 0:0") {
		t.Errorf("what was stored has another owner: %s", r.Out)
	}
	if r := run(t, ctx, nil, "", "mount", "--uid", "4294967295", "--coordinator", addr, mnt); r.Code != 2 {
		t.Errorf("--uid 4294967295: exit %d, %s", r.Code, r.Err)
	}
}

// A service manager hears when each server and mount is ready and when it
// stops; a SIGTERM commits what is written and not closed yet.
func TestServiceManager(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	socket := dir + "/notify"
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hear := func(want string) {
		t.Helper()
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != want {
			t.Fatalf("heard %q, %v; want %q", buf[:n], err, want)
		}
	}
	env := []string{"NOTIFY_SOCKET=" + socket}
	p := started(t, "up", env, "up", "-o", "json", "--dir", dir+"/data", "--listen", "unix:"+dir+"/s")
	hear("READY=1")
	mnt, mount := foreground(t, "unix:"+dir+"/s", env)
	hear("READY=1")
	w, err := harness.Start("writer", nil, "sh", "-c", "exec 3>"+filepath.Join(mnt, "open")+" && echo written >&3 && echo done && exec sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Kill() })
	if _, err := w.WaitLine(ctx, "done"); err != nil {
		t.Fatal(err)
	}
	if err := mount.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hear("STOPPING=1")
	if _, err := mount.WaitText(ctx, "unmounted but still served"); err != nil { // the writer is in it
		t.Fatal(err)
	}
	if r := run(t, ctx, nil, "", "get", "open", "--coordinator", "unix:"+dir+"/s"); r.Out != "written\n" {
		t.Errorf("what was written and not closed reads %q, %s", r.Out, r.Err)
	}
	if err := w.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hear("STOPPING=1")
}

// A mount that is told to stop ends although another test has a mount namespace
// of its own; one whose copy somebody else keeps says so, and ends with the copy.
func TestMountEndsBesideOtherNamespaces(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	_, addr := up(t, ctx, dir+"/data")
	_, p := foreground(t, addr, nil)
	own, release := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // for good
		own <- harness.OwnMounts()
		<-release
	}()
	defer close(release)
	if err := <-own; err != nil {
		t.Fatal(err)
	}
	if err := p.Terminate(patience); err != nil || p.ExitCode() != 0 || strings.Contains(p.Output(), "still served") {
		t.Errorf("beside a namespace of a test's own: %v, exit %d\n%s", err, p.ExitCode(), p.Output())
	}

	mnt, p := foreground(t, addr, nil)
	shell(t, ctx, mnt, "echo there > file")
	copied, err := harness.Start("a namespace", nil, "unshare", "--mount", "sh", "-c", `
sed -n 's/^[^ ]* \([^ ]*\) fuse.tpcfs .*/\1/p' /proc/self/mounts | while read -r other; do [ "$other" = "$0" ] || umount -l "$other"; done
cat "$0"/file
exec sleep infinity`, mnt)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = copied.Kill() }()
	if _, err := copied.WaitLine(ctx, "there"); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitText(ctx, "in another mount namespace"); err != nil {
		t.Fatal(err)
	}
	if err := copied.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		t.Fatal("it goes on when the copy has gone")
	}
}
