package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/wire"
)

// Operators change who takes part while clients work (P14): no operation fails, the
// history is linearizable, all that take part at the end hold the same.

// members runs tpcfs members, or resolve, at the cluster's coordinator.
func (l *leaving) members(args ...string) harness.Result {
	l.Helper()
	return run(l.T, l.ctx, nil, "", append(args, "--coordinator", l.c.Addr(harness.Coordinator), "--wait", "60s")...)
}

func (l *leaving) changes(word string, args ...string) {
	l.Helper()
	if r := l.members(args...); r.Code != 0 || !strings.Contains(r.Out, word) {
		l.Fatalf("%v: exit %d, %q, %q", args, r.Code, r.Out, r.Err)
	}
}

// newcomer starts a participant on an empty disk.
func (l *leaving) newcomer(name string) {
	l.Helper()
	if err := os.RemoveAll(l.c.DataDir(name)); err != nil {
		l.Fatal(err)
	}
	if err := l.c.Start(l.ctx, name); err != nil {
		l.Fatal(err)
	}
}

// equal ends the load, and compares what the participants' data say.
func (l *leaving) equal(names ...string) {
	l.Helper()
	if l.c.Flags == nil {
		l.c.Flags = slices.Clone(l.c.Names)
	}
	all := l.c.Names
	l.c.Names = names
	l.ends()
	trees := exports(l.T, l.ctx, l.c)
	for _, name := range names[1:] {
		if d := harness.Diff(trees[names[0]], trees[name]); d != "" {
			l.Errorf("%s and %s differ: %s", names[0], name, d)
		}
	}
	l.c.Names = all
	if err := l.c.Kill(all...); err != nil {
		l.Fatal(err)
	}
}

// Two of three disks are lost at once. Nothing goes on by itself, and a status says what
// to do; an operator's word, also to a coordinator that was restarted and does not serve,
// makes what the third holds the truth. The load has waited all the time.
func TestMembersTwoDisksLost(t *testing.T) {
	for _, c := range []struct {
		name    string
		restart bool
	}{{"serving", false}, {"restarted", true}} {
		t.Run(c.name, func(t *testing.T) {
			l := newLeaving(t)
			l.progress()
			if c.restart {
				l.kill(harness.Coordinator, "b", "c")
			} else {
				l.kill("b", "c")
			}
			for _, name := range []string{"b", "c"} {
				l.newcomer(name)
			}
			if c.restart {
				if err := l.c.Launch(harness.Coordinator); err != nil {
					t.Fatal(err)
				}
			}
			_, err := l.c.WaitStatus(l.ctx, "asking for an operator", func(st wire.Status) bool {
				return st.Serving != c.restart && connected(st, "a") && slices.ContainsFunc(st.Warnings, func(w string) bool {
					return strings.Contains(w, "operator declares it lost (tpcfs resolve --lost ") // both, or an eviction of the other was on its way
				})
			})
			if err != nil {
				t.Fatal(err)
			}
			if r := l.members("resolve", "--lost", "a,b,c", "--force"); r.Code != 1 || !strings.Contains(r.Err, "a is there and has its data") {
				t.Errorf("all lost: exit %d, %q", r.Code, r.Err)
			}
			if !c.restart {
				if r := l.members("resolve", "--lost", "b,c"); r.Code != 1 || !strings.Contains(r.Err, "1 of 3 participants would be left in sync") {
					t.Errorf("without force: exit %d, %q", r.Code, r.Err)
				}
			}
			l.changes("b, c were declared lost; in sync: a", "resolve", "--lost", "b,c", "--force", "--reason", "a flood")
			l.away = nil
			l.state("b", "in sync")
			l.state("c", "in sync")
			l.progress()
			if r := l.members("members"); r.Code != 0 || !strings.Contains(r.Out, "by force): a flood") {
				t.Errorf("members: exit %d\n%s%s", r.Code, r.Out, r.Err)
			}
			l.equal("a", "b", "c")
		})
	}
}

