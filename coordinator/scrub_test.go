package coordinator

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/coordinator/scrub"
	"tpcfs/journal/disk"
	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// scrubbed has everything scrubbed, and waits for the end.
func (k *cluster) scrubbed(req wire.ScrubRequest) wire.ScrubReport {
	k.t.Helper()
	req.Start = true
	r, err := k.c.Scrub(ctx, req)
	for err == nil && r.Running {
		time.Sleep(100 * time.Millisecond)
		r, err = k.c.Scrub(ctx, wire.ScrubRequest{})
	}
	if err != nil {
		k.t.Fatal(err)
	}
	return r
}

// verifies has a node's Verify find what is rotten there, in two steps.
func (k *cluster) verifies(f *copies) {
	for i, n := range k.nodes {
		n.set(func() {
			n.onVerify = func(req wire.Verify) (wire.Verified, error) {
				f.mu.Lock()
				defer f.mu.Unlock()
				v := wire.Verified{Files: 1, Bytes: 10, Total: 20}
				if len(req.Cursor) == 0 {
					v.Cursor = []byte("on")
					return v, nil
				}
				lack := wire.Lack{Ino: 5, Object: 6}
				for b := range f.rotten[i] {
					lack.Blocks = append(lack.Blocks, b)
				}
				if slices.Sort(lack.Blocks); len(lack.Blocks) > 0 {
					v.Rotten = append(v.Rotten, lack)
				}
				return v, nil
			}
		})
	}
}

// rowsOf has the nodes compare rows of one range: what a node has, by key.
func (k *cluster) rowsOf(rows ...map[string]string) {
	for i, n := range k.nodes {
		n.set(func() {
			n.onCompare = func(req wire.Compare) (c wire.Compared, body []byte, err error) {
				n.mu.Lock()
				c.Position = n.pos
				n.mu.Unlock()
				if len(req.From) == 0 && req.Choose {
					c.Next = []byte("i")
				}
				if string(req.From) == "i" { // the second range has none
					return c, nil, nil
				}
				h := sha256.New()
				for _, key := range []string{"e1", "e2", "e3", "s1", "s\x00\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x00"} {
					val, ok := rows[i][key]
					if !ok {
						continue
					}
					c.Rows++
					fmt.Fprint(h, key, val)
					one := sha256.Sum256([]byte(val))
					body = wire.AppendRow(body, wire.Row{Key: key, Val: append(one[:wire.RowDigest:wire.RowDigest], "row "+key...)})
				}
				if c.Digest = h.Sum(nil); !req.Rows {
					body = nil
				}
				return c, body, nil
			}
		})
	}
}

// A scrub finds what is rotten, has it repaired, and says what it could not repair;
// the last one of each participant is remembered over a restart, and status shows it.
func TestScrub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		k.put("x", []byte("1"))
		f := k.copies()
		k.verifies(f)
		if r := k.scrubbed(wire.ScrubRequest{}); r.Stopped || r.Ended == 0 || len(r.Members) != 3 || slices.ContainsFunc(r.Members, func(m wire.ScrubMember) bool {
			return m.Found != 0 || m.Problem != "" || m.Files != 2 || m.Bytes != 20 || m.OfBytes != 20 || m.Ended == 0
		}) {
			t.Fatalf("%+v", r)
		}
		f.rots(0, 1, 2, 3)
		f.rots(1, 3)
		f.rots(2, 3)
		r := k.scrubbed(wire.ScrubRequest{Names: []string{"a"}})
		if len(r.Members) != 1 || r.Members[0].Found != 3 || r.Members[0].Repaired != 2 || len(r.Members[0].Notes) == 0 {
			t.Fatalf("%+v", r)
		}
		if _, err := k.c.Scrub(ctx, wire.ScrubRequest{Start: true, Names: []string{"z"}}); wire.CodeOf(err) != wire.CodeNotExist || !strings.Contains(err.Error(), "a, b, c") {
			t.Errorf("a name that nobody has: %v", err)
		}
		k.close()
		k.serve()
		synctest.Wait()
		st, err := k.c.Status(ctx, wire.StatusRequest{})
		if err != nil || st.Members[0].Scrub == nil || st.Members[0].Scrub.Found != 3 || st.Members[1].Scrub == nil || st.Members[1].Scrub.Found != 0 || st.Members[1].Scrub.Files != 2 {
			t.Errorf("%+v, %v", st.Members, err)
		}
		if !slices.ContainsFunc(st.Warnings, func(w string) bool {
			return strings.Contains(w, "participant a") && strings.Contains(w, "could not repair")
		}) {
			t.Errorf("warnings %q", st.Warnings)
		}
		k.close()
	})
}

