package coordinator

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/coordinator/commit"
	"tpcfs/coordinator/meter"
	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// Donate gives all that the node has as one row: its name.
func (l *nodeLink) Donate(ctx context.Context, req wire.Donate) (wire.Donated, []byte, error) {
	n := l.n
	n.mu.Lock()
	hook := n.onDonate
	n.mu.Unlock()
	if hook != nil && req.Ino != 0 {
		return hook(req)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.resync == "" && !n.down && n.pos.Index < req.Index && ctx.Err() == nil { // the gate
		moved := n.moved
		n.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
		case <-l.ctx.Done():
		}
		n.mu.Lock()
		if l.ctx.Err() != nil {
			break
		}
	}
	if l.ctx.Err() != nil || n.down {
		return wire.Donated{}, nil, errLost
	}
	if n.resync != "" || n.pos.Index < req.Index {
		return wire.Donated{}, nil, wire.NewError(wire.CodeProtocol, fmt.Sprintf("node %s at %v (%q) is asked for %d", n.name, n.pos, n.resync, req.Index))
	}
	return wire.Donated{Position: n.pos}, []byte(n.name), nil
}

// Verify has nothing to verify, but for the node's hook.
func (l *nodeLink) Verify(_ context.Context, req wire.Verify) (wire.Verified, error) {
	l.n.mu.Lock()
	hook := l.n.onVerify
	l.n.mu.Unlock()
	if hook == nil {
		return wire.Verified{}, nil
	}
	return hook(req)
}

// Compare has no rows, but for the node's hook.
func (l *nodeLink) Compare(_ context.Context, req wire.Compare) (wire.Compared, []byte, error) {
	n := l.n
	n.mu.Lock()
	hook, at := n.onCompare, n.pos
	n.mu.Unlock()
	if hook == nil {
		return wire.Compared{Position: at}, nil, nil
	}
	return hook(req)
}

// Repair is the node's hook, or there is nothing that is rotten.
func (l *nodeLink) Repair(_ context.Context, req wire.Repair, body []byte) (wire.Repaired, error) {
	n := l.n
	n.mu.Lock()
	hook := n.onRepair
	n.mu.Unlock()
	if hook == nil {
		return wire.Repaired{}, nil
	}
	return hook(req, body)
}

// Resync takes a copy of the donor's state at Rows, and keeps it at Finish.
func (l *nodeLink) Resync(ctx context.Context, req wire.Resync, body []byte) (wire.Resynced, error) {
	n := l.n
	n.mu.Lock()
	hook, marked := n.onResync, n.resync != ""
	n.mu.Unlock()
	if !marked {
		return wire.Resynced{}, wire.NewError(wire.CodeProtocol, "in sync")
	}
	if hook != nil {
		err := hook(req)
		if err == nil && ctx.Err() != nil {
			err = wire.NewError(wire.CodeCanceled, "the caller gave up")
		}
		if err != nil {
			return wire.Resynced{}, err
		}
	}
	switch req.Step {
	case wire.ResyncRows:
		d := n.donors(string(body))
		c := newNode("", 0)
		d.set(func() { c.files, c.ops, c.pos = maps.Clone(d.files), maps.Clone(d.ops), d.pos })
		n.set(func() { n.copied, n.lacks = c, true })
	case wire.ResyncVerify:
		if n.set(func() { marked = n.lacks }); marked {
			return wire.Resynced{Lacks: []wire.Lack{{Ino: 5, Object: 6, Blocks: []int64{7, 8}}}}, nil
		}
	case wire.ResyncBlocks:
		n.set(func() { n.lacks = false })
	case wire.ResyncFinish:
		n.mu.Lock()
		defer n.mu.Unlock()
		if l.ctx.Err() != nil {
			return wire.Resynced{}, errLost
		}
		if n.lacks || n.copied == nil || n.copied.pos != req.Join.Position {
			return wire.Resynced{}, wire.NewError(wire.CodeProtocol, fmt.Sprintf("finished at %v, copied %+v", req.Join.Position, n.copied))
		}
		n.files, n.ops, n.txs = n.copied.files, n.copied.ops, map[wire.ID]*nodeTx{}
		n.pos, n.w, n.config, n.svc, n.resync = req.Join.Position, req.Join.W, req.Join.Config, req.Join.ServiceTime, ""
	default:
	}
	return wire.Resynced{Full: true}, nil
}

