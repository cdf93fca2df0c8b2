package participant

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/journal"
	"tpcfs/journal/disk"
	"tpcfs/journal/disk/forget"
	"tpcfs/participant/store"
	"tpcfs/wire"
)

// filled is the disk of a participant that has worked and was killed.
func filled(t *testing.T) *forget.FS {
	fsys := forget.New(1)
	r := newRig(t, fsys, nil)
	r.begin(1)
	for n := range uint64(20) {
		r.write(2+n, "f", strings.Repeat("x", int(n)))
	}
	r.durable(r.next - 1)
	return fsys.Crash(rng(8))
}

// refusedOpen opens what is damaged; the error must name the file, say what
// is wrong with it and what to do.
func refusedOpen(t *testing.T, fsys disk.FS, words ...string) {
	t.Helper()
	p, err := Open(testOptions(fsys))
	if err == nil {
		_ = p.Close()
		t.Fatal("it opens a damaged directory")
	}
	if wire.CodeOf(err) != wire.CodeCorrupt {
		t.Errorf("code %v", wire.CodeOf(err))
	}
	for _, w := range append(words, "may not vote or testify", "backup") {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
}

func TestDamagedJournal(t *testing.T) {
	fsys := filled(t)
	name := dataDir + "/journal/" + segments(t, fsys)[0]
	if err := fsys.FlipBit(name, (3*4096+100)*8); err != nil {
		t.Fatal(err)
	}
	refusedOpen(t, fsys, name, "at byte 12288")
}

func TestJournalIsGone(t *testing.T) {
	fsys := forget.New(1)
	r := newRig(t, fsys, nil)
	r.begin(1)
	r.write(2, "f", "x")
	r.link.close()
	if err := r.p.Close(); err != nil { // with a checkpoint
		t.Fatal(err)
	}
	entries, err := fsys.ReadDir(dataDir + "/journal")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := fsys.Remove(dataDir + "/journal/" + e.Name); err != nil {
			t.Fatal(err)
		}
	}
	refusedOpen(t, fsys, dataDir+"/journal", "ends at record 0", "has applied record")
}