// One scrub at a time, at the rate that it is given; it can be stopped.
func TestScrubIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		k.verifies(k.copies())
		r, err := k.c.Scrub(ctx, wire.ScrubRequest{Start: true, Rate: 1}) // 20 s
		if err != nil || !r.Running {
			t.Fatal(r, err)
		}
		time.Sleep(5 * time.Second)
		if _, err := k.c.Scrub(ctx, wire.ScrubRequest{Start: true}); wire.CodeOf(err) != wire.CodeBusy {
			t.Errorf("a second one: %v", err)
		}
		if now, _ := k.c.Scrub(ctx, wire.ScrubRequest{Stop: r.ID + 1}); !now.Running || now.Members[0].Bytes != 10 {
			t.Errorf("%+v", now)
		}
		if _, err := k.c.Scrub(ctx, wire.ScrubRequest{Stop: r.ID}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if now, _ := k.c.Scrub(ctx, wire.ScrubRequest{}); now.Running || !now.Stopped || now.Members[0].Problem == "" {
			t.Errorf("%+v", now)
		}
		k.close()
	})
}

// A scheduled scrub comes when the last one is long enough ago, over restarts too. It goes on
// without who is away, says so, and looks at that one, alone, when it is back.
func TestScrubSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newEvicting(t)
		k.o.ScrubEvery, k.o.Tick = 10*time.Minute, 200*time.Millisecond // many minutes
		k.serve()
		k.verifies(k.copies())
		last := uint64(0)
		is := func(what, want string) {
			t.Helper()
			r, err := k.c.Scrub(ctx, wire.ScrubRequest{})
			got := ""
			for _, m := range r.Members {
				if got += m.Name; m.Problem != "" {
					got += "?"
				}
			}
			if last == r.ID {
				got = ""
			}
			if last = r.ID; err != nil || got != want || want != "" && (!r.Scheduled || r.Ended == 0) {
				t.Fatalf("%s: %q, want %q: %+v, %v", what, got, want, r, err)
			}
		}
		warned := func(want bool) {
			t.Helper()
			st, err := k.c.Status(ctx, wire.StatusRequest{})
			if err != nil || slices.ContainsFunc(st.Warnings, func(w string) bool { return strings.Contains(w, "has not looked at participant c") }) != want {
				t.Fatalf("warned of c: %v, want %v: %q, %v", !want, want, st.Warnings, err)
			}
		}
		time.Sleep(9 * time.Minute)
		is("before its time", "")
		k.close()
		k.serve()
		k.nodes[2].kill()
		time.Sleep(2 * time.Minute)
		is("while one is away", "abc?")
		warned(true)
		k.close()
		last = 0
		k.serve()
		time.Sleep(5 * time.Minute)
		is("while it is still away", "")
		warned(true)
		k.nodes[2].revive()
		time.Sleep(time.Minute)
		is("when it is back", "c")
		warned(false)
		k.close()
		last = 0
		k.serve()
		time.Sleep(2 * time.Minute)
		is("before its time again", "")
		last = k.scrubbed(wire.ScrubRequest{Names: []string{"b"}}).ID // that is none of all
		time.Sleep(3 * time.Minute)
		is("in its time again, although one was scrubbed meanwhile", "abc")
		k.close()
	})
}

