package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// lostMount is two mounts of which the first one dies or stands still while it has
// files open that have no name, and locks of every kind.
type lostMount struct {
	*locking
	look *client.Client
	h    *holder // in mount 0
	on   string  // a local file: those that losesAll has started go on when it is there
}

var lockKinds = []string{"flock", "posix", "ofd"}

// newLostMount starts them: whose mount says nothing for idle is forgotten.
func newLostMount(t *testing.T, idle time.Duration) *lostMount {
	t.Helper()
	k := &lostMount{locking: newLocking(t, "--mount-idle", idle.String()), on: filepath.Join(t.TempDir(), "on")}
	k.look = dial(t, k.ctx, k.c, patience)
	shell(t, k.ctx, k.mnt[0], "for n in plain mine theirs; do printf contents > $n; done")
	k.h = startHolder(t, k.ctx, k.mnt[0])
	for i, name := range []string{"plain", "mine", "theirs"} {
		k.h.opens(name, 100+i)
	}
	k.h.wants("os.unlink('mine')", "None")
	k.h.wants("os.dup2(os.open('.', os.O_RDWR | os.O_TMPFILE), 103)", "103")
	for _, fd := range []int{101, 103} {
		k.h.wants(fmt.Sprintf("os.pwrite(%d, b'kept', 0), os.fsync(%d)", fd, fd), "(4, None)")
	}
	return k
}

func (k *lostMount) unnamed() int { return unnamedFiles(k.t, k.ctx, k.look, k.mnt[1]) }

// locksAll starts processes on a mount, each of which locks a file in its own way,
// which in steps is KIND.
func (k *lostMount) locksAll(mount int, steps ...string) (ps []*harness.Proc) {
	for _, kind := range lockKinds {
		var own []string
		for _, s := range steps {
			own = append(own, strings.Replace(s, "KIND", kind, 1))
		}
		ps = append(ps, locker(k.t, filepath.Join(k.mnt[mount], kind), own...))
	}
	return ps
}

// losesAll is locksAll of mount 0, whose processes find out what has become of their
// locks when others have them.
func (k *lostMount) losesAll() []*harness.Proc {
	k.t.Helper()
	ps := k.locksAll(0, "KIND ex 0 0", "write 0 mine", "say holds", "await-file "+k.on, "write 4 more", "KIND un 0 0", "say after")
	k.hold(ps)
	return ps
}

// goOn has those go on.
func (k *lostMount) goOn() {
	k.t.Helper()
	if err := os.WriteFile(k.on, nil, 0o600); err != nil {
		k.t.Fatal(err)
	}
}

func (k *lostMount) hold(ps []*harness.Proc) {
	k.t.Helper()
	for i, p := range ps {
		if _, err := p.WaitLine(k.ctx, "holds"); err != nil || strings.Contains(p.Output(), again) {
			k.t.Fatal(lockKinds[i], p.Output(), err)
		}
	}
}

// taken waits until the others have the locks that mount 0 had when it was lost.
func (k *lostMount) taken(lost time.Time, ps []*harness.Proc) {
	k.t.Helper()
	for i, p := range ps {
		if got := outcome(k.t, k.ctx, p); got != "ok ok" {
			k.t.Fatalf("%s: who waits for the lock of a mount that is lost: %s", lockKinds[i], got)
		}
	}
	if took := time.Since(lost); took > 4*wire.LockLease*time.Millisecond {
		k.t.Errorf("who waits for the locks of a mount that is lost gets them after %v", took)
	}
}

// heardLost: who held a lock hears that it is lost, and what it had written is not
// mixed into what the next holder wrote.
func (k *lostMount) heardLost(ps []*harness.Proc, want string) {
	k.t.Helper()
	for i, p := range ps {
		if got := outcome(k.t, k.ctx, p); !strings.HasSuffix(got, " input/output error after") {
			k.t.Errorf("%s: who lost its lock heard %q", lockKinds[i], got)
		}
		for _, mnt := range k.mnt {
			if got := shell(k.t, k.ctx, mnt, "cat "+lockKinds[i]); got != want {
				k.t.Errorf("%s: the file has %q, want %q", lockKinds[i], got, want)
			}
		}
	}
}

