package posix

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/integration/harness"
	"tpcfs/wire"
)

// chores are what goes on for long in a mount, again and again: each leaves as
// much behind as it found, looks whether what it did is there, and fails if not.
// NAME is the chore's, ROUND counts.
var chores = []struct{ name, script string }{
	{"git", `[ -d r ] && [ $((ROUND % 20)) != 0 ] || { rm -rf r; git init -q -b main r; mkdir r/d; for i in $(seq 20); do seq $i 300 > r/d/f$i; done; git -C r add .; git -C r commit -qm first; }
cd r; n=$(git rev-list --count main); for i in 1 2 3; do echo "$ROUND" >> d/f$((i * (ROUND % 6 + 1))); done; git commit -qam "$ROUND"
[ $(git rev-list --count main) = $((n + 1)) ]; [ -z "$(git status --porcelain)" ]; git log -1 --format=%s | grep -qx "$ROUND"
[ $((ROUND % 7)) != 0 ] || git gc -q; git fsck 2>&1 | { grep -v ^dangling || true; } | { ! grep .; }`},
	{"sqlite", `[ -f db ] || sqlite3 db 'create table t(id integer primary key, v); insert into t select value, 0 from generate_series(1, 300)'
sqlite3 -cmd '.timeout 60000' db "begin immediate; update t set v = $ROUND; delete from t where id % 7 = $ROUND % 7; insert or replace into t select value, $ROUND from generate_series(1, 300); commit"
[ "$(sqlite3 db 'select count(*), min(v), max(v) from t; pragma integrity_check')" = "300|$ROUND|$ROUND
ok" ]; [ $((ROUND % 10)) != 0 ] || sqlite3 db vacuum`},
	{"tar", `rm -rf s x t.tar; mkdir -p s/d/e; for i in $(seq 30); do seq $ROUND $((ROUND + 200 * i)) > s/d/e/f$i; done; ln s/d/e/f1 s/l; ln -s d/e/f2 s/k; head -c 1500000 /dev/zero > s/z
tar -cf t.tar s; mkdir x; tar -xf t.tar -C x; diff -r s x/s; [ x/s/l -ef x/s/d/e/f1 ]; mv x/s/d x/moved; find s x -type f | wc -l | grep -qx 64`},
	{"log", `touch log; n=$(wc -l < log); for k in 1 2 3; do for i in $(seq 20); do echo "round $ROUND writer $k line $i" >> log; done & done; wait
[ $(wc -l < log) = $((n + 60)) ]; [ $(grep -c "^round $ROUND writer [123] line [0-9]*$" log) = 60 ]; tail -n 60 log | sort | uniq -d | { ! grep .; }; sync log; [ $n -lt 1500 ] || { mv log log.1; : > log; }`},
	{"writes", `[ -f f ] || head -c 8000000 /dev/urandom > f; printf "round $ROUND" | dd of=f bs=4096 seek=$((ROUND * 7 % 1900)) conv=notrunc,fdatasync status=none
dd if=f bs=4096 skip=$((ROUND * 7 % 1900)) count=1 status=none | head -c $((6 + ${#ROUND})) | grep -qx "round $ROUND"; cp f g; cmp f g; truncate -s 100 g; rm g; [ $(stat -c %s f) = 8000000 ]`},
}

