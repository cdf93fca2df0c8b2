package commit

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"tpcfs/wire"
)

// rebuildCase is what is left of a journal, and who answers.
type rebuildCase struct {
	had State
	r   Rebuilding
}

// threeHold is a cluster of a, b and c, with a majority, whose journal is lost in epoch 5.
func threeHold() *rebuildCase {
	c := wire.Config{ID: wire.ConfigID{Epoch: 5, Counter: 2}, Cluster: cluster, InSync: []string{"a", "b", "c"}}
	for i, n := range []string{"a", "b", "c"} {
		c.Configured = append(c.Configured, wire.Member{Name: n, Addr: n + ":1", Flag: n + ":1", Storage: wire.UUID{byte(i + 1)}})
	}
	k := &rebuildCase{r: Rebuilding{Majority: true, StandIn: wire.SessionID{9}}}
	for i, mem := range c.Configured {
		k.r.Held = append(k.r.Held, Holding{mem.Name, wire.Greeting{Storage: mem.Storage, Held: wire.Epoch{Number: 5, Run: wire.UUID{7}},
			Config: c, W: wire.Position{Epoch: 5, Index: uint64(10 + i)}, ServiceTime: int64(100 * i), Time: int64(1000 * i), LastID: wire.MakeID(5, 40)}})
	}
	return k
}

// goes takes participants away that do not answer.
func (k *rebuildCase) goes(names ...string) {
	for _, n := range names {
		for i := range k.r.Held {
			if k.r.Held[i].Name == n {
				k.r.Held = append(k.r.Held[:i], k.r.Held[i+1:]...)
				k.r.Silent++
				break
			}
		}
	}
}

// of lets the config of some have that in-sync set, under a later id.
func (k *rebuildCase) of(counter uint64, inSync []string, holders ...string) {
	for i := range k.r.Held {
		if g := &k.r.Held[i].Greeting; strings.Contains(strings.Join(holders, " "), k.r.Held[i].Name) {
			g.Config.ID.Counter, g.Config.InSync = counter, inSync
		}
	}
}

func (k *rebuildCase) held(name string) *wire.Greeting {
	for i := range k.r.Held {
		if k.r.Held[i].Name == name {
			return &k.r.Held[i].Greeting
		}
	}
	panic(name)
}