// newEvicting is a cluster that goes on with two of three.
func newEvicting(t *testing.T) *cluster {
	k := newCluster(t)
	k.o.MinInSync, k.o.EvictAfter = 2, 300*time.Millisecond
	for _, n := range k.nodes {
		n.donors = func(name string) *node {
			for _, d := range k.nodes {
				if d.name == name {
					return d
				}
			}
			return nil
		}
	}
	return k
}

// state waits until a participant is in that state.
func (k *cluster) state(i int, want string) wire.Status {
	k.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		changed := k.c.changed.wait()
		st, err := k.c.Status(ctx, wire.StatusRequest{})
		if err != nil {
			k.t.Fatal(err)
		}
		if st.Members[i].State == want {
			return st
		}
		if time.Now().After(end) {
			k.t.Fatalf("participant %d is %q (%s), want %q", i, st.Members[i].State, st.Members[i].Error, want)
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (k *cluster) wantAlike() {
	k.t.Helper()
	files := func(n *node) (s map[string]string) {
		s = map[string]string{}
		n.set(func() {
			for name, f := range n.files {
				s[name] = string(f.data)
			}
		})
		return s
	}
	a := files(k.nodes[0])
	for _, n := range k.nodes[1:] {
		if b := files(n); !maps.Equal(a, b) {
			k.t.Errorf("node %s has %v, node %s %v", n.name, b, k.nodes[0].name, a)
		}
	}
}

// G8: a participant that is gone, or hangs, is evicted: changes pause and go
// on, none fails; back again it is in sync by itself, with all that it missed.
func TestEvictedAndBack(t *testing.T) {
	for name, away := range map[string]struct {
		begin, end func(n *node)
		most       time.Duration
	}{
		"killed": {(*node).kill, (*node).revive, 5 * time.Second},
		"hangs":  {func(n *node) { n.set(func() { n.hang = true }) }, func(n *node) { n.set(func() { n.hang = false }) }, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			k := newEvicting(t).serve()
			k.put("x", []byte("before"))
			away.begin(k.nodes[1])
			began := time.Now()
			k.put("x", []byte("meanwhile"))
			k.put("y", []byte("meanwhile"))
			if d := time.Since(began); d > away.most {
				t.Errorf("a change took %v", d)
			}
			st := k.state(1, stateEvicted)
			if len(st.Warnings) != 1 || st.Members[1].Since == 0 || st.Members[1].InSync {
				t.Errorf("%+v", st)
			}
			away.end(k.nodes[1])
			k.state(1, stateInSync)
			k.put("z", []byte("after"))
			k.c.Close()
			k.wantAlike()
		})
	}
}

// Whatever interrupts a participant's way back, it begins again and ends well,
// and changes go on.
func TestCatchingUpInterrupted(t *testing.T) {
	for step := wire.ResyncBegin; step <= wire.ResyncFinish; step++ {
		for _, who := range []string{"newcomer", "error", "donor"} {
			t.Run(fmt.Sprintf("%v/%s", step, who), func(t *testing.T) {
				k := newEvicting(t)
				k.serve()
				k.put("x", []byte("before"))
				k.nodes[1].kill()
				k.put("x", []byte("meanwhile"))
				k.state(1, stateEvicted)
				var once atomic.Bool
				k.nodes[1].set(func() {
					k.nodes[1].onResync = func(req wire.Resync) error {
						if req.Step != step || once.Swap(true) {
							return nil
						}
						switch who {
						case "newcomer":
							k.nodes[1].kill()
							k.nodes[1].revive()
							return errLost
						case "donor": // whichever it is: its links end, and it is back at once
							for _, i := range []int{0, 2} {
								k.nodes[i].kill()
								k.nodes[i].revive()
							}
							return nil
						}
						return wire.NewError(wire.CodeBusy, "not now")
					}
				})
				k.nodes[1].revive()
				k.state(1, stateInSync)
				if !once.Load() {
					t.Fatal("nothing was interrupted")
				}
				k.put("z", []byte("after"))
				k.c.Close()
				k.wantAlike()
			})
		}
	}
}

// An evicted participant serves no read and gets no contents.
func TestNoReadsFromOutside(t *testing.T) {
	k := newEvicting(t).serve()
	k.put("x", []byte("before"))
	k.nodes[1].kill()
	k.put("x", []byte("now"))
	hold := make(chan struct{})
	k.nodes[1].set(func() {
		k.nodes[1].onResync = func(wire.Resync) error { <-hold; return nil }
		k.nodes[1].onRead = func(wire.PositionedRead, wire.PieceWriter) (wire.ReadReply, bool, error) {
			t.Error("a read at a participant that is out of sync")
			return wire.ReadReply{}, true, nil
		}
	})
	k.nodes[1].revive()
	k.state(1, stateCatchingUp)
	for range 50 {
		if got := k.get("x"); !bytes.Equal(got, []byte("now")) {
			t.Fatalf("read %q", got)
		}
	}
	k.nodes[1].set(func() { k.nodes[1].onRead = nil })
	close(hold)
	k.state(1, stateInSync)
}

// A participant that is lost while contents are brought to all costs their
// sender a pause: the others have them.
func TestStagedWithoutWhoIsEvicted(t *testing.T) {
	k := newEvicting(t).serve()
	k.nodes[1].set(func() {
		k.nodes[1].onStage = func(pieces wire.PieceReader) (wire.StageReply, bool, error) {
			if _, err := pieces.ReadPiece(); err != nil {
				t.Error(err)
			}
			k.nodes[1].kill()
			return wire.StageReply{}, true, errLost
		}
	})
	data := bytes.Repeat([]byte("large "), 1<<20)
	k.putStaged("big", data)
	k.wantGet("big", data)
	k.state(1, stateEvicted)
	k.nodes[1].set(func() { k.nodes[1].onStage = nil })
	k.nodes[1].revive()
	k.state(1, stateInSync)
	k.c.Close()
	k.wantAlike()
}

// P8: a config that comes in one turn with other records is forced, and its
// end waited for, as any: else an eviction beside a W record is never in force.
func TestConfigBesideOtherRecords(t *testing.T) {
	k := newEvicting(t).serve()
	c := k.c
	waited := 0
	k.c.ask(ctx, func() {
		snap := c.m.Snapshot()
		w := &commit.Record{Kind: commit.RecW, W: snap.W, ServiceTime: snap.ServiceTime}
		config := &commit.Record{Kind: commit.RecConfig, Config: snap.Config, Root: snap.Root}
		before := len(c.ledger.waiting)
		c.journal([]*commit.Record{w, config, w, config, w})
		waited = len(c.ledger.waiting) - before
	})
	if waited != 2 {
		t.Errorf("%d configs are waited for, of 2", waited)
	}
}

// How fast a newcomer is, and how long it takes yet, are those of the last seconds.
func TestSpeed(t *testing.T) {
	at := time.Unix(1000, 0)
	var s speed
	c := wire.CatchUp{Files: 1, BytesTotal: 100 << 20}
	step := func(ms int, bytes int64) {
		at = at.Add(time.Duration(ms) * time.Millisecond)
		c.Bytes, c.Copied = c.Bytes+bytes, c.Copied+bytes/2
		s.note(at, &c)
	}
	step(0, 0)
	step(900, 10<<20)
	if c.Rate != 0 || c.LeftMS != 0 {
		t.Errorf("it is known too soon: %+v", c)
	}
	step(100, 0)
	if c.Rate != 5<<20 || c.LeftMS < 9000 || c.LeftMS > 9010 {
		t.Errorf("after a second: %+v", c)
	}
	for range 10 {
		step(1000, 1<<20)
	}
	if c.Rate < 1<<18 || c.Rate > 1<<20 || c.LeftMS < 70_000 || c.LeftMS > 90_000 {
		t.Errorf("after ten slow seconds: %+v", c)
	}
	s, c = speed{}, wire.CatchUp{Lacking: 3 << 20} // only what has changed
	step(0, 0)
	step(1000, 2<<20)
	if c.Rate != 1<<20 || c.LeftMS != 3000 {
		t.Errorf("of changes: %+v", c)
	}

	// One that hangs: no time is told, nor one that no number holds.
	s, c = speed{}, wire.CatchUp{Files: 1, BytesTotal: 1 << 60}
	step(0, 0)
	step(1000, 1<<20)
	for range 2000 {
		step(1000, 0)
		if c.LeftMS < 0 || c.LeftMS > mostLeft.Milliseconds() {
			t.Fatalf("%d ms are left", c.LeftMS)
		}
	}
	if c.Rate != 0 || c.LeftMS != 0 {
		t.Errorf("it stands still: %+v", c)
	}
}

// While clients make changes catching up rests for three times as long as it works; not
// while they make none, where a rate is given, or in the last round.
func TestCatchingUpYields(t *testing.T) {
	const worked = 20 * time.Millisecond
	for _, c := range []struct {
		name  string
		spoil func(r *rejoin)
		rests bool
	}{
		{"changes are made", func(*rejoin) {}, true},
		{"none is made", func(r *rejoin) { r.changes, _, _ = r.c.changes.Counts() }, false},
		{"a rate is given", func(r *rejoin) { r.c.o.ResyncRate = 1 }, false},
		{"the last round", func(r *rejoin) { r.limit = false }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &rejoin{c: &Coordinator{}, l: &link{ctx: t.Context()}, limit: true, stepped: time.Now().Add(-worked)}
			r.c.changes.Add(0, 0, meter.Done)
			c.spoil(r)
			if rest := r.rest(); rest > 0 != c.rests || c.rests && rest < yieldTimes*worked || rest > mostYield {
				t.Errorf("rests for %v", rest)
			}
		})
	}
}

