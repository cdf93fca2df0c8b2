package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/rpc"
)

// lockHelperIfAsked is a process that locks a file: its arguments say how, and
// then its standard input is not needed any more.
func lockHelperIfAsked() bool {
	if len(os.Args) < 4 || os.Args[1] != "lock-helper" {
		return false
	}
	fd, err := unix.Open(os.Args[2], unix.O_RDWR|unix.O_CREAT, 0o644)
	if err != nil {
		fmt.Println("open:", err)
		return true
	}
	for _, step := range os.Args[3:] {
		if out := lockStep(&fd, strings.Fields(step)); out != "" {
			fmt.Println(out)
		}
	}
	return true
}

// lockStep does one step: "KIND MODE START LENGTH [wait]", with KIND posix, ofd
// or flock, and others.
func lockStep(fd *int, f []string) string {
	num := func(i int) int64 { n, _ := strconv.ParseInt(f[i], 10, 64); return n }
	switch f[0] {
	case "say":
		return strings.Join(f[1:], " ")
	case "stay":
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		<-make(chan struct{})
	case "await": // until a lock is waited for
		return result(awaitWaiter(f[1]))
	case "await-file": // until there is one
		return result(awaitFile(f[1]))
	case "reopen": // closes the old one afterwards
		fresh, err := unix.Open(os.Args[2], unix.O_RDWR, 0)
		_ = unix.Close(*fd)
		*fd = fresh
		return result(err)
	case "close-other": // POSIX: drops the process's locks
		other, err := unix.Open(os.Args[2], unix.O_RDONLY, 0)
		_ = unix.Close(other)
		return result(err)
	case "write":
		_, err := unix.Pwrite(*fd, []byte(f[2]), num(1))
		return result(err)
	case "count":
		return result(countUnderLock(*fd, int(num(1))))
	case "get":
		l := unix.Flock_t{Type: unix.F_WRLCK, Start: num(1), Len: num(2)}
		if err := unix.FcntlFlock(uintptr(*fd), unix.F_GETLK, &l); err != nil {
			return err.Error()
		}
		return fmt.Sprint(l.Type, l.Start, l.Len, l.Pid)
	}
	types := map[string]int16{"sh": unix.F_RDLCK, "ex": unix.F_WRLCK, "un": unix.F_UNLCK}
	wait := len(f) > 4
	if f[0] == "flock" {
		how := map[string]int{"sh": unix.LOCK_SH, "ex": unix.LOCK_EX, "un": unix.LOCK_UN}[f[1]]
		if !wait {
			how |= unix.LOCK_NB
		}
		return result(unix.Flock(*fd, how))
	}
	cmd := map[bool]int{false: unix.F_SETLK, true: unix.F_SETLKW}[wait]
	if f[0] == "ofd" {
		cmd = map[bool]int{false: unix.F_OFD_SETLK, true: unix.F_OFD_SETLKW}[wait]
	}
	l := unix.Flock_t{Type: types[f[1]], Start: num(2), Len: num(3)}
	return result(unix.FcntlFlock(uintptr(*fd), cmd, &l))
}

func awaitWaiter(addr string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		conn, err := rpc.DialService(ctx, addr, rpc.DialOptions{})
		if err != nil {
			return err
		}
		st, err := conn.Status(ctx, wire.StatusRequest{})
		_ = conn.Close()
		if err != nil || st.LockWaits > 0 {
			return err
		}
		time.Sleep(10 * time.Millisecond) // between questions
	}
}

func awaitFile(name string) error {
	for end := time.Now().Add(patience); ; {
		if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("nobody makes %s", name)
		}
		time.Sleep(10 * time.Millisecond) // between looks
	}
}

func result(err error) string {
	if err != nil {
		return err.Error()
	}
	return "ok"
}

