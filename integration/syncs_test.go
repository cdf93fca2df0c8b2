package integration

import (
	"strings"
	"sync/atomic"
	"testing"

	"tpcfs/integration/harness"
	"tpcfs/journal/disk"
	"tpcfs/wire/client"
)

// countingFS counts the syncs of a file system's journal files.
type countingFS struct {
	disk.FS
	syncs *atomic.Int64
}

func (f countingFS) Create(name string) (disk.File, error) { return f.count(f.FS.Create(name))(name) }
func (f countingFS) Open(name string) (disk.File, error)   { return f.count(f.FS.Open(name))(name) }

func (f countingFS) count(file disk.File, err error) func(name string) (disk.File, error) {
	return func(name string) (disk.File, error) {
		if err != nil || !strings.Contains(name, "/journal/") {
			return file, err
		}
		return countingFile{file, f.syncs}, nil
	}
}

type countingFile struct {
	disk.File
	syncs *atomic.Int64
}

func (f countingFile) Sync() error {
	f.syncs.Add(1)
	return f.File.Sync()
}

// A commit costs its client one forced write at each participant, all at once,
// and none at the coordinator.
func TestOneForcedWriteInSeriesForACommit(t *testing.T) {
	ctx := testContext(t)
	counts := map[string]*atomic.Int64{harness.Coordinator: {}, "a": {}, "b": {}, "c": {}}
	p, err := harness.OpenInProcess(ctx, tempDir(t), 3, func(name string) disk.FS { return countingFS{disk.New(), counts[name]} })
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := p.Client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	mustWrite(t, ctx, c, "warm", nil)
	before := map[string]int64{}
	for name, n := range counts {
		before[name] = n.Load()
	}
	const commits = 200
	for range commits {
		if _, err := c.WriteFile(ctx, "f", client.Bytes(make([]byte, 4096)), client.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, n := range counts {
		got := n.Load() - before[name]
		t.Logf("%s: %d syncs for %d commits", name, got, commits)
		switch {
		case name == harness.Coordinator && got > commits/2:
			t.Errorf("the coordinator's journal was synced %d times for %d commits: decisions are lazy", got, commits)
		case name != harness.Coordinator && (got < commits || got > commits*5/4):
			t.Errorf("participant %s: %d syncs for %d commits, want one each", name, got, commits)
		}
	}
}