// A newcomer whose last round takes longer than writes may wait for it is not let in,
// but where nothing is written without it: there it gets the time that it needs.
func TestLastRoundOfASlowDisk(t *testing.T) {
	for name, least := range map[string]int{"others go on": 1, "nothing is written without it": 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newEvicting(t)
				k.o.MinInSync, k.o.Tick = 1, 100*time.Millisecond // minutes
				k.serve()
				k.put("x", []byte("before"))
				for _, i := range []int{1, 2} {
					k.nodes[i].kill()
					k.put("x", []byte("meanwhile"))
					k.state(i, stateEvicted)
				}
				k.close()
				for _, n := range k.nodes {
					n.revive()
				}
				k.nodes[2].set(func() { k.nodes[2].down = true })
				k.nodes[1].set(func() {
					k.nodes[1].onResync = func(req wire.Resync) error {
						if req.Step == wire.ResyncFinish {
							time.Sleep(35 * time.Second)
						}
						return nil
					}
				})
				k.o.MinInSync = least
				k.serve()
				time.Sleep(5 * time.Minute)
				st, err := k.c.Status(ctx, wire.StatusRequest{})
				if in := st.Members[1].InSync; err != nil || in != (least == 2) {
					t.Errorf("in sync: %v; %+v, %v", in, st.Members[1], err)
				}
				if late := k.c.peers[1].tooLate(0); (late > 2) != (least == 1) {
					t.Errorf("%d of its last rounds took too long", late)
				}
				if !t.Failed() { // else it would wait for ever
					k.put("x", []byte("after"))
				}
				k.close()
			})
		})
	}
}

