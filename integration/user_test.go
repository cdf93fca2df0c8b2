package integration

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/integration/harness"
)

// nobody is an ordinary user; these tests run as root.
var nobody = &syscall.Credential{Uid: 65534, Gid: 65534}

// ordinary is a place of an ordinary user's, with a copy of tpcfs.
type ordinary struct {
	t        *testing.T
	ctx      context.Context
	dir, bin string
	env      []string
}

func newOrdinary(t *testing.T) *ordinary {
	t.Helper()
	if _, err := exec.LookPath("fusermount3"); err != nil {
		t.Fatalf("only root mounts without fusermount3: install the package fuse3 (%v)", err)
	}
	if os.Getuid() != 0 {
		t.Fatal("this test has to be run as root: it changes to another user by itself")
	}
	u := &ordinary{t: t, ctx: testContext(t), dir: tempDir(t)}
	u.openFuse()
	u.bin = filepath.Join(u.dir, "tpcfs")
	u.env = []string{"HOME=" + u.dir, "XDG_CACHE_HOME=" + u.dir + "/cache", "TMPDIR=" + u.dir, "XDG_RUNTIME_DIR=" + u.dir}
	if r := harness.Run(u.ctx, nil, nil, "cp", binary, u.bin); r.Code != 0 {
		t.Fatal(r.Err)
	}
	for dir := u.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil { // others may pass
			t.Fatal(err)
		}
	}
	if err := os.Chown(u.dir, int(nobody.Uid), int(nobody.Gid)); err != nil {
		t.Fatal(err)
	}
	return u
}

// openFuse gives the test, and what it starts, a /dev/fuse that everybody may
// use, as udev makes it, where this machine's is root's alone. The machine's own
// stays as it is: the test's thread gets a mount namespace, and ends with it.
func (u *ordinary) openFuse() {
	u.t.Helper()
	var st unix.Stat_t
	if err := unix.Stat("/dev/fuse", &st); err != nil {
		u.t.Fatalf("no /dev/fuse: load the kernel's module fuse (%v)", err)
	}
	if st.Mode&0o006 == 0o006 {
		return
	}
	runtime.LockOSThread() // for good
	node := filepath.Join(u.dir, "fuse")
	for _, step := range []func() error{ // each only after those before it
		harness.OwnMounts,
		func() error { return unix.Mknod(node, unix.S_IFCHR|0o600, int(st.Rdev)) },
		func() error { return unix.Chmod(node, 0o666) },
		func() error { return unix.Mount(node, "/dev/fuse", "", unix.MS_BIND, "") },
	} {
		if err := step(); err != nil {
			u.t.Fatalf("/dev/fuse is root's alone, and no other can be made (%v): chmod 666 /dev/fuse, as it is elsewhere", err)
		}
	}
	u.t.Cleanup(func() { _ = unix.Unmount("/dev/fuse", unix.MNT_DETACH) }) // so that the node can go
}

// mountpoint makes a directory to mount on.
func (u *ordinary) mountpoint(name string) string {
	u.t.Helper()
	mnt := filepath.Join(u.dir, name)
	if r := u.run("mkdir", mnt); r.Code != 0 {
		u.t.Fatal(r.Err)
	}
	u.t.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) })
	return mnt
}

func (u *ordinary) run(bin string, args ...string) harness.Result {
	return harness.RunAs(u.ctx, nobody, u.env, nil, bin, args...)
}

// up starts `tpcfs up` with a mount and waits until it is ready.
func (u *ordinary) up(mnt string, env ...string) (p *harness.Proc, addr string) {
	u.t.Helper()
	p, err := harness.StartAs(nobody, "up", append(u.env, env...), u.bin, "up", mnt, "-o", "json", "--dir", u.dir+"/data", "--listen", "127.0.0.1:0")
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			u.t.Error(err)
		}
		if u.t.Failed() || strings.Contains(p.Output(), "DATA RACE") {
			u.t.Errorf("up:\n%s", p.Output())
		}
	})
	line, err := p.WaitLine(u.ctx, `{"ready"`)
	if err != nil {
		u.t.Fatal(err)
	}
	var r struct{ Listen string }
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		u.t.Fatal(err)
	}
	return p, r.Listen
}

func mounted(t *testing.T, mnt string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), " "+mnt+" ")
}