// A coordinator that ends between its verdict that a participant's rows are wrong and
// the end of the comparison of everything: the next one has everything compared, if
// the participant is out of sync, and else looks for the verdict again.
func TestScrubVerdictOutlivesTheCoordinator(t *testing.T) {
	right, wrong := map[string]string{"e1": "x"}, map[string]string{"e1": "z"}
	for name, evicted := range map[string]bool{"evicted": true, "not evicted": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newEvicting(t).serve()
				k.put("x", []byte("1"))
				k.rowsOf(right, wrong, right)
				var fulls atomic.Int32
				k.nodes[1].set(func() {
					k.nodes[1].onResync = func(req wire.Resync) error {
						if req.Step != wire.ResyncBegin {
							return nil
						}
						if !req.Full {
							t.Error("it does not compare everything")
						}
						if fulls.Add(1) == 1 {
							k.nodes[1].kill() // nothing comes of the first attempt
						}
						return nil
					}
				})
				if evicted {
					if _, err := k.c.Scrub(ctx, wire.ScrubRequest{Start: true}); err != nil {
						t.Fatal(err)
					}
					for end := time.Now().Add(time.Minute); fulls.Load() == 0; time.Sleep(time.Millisecond) {
						if time.Now().After(end) {
							t.Fatal("nobody has everything compared")
						}
					}
				} else if err := k.c.renews("b", true); err != nil { // and it dies here
					t.Fatal(err)
				}
				k.close()
				fulls.Store(1)
				k.nodes[1].revive()
				k.serve()
				if !evicted {
					time.Sleep(2 * scrubPauses)
				}
				k.state(1, stateInSync)
				synctest.Wait()
				if n := fulls.Load(); n < 2 {
					t.Errorf("it has compared everything %d times", n-1)
				}
				k.close()
				k.serve()
				if k.state(1, stateInSync); k.c.comparesAll(1) {
					t.Error("what is done is remembered")
				}
				k.close()
				k.wantAlike()
			})
		})
	}
}

// A coordinator whose power fails when it has let one in that had to get everything anew, before
// that it has is durable: the next one finds the verdict, looks again, and finds all alike. Nobody is
// evicted for it.
func TestScrubVerdictOutlivesTheAdmission(t *testing.T) {
	for keeps := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			k := newEvicting(t).serve()
			k.put("x", []byte("1"))
			same := map[string]string{"e1": "x"}
			k.rowsOf(same, same, same)
			synctest.Wait() // what is due at the start has been looked for: it would look for this verdict again
			k.nodes[1].kill()
			k.state(1, stateEvicted)
			if err := k.c.renews("b", true); err != nil {
				t.Fatal(err)
			}
			var struck, again atomic.Bool
			k.fs.SetHook(func(op forget.Op) error {
				if op.Name != k.o.Dir+"/"+scrubName+".tmp" || struck.Swap(true) {
					return nil
				}
				if keeps%2 == 0 {
					time.Sleep(time.Second) // the config that lets b in is durable everywhere by then
				}
				k.fs.CrashAt(1)
				return forget.ErrCrashed
			})
			k.nodes[1].revive()
			<-k.c.Done()
			if !struck.Load() {
				t.Fatalf("it has ended before: %v", k.c.Err())
			}
			k.c.Close()
			k.fs = k.fs.Crash(rand.New(rand.NewPCG(keeps, 1)))
			k.o.FS = k.fs
			for i, n := range k.nodes {
				n.kill()
				n.set(func() {
					n.onResync = func(req wire.Resync) error {
						again.Store(again.Load() || i != 1 || !req.Full && req.Step == wire.ResyncBegin)
						return nil
					}
				})
			}
			if k.open(); !k.c.comparesAll(1) {
				t.Fatal("the verdict is gone, and nobody knows whether b was let in")
			}
			for _, n := range k.nodes {
				n.revive()
			}
			time.Sleep(3 * scrubPauses)
			for i := range 3 {
				k.state(i, stateInSync)
			}
			if k.c.comparesAll(1) || k.c.doubt(1) > 0 || again.Load() {
				t.Errorf("a verdict: %v; doubt: %d; somebody else catches up, or not with everything: %v", k.c.comparesAll(1), k.c.doubt(1), again.Load())
			}
			k.close()
			k.wantAlike()
		})
	}
}