// connected reports whether a participant is in sync and has a connection.
func connected(st wire.Status, name string) bool {
	return slices.ContainsFunc(st.Members, func(m wire.MemberStatus) bool { return m.Name == name && m.State == "in sync" })
}

// Participants are replaced, added and removed under load; the coordinator is
// restarted with the flags of the beginning.
func TestMembersUnderLoad(t *testing.T) {
	l := newLeaving(t)
	l.c.Flags = slices.Clone(l.c.Names)
	l.progress()
	l.c.Names = append(l.c.Names, "d", "e")
	if r := l.members("members", "add", "d="+l.c.Addr("d")); r.Code == 0 || !strings.Contains(r.Err, "no participant answers") {
		t.Errorf("nobody there: exit %d, %q", r.Code, r.Err)
	}
	l.newcomer("d")
	l.newcomer("e")
	if r := l.members("members", "add", "f="+l.c.Addr("a")); r.Code != 1 || !strings.Contains(r.Err, "at "+l.c.Addr("a")+" are the data of participant a") {
		t.Errorf("another's address: exit %d, %q", r.Code, r.Err)
	}
	l.changes("c was replaced by d", "members", "replace", "c", "d="+l.c.Addr("d"))
	l.state("d", "in sync")
	l.progress()
	l.told("c")
	l.changes("e ("+l.c.Addr("e")+") was added", "members", "add", "e="+l.c.Addr("e"))
	l.state("e", "in sync")
	l.progress()
	if err := l.c.Kill(harness.Coordinator); err != nil {
		t.Fatal(err)
	}
	l.start(harness.Coordinator)
	if out := l.c.Proc(harness.Coordinator).Output(); !strings.Contains(out, "--participant c: it was removed") {
		t.Errorf("the coordinator says nothing of its old flags:\n%s", out)
	}
	l.progress()
	l.changes("a was removed; in sync: b, d, e", "members", "remove", "a")
	l.progress()
	l.told("a")
	// Its disk comes back as another's: it has to be empty.
	if r := l.members("members", "add", "a="+l.c.Addr("a")); r.Code != 1 || !strings.Contains(r.Err, "a, which was removed") {
		t.Errorf("added with its old data: exit %d, %q", r.Code, r.Err)
	}
	if err := l.c.Kill("a"); err != nil {
		t.Fatal(err)
	}
	l.newcomer("a")
	l.changes("was added", "members", "add", "a="+l.c.Addr("a"))
	l.state("a", "in sync")
	l.changes("was removed", "members", "remove", "b")
	l.equal("a", "d", "e")
}

// told waits until a participant knows that it was removed.
func (l *leaving) told(name string) {
	l.Helper()
	_, err := l.c.WaitStatus(l.ctx, "sure that "+name+" knows", func(st wire.Status) bool {
		return slices.ContainsFunc(st.Removed, func(r wire.Removed) bool { return r.Member.Name == name && r.Told })
	})
	if err != nil {
		l.Fatal(err)
	}
	if out := l.c.Proc(name).Output(); !strings.Contains(out, "was removed from its cluster") {
		l.Errorf("%s says nothing of it:\n%s", name, out)
	}
}

// dying is a change of who takes part, and the step at which the coordinator is killed.
type dying struct {
	what, point string
	command     []string
	wiped       []string // have lost their disks before
	done        string   // what the command says at the end
	removed     string
	left        []string
}

func dyings(c *harness.Cluster) []dying {
	d := "d=" + c.Addr("d")
	replace := dying{"replace", "", []string{"members", "replace", "c", d}, nil, "c was replaced by d", "c", []string{"a", "b", "d"}}
	add := dying{"add", "", []string{"members", "add", d}, nil, "d (" + c.Addr("d") + ") was added", "", []string{"a", "b", "c", "d"}}
	remove := dying{"remove", "", []string{"members", "remove", "c"}, nil, "c was removed", "c", []string{"a", "b"}}
	lost := dying{"lost", "", []string{"resolve", "--lost", "b,c", "--force"}, []string{"b", "c"}, "b, c were declared lost", "", []string{"a", "b", "c"}}
	var list []dying
	for _, k := range []dying{replace, add, remove, lost} {
		points := []string{"coordinator.edit-put", "coordinator.edit-durable"}
		if k.what == "replace" {
			points = append(points, "coordinator.edit", "coordinator.edited", "coordinator.tell-removed")
		}
		for _, k.point = range points {
			list = append(list, k)
		}
	}
	return list
}

