package store

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// A digest counts the rows of attributes and of orphans.
func TestDigestCoversAll(t *testing.T) {
	f := real(t)
	file := f.create("a", []byte("1"))
	digest := func() string {
		d, err := f.Digest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	last := digest()
	for key, val := range map[string][]byte{xattrKey(file, "user.a"): []byte("1"), orphanKey(file): encodeOrphan(orphan{})} {
		f.put(key, val)
		now := digest()
		if now == last {
			t.Errorf("%s does not count", rowName(key))
		}
		last = now
	}
}

// put enters a row by itself.
func (f *fixture) put(key string, val []byte) {
	b := f.newBatch()
	b.put(key, append(make([]byte, 0, len(val)+crcLen), val...), false)
	f.install(b)
}

// rows lists rows as text.
func (f *fixture) rows(buckets ...byte) (list []string) {
	err := f.look(func(m *moment) error {
		for _, bucket := range buckets {
			err := m.ascend(string(bucket), func(key string, val []byte) (bool, error) {
				list = append(list, fmt.Sprintf("%q %q", key, val))
				return true, nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return list
}

// A flipped bit in an attribute's or an orphan's row is noticed.
func TestDamagedAttribute(t *testing.T) {
	for _, what := range []string{"attribute", "orphan"} {
		dir := filepath.Join(t.TempDir(), "p")
		f := openFixture(t, Options{Dir: dir, Ballast: -1, Fanout: 1})
		ino := f.create("a", []byte("1"))
		mark := []byte("a value that is found in the file")
		if what == "attribute" {
			f.apply(nil, vote.Bound{Kind: wire.MutSetxattr, Ino: ino, Xattr: "user.a", Value: mark})
		} else {
			mark = bytes.Repeat([]byte{0xab}, 16)
			f.put(orphanKey(ino), encodeOrphan(orphan{holder: wire.SessionID(mark)}))
		}
		f.checkpoint()
		f.reopen()
		if err := f.Store.Close(); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "meta.db")
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.LastIndex(b, mark)
		if at < 0 {
			t.Fatal("the value is not in the file")
		}
		for ; at >= 0; at = bytes.LastIndex(b[:at], mark) {
			flip(t, name, int64(at+3))
		}
		s, err := Open(f.o)
		if err != nil {
			t.Fatal(err)
		}
		req := wire.Read{Kind: wire.ReadGetxattr, At: wire.At{Dir: ino}, Name: "user.a"}
		if what == "orphan" {
			req = wire.Read{Kind: wire.ReadOrphans}
		}
		if _, err := s.Read(req, nil); wire.CodeOf(err) != wire.CodeCorrupt || s.Damaged() == "" {
			t.Errorf("%s: a flipped bit is read as %v", what, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A list of attributes that is longer than a read transaction of the kv, and
// pages of orphans.
func TestManyAttributes(t *testing.T) {
	f := real(t)
	ino := f.create("a", []byte("1"))
	const n = maxTxKeys + 200
	for from := 0; from < n; from += 100 {
		var bounds []vote.Bound
		for i := from; i < from+100; i++ {
			bounds = append(bounds, vote.Bound{Kind: wire.MutSetxattr, Ino: ino, Xattr: fmt.Sprintf("user.%05d", i), Value: []byte("v")})
		}
		f.apply(nil, bounds...)
	}
	f.checkpoint()
	reply, err := f.Read(wire.Read{Kind: wire.ReadListxattr, At: wire.At{Dir: ino}}, nil)
	if err != nil || len(reply.Names) != n || !slices.IsSorted(reply.Names) {
		t.Errorf("%d attributes, want %d (%v)", len(reply.Names), n, err)
	}
	if count, bytes, err := f.Xattrs(ino); err != nil || count != n || bytes != n*11 {
		t.Errorf("%d attributes whose names take %d bytes, error %v", count, bytes, err)
	}
	f.apply(nil, vote.Bound{Kind: wire.MutDeleteFile, Ino: ino, Dir: 1, Name: "a", Xattrs: n})
	if left := f.rows(bucketXattr); len(left) > 0 {
		t.Errorf("%d attributes are left of a file that is gone", len(left))
	}
}

// A page tells of each file whether it has extended attributes, out of the kv and out
// of the table, in as many searches as there are files that have some.
func TestNoXattrs(t *testing.T) {
	for _, saved := range []bool{false, true} {
		f := real(t)
		const files = listEntries
		some := map[wire.Ino]bool{}
		var inos []wire.Ino
		for i := range files {
			inos = append(inos, f.create(fmt.Sprintf("%03d", i*7%files), []byte("1")))
		}
		set := func(ino wire.Ino) {
			some[ino] = true
			f.apply(nil, vote.Bound{Kind: wire.MutSetxattr, Ino: ino, Xattr: "user.a", Value: []byte("v")})
		}
		check := func(most int) {
			t.Helper()
			if saved {
				f.checkpoint()
			}
			m, err := f.snapshot()
			if err != nil {
				t.Fatal(err)
			}
			defer m.close()
			list, _, err := m.list(1, "", files)
			if err != nil || len(list) != files {
				t.Fatalf("%d entries, %v", len(list), err)
			}
			for _, e := range list {
				if e.Attr.NoXattrs == some[e.Attr.Ino] {
					t.Errorf("%q has %v, and it is told %v", e.Name, some[e.Attr.Ino], !e.Attr.NoXattrs)
				}
				reply, err := f.Read(wire.Read{Kind: wire.ReadStat, At: wire.At{Dir: e.Attr.Ino}}, nil)
				if err != nil || reply.Attr != e.Attr {
					t.Errorf("%q alone: %+v, %v, listed %+v", e.Name, reply.Attr, err, e.Attr)
				}
			}
			if most += 2*files + 3; saved && m.keys > most { // its own entry and inode take two keys each
				t.Errorf("a page takes %d keys of the kv, more than %d", m.keys, most)
			}
		}
		check(5)
		for _, i := range []int{0, 1, 100, 101, 300, files - 1} {
			set(inos[i])
		}
		check(60)
		for _, i := range []int{1, 100} {
			delete(some, inos[i])
			f.apply(nil, vote.Bound{Kind: wire.MutRemovexattr, Ino: inos[i], Xattr: "user.a"})
		}
		check(60)
		for _, ino := range inos {
			set(ino)
		}
		check(5 * files)
	}
}
