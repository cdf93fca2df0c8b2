package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	bolt "go.etcd.io/bbolt"

	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// flipRows are rows as a store has them: some buckets large, some small.
func flipRows() map[string][]byte {
	rows := map[string][]byte{}
	rnd := rand.New(rand.NewSource(5))
	put := func(key string, size int) {
		val := make([]byte, size, size+crcLen)
		rnd.Read(val)
		rows[key] = seal(key, val)
	}
	for i := range 400 {
		put(fmt.Sprintf("%c%08d", bucketInode, i*3), 4)
		put(fmt.Sprintf("%c%08dname-%d", bucketEntry, i/7, i), 8)
	}
	for i := range 2 {
		put(fmt.Sprintf("%c%08d", bucketInline, i), 3000+i*100)
	}
	put(fmt.Sprintf("%cone", bucketSum), 10)
	return rows
}

// A bit flips in the kv's file: a row is what it was, one that is not there is
// not, and a walk meets all, or else the damage is noticed. TPCFS_TEST_FLIPS bits.
func TestFlippedBitOfTheKV(t *testing.T) {
	flips := 60
	if s := os.Getenv("TPCFS_TEST_FLIPS"); s != "" {
		var err error
		if flips, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	fsys := disk.New()
	dir := t.TempDir()
	name := filepath.Join(dir, "clean")
	rows := flipRows()
	kv, err := openBolt(fsys, name, true)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 * len(allBuckets) { // one at a time: the file is the same each time
		if err := kv.Update(func(w KVWriter) error {
			for n, key := range slices.Sorted(maps.Keys(rows)) {
				if key[0] == allBuckets[i/2] && n%2 == i%2 {
					if err := w.Put(key, rows[key]); err != nil {
						return err
					}
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := kv.Close(); err != nil {
		t.Fatal(err)
	}
	clean, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewSource(7))
	counts := map[string]int{}
	var used []int // bytes that mean something
	for i, b := range clean {
		if b != 0 {
			used = append(used, i)
		}
	}
	for n := range flips {
		at := used[rnd.Intn(len(used))]*8 + rnd.Intn(8)
		b := bytes.Clone(clean)
		b[at/8] ^= 1 << (at % 8)
		bad := filepath.Join(dir, strconv.Itoa(n)) // one whose bbolt has panicked stays mapped, and locked
		if err := os.WriteFile(bad, b, 0o600); err != nil {
			t.Fatal(err)
		}
		what, err := flipped(fsys, bad, rows)
		if err := os.Remove(bad); err != nil {
			t.Fatal(err)
		}
		if err != nil && leads(clean, at/8) {
			what, err = "hidden", nil
		}
		if err != nil {
			t.Errorf("bit %d of byte %d (page %d + %d): %v", at%8, at/8, at/8/4096, at/8%4096, err)
		}
		counts[what]++
	}
	t.Log(counts)
	if counts["noticed"] < flips/4 {
		t.Errorf("of %d flips: %v", flips, counts)
	}
}

// A bucket whose name has changed is not an empty one.
func TestLostBucketOfTheKV(t *testing.T) {
	fsys, name := disk.New(), filepath.Join(t.TempDir(), "kv")
	kv, err := openBolt(fsys, name, true)
	if err != nil {
		t.Fatal(err)
	}
	key := fmt.Sprintf("%cone", bucketOrphan)
	absent := func(want wire.Code) {
		t.Helper()
		tx, err := kv.View()
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Close()
		_, ok, err := tx.Get(key)
		_, _, walks, walkErr := tx.Seek(key[:1]).Next()
		for _, err := range []error{err, walkErr} {
			var d *DamageError
			if ok || walks || errors.As(err, &d) != (want == wire.CodeCorrupt) || (err == nil) != (want == wire.CodeNone) {
				t.Errorf("%v %v, error %v", ok, walks, err)
			}
		}
	}
	absent(wire.CodeNone) // nothing was ever written
	if err := kv.Update(func(w KVWriter) error { return w.Put("mrow", seal("mrow", []byte("x"))) }); err != nil {
		t.Fatal(err)
	}
	absent(wire.CodeNone)
	if err := kv.(*boltKV).db.Update(func(tx *bolt.Tx) error {
		return errors.Join(tx.DeleteBucket([]byte{bucketOrphan}), errorOf(tx.CreateBucket([]byte{bucketOrphan + 8})))
	}); err != nil {
		t.Fatal(err)
	}
	absent(wire.CodeCorrupt)
	var d *DamageError
	err = kv.Update(func(w KVWriter) error { return w.Put(key, seal(key, []byte("x"))) })
	if !errors.As(err, &d) {
		t.Errorf("a row is put in a bucket that is lost: %v", err)
	}
	absent(wire.CodeCorrupt)
	if err := kv.Close(); err != nil {
		t.Fatal(err)
	}
}

func errorOf(_ *bolt.Bucket, err error) error { return err }

// leads: is the byte one of a page's head, or of the numbers of pages that a branch
// or the root names? What they hide a scrub finds, not a read (S1).
func leads(file []byte, at int) bool {
	page := file[at/4096*4096:][:4096]
	const head, branch, leaf = 16, 1, 2
	count := int(page[10]) | int(page[11])<<8
	root := bytes.HasPrefix(page[head+len(allBuckets)*16:], []byte{'a'})
	switch in := at % 4096; {
	case in < head:
		return true
	case page[8] == branch:
		return in < head+16*count
	default:
		return page[8] != leaf || root
	}
}

// flipped reads everything.
func flipped(fsys disk.FS, name string, rows map[string][]byte) (string, error) {
	kv, err := openBolt(fsys, name, false)
	if err != nil {
		return "refused", nil
	}
	defer kv.Close()
	tx, err := kv.View()
	if err != nil {
		return "noticed", nil
	}
	defer tx.Close()
	noticed := false
	for key, want := range rows {
		for _, k := range []string{key, key + "x"} {
			val, ok, err := tx.Get(k)
			_, sound := unseal(k, val)
			switch {
			case err != nil, ok && !sound:
				noticed = true
			case ok != (k == key):
				return "wrong", fmt.Errorf("row %q is there: %v", k, ok)
			case ok && !bytes.Equal(val, want):
				return "wrong", fmt.Errorf("row %q is another", k)
			}
		}
	}
	for i := range len(allBuckets) {
		err := walked(tx, allBuckets[i:i+1], rows)
		switch {
		case errors.Is(err, errWrong):
			return "wrong", err
		case err != nil:
			noticed = true
		}
	}
	if noticed {
		return "noticed", nil
	}
	return "sound", nil
}

var errWrong = errors.New("wrong")

// walked walks a bucket.
func walked(tx KVTx, bucket string, rows map[string][]byte) error {
	want := 0
	for key := range rows {
		if key[:1] == bucket {
			want++
		}
	}
	for c, met := tx.Seek(bucket), 0; ; met++ {
		key, val, ok, err := c.Next()
		if err != nil {
			return err
		}
		if !ok && met != want {
			return fmt.Errorf("%w: %d of %d rows of bucket %s", errWrong, met, want, bucket)
		}
		if !ok {
			return nil
		}
		if _, sound := unseal(key, val); !sound {
			return errors.New("a row is damaged")
		}
		if !bytes.Equal(val, rows[key]) {
			return fmt.Errorf("%w: row %q", errWrong, key)
		}
	}
}
