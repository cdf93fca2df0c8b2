package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/wire"
)

// scrub runs tpcfs scrub; its exit code has to be one of these.
func (l *leaving) scrub(codes ...int) wire.ScrubReport {
	l.Helper()
	again := func() harness.Result {
		return run(l.T, l.ctx, nil, "", "scrub", "--rate", "0", "-o", "json", "--coordinator", l.c.Addr(harness.Coordinator))
	}
	r := again()
	for ; strings.Contains(r.Err, "one is under way") || strings.Contains(r.Err, "has begun another scrub since"); r = again() {
		select { // the coordinator has begun one by itself
		case <-time.After(50 * time.Millisecond):
		case <-l.ctx.Done():
			l.Fatalf("scrub: %s", r.Err)
		}
	}
	for _, code := range codes {
		if r.Code == code {
			var report wire.ScrubReport
			if err := json.Unmarshal([]byte(r.Out), &report); err != nil {
				l.Fatalf("%v: %q", err, r.Out)
			}
			return report
		}
	}
	l.Fatalf("scrub: exit %d, want %v: %s %s", r.Code, codes, r.Out, r.Err)
	return wire.ScrubReport{}
}

// rotObjects garbles what a participant's objects have of a file.
func rotObjects(t *testing.T, dir string, want []byte) {
	t.Helper()
	names, err := filepath.Glob(dir + "/objects/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err == nil && len(b) >= len(want) && bytes.Equal(b[:len(want)], want) {
			garble(t, name, 70_000, 10)
			garble(t, name, 300_000, 10)
			return
		}
	}
	t.Fatalf("none of %d objects has the file", len(names))
}

// Bits flip in an object, in a journal and in the metadata of participants, while
// clients work. A scrub finds what is rotten and has it repaired; a participant that does
// not start any more gets everything anew on an empty directory; then scrubs are
// clean, and all hold the same.
func TestScrubUnderLoad(t *testing.T) {
	l := newLeaving(t, evictKilled...)
	l.progress()
	cl := dial(t, l.ctx, l.c, 0)
	want := noise(21, 400_000)
	mustWrite(t, l.ctx, cl, "kept", want)
	rotObjects(t, l.c.DataDir("a"), want)
	r := l.scrub(9)
	if m := r.Members[0]; m.Name != "a" || m.Found < 2 || m.Repaired != m.Found || r.Rows == 0 {
		t.Errorf("%+v", r)
	}
	l.scrub(0)
	for _, damage := range []func(dir string){
		func(dir string) { garble(t, firstSegment(t, dir+"/journal"), 0, 40) },
		func(dir string) { garble(t, dir+"/meta.db", 0, 8192) },
	} {
		l.kill("b")
		l.state("b", "evicted")
		damage(l.c.DataDir("b"))
		if err := l.c.Start(l.ctx, "b"); err == nil {
			t.Fatal("it starts on a damaged directory")
		}
		l.onEmpty("b")
		l.state("b", "in sync")
	}
	l.scrub(0)
	l.ends()
}

// A scrub that meets a rotten row ends its participant, says so, and is clean again
// when that has got everything anew; status tells what was found.
func TestScrubOfARottenRow(t *testing.T) {
	t.Parallel()
	l := &leaving{T: t, ctx: testContext(t), c: newCluster(t)}
	l.c.Evicts = evictKilled
	startAll(t, l.ctx, l.c)
	cl := dial(t, l.ctx, l.c, 0)
	const name = "a-name-that-stands-nowhere-else"
	mustWrite(t, l.ctx, cl, name, []byte("sound"))
	l.rewrites("b")
	meta := l.c.DataDir("b") + "/meta.db"
	b, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for at := 0; ; n++ {
		k := bytes.Index(b[at:], []byte(name))
		if k < 0 {
			break
		}
		at += k + len(name)
		garble(t, meta, int64(at), 2)
	}
	if n == 0 {
		t.Fatal("the row is not there")
	}
	r := l.scrub(8, 10)
	if m := r.Members[1]; m.Name != "b" || m.Problem == "" {
		t.Errorf("%+v", r)
	}
	select {
	case <-l.c.Proc("b").Done():
	case <-l.ctx.Done():
		t.Fatal("b goes on")
	}
	l.state("b", "evicted")
	l.onEmpty("b")
	l.state("b", "in sync")
	l.scrub(0)
	settle(t, l.ctx, l.c)
	if st, err := l.c.Status(l.ctx); err != nil || st.Members[1].Scrub == nil || st.Members[1].Scrub.Found != 0 || st.Members[1].Scrub.Ended == 0 {
		t.Errorf("%+v, %v", st.Members, err)
	}
}