// A comparison without a majority ends no verdict, nor does a restart what it has found: who
// stands in it, or under a verdict, gives nothing to others and is not read while there is
// somebody else. One that finds everything alike ends both.
func TestScrubVerdictStays(t *testing.T) {
	right, wrong := map[string]string{"e1": "x"}, map[string]string{"e1": "z"}
	synctest.Test(t, func(t *testing.T) {
		k := newEvicting(t).serve()
		k.put("x", []byte("1"))
		k.rowsOf(right, wrong, right)
		if err := k.c.renews("b", true); err != nil {
			t.Fatal(err)
		}
		k.nodes[2].kill()
		k.state(2, stateEvicted)
		picks := func(when, tried, want string) {
			t.Helper()
			for range 100 {
				name := ""
				if l := k.c.pick([]bool{strings.Contains(tried, "a"), strings.Contains(tried, "b"), strings.Contains(tried, "c")}); l != nil {
					name = l.name
				}
				if name != want {
					t.Fatalf("%s it takes %q, not %s", when, name, want)
				}
			}
		}
		picks("before two are compared", "", "a")
		notes := ""
		for _, m := range k.scrubbed(wire.ScrubRequest{}).Members {
			notes += strings.Join(m.Notes, "; ")
		}
		if !k.c.comparesAll(1) || !strings.Contains(notes, "row e1 differs: a | b") {
			t.Errorf("the verdict on b is over, and the scrub says %q", notes)
		}
		picks("when two differ", "", "a")
		picks("when one does not answer", "a", "b")
		k.close()
		k.serve()
		k.state(0, stateInSync)
		k.state(1, stateInSync)
		picks("after a restart", "", "a")
		if d := k.c.doubt(0); d != 1 {
			t.Errorf("after a restart a is doubted by %d", d)
		}
		k.rowsOf(right, right, right)
		k.nodes[2].revive()
		k.state(2, stateInSync)
		k.scrubbed(wire.ScrubRequest{})
		if k.c.comparesAll(1) || k.c.doubt(0)+k.c.doubt(1)+k.c.doubt(2) > 0 {
			t.Error("when all are alike there is still a verdict or doubt")
		}
		k.close()
	})
}

// Who was found wrong, and cannot get everything anew, gives nothing to others: the one that is
// started on an empty directory, since two were wrong, gets what is right. So it is after a restart,
// and until a scrub finds all alike.
func TestScrubOfTwoThatAreWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newEvicting(t).serve()
		k.put("x", []byte("1"))
		right := map[string]string{"e1": "x", "e2": "y"}
		k.rowsOf(map[string]string{"e1": "z", "e2": "y"}, map[string]string{"e1": "x", "e2": "z"}, right)
		k.scrubbed(wire.ScrubRequest{})
		for range 2 {
			for range 100 {
				if l := k.c.pick(nil); l == nil || l.name != "c" {
					t.Fatal("it takes one that is wrong")
				}
			}
			k.close()
			k.serve()
			for i := range 3 {
				k.state(i, stateInSync)
			}
		}
		k.rowsOf(right, right, right)
		k.scrubbed(wire.ScrubRequest{})
		if k.c.doubt(0)+k.c.doubt(1)+k.c.doubt(2) > 0 {
			t.Error("when all are alike there is still doubt")
		}
		k.close()
	})
}