// signal sends the first mount one. What is stopped goes on when the test ends,
// before its holders' last closes, which nothing but the mount ends.
func (k *locking) signal(s syscall.Signal) {
	k.t.Helper()
	if err := k.mounts[0].Signal(s); err != nil {
		k.t.Fatal(err)
	}
	if s == syscall.SIGSTOP {
		k.t.Cleanup(func() { _ = k.mounts[0].Signal(syscall.SIGCONT) })
	}
}

// TestStoppedMountIsBack: a mount that stands still for longer than its lease loses its
// locks, and nothing else: its session is remembered, and files without a name stay
// for it, also one that another mount deletes meanwhile. When it is killed, its locks
// go as soon, and those files when it is forgotten.
func TestStoppedMountIsBack(t *testing.T) {
	t.Parallel()
	const idle = 20 * time.Second
	k := newLostMount(t, idle)
	holders := k.losesAll()
	k.h.wants("os.pwrite(100, b'changed.', 0)", "8")
	lost := time.Now()
	k.signal(syscall.SIGSTOP)
	waiters := k.locksAll(1, "KIND ex 0 0 wait", "write 0 theirs")
	shell(t, k.ctx, k.mnt[1], "rm theirs; [ ! -e theirs ]")
	k.taken(lost, waiters)
	k.goOn()
	k.signal(syscall.SIGCONT)
	k.heardLost(holders, "theirs")
	k.h.wants("os.fsync(100), os.pread(100, 9, 0)", "(None, b'changed.')")
	if got := shell(t, k.ctx, k.mnt[1], "cat plain"); got != "changed." {
		t.Errorf("what was written in a file without a lock is %q in the other mount", got)
	}
	for fd, want := range map[int]string{101: "b'keptents'", 102: "b'contents'", 103: "b'kept'"} {
		k.h.wants(fmt.Sprintf("os.pread(%d, 9, 0)", fd), want)
		k.h.wants(fmt.Sprintf("os.pwrite(%d, b'K', 0), os.fsync(%d)", fd, fd), "(1, None)")
	}
	eventually(k.ctx, t, "three files are kept without a name", func() bool { return k.unnamed() == 3 })

	k.hold(k.locksAll(0, "KIND ex 0 0", "say holds", "stay"))
	if err := k.mounts[0].Kill(); err != nil {
		t.Fatal(err)
	}
	lost = time.Now()
	k.taken(lost, k.locksAll(1, "KIND ex 0 0 wait", "write 0 again!"))
	if n := k.unnamed(); n != 3 && time.Since(lost) < idle/2 {
		t.Errorf("of three files that a mount had open without a name %d are left %v after its end", n, time.Since(lost))
	}
	eventually(k.ctx, t, "what a mount had open that is no more is reclaimed", func() bool { return k.unnamed() == 0 })
	if took := time.Since(lost); took > idle+patience/6 {
		t.Errorf("what a mount had open is reclaimed %v after its end", took)
	}
}

// TestStoppedMountIsForgotten: when it is back, what it had open without a name is gone
// as its locks are, and says so. Its other data goes out under a new session, and
// all goes on.
func TestStoppedMountIsForgotten(t *testing.T) {
	t.Parallel()
	k := newLostMount(t, 6*time.Second)
	holders := k.losesAll()
	k.h.wants("os.pwrite(100, b'changed.', 0), os.pwrite(101, b'lost', 0), os.pwrite(103, b'lost', 0)", "(8, 4, 4)")
	lost := time.Now()
	k.signal(syscall.SIGSTOP)
	waiters := k.locksAll(1, "KIND ex 0 0 wait", "write 0 theirs")
	shell(t, k.ctx, k.mnt[1], "rm theirs")
	k.taken(lost, waiters)
	eventually(k.ctx, t, "what a mount has open that is forgotten is reclaimed", func() bool { return k.unnamed() == 0 })
	k.goOn()
	k.signal(syscall.SIGCONT)
	k.heardLost(holders, "theirs")
	for _, fd := range []int{101, 102, 103} {
		for _, step := range []string{"os.pread(%d, 9, 0)", "os.pwrite(%d, b'K', 0)", "os.fsync(%d)", "os.fstat(%d)"} {
			k.h.wants(fmt.Sprintf(step, fd), "EIO")
		}
	}
	k.h.wants("os.fsync(100), os.pread(100, 9, 0)", "(None, b'changed.')")
	if got := shell(t, k.ctx, k.mnt[1], "cat plain"); got != "changed." {
		t.Errorf("what was written in a file without a lock is %q in the other mount", got)
	}
	k.h.end()
	k.hold(k.locksAll(0, "KIND ex 0 0", "say holds", "stay"))
	k.goesOn()
}

