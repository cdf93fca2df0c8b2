package coordinator

import (
	"errors"
	"syscall"
	"testing"
	"testing/synctest"

	"tpcfs/coordinator/commit"
	"tpcfs/journal"
	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// P13: segments are cut when the SNAPSHOT that stands for them is durable, and
// not when it is appended: on a full disk that may take long, and what a crash
// leaves meanwhile has to open.
func TestCutWaitsForTheSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const dir, size = "/journal", 8 << 10
		fsys := forget.New(1)
		led, state, err := openLedger(fsys, dir, size)
		if err != nil {
			t.Fatal(err)
		}
		state.Epoch = wire.Epoch{Number: 7}
		if err := led.Reign(state.Epoch); err != nil {
			t.Fatal(err)
		}
		posted := make(chan func(), 1000)
		led.run(func(f func()) { posted <- f }, func(error) {})
		defer led.close() //nolint:errcheck // what matters is looked at below
		// own does what the owner does in its turns.
		own := func() {
			synctest.Wait()
			for len(posted) > 0 {
				(<-posted)()
				synctest.Wait()
			}
		}
		opens := func(when string) {
			t.Helper()
			again, found, err := openLedger(fsys.Image(1), dir, size)
			if err != nil || found.Epoch != state.Epoch {
				t.Fatalf("%s: epoch %v, %v", when, found.Epoch, err)
			}
			if err := again.close(); err != nil {
				t.Error(err)
			}
		}

		fsys.SetHook(func(op forget.Op) error { // no segment is added
			if op.Kind == forget.Create {
				return syscall.ENOSPC
			}
			return nil
		})
		var full *journal.FullError
		for n := wire.ID(1); !errors.As(err, &full); n++ {
			r := &commit.Record{Kind: commit.RecDecision, Decision: &commit.Decision{Tx: n, Commit: true}}
			if err = led.append([]*commit.Record{r}); err != nil || n > 100 {
				t.Fatalf("record %d: %v", n, err)
			}
			err = led.w.Sync(ctx)
			own()
		}
		if n := led.w.Stats().Segments; n < 2 {
			t.Fatalf("%d segments", n)
		}
		if err := led.tick(state.Snapshot); err != nil {
			t.Fatal(err)
		}
		own()
		opens("before the SNAPSHOT is durable")
		fsys.SetHook(nil)
		led.w.Force()
		own()
		if first := led.w.Stats().First; first != led.snapshot {
			t.Errorf("the journal begins with record %d, not with the SNAPSHOT, %d", first, led.snapshot)
		}
		opens("after the cut")
	})
}