// SCRUB of before it had a checksum is read. Where it cannot be read all are scrubbed at
// once, also where nothing is scheduled, after one more restart if that comes first, and who
// catches up meanwhile compares everything.
func TestScrubOfWhatCannotBeRead(t *testing.T) {
	right, wrong := map[string]string{"e1": "x"}, map[string]string{"e1": "z"}
	for name, c := range map[string]struct {
		change   func(b []byte) []byte
		verdict  bool
		restarts bool
	}{
		"old":                 {change: func(b []byte) []byte { return b[9:] }, verdict: true},
		"old and garbled":     {change: func(b []byte) []byte { return b[9 : len(b)-1] }},
		"garbled":             {change: func(b []byte) []byte { b[len(b)/2] ^= 1; return b }},
		"empty":               {change: func([]byte) []byte { return nil }},
		"garbled, then again": {change: func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, restarts: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newEvicting(t).serve()
				k.put("x", []byte("1"))
				synctest.Wait() // what is due at the start has been looked for: it would look for this verdict again
				if err := k.c.renews("b", true); err != nil {
					t.Fatal(err)
				}
				k.close()
				file := k.o.Dir + "/" + scrubName
				b, err := disk.ReadWhole(k.fs, file, scrub.MaxBook)
				if err == nil {
					err = disk.WriteWhole(k.fs, file, file+".tmp", c.change(b))
				}
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range k.nodes { // nothing is scrubbed before the look
					n.kill()
				}
				k.open()
				if k.c.comparesAll(1) != c.verdict || k.c.scrub.lostVerdicts() == c.verdict {
					t.Fatalf("a verdict: %v; lost: %v", k.c.comparesAll(1), k.c.scrub.lostVerdicts())
				}
				if c.restarts {
					if err := k.c.keepScrub(); err != nil { // for another reason
						t.Fatal(err)
					}
					k.close()
					k.open()
				}
				k.rowsOf(right, wrong, right)
				var fulls atomic.Int32
				k.nodes[1].set(func() {
					k.nodes[1].onResync = func(req wire.Resync) error {
						if req.Step == wire.ResyncBegin && req.Full {
							fulls.Add(1)
							k.rowsOf(right, right, right)
						}
						return nil
					}
				})
				k.close()
				for _, n := range k.nodes {
					n.revive()
				}
				k.serve()
				time.Sleep(3 * scrubPauses)
				k.state(1, stateInSync)
				if fulls.Load() == 0 || k.c.comparesAll(1) || k.c.scrub.lostVerdicts() {
					t.Errorf("b has compared everything %d times; a verdict: %v; lost: %v", fulls.Load(), k.c.comparesAll(1), k.c.scrub.lostVerdicts())
				}
				k.close()
			})
		})
	}
}

// A verdict that comes while a participant catches up, and does not compare everything,
// stays: it is looked for again.
func TestScrubVerdictDuringACatchUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newEvicting(t).serve()
		k.put("x", []byte("1"))
		k.nodes[1].kill()
		k.state(1, stateEvicted)
		var full, wholly atomic.Bool
		k.nodes[1].set(func() {
			k.nodes[1].onResync = func(req wire.Resync) error {
				switch req.Step {
				case wire.ResyncBegin:
					full.Store(req.Full)
				case wire.ResyncFinish:
					wholly.Store(full.Load())
					return k.c.renews("b", true)
				}
				return nil
			}
		})
		k.nodes[1].revive()
		k.state(1, stateInSync)
		synctest.Wait()
		if wholly.Load() || !k.c.comparesAll(1) {
			t.Errorf("it has compared everything: %v; the verdict is there: %v", wholly.Load(), k.c.comparesAll(1))
		}
		k.close()
	})
}

// What a participant says of its damaged rows until it ends is one finding; one that
// could not be asked for a moment was compared all the same.
func TestScrubAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newEvicting(t).serve()
		k.put("x", []byte("1"))
		same := map[string]string{"e1": "x"}
		k.rowsOf(same, same, same)
		says := func(i int, err error, times int) {
			k.nodes[i].set(func() {
				answers := k.nodes[i].onCompare
				k.nodes[i].onCompare = func(req wire.Compare) (wire.Compared, []byte, error) {
					k.nodes[i].mu.Lock()
					times--
					now := times >= 0
					k.nodes[i].mu.Unlock()
					if now {
						return wire.Compared{}, nil, err
					}
					return answers(req)
				}
			})
		}
		says(0, errLost, 3)
		says(2, wire.NewError(wire.CodeCorrupt, "its metadata are damaged"), 3)
		r := k.scrubbed(wire.ScrubRequest{})
		if a, c := r.Members[0], r.Members[2]; a.Problem != "" || a.Found != 0 || c.Found != 1 || len(c.Notes) != 1 || c.Problem == "" {
			t.Errorf("%+v", r)
		}
		k.close()
	})
}

