package participant

import (
	"context"
	"fmt"
	"testing"

	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// A participant ends at any operation of a stage, its process alone or the
// machine. When it is back in the same epoch and is asked to drop the stage,
// nothing of it is left, whatever was written; the next stage is whole.
func TestHalfAStageIsDropped(t *testing.T) {
	for at, crashed := 1, true; crashed; at++ {
		for _, power := range []bool{false, true} {
			fsys := forget.New(uint64(at))
			r := newRig(t, fsys, nil)
			r.begin(1)
			r.durable(r.next - 1)
			fsys.CrashAt(fsys.Ops() + at)
			half, err := r.stage(2, make([]byte, 300_000))
			crashed = err != nil
			fsys.CrashAt(1)
			r.close()
			if power {
				fsys = fsys.Crash(rng(uint64(at)))
			} else {
				fsys.Restart()
			}
			r = newRig(t, fsys, nil)
			r.greet(1)
			if err := r.p.Unstage(context.Background(), r.epoch, []wire.ID{wire.MakeID(1, 2)}); err != nil {
				t.Fatalf("operation %d: %v", at, err)
			}
			if left := objectFiles(t, fsys); len(left) != 0 {
				t.Fatalf("operation %d, power loss %t: %v is left", at, power, left)
			}
			if !crashed {
				r.want(r.prepare(3, nil, stagedOf("f", half)), wire.VoteNo)
			}
			reply, err := r.stage(4, []byte(fmt.Sprintf("%0*d", 200_000, at)))
			if err != nil {
				t.Fatalf("operation %d: %v", at, err)
			}
			r.want(r.prepare(5, nil, stagedOf("f", reply)), wire.VoteYes)
			if err := r.p.Unstage(context.Background(), r.epoch, []wire.ID{reply.ID}); err != nil {
				t.Fatal(err)
			}
			r.commit(5)
			r.wantFile("f", fmt.Sprintf("%0*d", 200_000, at))
			r.close()
		}
	}
}

// A stage that is still being written when it is to be dropped ends in an error,
// also when its last bytes are already there.
func TestAStageIsDroppedWhileItIsWritten(t *testing.T) {
	fsys := forget.New(1)
	r := newRig(t, fsys, nil)
	r.begin(1)
	dropped := make(chan error, 1)
	fsys.SetHook(func(op forget.Op) error {
		if op.Kind == forget.Sync && isObject(op.Name) {
			dropped <- r.p.Unstage(context.Background(), r.epoch, []wire.ID{wire.MakeID(1, 2)})
		}
		return nil
	})
	if _, err := r.stage(2, make([]byte, 300_000)); wire.CodeOf(err) != wire.CodeCanceled {
		t.Errorf("the stage ends in %v", err)
	}
	if err := <-dropped; err != nil {
		t.Error(err)
	}
	if left := objectFiles(t, fsys); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
}

func isObject(name string) bool {
	var dir, id uint64
	n, err := fmt.Sscanf(name, dataDir+"/objects/%x/%x", &dir, &id)
	return n == 2 && err == nil
}

// objectFiles are the files in objects/.
func objectFiles(t *testing.T, fsys *forget.FS) (names []string) {
	t.Helper()
	dirs, err := fsys.ReadDir(dataDir + "/objects")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		files, err := fsys.ReadDir(dataDir + "/objects/" + d.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			names = append(names, d.Name+"/"+f.Name)
		}
	}
	return names
}
