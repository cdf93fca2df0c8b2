package integration

import (
	"bytes"
	"context"
	encoding "encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/wire/client"
)

// evictKilled are a coordinator's flags that evict at once who is killed, and nobody who is
// slow on a busy machine: a scrub would miss it.
var evictKilled = []string{"--evict-after", "20s"}

// flipBit flips one bit of a file.
func flipBit(t *testing.T, name string, at int64, bit int) (there bool) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1 << bit
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	t.Logf("bit %d of byte %d of %s", bit, at, name)
	return true
}

// flipAny flips a bit of one of the files that match, in a byte that means something
// where there is one.
func flipAny(t *testing.T, rnd *rand.Rand, pattern string) (name string, at int64, bit int) {
	t.Helper()
	for range 100 { // one may go meanwhile
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: no such file, %v", pattern, err)
		}
		name = names[rnd.Intn(len(names))]
		b, err := os.ReadFile(name)
		if err != nil || len(b) == 0 {
			continue
		}
		used := meaning(name, b)
		if len(used) == 0 {
			used = []int64{rnd.Int63n(int64(len(b)))}
		}
		at, bit = used[rnd.Intn(len(used))], rnd.Intn(8)
		if flipBit(t, name, at, bit) { // a journal's file gets another name when it is used again
			return name, at, bit
		}
	}
	t.Fatalf("%s: none can be read", pattern)
	return "", 0, 0
}

// meaning are the bytes of a file that mean something; of the rows' file those of rows: of
// what leads to them see TestFlippedPagesAreFound.
func meaning(name string, b []byte) (used []int64) {
	for i, c := range b {
		if c != 0 && (filepath.Base(name) != "meta.db" || i%pageSize >= pageHead && isRows(b, i/pageSize)) {
			used = append(used, int64(i))
		}
	}
	return used
}

// Pages of meta.db, which is bbolt's: the number, flags, the count, and how many pages follow
// that belong to it; then, for each element, flags and where it is.
const (
	pageSize  = 4096
	pageHead  = 16
	pageFlags = 8
	pageCount = 10
	leafPage  = 2
	element   = 16 // of a page, in bytes
)

// isRows: is that a page of rows, and not of buckets?
func isRows(b []byte, n int) bool {
	p := b[n*pageSize:]
	return len(p) >= pageSize && encoding.LittleEndian.Uint64(p) == uint64(n) && p[pageFlags] == leafPage && p[pageHead] == 0
}

// A bit flips in each kind of file of a participant, and of the coordinator, that work
// under load; they go on, are killed, and start again, or say what is damaged: then a
// participant gets everything anew on an empty directory, and the coordinator's
// file is restored from a copy. No operation fails, the history is linearizable, a scrub finds
// nothing that it could not repair, and all hold the same in the end.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience) // a dozen restarts
	t.Cleanup(cancel)
	l := &leaving{T: t, ctx: ctx, c: newCluster(t)}
	l.c.Evicts = evictKilled
	startAll(t, l.ctx, l.c)
	l.begin([]string{plain}, l.c.Addr(harness.Coordinator), time.Hour)
	rnd := rand.New(rand.NewSource(seed(t)))
	l.progress()
	cl := dial(t, l.ctx, l.c, 0)
	kept := noise(3, 400_000)
	mustWrite(t, l.ctx, cl, "kept", kept)
	for n, kind := range []string{"journal/*.seg", "objects/*/*", "sums", "meta.db", "ballast", "FORMAT", "LOCK"} {
		l.flips(l.c.Names[n%len(l.c.Names)], kind, rnd, cl)
	}
	for _, kind := range []string{"journal/*.seg", "SCRUB", "FORMAT", "LOCK"} {
		l.flips(harness.Coordinator, kind, rnd, cl)
	}
	l.scrub(0)
	if b, err := cl.ReadFile(l.ctx, "kept"); err != nil || !bytes.Equal(b, kept) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	l.equal(l.c.Names...)
}

