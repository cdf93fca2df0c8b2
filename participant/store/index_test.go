package store

import (
	"fmt"
	"slices"
	"testing"

	"tpcfs/journal/disk/forget"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// Operations are forgotten when their session has had the answer, and when 20
// minutes of service time have passed.
func TestForgetOps(t *testing.T) {
	f := simulated(t, forget.New(1))
	ops := func() (n int) {
		err := f.look(func(m *moment) error {
			return m.ascend(string(bucketOp), func(string, []byte) (bool, error) { n++; return true, nil })
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	op := func(session byte, seq, lowest uint64, ms int64) {
		f.lsn++
		tx := &vote.Tx{ID: wire.MakeID(1, f.next), Op: wire.OpID{Session: wire.SessionID{session}, Seq: seq}, Lowest: lowest, ServiceTime: ms}
		f.next++
		if err := f.Apply(tx, wire.Position{Epoch: 1, Index: uint64(f.lsn)}); err != nil {
			t.Fatal(err)
		}
		if f.lsn%7 == 0 {
			f.checkpoint()
		}
	}
	for i := range uint64(100) {
		op(1, i+1, i+1, 10)
	}
	if n := ops(); n != 1 {
		t.Errorf("a session that has had all answers has %d rows", n)
	}
	for i := range 100 {
		op(byte(i+2), 1, 1, int64(1000+i))
	}
	if n := ops(); n != 101 {
		t.Errorf("%d rows of 101 sessions", n)
	}
	const minute = 60_000
	op(200, 1, 1, 20*minute+1000)
	if _, found, err := f.Op(wire.OpID{Session: wire.SessionID{2}, Seq: 1}); err != nil || !found {
		t.Errorf("20 minutes old: %t %v", found, err)
	}
	for i := range 10 {
		op(201, uint64(i+1), uint64(i+1), 21*minute)
	}
	if n := ops(); n != 2 {
		t.Errorf("%d rows after 21 minutes, want 2", n)
	}
	op(202, 1, 1, 5) // decided late: older than what has expired
	op(203, 1, 1, 21*minute)
	if _, found, _ := f.Op(wire.OpID{Session: wire.SessionID{202}, Seq: 1}); found {
		t.Error("a row that came late never expires")
	}
}

// The changed-keys index names, for each position, what its decision changed,
// and says from where on it is complete.
func TestChanges(t *testing.T) {
	f := simulated(t, forget.New(1))
	ino := f.create("a", fill(10, 1))
	f.checkpoint()
	f.apply(nil, vote.Bound{Kind: wire.MutDeleteFile, Dir: 1, Name: "a", Ino: ino})
	f.checkpoint()
	tx, err := f.kv.View()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	got := map[uint64][]string{}
	for cur := tx.Seek(string(bucketChange)); ; {
		key, sealed, ok, err := cur.Next()
		if err != nil || !ok {
			break
		}
		val, _ := unseal(key, sealed)
		for len(val) > 0 {
			n := int(be.Uint16(val))
			got[positionOfKey(key).Index] = append(got[positionOfKey(key).Index], string(val[2:2+n]))
			val = val[2+n:]
		}
	}
	want := []string{entryKey(1, "a"), inodeKey(1), inlineKey(ino), inodeKey(ino)}
	for _, at := range []uint64{1, 2} {
		for _, key := range want {
			if !slices.Contains(got[at], key) {
				t.Errorf("position %d: %q, without %q", at, got[at], key)
			}
		}
	}
	if len(got) != 3 {
		t.Errorf("%d positions, want the bootstrap's and 2", len(got))
	}
}

// The index keeps to its bound and says where it begins, also after a restart.
func TestChangesBound(t *testing.T) {
	f := real(t)
	f.maxChanges = 10
	for i := range 50 {
		f.create(fmt.Sprint("f", i), fill(10, 1))
		if i%7 == 6 {
			f.checkpoint()
		}
	}
	f.checkpoint() // one more: what came last was in no kv before
	f.checkpoint()
	f.reopen()
	if c := f.counts; c.Changes != 10 || c.ChangesFrom != (wire.Position{Epoch: 1, Index: 40}) {
		t.Errorf("%d rows after %v, want 10 after 1.40", c.Changes, c.ChangesFrom)
	}
	tx, err := f.kv.View()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if key, _, _, err := tx.Seek(string(bucketChange)).Next(); err != nil || positionOfKey(key).Index != 41 {
		t.Errorf("the first row is of %v, error %v", positionOfKey(key), err)
	}
}