// TestLongRun has programs work on one mount while servers are killed and
// stopped at random, in the first half of each of four quarters of 30 s, or of
// TPCFS_TEST_LONGTIME. All that a process
// holds and all that is on the disks is as much in the end as it was early.
func TestLongRun(t *testing.T) {
	t.Parallel()
	limit, err := harness.Duration("TPCFS_TEST_LONGTIME", 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit+2*patience)
	defer cancel()
	start := func() *world {
		return startWorld(t, ctx, plain, 1, func(c *harness.Cluster) {
			c.Evicts = []string{"--evict-after", "2s"}
			c.Args = []string{"--segment-size", "1048576"} // frequent checkpoints: what waits for one is little
		})
	}
	fresh := start() // it does nothing
	idle := fresh.goroutines(t, ctx)
	fresh.revive(t, ctx)
	w := start()

	working, done := context.WithCancel(ctx)
	defer done()
	tmp := t.TempDir()
	var workers sync.WaitGroup
	rounds := make([]int, len(chores))
	for i, c := range chores {
		workers.Go(func() {
			for working.Err() == nil && !t.Failed() {
				rounds[i]++
				script := fmt.Sprintf("set -eo pipefail; ROUND=%d\n%s\necho well", rounds[i], c.script)
				if out := output(ctx, c.name, script, w.mounts[0], tmp); !strings.HasSuffix(out, "well\n") {
					t.Errorf("%s, round %d: %s\n%s", c.name, rounds[i], c.script, out)
				}
			}
		})
	}
	rnd := rand.New(rand.NewSource(time.Now().UnixNano()))
	var samples []sample
	kills := 0
	for quarter := range 4 {
		half := time.Now().Add(limit / 8)
		for quarter < 3 && time.Now().Before(half) && !t.Failed() {
			kills += w.trouble(t, ctx, rnd)
		}
		if quarter == 3 { // nobody is killed any more: what leaks in a server shows
			samples = append(samples, w.sample(t, ctx))
		}
		idleUntil(ctx, half.Add(limit/8))
		samples = append(samples, w.sample(t, ctx))
	}
	done()
	workers.Wait()
	for i, c := range chores {
		t.Logf("%s: %d rounds", c.name, rounds[i])
	}
	t.Logf("%d kills and stops in %v", kills, limit)
	judgeSamples(t, samples)
	if busy := w.goroutines(t, ctx); !t.Failed() {
		for name, n := range busy {
			t.Logf("%s: %d goroutines, %d in the beginning", name, n, idle[name])
			if n > idle[name]+pooled {
				t.Errorf("%s has %d goroutines, and had %d when nothing had been done", name, n, idle[name])
			}
		}
	}
	w.revive(t, ctx)
}

// trouble kills or stops some servers and has all of them back.
func (w *world) trouble(t *testing.T, ctx context.Context, rnd *rand.Rand) (faults int) {
	t.Helper()
	all := w.All()
	one, two := all[rnd.Intn(len(all))], all[rnd.Intn(len(all))]
	var err error
	switch rnd.Intn(6) {
	case 0:
		faults = len(all)
		err = w.Kill(all...)
	case 1:
		faults = 2
		err = w.Kill(one, two)
	case 2:
		faults = 1
		if err = w.Proc(one).Signal(syscall.SIGSTOP); err == nil {
			idleUntil(ctx, time.Now().Add(time.Duration(rnd.Intn(3000))*time.Millisecond))
			err = w.Proc(one).Signal(syscall.SIGCONT)
		}
	default:
		faults = 1
		err = w.Kill(one)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.start(t, ctx)
	idleUntil(ctx, time.Now().Add(time.Duration(200+rnd.Intn(2500))*time.Millisecond))
	return faults
}

// start starts those servers that have ended.
func (w *world) start(t *testing.T, ctx context.Context) {
	t.Helper()
	for _, name := range w.All() {
		select {
		case <-w.Proc(name).Done():
			if err := w.Start(ctx, name); err != nil {
				t.Fatal(err)
			}
		default:
		}
	}
}

// idleUntil is a part of the schedule of faults, not a wait for anything.
func idleUntil(ctx context.Context, then time.Time) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Until(then)):
	}
}

// holding is what a process holds, and the size of its data directory.
type holding struct {
	resident, disk int64 // bytes
	files, threads int
}

// sample is what all hold at one time.
type sample map[string]holding

const mountName = "mount"

// openObjects are the files that a participant may have open: 512 objects that wait
// for a checkpoint begin one, and some come meanwhile.
const openObjects = 600

// pooled are goroutines that serve streams which are kept for the next call.
const pooled = 48