// Rows that differ are told, with whose; who is not with the majority gets everything
// anew, if the others can go on without it. Rows of checksums of what is rotten count
// for nothing: they say that it is.
func TestScrubOfRowsThatDiffer(t *testing.T) {
	same := map[string]string{"e1": "x", "e2": "y"}
	for name, c := range map[string]struct {
		evicts          bool
		rows            [3]map[string]string
		found, repaired [3]int64
		says            string
	}{
		"same":                   {true, [3]map[string]string{same, same, same}, [3]int64{}, [3]int64{}, ""},
		"one of three":           {true, [3]map[string]string{same, {"e1": "x", "e2": "z"}, same}, [3]int64{0, 1, 0}, [3]int64{0, 1, 0}, "row e2 differs: a+c | b"},
		"two rows, one too many": {true, [3]map[string]string{same, same, {"e1": "x", "e3": "z"}}, [3]int64{0, 0, 2}, [3]int64{0, 0, 2}, "row e3 differs: a+b | c"},
		"all are needed":         {false, [3]map[string]string{same, {"e1": "x"}, same}, [3]int64{0, 1, 0}, [3]int64{}, "too few participants"},
		"no majority":            {true, [3]map[string]string{{"e1": "1"}, {"e1": "2"}, {"e1": "3"}}, [3]int64{1, 1, 1}, [3]int64{}, "row e1 differs: a | b | c"},
		// Whoever gets everything anew may get it from any of the others.
		"two are wrong": {true, [3]map[string]string{{"e1": "z", "e2": "y"}, {"e1": "x", "e2": "z"}, same}, [3]int64{1, 1, 0}, [3]int64{}, "another one is wrong as well"},
		// Blocks that two know as bad, and the third has.
		"checksums of most":         {true, [3]map[string]string{{"s1": "sum"}, {"s1": "bad"}, {"s1": "bad"}}, [3]int64{1, 0, 0}, [3]int64{}, "row s1 differs: a | b+c"},
		"checksums and another row": {true, [3]map[string]string{{"e1": "x", "s1": "sum"}, {"e1": "x", "s1": "bad"}, {"e1": "z", "s1": "bad"}}, [3]int64{1, 0, 1}, [3]int64{}, "checksums differ too"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newCluster(t)
				if c.evicts {
					k = newEvicting(t)
				}
				k.serve()
				k.put("x", []byte("1"))
				k.rowsOf(c.rows[:]...)
				r := k.scrubbed(wire.ScrubRequest{})
				notes := ""
				for i, m := range r.Members {
					if notes += strings.Join(m.Notes, "; "); m.Found != c.found[i] || m.Repaired != c.repaired[i] || m.Problem != "" {
						t.Errorf("%+v", m)
					}
				}
				if !strings.Contains(notes, c.says) || c.says == "" && notes != "" {
					t.Errorf("it says %q, not %q", notes, c.says)
				}
				fulls := 0
				for i, m := range r.Members {
					if m.Repaired > 0 {
						fulls++
						k.state(i, stateInSync)
					}
				}
				k.close()
				k.wantAlike()
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // a rotten block that nobody has
		k := newEvicting(t).serve()
		f := k.copies()
		k.verifies(f)
		for i := range 3 {
			f.rots(i, 4)
		}
		sums := "s\x00\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x00"
		k.rowsOf(map[string]string{sums: "known"}, map[string]string{sums: "unknown"}, map[string]string{sums: "known"})
		for _, m := range k.scrubbed(wire.ScrubRequest{}).Members {
			if m.Found != 1 || m.Repaired != 0 {
				t.Errorf("%+v", m)
			}
		}
		// Who is wrong in another row does not get that from those who have lost blocks.
		k.rowsOf(map[string]string{"e1": "x", sums: "known"}, map[string]string{"e1": "x", sums: "unknown"}, map[string]string{"e1": "z", sums: "known"})
		if m := k.scrubbed(wire.ScrubRequest{}).Members[2]; m.Found != 2 || m.Repaired != 0 || !strings.Contains(strings.Join(m.Notes, "; "), "checksums differ too") {
			t.Errorf("%+v", m)
		}
		k.close()
	})
}