// churn is a newcomer that copies so many bytes a second, while clients write.
type churn struct {
	speed   float64      // bytes a second
	written atomic.Int64 // that clients have, of what it lacks at first
	had     int64        // ... when the last round was read
	size    int64        // of what is on its way
	all     []byte       // nobody looks into it
}

// lags has a participant lack so many bytes, and what clients write.
func (k *cluster) lags(i int, c *churn, lacks int64) {
	c.had = -lacks
	for _, n := range k.nodes {
		n.set(func() {
			n.onDonate = func(req wire.Donate) (wire.Donated, []byte, error) {
				now := c.written.Load()
				c.size, c.had = min(now-c.had, int64(len(c.all))), now
				return wire.Donated{Blocks: []wire.DonatedBlock{{Block: req.Blocks[0], Size: 1}}}, c.all[:c.size], nil
			}
		})
	}
	k.nodes[i].set(func() {
		k.nodes[i].onResync = func(req wire.Resync) error {
			switch req.Step {
			case wire.ResyncBlocks:
				time.Sleep(time.Duration(float64(c.size) / c.speed * float64(time.Second)))
			case wire.ResyncRound, wire.ResyncFinish:
				time.Sleep(4 * time.Millisecond)
			default:
			}
			return nil
		}
	})
}

// Clients wait for a newcomer's last round no longer than what has changed during one small
// round takes; one that never catches up with them does not keep them waiting (P11).
func TestLastRoundIsShort(t *testing.T) {
	const mb = 1_000_000
	all := make([]byte, 512*mb) // no page of it is ever there
	for name, c := range map[string]struct {
		speed, writes float64 // bytes a second
		in            bool    // it catches up
		most          time.Duration
	}{
		"it is much faster":          {400 * mb, 40 * mb, true, 200 * time.Millisecond},
		"nobody writes much":         {100 * mb, mb, true, 200 * time.Millisecond},
		"writes are faster":          {50 * mb, 100 * mb, false, 100 * time.Millisecond},
		"as fast as clients, nearly": {100 * mb, 90 * mb, false, 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newEvicting(t).serve()
				k.put("x", []byte("before"))
				k.nodes[1].kill()
				k.put("x", []byte("meanwhile"))
				k.state(1, stateEvicted)
				model := &churn{speed: c.speed, all: all}
				k.lags(1, model, int64(len(all)))
				k.nodes[1].revive()
				const every = 5 * time.Millisecond
				longest, writes := time.Duration(0), 0
				for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(every) {
					began := time.Now()
					k.put("x", []byte("now"))
					longest, writes = max(longest, time.Since(began)), writes+1
					model.written.Add(int64(c.writes * every.Seconds()))
				}
				st, err := k.c.Status(ctx, wire.StatusRequest{})
				if err != nil || st.Members[1].InSync != c.in {
					t.Errorf("in sync: %v, %v", st.Members[1].InSync, err)
				}
				t.Logf("of %d writes the longest took %v", writes, longest)
				if longest > c.most {
					t.Errorf("a write took %v", longest)
				}
				k.close()
			})
		})
	}
}

