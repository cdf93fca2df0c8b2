package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
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
	if err := fn(&boltWriter{tx: tx}); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
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
		return nil, false, nil
	}
	v := b.Get([]byte(key[1:]))
	if v == nil {
		return nil, false, nil
	}
	return bytes.Clone(v), true, nil // the copy touches every byte inside the guard
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
	from string
}

func (c *boltCursor) Next() (key string, val []byte, ok bool, err error) {
	if err := c.t.k.usable(); err != nil {
		return "", nil, false, err
	}
	defer c.t.k.guard("walk", &err)()
	var k, v []byte
	if c.c == nil {
		b := c.t.bucket(c.from[0])
		if b == nil {
			return "", nil, false, nil
		}
		c.c = b.Cursor()
		k, v = c.c.Seek([]byte(c.from[1:]))
	} else {
		k, v = c.c.Next()
	}
	if k == nil {
		return "", nil, false, nil
	}
	return c.from[:1] + string(k), bytes.Clone(v), true, nil
}

type boltWriter struct {
	tx   *bolt.Tx
	name byte
	b    *bolt.Bucket
}

func (w *boltWriter) bucket(name byte) (*bolt.Bucket, error) {
	if w.b != nil && w.name == name {
		return w.b, nil
	}
	b, err := w.tx.CreateBucketIfNotExists([]byte{name})
	if err != nil {
		return nil, err
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