// TestDeadMountIsReplaced: the next mount on a machine ends the session of one that has
// died there, and so its locks and files without a name go with it, and not of one that
// stands still.
func TestDeadMountIsReplaced(t *testing.T) {
	t.Parallel()
	const silent = 10 * time.Minute // nothing ends before by itself
	k := newLostMount(t, silent)
	k.signal(syscall.SIGSTOP)
	mountOf(t, k.ctx, k.c, "beside one that stands still")
	k.signal(syscall.SIGCONT)
	for fd, want := range map[int]string{101: "b'keptents'", 102: "b'contents'", 103: "b'kept'"} {
		k.h.wants(fmt.Sprintf("os.pread(%d, 9, 0)", fd), want)
	}
	if n := k.unnamed(); n != 2 {
		t.Errorf("of two files that a mount has open without a name %d are left", n)
	}
	if err := k.mounts[0].Kill(); err != nil {
		t.Fatal(err)
	}
	next := started(t, "the next mount", nil, "mount", "--foreground", "--coordinator", k.c.Addr(harness.Coordinator), k.mnt[0])
	if _, err := next.WaitLine(k.ctx, "ready"); err != nil {
		t.Fatal(err)
	}
	eventually(k.ctx, t, "what a mount had open that is replaced is reclaimed", func() bool { return k.unnamed() == 0 })
	if got := shell(t, k.ctx, k.mnt[0], "cat plain"); got != "contents" {
		t.Errorf("the next mount shows %q", got)
	}
}

// TestDeadUpIsReplaced: so does the next start of up with its own mount.
func TestDeadUpIsReplaced(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	mnt := mountDir(t, dir)
	up := func() *harness.Proc {
		p := started(t, "up", nil, "up", "--listen", "unix:"+dir+"/s", "--dir", dir+"/data", mnt)
		if _, err := p.WaitLine(ctx, "ready"); err != nil {
			t.Fatal(err)
		}
		return p
	}
	unnamed := func() int {
		cl, err := client.Dial(ctx, "unix:"+dir+"/s", client.Options{Wait: patience})
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		return unnamedFiles(t, ctx, cl, mnt)
	}
	p := up()
	shell(t, ctx, mnt, "printf contents > f")
	h := startHolder(t, ctx, mnt)
	h.opens("f", 100)
	h.wants("os.unlink('f')", "None")
	if n := unnamed(); n != 1 {
		t.Fatalf("%d files without a name", n)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	p = up()
	began := time.Now()
	eventually(ctx, t, "what up had open that has died is reclaimed", func() bool { return unnamed() == 0 })
	if took := time.Since(began); took > 45*time.Second {
		t.Errorf("what up had open is reclaimed %v after its next start: by itself, a minute later", took)
	}
	if err := p.Terminate(patience); err != nil {
		t.Error(err)
	}
}

// goesOn: both mounts do all that they did before.
func (k *lostMount) goesOn() {
	k.t.Helper()
	for i := range k.mnt {
		if got := shell(k.t, k.ctx, k.mnt[i], "printf new > n; exec 3<n; rm n; cat <&3; cat plain"); got != "newchanged." {
			k.t.Errorf("mount %d: %q", i, got)
		}
	}
	ctx, cancel := context.WithTimeout(k.ctx, patience/2)
	defer cancel()
	eventually(ctx, k.t, "nothing is left", func() bool { return k.unnamed() == 0 })
}
