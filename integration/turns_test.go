package integration

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tpcfs/integration/harness"
)

// trouble is what may happen to a participant.
type trouble struct {
	name string
	to   func(s *severed, name string, kept []byte)
}

// out waits until the others go on without a participant.
func (s *severed) out(name string) {
	s.Helper()
	s.state(name, "evicted")
	s.progress()
}

var troubles = []trouble{
	{"killed", func(s *severed, name string, _ []byte) {
		s.kill(name)
		s.out(name)
		s.start(name)
	}},
	{"stopped", func(s *severed, name string, _ []byte) {
		s.signal(name, syscall.SIGSTOP)
		s.out(name)
		s.signal(name, syscall.SIGCONT)
	}},
	{"cut off", func(s *severed, name string, _ []byte) {
		s.cut(both, name, "")
		s.out(name)
		s.heal()
	}},
	{"slow", func(s *severed, name string, _ []byte) {
		s.must(s.net.Worsen(s.ctx, name, "20mbit", true))
		s.progress()
		s.heal()
	}},
	{"wiped", func(s *severed, name string, _ []byte) {
		s.kill(name)
		s.onEmpty(name)
	}},
	{"rotten", func(s *severed, name string, kept []byte) {
		rotObjects(s.T, s.c.DataDir(name), kept)
		var found, repaired int64
		for whole := false; !whole; { // one that was evicted meanwhile, being slow, is looked at again
			whole = true
			for _, m := range s.scrub(0, 8, 9).Members {
				if whole = whole && m.Problem == ""; m.Name == name {
					found, repaired = found+m.Found, repaired+m.Repaired
				}
			}
		}
		if found < 2 || repaired != found {
			s.Errorf("rotten blocks of %s: %d found, %d repaired", name, found, repaired)
		}
	}},
	{"damaged", func(s *severed, name string, _ []byte) {
		s.kill(name)
		garble(s.T, firstSegment(s.T, s.c.DataDir(name)+"/journal"), 0, 40)
		if err := s.c.Start(s.ctx, name); err == nil {
			s.Errorf("%s starts on a damaged journal", name)
		}
		s.onEmpty(name)
	}},
}

// Each participant in turn is killed, stopped, cut off, slow, wiped, has rotten contents, a damaged
// journal, while clients, and git and tar on a mount, go on. One of these happens to each, whichever;
// all of them to each in TPCFS_TEST_CRASHTIME, if it is long enough.
func TestTroublesInTurn(t *testing.T) {
	limit := crashTime(t)
	rnd := rand.New(rand.NewSource(seed(t)))
	s := newSevered(t, limit)
	kept := noise(31, 400_000)
	mustWrite(t, s.ctx, dial(t, s.ctx, s.c, 0), "kept", kept)
	ends := s.works()
	s.progress()
	first, kind := rnd.Intn(len(s.c.Names)), rnd.Intn(len(troubles))
	began := time.Now()
	for n := 0; n < len(s.c.Names) || n < len(troubles)*len(s.c.Names) && time.Since(began) < limit; n++ {
		k, name := troubles[(kind+n)%len(troubles)], s.c.Names[(first+n+n/len(troubles))%len(s.c.Names)]
		t.Log(name, "is", k.name)
		k.to(s, name, kept)
		for _, name := range s.c.Names {
			s.state(name, "in sync")
		}
		s.progress()
	}
	ends()
	s.ends()
	s.sound()
}

// A disk with many files and large ones is wiped, and an empty one takes its place, while
// clients go on. TPCFS_TEST_WIPED files (100) and 100 KiB for each: 10000 are 1 GiB.
func TestWipedAndReplaced(t *testing.T) {
	files := 100
	if n := os.Getenv("TPCFS_TEST_WIPED"); n != "" {
		var err error
		if files, err = strconv.Atoi(n); err != nil || files < 1 {
			t.Fatalf("TPCFS_TEST_WIPED=%s: a number of files", n)
		}
	}
	dir := tempDir(t)
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), noise(int64(i), 100+i%5000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience+time.Duration(files)*20*time.Millisecond)
	t.Cleanup(cancel)
	l := &leaving{T: t, ctx: ctx, c: newCluster(t)}
	l.c.Evicts = evictKilled
	startAll(t, l.ctx, l.c)
	l.begin([]string{plain}, l.c.Addr(harness.Coordinator), time.Hour)
	l.progress()
	addr := l.c.Addr(harness.Coordinator)
	local := filepath.Join(tempDir(t), "large")
	for i := range 10 { // all together too large for a test to hold twice
		if err := os.WriteFile(local, noise(int64(-1-i), files*10<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := run(t, l.ctx, nil, "", "put", "--coordinator", addr, local, fmt.Sprint("large", i)); r.Code != 0 {
			t.Fatal(r.Err)
		}
	}
	if r := run(t, l.ctx, nil, "", "put", "-r", "--coordinator", addr, dir, "many"); r.Code != 0 {
		t.Fatal(r.Err)
	}
	l.kill("b")
	began := time.Now()
	l.onEmpty("b")
	l.state("b", "in sync")
	t.Logf("%d files and %d KiB in %v", files, files*100, time.Since(began).Round(time.Millisecond))
	l.scrub(0)
	l.ends()
	trees := exports(t, l.ctx, l.c)
	n := 0
	for name := range trees["b"] {
		if strings.HasPrefix(name, "many/") {
			n++
		}
	}
	if diff := harness.Diff(trees["b"], trees["a"]); n != files || diff != "" {
		t.Errorf("%d of %d files, and b and a differ:\n%s", n, files, diff)
	}
}