// sample waits until all participants are in sync, and looks.
func (w *world) sample(t *testing.T, ctx context.Context) sample {
	t.Helper()
	inSync := func(st wire.Status) bool {
		for _, m := range st.Members {
			if m.State != "in sync" {
				return false
			}
		}
		return st.Serving
	}
	if _, err := w.WaitStatus(ctx, "in sync", inSync); err != nil {
		t.Fatal(err)
	}
	s := sample{}
	for _, name := range w.All() {
		s[name] = held(t, w.Proc(name).PID(), w.DataDir(name))
	}
	s[mountName] = held(t, w.procs[0].PID(), w.tmp)
	return s
}

func held(t *testing.T, pid int, dir string) holding {
	t.Helper()
	var h holding
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		n, _ := strconv.Atoi(strings.Fields(value + " -")[0]) // most are no numbers
		switch name {
		case "VmRSS":
			h.resident = int64(n) << 10
		case "Threads":
			h.threads = n
		}
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil || h.resident == 0 {
		t.Fatalf("process %d: %v, %s", pid, err, status)
	}
	h.files = len(files)
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // it is gone by now
		}
		if info, err := d.Info(); err == nil {
			h.disk += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// judgeSamples: what the mount, which was there all the time, holds, and the disks,
// do not grow from the second quarter on; what the servers hold, in the last one.
func judgeSamples(t *testing.T, samples []sample) {
	t.Helper()
	if len(samples) != 5 {
		t.Fatalf("%d samples", len(samples))
	}
	last := samples[4]
	for name, h := range last {
		for i, s := range samples {
			t.Logf("%s, sample %d: %d MiB in memory, %d files, %d threads, %d MiB on disk", name, i, s[name].resident>>20, s[name].files, s[name].threads, s[name].disk>>20)
		}
		early := samples[3][name]
		if name == mountName {
			early = samples[1][name]
		}
		files := early.files + 16
		if name != mountName && name != harness.Coordinator {
			files = max(files, openObjects)
		}
		if h.resident > early.resident*3/2+32<<20 || h.files > files || h.threads > early.threads+16 {
			t.Errorf("%s grows: it held %+v, and holds %+v", name, early, h)
		}
		if before := samples[1][name].disk; h.disk > before*3/2+64<<20 { // 64 MiB that nobody needs any more begin a checkpoint
			t.Errorf("the data of %s grow: they were %d MiB, and are %d", name, before>>20, h.disk>>20)
		}
	}
}

// goroutines ends all processes in a way that tells what they were at, and counts.
func (w *world) goroutines(t *testing.T, ctx context.Context) map[string]int {
	t.Helper()
	if _, err := w.WaitStatus(ctx, "settled", harness.Settled); err != nil {
		t.Fatal(err)
	}
	procs := map[string]*harness.Proc{mountName: w.procs[0]}
	for _, name := range w.All() {
		procs[name] = w.Proc(name)
	}
	for _, p := range procs { // all at once: none sees another's end
		if err := p.Signal(syscall.SIGQUIT); err != nil {
			t.Fatal(err)
		}
	}
	count := map[string]int{}
	for name, p := range procs {
		<-p.Done()
		_, dump, _ := strings.Cut(p.Output(), "SIGQUIT")
		if count[name] = strings.Count(dump, "\ngoroutine "); count[name] == 0 {
			t.Fatalf("%s does not tell its goroutines:\n%s", name, p.Output())
		}
	}
	return count
}

// revive has everything back after goroutines.
func (w *world) revive(t *testing.T, ctx context.Context) {
	t.Helper()
	mnt := w.mounts[0]
	if err := errors.Join(unix.Unmount(mnt, unix.MNT_DETACH), os.Remove(mnt)); err != nil {
		t.Fatal(err)
	}
	w.mounts, w.procs = nil, nil
	if err := w.Start(ctx, w.All()...); err != nil {
		t.Fatal(err)
	}
	w.mount(t, ctx, plain, 0, nil)
}