// flips has a bit flip in a kind of file of a process, which goes on and is started again.
func (l *leaving) flips(who, kind string, rnd *rand.Rand, cl *client.Client) {
	l.Helper()
	l.Logf("--- %s of %s", kind, who)
	pattern := filepath.Join(l.c.DataDir(who), kind)
	if kind == "sums" {
		pattern = l.sums(who, cl)
	}
	name, at, bit := flipAny(l.T, rnd, pattern)
	l.progress() // with what is flipped; who finds it ends
	l.kill(who)
	l.away = slices.DeleteFunc(l.away, func(name string) bool { return name == who })
	if err := l.c.Start(l.ctx, who); err != nil && who == harness.Coordinator {
		l.damaged(who)
		if !flipBit(l.T, name, at, bit) {
			l.Fatalf("%s: what was damaged is not there", name)
		}
		l.start(who)
	} else if err != nil {
		l.anew(who)
	}
	for range 3 { // who meets it only now ends, and says so
		for _, name := range l.c.Names {
			l.comes(name, name == who)
		}
		bad := false
		for _, m := range l.scrub(0, 8, 9, 10).Members {
			l.Logf("the scrub: %s: found %d, repaired %d, %q %s", m.Name, m.Found, m.Repaired, m.Notes[:min(len(m.Notes), 3)], m.Problem)
			if ended := m.Problem != "" || m.Found > m.Repaired; ended && m.Name != who {
				l.Errorf("%s: %+v", m.Name, m)
			} else if ended {
				bad = true
			}
		}
		if !bad && kind == "meta.db" { // no scrub looks at all of its rows (S5b)
			l.kill(who)
			l.onEmpty(who)
			l.state(who, "in sync")
		}
		if !bad {
			return
		}
	}
	l.Errorf("%s has something that no scrub repairs", who)
}

// damaged wants a process that has ended to have named what is damaged.
func (l *leaving) damaged(who string) {
	l.Helper()
	out := l.c.Proc(who).Output()
	l.Logf("%s ends: %s", who, strings.TrimSpace(out))
	if !strings.Contains(out, "damaged") && !strings.Contains(out, "corrupt data") || !strings.Contains(out, l.c.DataDir(who)) {
		l.Fatal("it does not name what is damaged")
	}
}

// anew starts a participant whose data are damaged on an empty directory.
func (l *leaving) anew(name string) {
	l.Helper()
	l.damaged(name)
	l.onEmpty(name)
}

// comes waits until a participant is in sync; one that may end meanwhile starts anew then.
func (l *leaving) comes(name string, mayEnd bool) {
	l.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-l.c.Proc(name).Done():
			if !mayEnd {
				l.Fatalf("%s has ended", name)
			}
			l.anew(name)
			continue
		default:
		}
		if st, err := l.c.Status(l.ctx); err == nil && connected(st, name) {
			return
		}
		select {
		case <-tick.C:
		case <-l.ctx.Done():
			l.Fatalf("%s is never in sync", name)
		}
	}
}

// sums is a file of checksums beside an object (S2) of a participant: an object that was a
// stage grows in place, over its own, before a checkpoint names it.
func (l *leaving) sums(who string, cl *client.Client) string {
	l.Helper()
	for n := range 100 { // a checkpoint may come in between
		name := fmt.Sprint("written in place ", n)
		mustWrite(l.T, l.ctx, cl, name, noise(int64(n), 300_000))
		if _, err := cl.WriteExtents(l.ctx, name, []client.Extent{{Offset: 300_000, Content: client.Bytes(noise(5, 1000))}}, client.ExtentOptions{}); err != nil {
			l.Fatal(err)
		}
		if list, err := filepath.Glob(l.c.DataDir(who) + "/objects/*/*.sums"); err == nil && len(list) > 0 {
			return list[0]
		}
	}
	l.Fatal("no object has checksums beside it")
	return ""
}

// pagesOf are the pages of a file of rows that hold most of these names, and those
// that lead to them; each as its number.
func pagesOf(t *testing.T, file, name string) (leaf, branch int) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	live := liveBranches(b)
	most := 0
	for n, up := range live {
		if k := bytes.Count(b[n*pageSize:(n+1)*pageSize], []byte(name)); up >= 0 && k > most {
			leaf, branch, most = n, up, k
		}
	}
	if most < 4 {
		t.Fatalf("no page of %s has more than %d of these rows", file, most)
	}
	return leaf, branch
}

// liveBranches are the pages of rows that a page of branches names, and which one that
// is, in the version that was written last.
func liveBranches(b []byte) map[int]int {
	le := encoding.LittleEndian
	at := func(n int) []byte { return b[n*pageSize:][:pageSize] }
	const root, txid = pageHead + 16, pageHead + 48
	newest := at(0)
	if le.Uint64(at(1)[txid:]) > le.Uint64(newest[txid:]) {
		newest = at(1)
	}
	live := map[int]int{}
	var walk func(n, up int)
	bucket := func(v []byte) { // a page number and a sequence; 0: its rows follow at once
		if n := int(le.Uint64(v)); n > 0 {
			walk(n, -1)
		}
	}
	walk = func(n, up int) {
		p := at(n)
		for i := range int(le.Uint16(p[pageCount:])) {
			e := p[pageHead+i*element:]
			switch {
			case p[pageFlags] == leafPage && le.Uint32(e) == 1: // a bucket
				bucket(p[pageHead+i*element+int(le.Uint32(e[4:])+le.Uint32(e[8:])):])
			case p[pageFlags] == leafPage:
				live[n] = up
			default: // where its key is, how long, and the page
				walk(int(le.Uint64(e[8:])), n)
			}
		}
	}
	bucket(newest[root:])
	return live
}

