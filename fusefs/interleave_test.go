package fusefs

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"tpcfs/wire"
)

// TestChangedAfterUnknownOutcome: appended bytes that are changed when it is not
// known whether they are committed are what they were changed to, once.
func TestChangedAfterUnknownOutcome(t *testing.T) {
	for _, others := range []bool{false, true} {
		s := newFake()
		s.put("f", "base,")
		dir, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
		f, g := openFile(t, dir+"/f", os.O_RDWR|os.O_APPEND), openFile(t, dir+"/f", os.O_RDWR)
		s.set(func(s *fake) {
			s.after = func([]wire.Mutation, wire.Outcome) error { return once(s, wire.CodeUnknownOutcome) }
		})
		f.must("write once", "ok")
		f.must("fsync", eio)
		wantFile(t, s, "f", "base,once")
		want := "base,OnCe"
		g.must("pwrite 5 O", "ok")
		if others {
			s.append(t, "f", ",theirs")
			want += ",theirs"
		}
		g.must("pwrite 7 C", "ok")
		f.must("fsync", "ok")
		wantFile(t, s, "f", want)
	}
}

// append is another client's.
func (f *fake) append(t *testing.T, name, data string) {
	t.Helper()
	m := wire.Mutation{Kind: wire.MutWriteFile, At: wire.At{Dir: wire.RootIno, Path: name}, Write: wire.WriteAppend, Extents: []wire.Extent{{Size: int64(len(data))}}}
	if _, err := f.Transact(context.Background(), []wire.Mutation{m}, []Content{textContent(data)}); err != nil {
		t.Error(err)
	}
}

// TestTwoUnknownOutcomes: of two tries whose answers are lost the first happens, late.
// Nothing is appended twice.
func TestTwoUnknownOutcomes(t *testing.T) {
	s := newFake()
	s.put("f", "base,")
	dir, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_APPEND)
	var late []wire.Mutation
	s.set(func(s *fake) {
		s.before = func(m []wire.Mutation) error {
			late = m
			return once(s, wire.CodeUnknownOutcome)
		}
	})
	f.must("write one,", "ok")
	f.must("fsync", eio)
	f.must("write two,", "ok")
	s.set(func(s *fake) {
		s.before = func([]wire.Mutation) error {
			s.before = nil
			s.mu.Unlock()
			defer s.mu.Lock()
			if _, err := s.Transact(context.Background(), late, []Content{textContent("one,"), nil}); err != nil {
				t.Error(err)
			}
			return fakeErr(wire.CodeUnknownOutcome)
		}
	})
	f.must("fsync", eio)
	wantFile(t, s, "f", "base,one,")
	f.must("fsync", "ok")
	wantFile(t, s, "f", "base,one,two,")
}

// TestCutThatFails changes nothing.
func TestCutThatFails(t *testing.T) {
	c := newContents(testDepot(t))
	if _, err := c.WriteAt([]byte(strings.Repeat("x", 4*pageSize)), 0); err != nil || !c.Spilled() {
		t.Fatal(err)
	}
	shared := c.Snapshot()
	good := c.spill.f
	full, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(good.Fd()))) // takes no writes
	if err != nil {
		t.Fatal(err)
	}
	c.spill.f = full
	if err := c.Truncate(pageSize / 2); err == nil {
		t.Fatal("a cut of a page that a snapshot shares needs another")
	}
	got := make([]byte, 4*pageSize)
	if k, err := c.ReadAt(got, 0); k != len(got) || strings.Count(string(got), "x") != len(got) {
		t.Errorf("after a cut that failed %d bytes are there, %d of them right (%v)", k, strings.Count(string(got), "x"), err)
	}
	shared.Release()
	c.Close()
	_ = good.Close()
}