// countUnderLock adds one to the number in the file, so many times, each under
// an exclusive lock: whoever gets in between loses somebody's count.
func countUnderLock(fd, n int) error {
	for range n {
		l := unix.Flock_t{Type: unix.F_WRLCK, Start: 100, Len: 1}
		if err := unix.FcntlFlock(uintptr(fd), unix.F_SETLKW, &l); err != nil {
			return fmt.Errorf("lock: %w", err)
		}
		b := make([]byte, 20)
		k, err := unix.Pread(fd, b, 0)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		have, _ := strconv.Atoi(strings.TrimSpace(string(b[:k])))
		if _, err := unix.Pwrite(fd, fmt.Appendf(nil, "%19d\n", have+1), 0); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		l.Type = unix.F_UNLCK
		if err := unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &l); err != nil {
			return fmt.Errorf("unlock: %w", err)
		}
		fmt.Println("counted", have+1)
	}
	return nil
}

// locker starts a helper. Its answers are lines.
func locker(t *testing.T, file string, steps ...string) *harness.Proc {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, err := harness.Start("locker", nil, self, append([]string{"lock-helper", file}, steps...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	return p
}

// outcome is what a helper prints until it ends.
func outcome(t *testing.T, ctx context.Context, p *harness.Proc) string {
	t.Helper()
	select {
	case <-p.Done():
	case <-ctx.Done():
		t.Fatalf("still at work: %s", p.Output())
	}
	return strings.TrimSpace(strings.ReplaceAll(p.Output(), "\n", " "))
}

// locking is a cluster with two mounts of it; its coordinator may have flags.
type locking struct {
	t      *testing.T
	ctx    context.Context
	c      *harness.Cluster
	mnt    [2]string
	mounts [2]*harness.Proc
}

func newLocking(t *testing.T, coordinator ...string) *locking {
	t.Helper()
	ctx := testContext(t)
	k := &locking{t: t, ctx: ctx, c: newCluster(t)}
	if len(coordinator) > 0 {
		k.c.Evicts = append([]string{"--min-in-sync", "3"}, coordinator...)
	}
	startAll(t, ctx, k.c)
	for i := range k.mnt {
		dir := filepath.Join(tempDir(t), strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		k.mnt[i] = mountDir(t, dir)
		m, err := harness.Start(fmt.Sprint("mount ", i), nil, binary, "mount", "--foreground", "--coordinator", k.c.Addr(harness.Coordinator), k.mnt[i])
		if err != nil {
			t.Fatal(err)
		}
		k.mounts[i] = m
		t.Cleanup(func() {
			_ = unix.Unmount(k.mnt[i], unix.MNT_DETACH)
			_ = m.Kill()
			if t.Failed() || strings.Contains(m.Output(), "DATA RACE") {
				t.Errorf("mount %d:\n%s", i, m.Output())
			}
		})
		if _, err := m.WaitLine(ctx, "ready"); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func (k *locking) file(mount int) string { return filepath.Join(k.mnt[mount], "f") }

// lock starts a helper on a mount.
func (k *locking) lock(mount int, steps ...string) *harness.Proc {
	k.t.Helper()
	return locker(k.t, k.file(mount), steps...)
}

// holds starts a helper that takes a lock and keeps it.
func (k *locking) holds(mount int, steps ...string) *harness.Proc {
	k.t.Helper()
	p := k.lock(mount, append(steps, "say holds", "stay")...)
	if _, err := p.WaitLine(k.ctx, "holds"); err != nil {
		k.t.Fatal(err)
	}
	if strings.Count(p.Output(), "ok") != len(steps) {
		k.t.Fatalf("%v: %s", steps, p.Output())
	}
	return p
}

func (k *locking) want(mount int, want string, steps ...string) {
	k.t.Helper()
	if got := outcome(k.t, k.ctx, k.lock(mount, steps...)); got != want {
		k.t.Fatalf("mount %d, %v: %q, want %q", mount, steps, got, want)
	}
}

// waiting waits until that many requests wait at the coordinator.
func (k *locking) waiting(n int) {
	k.t.Helper()
	if _, err := k.c.WaitStatus(k.ctx, fmt.Sprint(n, " locks are waited for"), func(s wire.Status) bool { return s.LockWaits == n }); err != nil {
		k.t.Fatal(err)
	}
}

// none waits until nothing is locked.
func (k *locking) none() {
	k.t.Helper()
	if _, err := k.c.WaitStatus(k.ctx, "without locks", func(s wire.Status) bool { return s.Locks == 0 && s.LockWaits == 0 }); err != nil {
		k.t.Fatal(err)
	}
}

const again = "resource temporarily unavailable"

// What excludes what is the same within a mount and between two, and as on the
// local disk.
func TestLockRules(t *testing.T) {
	t.Parallel()
	k := newLocking(t)
	local := filepath.Join(tempDir(t), "f")
	for _, c := range []struct{ holder, other, want string }{
		{"posix sh 0 10", "posix sh 5 10", "ok"},
		{"posix sh 0 10", "posix ex 9 1", again},
		{"posix ex 0 10", "posix ex 10 1", "ok"},
		{"posix ex 5 0", "posix sh 1000000 1", again},
		{"posix ex 0 10", "flock ex 0 0", "ok"},
		{"posix ex 0 10", "ofd sh 0 1", again},
		{"ofd ex 0 10", "posix sh 9 1", again},
		{"ofd ex 0 10", "ofd ex 10 10", "ok"},
		{"flock sh 0 0", "flock sh 0 0", "ok"},
		{"flock sh 0 0", "flock ex 0 0", again},
		{"flock ex 0 0", "flock sh 0 0", again},
		{"flock ex 0 0", "posix ex 0 0", "ok"},
	} {
		for name, files := range map[string][2]string{"local": {local, local}, "one mount": {k.file(0), k.file(0)}, "two mounts": {k.file(0), k.file(1)}} {
			p := locker(t, files[0], c.holder, "say holds", "stay")
			if _, err := p.WaitLine(k.ctx, "holds"); err != nil {
				t.Fatal(err)
			}
			if got := outcome(t, k.ctx, locker(t, files[1], c.other)); got != c.want || !strings.HasPrefix(p.Output(), "ok") {
				t.Errorf("%s: after %s, %s: %q, want %q", name, c.holder, c.other, got, c.want)
			}
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
			if name != "local" {
				k.none() // with its owner it is gone
			}
		}
	}
	p := k.holds(0, "posix ex 10 10")
	k.want(0, fmt.Sprint(unix.F_WRLCK, 10, 10, p.PID()), "get 0 100")
	k.want(1, fmt.Sprint(unix.F_WRLCK, 10, 10, 0), "get 0 100")
	k.want(1, fmt.Sprint(unix.F_UNLCK, 0, 5, 0), "get 0 5")
	if r := run(t, k.ctx, nil, "", "status", "--coordinator", k.c.Addr(harness.Coordinator)); !strings.Contains(r.Out, "locks 1\n") {
		t.Errorf("status: %s", r.Out)
	}
}

// A close ends what fcntl(2) says it does: a process's POSIX locks with any
// descriptor of the file, an open file's own with its last one.
func TestLocksEndWithClose(t *testing.T) {
	t.Parallel()
	k := newLocking(t)
	p := k.holds(0, "posix ex 0 0", "close-other")
	k.want(1, "ok", "posix ex 0 0")
	_ = p.Kill()
	p = k.holds(0, "ofd ex 0 0", "close-other")
	k.want(1, again, "ofd ex 0 0")
	_ = p.Kill()
	k.none()
	for _, kind := range []string{"ofd", "flock", "posix"} {
		p := k.holds(0, kind+" ex 0 0", "reopen")
		k.want(1, "ok", kind+" ex 0 0 wait")
		k.want(0, "ok", kind+" ex 0 0 wait")
		_ = p.Kill()
		k.none()
	}
	// In a mount the next process finds nothing of one that is gone.
	shell(t, k.ctx, k.mnt[0], "for i in $(seq 30); do flock -n f true; done")
}

// Whatever ends a lock wakes who waits: unlocking, closing, the process's
// death.
func TestLockWaitsAreWoken(t *testing.T) {
	t.Parallel()
	k := newLocking(t)
	for _, kind := range []string{"posix", "ofd", "flock"} {
		for name, steps := range map[string][]string{
			"unlock": {kind + " ex 0 0", "say holds", "stay-a-while", kind + " un 0 0", "say after", "stay"},
			"close":  {kind + " ex 0 0", "say holds", "stay-a-while", "reopen", "say after", "stay"},
			"exit":   {kind + " ex 0 0", "say holds", "stay-a-while"},
			"kill":   {kind + " ex 0 0", "say holds", "stay"},
		} {
			for i, s := range steps {
				if s == "stay-a-while" { // until the other waits
					steps[i] = "await " + k.c.Addr(harness.Coordinator)
				}
			}
			holder := k.lock(0, steps...)
			if _, err := holder.WaitLine(k.ctx, "holds"); err != nil {
				t.Fatal(err)
			}
			waiter := k.lock(1, kind+" ex 0 0 wait")
			if name == "kill" { // the others await it themselves
				k.waiting(1)
				if err := holder.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			if got := outcome(t, k.ctx, waiter); got != "ok" {
				t.Fatalf("%s, %s: %s", kind, name, got)
			}
			_ = holder.Kill()
			k.none()
		}
	}
}

// A waiter that is interrupted is gone at once, and what it waited for too.
func TestLockWaiterIsInterrupted(t *testing.T) {
	t.Parallel()
	k := newLocking(t)
	holder := k.holds(0, "flock ex 0 0", "posix ex 0 0")
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		cmd, err := harness.Start("flock", nil, "flock", k.file(1), "true")
		if err != nil {
			t.Fatal(err)
		}
		k.waiting(1)
		if err := cmd.Signal(s); err != nil {
			t.Fatal(err)
		}
		outcome(t, k.ctx, cmd)
		k.waiting(0)
	}
	// A handler that lets system calls go on: the wait does.
	p := k.lock(1, "posix ex 0 0 wait", "say through")
	k.waiting(1)
	for range 5 {
		if err := p.Signal(syscall.SIGURG); err != nil { // the Go runtime catches it, with SA_RESTART
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // signals that are not there yet are one
	}
	k.waiting(1)
	if err := holder.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := outcome(t, k.ctx, p); got != "ok through" {
		t.Fatal(got)
	}
	k.none()
}

// Two processes that would wait for each other for ever, in two mounts.
func TestLockDeadlock(t *testing.T) {
	t.Parallel()
	k := newLocking(t)
	a := k.holds(0, "posix ex 0 1")
	b := k.lock(1, "posix ex 1 1", "posix ex 0 1 wait", "say through")
	k.waiting(1)
	_ = a.Kill()
	if got := outcome(t, k.ctx, b); got != "ok ok through" {
		t.Fatal(got)
	}
	a = k.lock(0, "posix ex 0 1", "await "+k.c.Addr(harness.Coordinator), "posix ex 1 1 wait", "posix un 0 1")
	if _, err := a.WaitLine(k.ctx, "ok"); err != nil {
		t.Fatal(err)
	}
	b = k.lock(1, "posix ex 1 1", "posix ex 0 1 wait")
	if got := outcome(t, k.ctx, a); got != "ok ok resource deadlock avoided ok" {
		t.Fatal(got)
	}
	if got := outcome(t, k.ctx, b); got != "ok ok" {
		t.Fatal(got)
	}
}

// What was written under a lock is read by the next one who has it, whatever
// was read there before; nobody's count is lost while the coordinator is
// killed and started again.
func TestCountingUnderLocks(t *testing.T) {
	t.Parallel()
	k := newLocking(t)
	const each = 60
	var ps []*harness.Proc
	for i := range 4 {
		ps = append(ps, k.lock(i%2, fmt.Sprint("count ", each)))
	}
	for range 2 {
		if _, err := ps[0].WaitLine(k.ctx, "counted"); err != nil {
			t.Fatal(err)
		}
		if err := k.c.Kill(harness.Coordinator); err != nil {
			t.Fatal(err)
		}
		if err := k.c.Start(k.ctx, harness.Coordinator); err != nil {
			t.Fatal(err)
		}
	}
	for i, p := range ps {
		if got := outcome(t, k.ctx, p); !strings.HasSuffix(got, " ok") {
			t.Fatalf("process %d: %s", i, got)
		}
	}
	if got := strings.TrimSpace(shell(t, k.ctx, k.mnt[1], "cat f")); got != fmt.Sprint(each*len(ps)) {
		t.Errorf("counted %s, want %d", got, each*len(ps))
	}
	k.none()
}

// Locks outlive the coordinator: while it is away and when it is back nobody
// gets between.
func TestLocksOutliveTheCoordinator(t *testing.T) {
	t.Parallel()
	k := newLocking(t)
	holder := k.holds(0, "flock ex 0 0", "posix ex 0 10", "ofd ex 20 10")
	if err := k.c.Kill(harness.Coordinator); err != nil {
		t.Fatal(err)
	}
	waiter := k.lock(1, "flock ex 0 0 wait", "say through")
	if err := k.c.Start(k.ctx, harness.Coordinator); err != nil {
		t.Fatal(err)
	}
	k.want(1, again+" "+again, "posix ex 5 1", "ofd ex 25 1")
	k.waiting(1)
	if err := holder.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := outcome(t, k.ctx, waiter); got != "ok through" {
		t.Fatal(got)
	}
	k.none()
}

// With its mount's process a lock is gone, when that is killed too.
func TestLocksEndWithTheMount(t *testing.T) {
	t.Parallel()
	k := newLocking(t)
	k.holds(0, "flock ex 0 0")
	waiter := k.lock(1, "flock ex 0 0 wait")
	k.waiting(1)
	if err := k.mounts[0].Kill(); err != nil {
		t.Fatal(err)
	}
	if got := outcome(t, k.ctx, waiter); got != "ok" {
		t.Fatal(got)
	}
	k.none()
}

// Two mounts write one SQLite database, by its rollback journal.
func TestSQLiteFromTwoMounts(t *testing.T) {
	t.Parallel()
	k := newLocking(t)
	shell(t, k.ctx, k.mnt[0], `sqlite3 db "PRAGMA journal_mode=DELETE; CREATE TABLE t(who, n, filler); CREATE INDEX i ON t(n);"`)
	const each = 12
	script := fmt.Sprintf(`for i in $(seq %d); do sqlite3 -cmd ".timeout 60000" db "BEGIN IMMEDIATE; INSERT INTO t VALUES('$1', $i, hex(randomblob(3000))); UPDATE t SET n = n + 0 WHERE who <> '$1'; COMMIT;" || exit 1; done`, each)
	var ps []*harness.Proc
	for i := range 2 {
		p, err := harness.Start("sqlite", nil, "bash", "-c", "cd \"$0\"; "+script, k.mnt[i], strconv.Itoa(i))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Kill() })
		ps = append(ps, p)
	}
	for i, p := range ps {
		outcome(t, k.ctx, p)
		if p.ExitCode() != 0 {
			t.Fatalf("writer %d: %s", i, p.Output())
		}
	}
	for i := range 2 {
		got := shell(t, k.ctx, k.mnt[i], `sqlite3 -cmd ".timeout 60000" db "PRAGMA integrity_check; SELECT count(*), count(DISTINCT who || n) FROM t;"`)
		if want := fmt.Sprintf("ok\n%d|%d\n", 2*each, 2*each); got != want {
			t.Errorf("mount %d: %q, want %q", i, got, want)
		}
	}
	k.none()
}