// Contents that come in the very turn in which a newcomer is let in are brought to it, too.
func TestStageBesideAnAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newEvicting(t).serve()
		k.put("x", []byte("before"))
		k.nodes[1].kill()
		k.put("x", []byte("meanwhile"))
		var admits atomic.Bool
		durable := make(chan struct{})
		k.fs.SetHook(func(op forget.Op) error {
			if op.Kind == forget.Sync && admits.Load() {
				<-durable
			}
			return nil
		})
		k.nodes[1].set(func() {
			k.nodes[1].onResync = func(req wire.Resync) error {
				admits.Store(req.Step == wire.ResyncFinish)
				return nil
			}
		})
		k.nodes[1].revive()
		for !admits.Load() {
			time.Sleep(time.Millisecond)
		}
		synctest.Wait() // its config is on its way to the disk

		busy, begun := make(chan struct{}), make(chan struct{})
		go k.c.post(func() { close(begun); <-busy })
		<-begun
		close(durable)
		synctest.Wait()
		done := make(chan error, 1)
		go func() {
			_, err := k.stage(randomBytes(100), 100)
			done <- err
		}()
		synctest.Wait()
		close(busy)
		if err := <-done; err != nil {
			t.Error(err)
		}
		k.state(1, stateInSync)
		k.close()
	})
}

// A participant whose connections end as soon as it is sent something, as one that ends at
// each write to its disk and is started again at once, is evicted: it is never away for long.
func TestEvictedWithShortLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newEvicting(t).serve()
		k.put("x", []byte("before"))
		n := k.nodes[1]
		n.set(func() {
			n.onHandle = func(e *wire.Entry) {
				if e.Kind == wire.EntryPrepare {
					n.kill()
					n.revive()
				}
			}
		})
		began := time.Now()
		r := k.request(10*time.Second, write("x", []byte("meanwhile")))
		if _, err := k.c.Transact(ctx, r, []byte("meanwhile")); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d > 2*k.c.o.EvictAfter {
			t.Errorf("a change took %v", d)
		}
		n.set(func() { n.onHandle = nil })
		k.state(1, stateInSync)
		k.put("x", []byte("after"))
		k.close()
		k.wantAlike()
	})
}
