package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sync"

	"github.com/tidwall/btree"

	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// ModelKV is a KV for simulation: a copy-on-write tree in memory, each of whose
// transactions is a block appended to a file of fs and synced. So a disk that
// forgets what was not synced takes back just the transactions that were not
// durable. It never gets shorter: not for real use.
//
//	0      4        8          12                     12+length
//	+------+--------+----------+----------------------+
//	| chain| length | CRC32C   | rows                 |
//	+------+--------+----------+----------------------+
//
// chain is the CRC32C of the block before (0 in the first); the CRC is over
// chain, length and rows. A row is kind:1 (0 delete, 1 put), then the lengths of
// key and value as uvarints, key, value.
type ModelKV struct {
	name string
	file disk.File

	mu    sync.Mutex // guards rows: taking a snapshot writes to the tree
	rows  *btree.Map[string, []byte]
	end   int64  // where the next block goes; the one writer's
	chain uint32 // the one writer's
}

const modelHeader = 12

// NewModelKV opens the model kv of the store in dir, or makes it.
func NewModelKV(fsys disk.FS, dir string) (*ModelKV, error) {
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, err
	}
	k := &ModelKV{name: path.Join(dir, kvName), rows: newModelRows()}
	f, err := fsys.Open(k.name)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = fsys.Create(k.name)
	}
	if err != nil {
		return nil, err
	}
	k.file = f
	for _, step := range []func() error{f.Sync, func() error { return fsys.SyncDir(dir) }, f.DropCache, k.load} {
		if err := step(); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return k, nil
}

func newModelRows() *btree.Map[string, []byte] { return new(btree.Map[string, []byte]) }

// load reads the blocks up to the first that is torn.
func (k *ModelKV) load() error {
	size, err := k.file.Size()
	if err != nil {
		return err
	}
	b := make([]byte, size)
	if _, err := readUpTo(k.file, b, 0); err != nil {
		return err
	}
	for len(b) >= modelHeader {
		length := int64(binary.LittleEndian.Uint32(b[4:]))
		if binary.LittleEndian.Uint32(b) != k.chain || length > int64(len(b)-modelHeader) {
			return nil
		}
		sum := wire.SumUpdate(wire.Sum(b[:8]), b[modelHeader:modelHeader+length])
		if sum != binary.LittleEndian.Uint32(b[8:]) {
			return nil
		}
		if err := k.replay(b[modelHeader : modelHeader+length]); err != nil {
			return err
		}
		k.chain, k.end, b = sum, k.end+modelHeader+length, b[modelHeader+length:]
	}
	return nil
}

func (k *ModelKV) replay(b []byte) error {
	for len(b) > 0 {
		put := b[0] == 1
		kl, n := binary.Uvarint(b[1:])
		vl, m := binary.Uvarint(b[1+max(n, 0):])
		at := 1 + n + m
		if n <= 0 || m <= 0 || kl > uint64(len(b)) || vl > uint64(len(b)) || uint64(at)+kl+vl > uint64(len(b)) {
			return &DamageError{k.name, "a row does not fit its block"}
		}
		key, val := string(b[at:at+int(kl)]), b[at+int(kl):at+int(kl+vl)]
		if put {
			k.rows.Set(key, append([]byte{}, val...))
		} else {
			k.rows.Delete(key)
		}
		b = b[at+int(kl+vl):]
	}
	return nil
}

// View implements KV.
func (k *ModelKV) View() (KVTx, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return &modelTx{k.rows.IsoCopy()}, nil
}

// Update implements KV.
func (k *ModelKV) Update(fn func(w KVWriter) error) error {
	w := &modelWriter{block: make([]byte, modelHeader)}
	if err := fn(w); err != nil {
		return err
	}
	b := w.block
	binary.LittleEndian.PutUint32(b, k.chain)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-modelHeader))
	sum := wire.SumUpdate(wire.Sum(b[:8]), b[modelHeader:])
	binary.LittleEndian.PutUint32(b[8:], sum)
	if _, err := k.file.WriteAt(b, k.end); err != nil {
		return &fs.PathError{Op: "write", Path: k.name, Err: err}
	}
	if err := k.file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", k.name, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.chain, k.end = sum, k.end+int64(len(b))
	return k.replay(b[modelHeader:])
}

// Close implements KV.
func (k *ModelKV) Close() error { return k.file.Close() }

type modelWriter struct{ block []byte }

func (w *modelWriter) add(kind byte, key string, val []byte) {
	w.block = binary.AppendUvarint(append(w.block, kind), uint64(len(key)))
	w.block = binary.AppendUvarint(w.block, uint64(len(val)))
	w.block = append(append(w.block, key...), val...)
}

func (w *modelWriter) Put(key string, val []byte) error { w.add(1, key, val); return nil }
func (w *modelWriter) Delete(key string) error          { w.add(0, key, nil); return nil }

type modelTx struct{ rows *btree.Map[string, []byte] }

func (t *modelTx) Get(key string) ([]byte, bool, error) {
	v, ok := t.rows.Get(key)
	return append([]byte(nil), v...), ok, nil
}

func (t *modelTx) Close() {}

func (t *modelTx) Seek(from string) KVCursor {
	return &modelCursor{it: t.rows.Iter(), from: from}
}

type modelCursor struct {
	it    btree.MapIter[string, []byte]
	from  string
	begun bool
}

func (c *modelCursor) Next() (string, []byte, bool, error) {
	ok := false
	if c.begun {
		ok = c.it.Next()
	} else {
		c.begun, ok = true, c.it.Seek(c.from)
	}
	if !ok || c.it.Key()[0] != c.from[0] {
		return "", nil, false, nil
	}
	return c.it.Key(), append([]byte(nil), c.it.Value()...), true, nil
}