// A bit flips in what leads to a participant's rows: in the head of a page of them, or where
// one is named. That may hide rows from those who read there, and nobody else has: a scrub
// finds it by comparing with the others, or meets the damage, and it is as the others again.
func TestFlippedPagesAreFound(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience) // a dozen restarts
	t.Cleanup(cancel)
	l := &leaving{T: t, ctx: ctx, c: newCluster(t)}
	l.c.Evicts = evictKilled
	startAll(t, l.ctx, l.c)
	cl := dial(t, l.ctx, l.c, 0)
	const files = 400
	for i := range files {
		mustWrite(t, l.ctx, cl, fmt.Sprintf("flip-%03d", i), []byte("sound"))
	}
	meta := l.c.DataDir("b") + "/meta.db"
	le := encoding.LittleEndian
	for _, k := range []struct {
		name string
		at   func(b []byte, leaf, branch int) (at int64, bit int)
	}{
		{"fewer rows of a page", func(b []byte, leaf, _ int) (int64, int) {
			n := leaf*pageSize + pageCount
			return int64(n), bits.Len16(le.Uint16(b[n:])) - 1
		}},
		{"more rows of a page", func(b []byte, leaf, _ int) (int64, int) { return int64(leaf*pageSize + pageCount + 1), 3 }},
		{"the kind of a page", func(_ []byte, leaf, _ int) (int64, int) { return int64(leaf*pageSize + pageFlags), 1 }},
		{"the number of a page", func(_ []byte, leaf, _ int) (int64, int) { return int64(leaf * pageSize), 0 }},
		{"fewer pages", func(b []byte, _, branch int) (int64, int) {
			n := branch*pageSize + pageCount
			return int64(n), bits.Len16(le.Uint16(b[n:])) - 1
		}},
		{"another page", func(b []byte, leaf, branch int) (int64, int) {
			for i := range int(le.Uint16(b[branch*pageSize+pageCount:])) {
				if n := branch*pageSize + pageHead + i*element + 8; le.Uint64(b[n:]) == uint64(leaf) {
					return int64(n), 0
				}
			}
			return 0, 0
		}},
	} {
		l.rewrites("b")
		leaf, branch := pagesOf(t, meta, "flip-")
		b, err := os.ReadFile(meta)
		if err != nil {
			t.Fatal(err)
		}
		at, bit := k.at(b, leaf, branch)
		t.Log("---", k.name)
		if !flipBit(t, meta, at, bit) {
			t.Fatalf("%s is not there", meta)
		}
		m := l.scrub(8, 9, 10).Members[1]
		t.Logf("found %d, repaired %d: %q %s", m.Found, m.Repaired, m.Notes[:min(1, len(m.Notes))], m.Problem)
		if m.Found == 0 && m.Problem == "" {
			t.Fatalf("%s: nothing is found: %+v", k.name, m)
		}
		if m.Problem != "" || m.Found > m.Repaired { // it ends, and its answer says why, if it still gets there
			select {
			case <-l.c.Proc("b").Done():
			case <-l.ctx.Done():
				t.Fatalf("%s: b goes on: %+v", k.name, m)
			}
			l.state("b", "evicted")
			l.onEmpty("b")
		}
		l.state("b", "in sync")
		l.scrub(0)
	}
	settle(t, l.ctx, l.c)
	for name, tree := range exports(t, l.ctx, l.c) {
		for i := range files {
			if got := tree[fmt.Sprintf("flip-%03d", i)]; got != "file sound" {
				t.Errorf("participant %s: flip-%03d is %q", name, i, got)
			}
		}
	}
}

// rewrites has a participant make a checkpoint of all that it has, and start again.
func (l *leaving) rewrites(name string) {
	l.Helper()
	settle(l.T, l.ctx, l.c)
	if err := l.c.Proc(name).Terminate(patience); err != nil {
		l.Fatal(err)
	}
	l.start(name)
	l.state(name, "in sync")
	settle(l.T, l.ctx, l.c)
}
