package participant

import (
	"context"
	"testing"
	"testing/synctest"

	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// One at a time works on the machine, others' calls wait for it, and a call that was
// given up while it waited is not done later: its caller has gone on.
func TestOneOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, forget.New(1), nil)
		synctest.Wait()
		for range 3 {
			r.p.inbox.put(0, func() {})
		}
		r.p.work(1, dueAll)
		r.p.bring(dueBeat, nil) // a turn without calls: the memory of the last one's is in use all the same
		entered, leave := make(chan struct{}), make(chan struct{})
		var order []string
		go func() {
			err := r.p.do(context.Background(), func() {
				close(entered)
				<-leave
				order = append(order, "first")
			})
			if err != nil {
				t.Error(err)
			}
		}()
		<-entered
		ctx, cancel := context.WithCancel(context.Background())
		given := make(chan error)
		go func() { given <- r.p.do(ctx, func() { order = append(order, "given up") }) }()
		go func() {
			if err := r.p.do(context.Background(), func() { order = append(order, "second") }); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		cancel()
		if err := <-given; wire.CodeOf(err) != wire.CodeCanceled {
			t.Errorf("who gives up hears %v", err)
		}
		close(leave)
		synctest.Wait()
		if err := r.p.do(context.Background(), func() { order = append(order, "last") }); err != nil {
			t.Error(err)
		}
		if len(order) != 3 || order[0] != "first" || order[1] != "second" || order[2] != "last" {
			t.Errorf("done were %q", order)
		}
		r.close()
		if err := r.p.do(context.Background(), func() { t.Error("done after the end") }); wire.CodeOf(err) != wire.CodeUnavailable {
			t.Errorf("after the end: %v", err)
		}
	})
}

// The journal's goroutine lets votes out, and leaves the rest to others: it has the
// next sync to do.
func TestJournalDoesOnlyItsOwn(t *testing.T) {
	var b inbox
	if owns, ok := b.put(dueSynced|dueBeat, func() {}); !owns || !ok {
		t.Fatalf("who brings something to nobody owns: %v, %v", owns, ok)
	}
	if owns, _ := b.put(dueEntries, nil); owns {
		t.Error("two own")
	}
	if what, calls := b.take(dueSynced, nil); what != dueSynced || calls != nil {
		t.Errorf("of a sync alone it takes %b and %d calls", what, len(calls))
	}
	if !b.keeps() {
		t.Fatal("the rest belongs to nobody")
	}
	if what, calls := b.take(dueAll, nil); what != dueBeat|dueEntries || len(calls) != 1 {
		t.Errorf("of the rest it takes %b and %d calls", what, len(calls))
	}
	if b.keeps() {
		t.Error("somebody owns nothing")
	}
	b.close()
	if owns, ok := b.put(dueBeat, nil); owns || ok {
		t.Errorf("after the end: %v, %v", owns, ok)
	}
}
