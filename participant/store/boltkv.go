package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"tpcfs/journal/disk"
)

// boltFreshSize is the length of a bbolt file in which nothing was ever
// written: two meta pages, a free list and an empty leaf.
const boltFreshSize = 4 * 4096

// boltKV is bbolt. A page that is not what bbolt wrote makes it panic, or
// reads beyond the file and faults: each call is guarded, and after the first
// such panic nothing is answered any more (S1).
type boltKV struct {
	db     *bolt.DB
	file   *os.File // bbolt's
	path   string
	broken atomic.Bool // a panic inside bbolt: its locks may be held for ever
}

// openBolt opens path, which must exist unless create is set. What the page
// cache holds is not believed (S3): after a failed sync it shows what the disk
// does not have.
func openBolt(fsys disk.FS, path string, create bool) (kv KV, err error) {
	f, err := fsys.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && create:
	case err != nil:
		return nil, err
	default:
		size, err := f.Size()
		if err == nil {
			err = f.Sync()
		}
		if err == nil {
			err = f.DropCache()
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		if create && size <= boltFreshSize { // a crash may have left it half made
			if err := fsys.Remove(path); err != nil {
				return nil, err
			}
		}
	}
	k := &boltKV{path: path}
	defer func() {
		if err != nil && k.file != nil {
			_ = k.file.Close() // and with it goes bbolt's lock on it
		}
	}()
	defer k.guard("open", &err)()
	k.db, err = bolt.Open(path, 0o600, &bolt.Options{
		Timeout: time.Second, FreelistType: bolt.FreelistMapType, NoStatistics: true,
		// A read transaction that is open while the map grows stops everyone.
		InitialMmapSize: 16 << 30,
		OpenFile: func(name string, flag int, mode fs.FileMode) (*os.File, error) {
			var err error
			k.file, err = os.OpenFile(name, flag, mode)
			return k.file, err
		},
	})
	var pe *fs.PathError
	if err != nil && !errors.As(err, &pe) && !errors.Is(err, bolterrors.ErrTimeout) {
		err = &DamageError{path, err.Error()}
	}
	if err != nil {
		return nil, err
	}
	return k, fsys.SyncDir(filepath.Dir(path))
}

// guard is deferred twice: it makes faults panic, and the function it returns
// turns a panic into *err.
func (k *boltKV) guard(what string, err *error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		if r := recover(); r != nil {
			k.broken.Store(true)
			*err = &DamageError{k.path, fmt.Sprintf("%s: the file is shorter than it says, or a page of it is not what was written (%v)", what, r)}
		}
	}
}

func (k *boltKV) usable() error {
	if k.broken.Load() {
		return &DamageError{k.path, "an earlier read found damage"}
	}
	return nil
}

func (k *boltKV) View() (tx KVTx, err error) {
	if err := k.usable(); err != nil {
		return nil, err
	}
	defer k.guard("begin", &err)()
	t, err := k.db.Begin(false)
	if err != nil {
		return nil, err
	}
	return &boltTx{k: k, tx: t}, nil
}