// A journal of some other participant does not follow on this one's store.
func TestForeignRecords(t *testing.T) {
	fsys := filled(t)
	l, err := journal.Open(journal.Options{FS: fsys, Dir: dataDir + "/journal"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append([]byte{99, 1, 2}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	refusedOpen(t, fsys, dataDir+"/journal", "record")
}

// A rotten row ends the participant when it is met: it may not vote.
func TestRottenRowEnds(t *testing.T) {
	o := Options{Dir: t.TempDir(), Ballast: -1, SegmentSize: 2 << 20}
	open := func() *rig {
		p, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, p: p}
		t.Cleanup(r.close)
		return r
	}
	const name = "file-with-a-name"
	r := open()
	r.begin(1)
	r.write(2, name, "x")
	r.durable(r.next - 1)
	r.link.close()
	if err := r.p.Close(); err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(o.Dir, "meta.db")
	all, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for at := 0; ; n++ { // bbolt keeps a value right after its key
		i := bytes.Index(all[at:], []byte(name))
		if i < 0 {
			break
		}
		at += i + len(name)
		all[at+7] ^= 1
	}
	if n == 0 {
		t.Fatal("the row is not found")
	}
	if err := os.WriteFile(db, all, 0o600); err != nil {
		t.Fatal(err)
	}
	r2 := open()
	r2.seq = 50
	r2.greet(2)
	r2.send(configEntry(2))
	r2.send(&wire.Entry{Kind: wire.EntryOpen})
	if v, err := r2.link.vote(r2.prepare(3, nil, deleteOf(name))); err == nil {
		t.Fatalf("it votes %+v about a rotten row", v)
	}
	<-r2.p.Done()
	if err := r2.p.Err(); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("Err says %v, not which row", err)
	}
}

// The real thing: bbolt, the machine's own file system, export (S7).
func TestRealDiskAndExport(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: filepath.Join(dir, "data"), Ballast: 1 << 20, SegmentSize: 2 << 20}
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, p: p}
	defer r.close()
	r.begin(1)
	r.want(r.prepare(2, []byte("hello"), wire.Mutation{Kind: wire.MutMkdir, At: at("d"), Mode: 0o755}, writeOf("d/f", "hello")), wire.VoteYes)
	r.commit(2)
	s, err := r.stage(4, make([]byte, 300_000))
	if err != nil {
		t.Fatal(err)
	}
	r.want(r.prepare(5, nil, stagedOf("d/large", s)), wire.VoteYes)
	r.commit(5)
	doubt := r.prepare(6, []byte("x"), writeOf("undecided", "x"))
	r.want(doubt, wire.VoteYes)
	if err := Export(t.Context(), o, filepath.Join(dir, "out"), nil); wire.CodeOf(err) != wire.CodeBusy {
		t.Errorf("export of a running participant: %v", err)
	}
	r.link.close()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	files := 0
	if err := Export(t.Context(), o, filepath.Join(dir, "out"), func(n int, _ int64) { files = n }); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "out", "d", "f")); err != nil || string(got) != "hello" {
		t.Errorf("exported %q, %v", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "out", "d", "large")); err != nil || len(got) != 300_000 {
		t.Errorf("exported %d bytes, %v", len(got), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "out", "undecided")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is in doubt was exported: %v", err)
	}
	if files == 0 {
		t.Error("no progress was told")
	}
	// Exporting has changed nothing: the participant goes on.
	p2, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	r2 := &rig{t: t, p: p2}
	defer r2.close()
	if g := r2.greet(1); g.Position.Index != doubt {
		t.Errorf("after an export it goes on at %v, want %d", g.Position, doubt)
	}
	r2.want(doubt, wire.VoteYes)
	r2.commit(6)
	if got, err := r2.read("undecided"); err != nil || got != "x" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{}, {Dir: "x", CheckpointSegments: 1}, {Dir: "x", QuietForce: -1}, {Dir: "x", Heartbeat: -time.Second}} {
		if _, err := Open(o); wire.CodeOf(err) != wire.CodeInvalid {
			t.Errorf("%+v: %v", o, err)
		}
	}
	o := testOptions(forget.New(1))
	broken := errors.New("no kv today")
	o.OpenKV = func(disk.FS, string) (store.KV, error) { return nil, broken }
	if _, err := Open(o); err == nil || !strings.Contains(err.Error(), "no kv today") {
		t.Errorf("a kv that does not open: %v", err)
	}
}

// J3: an idle participant has closed its journal, so that even the loss of its
// last record is noticed, and not taken for a torn tail.
func TestIdleJournalIsSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := forget.New(1)
		r := newRig(t, fsys, nil)
		name := dataDir + "/journal/" + segments(t, fsys)[0]
		var block int64 // where the last records were written
		r.begin(1)
		fsys.SetHook(func(op forget.Op) error {
			if op.Kind == forget.Write && op.Name == name {
				block = op.Offset
			}
			return nil
		})
		r.write(2, "f", "x")
		r.durable(r.next - 1)
		fsys.SetHook(nil)
		if block == 0 {
			t.Fatal("the records' block is not known")
		}
		time.Sleep(time.Second) // idle
		fsys.WriteBack()
		after := fsys.Crash(rng(1))
		if err := after.FlipBit(name, (block+20)*8); err != nil {
			t.Fatal(err)
		}
		refusedOpen(t, after, name, fmt.Sprint("at byte ", block))
	})
}

func segments(t *testing.T, fsys *forget.FS) []string {
	entries, err := fsys.ReadDir(dataDir + "/journal")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if strings.Contains(e.Name, "00") {
			names = append(names, e.Name)
		}
	}
	return names
}

// A participant that is out of sync may hold what is old, or a mixture: its export says so (P11).
func TestExportOutOfSync(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: filepath.Join(dir, "data"), Ballast: 1 << 20, SegmentSize: 2 << 20}
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, p: p}
	defer r.close()
	r.begin(1)
	r.write(2, "f", "old")
	for i, want := range []bool{false, true} {
		if want {
			r.outside(2)
		}
		r.link.close()
		if err := r.p.Close(); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		o.Logger = slog.New(slog.NewTextHandler(&said, nil))
		if err := Export(t.Context(), o, filepath.Join(dir, fmt.Sprint("out", i)), nil); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(said.String(), "out of sync"); got != want {
			t.Errorf("out of sync: %t; the export says %q", want, said.String())
		}
		if r.p, err = Open(o); err != nil {
			t.Fatal(err)
		}
	}
}