// TestRebuilds: what the record says that takes a lost journal's place (P13).
func TestRebuilds(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(k *rebuildCase)
		epoch  uint64
		config string // counter and in-sync set; "": none
		edit   string
	}{
		{"all are there", func(*rebuildCase) {}, 5, "2 [a b c]", "rebuilt"},
		{"one knows of a later epoch, another of a later transaction", func(k *rebuildCase) {
			k.held("a").Held.Number, k.held("c").LastID = 8, wire.MakeID(9, 2)
		}, 9, "2 [a b c]", "rebuilt"},
		{"an eviction that only one member has heard of", func(k *rebuildCase) { k.of(3, []string{"a", "b"}, "a") }, 5, "3 [a b]", "rebuilt"},
		{"... that only the last one asked has", func(k *rebuildCase) { k.of(3, []string{"b", "c"}, "c") }, 5, "3 [b c]", "rebuilt"},
		{"who was evicted does not answer", func(k *rebuildCase) { k.of(3, []string{"a", "b"}, "a", "b"); k.goes("c") }, 5, "3 [a b]", "rebuilt"},
		{"who was evicted is marked", func(k *rebuildCase) { k.of(3, []string{"a", "b"}, "a", "b"); k.held("c").Resync = "out of sync" }, 5, "3 [a b]", "rebuilt"},
		{"a member is lost, too", func(k *rebuildCase) { k.goes("b"); k.r.Lost = []string{"b"} }, 5, "2 [a c]", "b declared lost"},
		{"two members are", func(k *rebuildCase) { k.goes("b", "c"); k.r.Lost, k.r.Force = []string{"b", "c"}, true }, 5, "2 [a]", "b, c declared lost, with what was acknowledged"},
		{"who is lost answers on an empty disk", func(k *rebuildCase) {
			k.held("b").Storage, k.held("b").Config = wire.UUID{0xb}, wire.Config{}
			k.r.Lost = []string{"b"}
		}, 5, "2 [a c]", "b declared lost"},
		{"the journal is old", func(k *rebuildCase) {
			k.had = State{Epoch: wire.Epoch{Number: 3}, Config: &wire.Config{ID: wire.ConfigID{Epoch: 3, Counter: 1}, Cluster: cluster}}
		}, 5, "2 [a b c]", "rebuilt"},
		{"another coordinator has begun the journal's epoch", func(k *rebuildCase) {
			k.had = State{Epoch: wire.Epoch{Number: 5, Run: wire.UUID{8}}, Config: &wire.Config{ID: wire.ConfigID{Epoch: 4, Counter: 1}, Cluster: cluster}}
		}, 5, "2 [a b c]", "rebuilt"},
		{"no config was ever made", func(k *rebuildCase) {
			for i := range k.r.Held {
				k.r.Held[i].Greeting = wire.Greeting{Storage: k.r.Held[i].Greeting.Storage, Held: wire.Epoch{Number: 2}}
			}
		}, 2, "", ""},
	} {
		k := threeHold()
		c.change(k)
		rec, err := Rebuild(&k.had, k.r)
		if err != nil || rec == nil {
			t.Errorf("%s: %v, %v", c.what, rec, err)
			continue
		}
		if err := k.had.Apply(rec); err != nil {
			t.Errorf("%s: the journal takes no such record: %v", c.what, err)
		}
		if rec.Epoch.Number <= c.epoch || rec.Epoch.Number > c.epoch+rebuiltEpochs {
			t.Errorf("%s: epoch %d, %d was heard of", c.what, rec.Epoch.Number, c.epoch)
		}
		if c.config == "" {
			if rec.Kind != RecEpoch {
				t.Errorf("%s: %v", c.what, rec.Kind)
			}
			continue
		}
		if got := fmt.Sprint(rec.Config.ID.Counter, " ", rec.Config.InSync); rec.Kind != RecSnapshot || got != c.config {
			t.Errorf("%s: %v of config %s, want %s", c.what, rec.Kind, got, c.config)
		}
		if e := rec.Config.Edits; len(e) != 1 || !strings.Contains(e[0].What, c.edit) || e[0].Forced != (len(k.r.Lost) > 0) {
			t.Errorf("%s: the word about it: %+v", c.what, e)
		}
		if len(rec.Leases) != 1 || rec.Leases[0] != k.r.StandIn {
			t.Errorf("%s: leases %v", c.what, rec.Leases)
		}
	}
	k := threeHold()
	if rec, err := Rebuild(&k.had, k.r); err != nil || rec.W != (wire.Position{Epoch: 5, Index: 12}) || rec.ServiceTime != 200 || rec.Time != 2000 {
		t.Errorf("times and watermark: %+v, %v", rec, err)
	}
}