func (k *boltKV) Update(fn func(w KVWriter) error) (err error) {
	if err := k.usable(); err != nil {
		return err
	}
	defer k.guard("update", &err)()
	tx, err := k.db.Begin(true)
	if err != nil {
		return err
	}
	if err := errors.Join(makeBuckets(tx), fn(&boltWriter{k: k, tx: tx})); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// makeBuckets makes all buckets at the first write, so that one that is not there
// later is damage.
func makeBuckets(tx *bolt.Tx) error {
	if k, _ := tx.Cursor().First(); k != nil {
		return nil
	}
	for i := range len(allBuckets) {
		if _, err := tx.CreateBucket([]byte{allBuckets[i]}); err != nil {
			return err
		}
	}
	return nil
}

func (k *boltKV) Close() error {
	if k.broken.Load() {
		return k.file.Close() // bbolt's own locks may be held: its Close could wait for ever
	}
	return k.db.Close()
}

type boltTx struct {
	k       *boltKV
	tx      *bolt.Tx
	buckets [26]*bolt.Bucket // by letter
}

// bucket is called in a guard.
func (t *boltTx) bucket(b byte) *bolt.Bucket {
	if t.buckets[b-'a'] == nil {
		t.buckets[b-'a'] = t.tx.Bucket([]byte{b})
	}
	return t.buckets[b-'a']
}

func (t *boltTx) Get(key string) (val []byte, ok bool, err error) {
	if err := t.k.usable(); err != nil {
		return nil, false, err
	}
	defer t.k.guard("get", &err)()
	b := t.bucket(key[0])
	if b == nil {
		return nil, false, t.k.withoutBucket(t.tx, key[0])
	}
	want := []byte(key[1:])
	c := b.Cursor()
	k, v := c.Seek(want)
	if k != nil && bytes.Equal(k, want) {
		if v == nil {
			return nil, false, t.k.misplaced(rowName(key))
		}
		return bytes.Clone(v), true, nil // the copy touches every byte inside the guard
	}
	return nil, false, t.beside(b, key)
}

// beside checks the two rows on each side of the place where one is not: they are what
// was written, and in order. A bit that flips in a key, or in what leads to one, makes a
// search miss rows that are there; it ends beside one that is damaged, or another's, or
// on the wrong side (S1).
func (t *boltTx) beside(b *bolt.Bucket, key string) error {
	c := b.Cursor()
	for _, to := range []struct {
		side int
		move func() (k, v []byte)
	}{{1, c.Next}, {-1, c.Prev}} {
		k, v := c.Seek([]byte(key[1:]))
		if to.side < 0 {
			k, v = c.Prev()
		}
		last := key
		for n := 0; n < 2 && k != nil; n++ {
			row := key[:1] + string(k)
			if _, ok := unseal(row, v); !ok || cmp.Compare(row, last) != to.side {
				return t.k.misplaced(rowName(row))
			}
			last = row
			k, v = to.move()
		}
	}
	return nil
}

func (k *boltKV) misplaced(what string) error {
	return &DamageError{k.path, what + " is not what was written, or not where it was"}
}

// withoutBucket: there is none of that name. Is it that nothing was ever written to it?
// A new kv has all of them.
func (k *boltKV) withoutBucket(tx *bolt.Tx, name byte) error {
	n := 0
	c := tx.Cursor()
	for b, v := c.First(); b != nil; b, v = c.Next() {
		if n++; v != nil || len(b) != 1 || !strings.Contains(allBuckets, string(b)) {
			n = len(allBuckets)
		}
	}
	if n >= len(allBuckets) {
		return k.misplaced(fmt.Sprintf("the bucket %c", name))
	}
	return nil
}

func (t *boltTx) Seek(from string) KVCursor { return &boltCursor{t: t, from: from} }

func (t *boltTx) Close() {
	if t.k.broken.Load() {
		return
	}
	var err error
	defer t.k.guard("end of a read", &err)()
	_ = t.tx.Rollback() // fails only when it is closed already
}

type boltCursor struct {
	t    *boltTx
	c    *bolt.Cursor
	from string // after the first row: the last one's key
}

func (c *boltCursor) Next() (key string, val []byte, ok bool, err error) {
	if err := c.t.k.usable(); err != nil {
		return "", nil, false, err
	}
	defer c.t.k.guard("walk", &err)()
	first := c.c == nil
	var k, v []byte
	if first {
		b := c.t.bucket(c.from[0])
		if b == nil {
			return "", nil, false, c.t.k.withoutBucket(c.t.tx, c.from[0])
		}
		c.c = b.Cursor()
		k, v = c.c.Seek([]byte(c.from[1:]))
		if k == nil || string(k) != c.from[1:] {
			if err := c.t.beside(b, c.from); err != nil {
				return "", nil, false, err
			}
		}
	} else {
		k, v = c.c.Next()
	}
	if k == nil {
		return "", nil, false, nil
	}
	key = c.from[:1] + string(k)
	if key < c.from || key == c.from && !first || v == nil {
		return "", nil, false, c.t.k.misplaced(rowName(key))
	}
	c.from = key
	return key, bytes.Clone(v), true, nil
}

type boltWriter struct {
	k    *boltKV
	tx   *bolt.Tx
	name byte
	b    *bolt.Bucket
}

func (w *boltWriter) bucket(name byte) (*bolt.Bucket, error) {
	if w.b != nil && w.name == name {
		return w.b, nil
	}
	b := w.tx.Bucket([]byte{name})
	if b == nil { // an older kv may not have had it
		err := w.k.withoutBucket(w.tx, name)
		if err == nil {
			b, err = w.tx.CreateBucket([]byte{name})
		}
		if err != nil {
			return nil, err
		}
	}
	switch name {
	case bucketInode, bucketInline, bucketSum, bucketOpTime, bucketChange:
		b.FillPercent = 0.95 // keys come nearly in the order of time
	}
	w.name, w.b = name, b
	return b, nil
}

func (w *boltWriter) Put(key string, val []byte) error {
	b, err := w.bucket(key[0])
	if err != nil {
		return err
	}
	return b.Put([]byte(key[1:]), val)
}

func (w *boltWriter) Delete(key string) error {
	b, err := w.bucket(key[0])
	if err != nil {
		return err
	}
	return b.Delete([]byte(key[1:]))
}