// An ordinary user runs everything, mounts through fusermount3, works with
// ordinary commands, and unmounts; others, root too, are kept out.
func TestMountAsAnOrdinaryUser(t *testing.T) {
	t.Parallel()
	u := newOrdinary(t)
	first, second := u.mountpoint("first"), u.mountpoint("second")
	p, addr := u.up(first)
	if r := u.run("bash", "-euo", "pipefail", "-c", `cd "$0"; `+everyday, first); r.Code != 0 {
		t.Fatalf("exit %d: %s%s", r.Code, r.Out, r.Err)
	}
	if r := harness.Run(u.ctx, nil, nil, "ls", first); r.Code == 0 {
		t.Error("root sees another user's mount, which was made without --allow-other")
	}
	if r := u.run(u.bin, "mount", "--coordinator", addr, second); r.Code != 0 {
		t.Fatalf("mount: exit %d: %s%s", r.Code, r.Out, r.Err)
	}
	if r := u.run("bash", "-euc", `cat "$0/a"; [ "$(stat -c %u "$0/a")" = 65534 ]; echo more > "$0/b"; cat "$1/b"`, second, first); r.Code != 0 {
		t.Errorf("the second mount: exit %d: %s%s", r.Code, r.Out, r.Err)
	}
	if r := u.run(u.bin, "umount", second); r.Code != 0 || mounted(t, second) {
		t.Errorf("umount: exit %d: %s%s", r.Code, r.Out, r.Err)
	}
	if err := p.Terminate(patience); err != nil || p.ExitCode() != 0 || mounted(t, first) {
		t.Errorf("up ends with %d, %v; mounted: %t", p.ExitCode(), err, mounted(t, first))
	}
}

// A second Ctrl-C ends up at once, whatever it waits for, and leaves no dead
// mount. Here a prepare is on its way for ever.
func TestSecondInterruptEndsUp(t *testing.T) {
	t.Parallel()
	u := newOrdinary(t)
	mnt := u.mountpoint("mnt")
	p, addr := u.up(mnt, "TPCFS_FAILPOINT=coordinator.send-prepare=block")
	put, err := harness.StartAs(nobody, "put", u.env, u.bin, "mkdir", "--coordinator", addr, "--wait", "0", "x")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = put.Kill() }()
	if _, err := p.WaitLine(u.ctx, "failpoint"); err != nil {
		t.Fatal(err)
	}
	interruptTwice(u.ctx, t, p, func() bool { return !mounted(t, mnt) })
	if mounted(t, mnt) {
		t.Error("a dead mount is left")
	}
}

// The same for a mount that is in use.
func TestSecondInterruptEndsMount(t *testing.T) {
	t.Parallel()
	u := newOrdinary(t)
	_, addr := u.up(u.mountpoint("other"))
	mnt := u.mountpoint("mnt")
	m, err := harness.StartAs(nobody, "mount", u.env, u.bin, "mount", "--foreground", "--coordinator", addr, mnt)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Kill() }()
	if _, err := m.WaitLine(u.ctx, "ready"); err != nil {
		t.Fatal(err)
	}
	user, err := harness.StartAs(nobody, "user", u.env, "bash", "-c", `cd "$0"; echo there; exec sleep 1000`, mnt)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = user.Kill() }()
	if _, err := user.WaitLine(u.ctx, "there"); err != nil {
		t.Fatal(err)
	}
	interruptTwice(u.ctx, t, m, func() bool { return strings.Contains(m.Output(), "still served") })
	if mounted(t, mnt) {
		t.Error("a dead mount is left")
	}
}

// interruptTwice wants that the first Ctrl-C leads to something but does not
// end the process, and that the second one does.
func interruptTwice(ctx context.Context, t *testing.T, p *harness.Proc, first func() bool) {
	t.Helper()
	if err := p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, p.Name+" begins to stop", first)
	select {
	case <-p.Done():
		t.Fatalf("%s has ended (exit %d) although something is under way:\n%s", p.Name, p.ExitCode(), p.Output())
	default:
	}
	if err := p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		t.Fatalf("%s goes on after the second Ctrl-C:\n%s", p.Name, p.Output())
	}
	if p.ExitCode() != 130 {
		t.Errorf("%s: exit %d, want 130:\n%s", p.Name, p.ExitCode(), p.Output())
	}
}

// eventually waits until ok, which costs little to ask.
func eventually(ctx context.Context, t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		}
	}
}