// TestRebuildRefuses: who may know more is waited for, and what cannot be is said (P13).
func TestRebuildRefuses(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(k *rebuildCase)
		code   wire.Code
		words  string
	}{
		{"a member does not answer", func(k *rebuildCase) { k.goes("b") }, wire.CodeUnavailable, "b (b:1) has not answered"},
		{"a member of the newest config does not", func(k *rebuildCase) { k.of(3, []string{"a", "b"}, "a"); k.goes("b") }, wire.CodeUnavailable, "b (b:1) has not answered"},
		{"a member's disk is another one", func(k *rebuildCase) { k.held("b").Storage = wire.UUID{0xb} }, wire.CodeUnavailable, "b (b:1) has the data of another one, or none"},
		{"a member is damaged", func(k *rebuildCase) { k.held("b").Resync = "its journal is damaged" }, wire.CodeUnavailable, "its journal is damaged"},
		{"a member holds no config", func(k *rebuildCase) { k.held("b").Config = wire.Config{} }, wire.CodeUnavailable, "b (b:1) holds no config"},
		// With a minimum of one c may be all that the newest config has.
		{"who is out may know more", func(k *rebuildCase) {
			k.r.MinInSync, k.r.Majority = 1, false
			k.of(3, []string{"a", "b"}, "a", "b")
			k.goes("c")
		}, wire.CodeUnavailable, "2 of 3 participants have answered"},
		{"one is lost, and who is out does not answer", func(k *rebuildCase) {
			k.of(3, []string{"a", "b"}, "a", "b")
			k.goes("b", "c")
			k.r.Lost = []string{"b"}
		}, wire.CodeUnavailable, "c (c:1) has not answered"},
		{"all are lost", func(k *rebuildCase) {
			k.of(3, []string{"a", "b"}, "a", "b", "c")
			k.goes("a", "b")
			k.r.Lost, k.r.Force = []string{"a", "b"}, true
		}, wire.CodeInvalid, "nobody is left"},
		{"who is said to be lost is there", func(k *rebuildCase) { k.r.Lost = []string{"b"} }, wire.CodeInvalid, "b (b:1) is there and has its data"},
		{"who is said to be lost knows of a newer config", func(k *rebuildCase) {
			k.of(3, []string{"b", "c"}, "b")
			k.r.Lost = []string{"b"}
		}, wire.CodeInvalid, "b (b:1) is there and has its data"},
		// The others may have evicted the one that is left.
		{"so many are lost that the rest may be old", func(k *rebuildCase) { k.goes("a", "b"); k.r.Lost = []string{"a", "b"} }, wire.CodeInvalid, "may have gone on without them"},
		// With a minimum of one d may have been let in, and gone on alone.
		{"a newcomer's disk is empty", func(k *rebuildCase) {
			k.r.MinInSync, k.r.Majority = 1, false
			for i := range k.r.Held {
				g := &k.r.Held[i].Greeting
				g.Config.Configured = append(slices.Clone(g.Config.Configured), wire.Member{Name: "d", Addr: "d:1"})
			}
			k.r.Held = append(k.r.Held, Holding{"d", wire.Greeting{Storage: wire.UUID{0xd}}})
		}, wire.CodeUnavailable, "3 of 4 participants have answered"},
		{"nobody holds anything", func(k *rebuildCase) {
			for i := range k.r.Held {
				k.r.Held[i].Greeting = wire.Greeting{Storage: k.r.Held[i].Greeting.Storage}
			}
		}, wire.CodeInvalid, "are these the right participants"},
		{"one was told that it is out of sync, of what nobody knows", func(k *rebuildCase) {
			for i := range k.r.Held {
				k.r.Held[i].Greeting = wire.Greeting{Storage: k.r.Held[i].Greeting.Storage, Held: wire.Epoch{Number: 2}, Resync: "out of sync"}
			}
		}, wire.CodeInvalid, "are these the right participants"},
		{"a stranger is lost", func(k *rebuildCase) { k.r.Lost = []string{"z"} }, wire.CodeInvalid, "z cannot be declared lost"},
		{"nobody who answers holds a config", func(k *rebuildCase) { k.goes("a", "b", "c") }, wire.CodeUnavailable, "there are others"},
		{"two clusters", func(k *rebuildCase) { k.held("b").Config.Cluster = wire.UUID{0xdd} }, wire.CodeCorrupt, "one cluster"},
		{"another cluster's journal", func(k *rebuildCase) { k.had.Config = &wire.Config{Cluster: wire.UUID{0xdd}} }, wire.CodeCorrupt, "another directory"},
		{"a time that cannot be", func(k *rebuildCase) { k.held("b").Time = -1 }, wire.CodeCorrupt, "a time"},
		{"an epoch that cannot be", func(k *rebuildCase) { k.held("b").Held.Number = 1<<23 - 5 }, wire.CodeCorrupt, "epoch 8388603"},
	} {
		k := threeHold()
		c.change(k)
		rec, err := Rebuild(&k.had, k.r)
		if rec != nil || wire.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, %v; want %v, %q", c.what, rec, err, c.code, c.words)
		}
	}
	// The journal is as new, but sessions may have begun since.
	k := threeHold()
	k.had = State{Epoch: wire.Epoch{Number: 5, Run: wire.UUID{7}}, Config: &k.r.Held[0].Greeting.Config}
	for _, silent := range []string{"", "a", "b", "c"} {
		k.goes(silent)
		if rec, err := Rebuild(&k.had, k.r); err != nil || rec.Kind != RecLease || rec.Lease.Session != k.r.StandIn || rec.Lease.Ended || rec.Lease.Lapsed {
			t.Errorf("without %s: %+v, %v", silent, rec, err)
		}
	}
}