// The coordinator is killed at each step of a change, and started again: the command has
// waited, and the change has happened, once.
func TestMembersCoordinatorDies(t *testing.T) {
	for n, k := range dyings(&harness.Cluster{}) {
		t.Run(k.what+"/"+strings.TrimPrefix(k.point, "coordinator."), func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			c := newCluster(t)
			k := dyings(c)[n]
			c.Evicts = evictFast
			if err := c.Start(ctx, c.Names...); err != nil {
				t.Fatal(err)
			}
			if err := c.Launch(harness.Coordinator, "TPCFS_FAILPOINT="+k.point); err != nil {
				t.Fatal(err)
			}
			if err := c.WaitReady(ctx, harness.Coordinator); err != nil {
				t.Fatal(err)
			}
			cl := dial(t, ctx, c, time.Minute)
			contents := bytes.Repeat([]byte("contents "), 20_000)
			mustWrite(t, ctx, cl, "f", contents)
			c.Flags = slices.Clone(c.Names)
			c.Names = append(c.Names, "d")
			if err := c.Start(ctx, "d"); err != nil {
				t.Fatal(err)
			}
			k.wipe(t, ctx, c)
			done := make(chan harness.Result, 1)
			go func() {
				done <- harness.Run(ctx, nil, nil, plain, append(k.command, "--coordinator", c.Addr(harness.Coordinator), "--wait", "100s", "-o", "json")...)
			}()
			select {
			case <-c.Proc(harness.Coordinator).Done():
			case <-ctx.Done():
				t.Fatal("the step is never reached")
			}
			if err := c.Launch(harness.Coordinator); err != nil {
				t.Fatal(err)
			}
			r := <-done
			var reply wire.MembersReply
			if err := json.Unmarshal([]byte(r.Out), &reply); err != nil || r.Code != 0 || !strings.HasPrefix(reply.What, k.done) {
				t.Fatalf("exit %d, %q, %q", r.Code, r.Out, r.Err)
			}
			k.settles(t, ctx, c)
			mustWrite(t, ctx, cl, "g", []byte("more"))
			if got, err := cl.ReadFile(ctx, "f"); err != nil || !bytes.Equal(got, contents) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			all := c.Names
			c.Names = k.left
			settle(t, ctx, c)
			if c.Names = all; len(all) > 0 {
				if err := c.Kill(all...); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// wipe takes disks, all at once.
func (k *dying) wipe(t *testing.T, ctx context.Context, c *harness.Cluster) {
	t.Helper()
	if len(k.wiped) == 0 {
		return
	}
	if err := c.Kill(k.wiped...); err != nil {
		t.Fatal(err)
	}
	for _, name := range k.wiped {
		if err := os.RemoveAll(c.DataDir(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Start(ctx, k.wiped...); err != nil {
		t.Fatal(err)
	}
}

// settles waits until those that are left are in sync, and who was removed knows it.
func (k *dying) settles(t *testing.T, ctx context.Context, c *harness.Cluster) {
	t.Helper()
	st, err := c.WaitStatus(ctx, "settled after "+k.what, func(st wire.Status) bool {
		told := k.removed == "" || len(st.Removed) == 1 && st.Removed[0].Member.Name == k.removed && st.Removed[0].Told
		return harness.Settled(st) && len(st.Members) == len(k.left) && told
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range st.Members {
		if m.Name != k.left[i] {
			t.Errorf("%s takes part", m.Name)
		}
	}
	if len(st.Edits) != 1 || !harness.SameDigest(st) {
		t.Errorf("%+v", st)
	}
}
