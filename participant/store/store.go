package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"tpcfs/journal"
	"tpcfs/journal/disk"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// Store is a participant's files.
//
// One goroutine, the owner, calls Bootstrap, Apply, Abort, Freeze, Reserve,
// Release, Block, ReadStaged, Room, Preserve, NeedCheckpoint, and what a
// newcomer's copying consists of. Reads, Donate, stages, Sweep, Stats, Digest and
// Checkpoint.Run may run at the same time.
//
// Lock order: still, pin.mu, mu, objects.mu, space.mu.
type Store struct {
	o      Options
	fs     disk.FS
	kv     KV
	log    *slog.Logger
	lock   io.Closer
	format format

	still sync.Mutex // held while the kv is written, or must not be

	mu      sync.RWMutex // guards the fields below, and the active table's rows
	active  *table
	frozen  *table // being checkpointed; nil: none
	counts  metaRow
	applied journal.LSN // of the last checkpoint
	state   []byte      // likewise
	closed  bool

	objects objects
	space   space
	packs   packCache

	maxChanges int64    // rows of the changed-keys index that are kept
	opsFrom    string   // owner's: no row of operations by time lies below
	copying    *copying // of a newcomer (P11); nil: none
	noIndex    bool     // owner's: the next checkpoint drops the index

	damaged atomic.Pointer[string] // why nothing is answered any more (S1)
	failed  atomic.Pointer[FatalError]
}

var _ vote.View = (*Store)(nil)

// Open opens the store in o.Dir, or makes one where the directory is empty or
// missing. It scans nothing: how long it takes does not depend on how many
// files there are.
func Open(o Options) (*Store, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	s := &Store{o: o, fs: o.FS, kv: o.KV, log: o.Logger, active: newTable(), opsFrom: string(bucketOpTime), maxChanges: maxChanges}
	s.objects.init()
	s.space.reserved = map[wire.ID]reservation{}
	if err := s.open(); err != nil {
		if rerr := s.release(); rerr != nil {
			s.log.Warn("after a failed open", "dir", o.Dir, "error", rerr)
		}
		return nil, err
	}
	return s, nil
}

func (s *Store) open() error {
	if err := s.checkDir(); err != nil {
		return err
	}
	if err := s.fs.MkdirAll(s.o.Dir); err != nil {
		return dirError(s.o.Dir, err)
	}
	if err := s.takeLock(); err != nil {
		return err
	}
	found, err := s.readFormat()
	if err != nil {
		return err
	}
	if !found {
		entries, err := s.fs.ReadDir(s.o.Dir)
		if err != nil {
			return dirError(s.o.Dir, err)
		}
		if err := s.refuseForeign(entries); err != nil {
			return err
		}
		if err := s.create(); err != nil {
			return err
		}
	}
	if s.kv == nil {
		if s.kv, err = openBolt(s.fs, s.path(kvName), !found); err != nil {
			return kvOpenError(s.path(kvName), err)
		}
	}
	had, err := s.readMeta()
	if err != nil {
		return err
	}
	if !found {
		if had {
			return openError(wire.CodeCorrupt, s.o.Dir, "its kv has data but there is no FORMAT file: put that back from a backup")
		}
		if err := s.writeFormat(); err != nil {
			return err
		}
	} else if err := s.checkObjectDirs(); err != nil {
		return err
	}
	s.openBallast()
	return nil
}

func (s *Store) takeLock() error {
	name := s.path(lockName)
	l, err := s.fs.Lock(name)
	var held *disk.LockedError
	if errors.As(err, &held) {
		by := "another process"
		if held.PID != 0 {
			by = fmt.Sprintf("process %d", held.PID)
		}
		return &wire.Error{Code: wire.CodeBusy, Op: "open", Name: s.o.Dir, Text: fmt.Sprintf("the data directory is in use by %s (%s): stop it first, or give another directory", by, name)}
	}
	if err != nil {
		return dirError(s.o.Dir, err)
	}
	s.lock = l
	return nil
}

// readMeta reads what the last checkpoint left; false if there was none.
func (s *Store) readMeta() (bool, error) {
	var had bool
	err := s.look(func(m *moment) error {
		val, ok, err := m.get(metaKey)
		if err != nil || !ok {
			return err
		}
		had = true
		if err := wire.Unmarshal(val, &s.counts); err != nil {
			return m.s.damage(rowName(metaKey) + ": " + err.Error())
		}
		s.applied = journal.LSN(s.counts.Applied)
		s.state, _, err = m.get(stateKey)
		return err
	})
	if err != nil {
		return false, kvOpenError(s.path(kvName), err)
	}
	return had, nil
}

// UUID names this storage; a new store has a new one.
func (s *Store) UUID() wire.UUID { return s.format.uuid }

// Meta returns the applied LSN and the participant's state of the last
// checkpoint; 0 and nil when there was none. Redo begins at applied+1.
func (s *Store) Meta() (journal.LSN, []byte) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.applied, s.state
}

// Close ends the use of the store: as a crash, but for the lock. The owner and
// a running checkpoint must have ended; a Digest that runs is waited for.
func (s *Store) Close() error {
	s.still.Lock()
	defer s.still.Unlock()
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	return s.release()
}

func (s *Store) release() error {
	var err error
	for _, t := range []*table{s.active, s.frozen} {
		if t != nil {
			for _, f := range t.dirty {
				err = errors.Join(err, f.Close())
			}
		}
	}
	if s.kv != nil {
		err = errors.Join(err, s.kv.Close())
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return err
}

// look calls fn with the present moment, which stands still meanwhile.
func (s *Store) look(fn func(m *moment) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usableLocked(); err != nil {
		return err
	}
	m := &moment{s: s, active: s.active.rows, renewable: true}
	if s.frozen != nil {
		m.frozen = s.frozen.rows
	}
	defer m.close()
	return fn(m)
}

// snapshot returns the present moment for as long as it is needed, at the
// price that applies copy what they change of the table. The caller closes it.
func (s *Store) snapshot() (*moment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(); err != nil {
		return nil, err
	}
	m := &moment{s: s, active: s.active.rows.IsoCopy()}
	if s.frozen != nil {
		m.frozen = s.frozen.rows
	}
	return m, m.begin()
}

func (s *Store) usableLocked() error {
	if err := s.trouble(); err != nil {
		return err
	}
	if s.closed {
		return &wire.Error{Code: wire.CodeUnavailable, Text: "the participant is stopping"}
	}
	return nil
}

// trouble is damage or a failed sync.
func (s *Store) trouble() error {
	if why := s.damaged.Load(); why != nil {
		return s.damage(*why)
	}
	if e := s.failed.Load(); e != nil {
		return e
	}
	return nil
}

// damage marks the store as damaged: from now on it answers nothing (S1).
func (s *Store) damage(why string) *wire.Error {
	if s.damaged.CompareAndSwap(nil, &why) {
		s.log.Info("the store is damaged and answers nothing any more", "dir", s.o.Dir, "reason", why)
	}
	return &wire.Error{Code: wire.CodeCorrupt, Text: fmt.Sprintf("storage %s in %s is damaged: %s; this participant has to be made anew from the others", s.format.uuid, s.o.Dir, *s.damaged.Load())}
}

// kvError turns a kv's error into one of the store's; nil stays nil.
func (s *Store) kvError(err error) error {
	var d *DamageError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &d):
		return s.damage(d.Error())
	default:
		return &wire.Error{Code: wire.CodeIO, Name: s.path(kvName), Text: err.Error()}
	}
}

// Damaged tells why the store answers nothing any more; "" while it is sound.
// The participant marks itself as needing a resync then.
func (s *Store) Damaged() string {
	if why := s.damaged.Load(); why != nil {
		return *why
	}
	return ""
}

// fail makes a failed sync or write sticky (P12).
func (s *Store) fail(op, file string, err error) error {
	e := &FatalError{op, file, err}
	var already *FatalError
	if errors.As(err, &already) {
		e = already
	}
	if s.failed.CompareAndSwap(nil, e) {
		s.log.Info("the store has failed", "error", e)
	}
	return e
}

// Failed is the *FatalError after which the participant must end (P12), or nil.
func (s *Store) Failed() error {
	if e := s.failed.Load(); e != nil {
		return e
	}
	return nil
}

// Inode implements vote.View.
func (s *Store) Inode(ino wire.Ino) (v vote.Inode, err error) {
	err = s.look(func(m *moment) error {
		n, err := m.inode(ino)
		v = n.view()
		if err != nil || n.isDir() || n.attr.Nlink > 0 {
			return err
		}
		o, err := m.orphan(ino)
		v.Linkable = o.linkable
		return err
	})
	return v, err
}

// Lookup implements vote.View.
func (s *Store) Lookup(dir wire.Ino, name string) (ino wire.Ino, err error) {
	err = s.look(func(m *moment) error {
		ino, err = m.lookup(dir, name)
		return err
	})
	return ino, err
}

// Op implements vote.View.
func (s *Store) Op(op wire.OpID) (outcome wire.Outcome, found bool, err error) {
	err = s.look(func(m *moment) error {
		val, ok, err := m.get(opKey(op))
		if err != nil || !ok {
			return err
		}
		found = true
		if _, outcome, err = decodeOp(val); err != nil {
			return s.damage(rowName(opKey(op)) + ": " + err.Error())
		}
		return nil
	})
	return outcome, found && err == nil, err
}

// Stats is how full a store is.
type Stats struct {
	Files      uint64 // inodes
	Bytes      uint64 // sum of the sizes of regular files
	TableBytes int64  // memory that the tables take
	Free       uint64 // bytes left to files
	Total      uint64 // bytes of the file system
	FilesLeft  uint64 // that can be made; math.MaxUint64: no bound is known
}

// Stats tells how full the store is. Errors of the file system show as no space.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	st := Stats{Files: uint64(max(s.counts.Files, 0)), Bytes: uint64(max(s.counts.Bytes, 0)), TableBytes: s.active.bytes}
	if s.frozen != nil {
		st.TableBytes += s.frozen.bytes
	}
	s.mu.RUnlock()
	free, err := s.fs.Free(s.o.Dir)
	if err != nil {
		s.log.Warn("cannot tell the free space", "dir", s.o.Dir, "error", err)
	}
	st.Total = free + st.Bytes
	var fsys unix.Statfs_t
	if s.fs == disk.New() && unix.Statfs(s.o.Dir, &fsys) == nil {
		st.Total = fsys.Blocks * uint64(fsys.Frsize)
	}
	headroom := s.headroom()
	if s.ballastMissing() { // what there is goes to the reserve first
		headroom += s.o.Ballast
	}
	st.Free = filesFree(free, headroom)
	st.FilesLeft = s.inodesLeft()
	return st
}

// rowName says in words which row a key is of.
func rowName(key string) string {
	n := func(at int) uint64 { return be.Uint64([]byte(key[at:])) }
	switch {
	case len(key) > 9 && key[0] == bucketEntry:
		return fmt.Sprintf("%s: entry %q of directory %d", kvName, key[9:], n(1))
	case len(key) == 9 && key[0] == bucketInode:
		return fmt.Sprintf("%s: inode %d", kvName, n(1))
	case len(key) == 9 && key[0] == bucketInline:
		return fmt.Sprintf("%s: contents of inode %d", kvName, n(1))
	case len(key) > 9 && key[0] == bucketXattr:
		return fmt.Sprintf("%s: extended attribute %q of inode %d", kvName, key[9:], n(1))
	case len(key) == 9 && key[0] == bucketOrphan:
		return fmt.Sprintf("%s: orphan %d", kvName, n(1))
	case len(key) == 13 && key[0] == bucketSum:
		return fmt.Sprintf("%s: checksums of object %s", kvName, wire.ID(n(1)))
	case len(key) == 25 && key[0] == bucketOp:
		return fmt.Sprintf("%s: operation %s", kvName, opOfKey(key))
	case key[0] == bucketMeta:
		return fmt.Sprintf("%s: row %q", kvName, key[1:])
	default:
		return fmt.Sprintf("%s: row %s", kvName, hex.EncodeToString([]byte(key)))
	}
}

// ctxError is a caller's cancel as an error of the service.
func ctxError(ctx context.Context, op string) error {
	if ctx.Err() != nil {
		return &wire.Error{Code: wire.CodeCanceled, Op: op, Text: context.Cause(ctx).Error()}
	}
	return nil
}

func dirName(i int) string { return fmt.Sprintf("%02x", i) }

// objectDir is the directory that an object lies in.
func (s *Store) objectDir(id wire.ID) string {
	return s.path(objectsName, dirName(int(uint64(id)%uint64(s.format.dirs))))
}

func (s *Store) objectPath(id wire.ID) string {
	return path.Join(s.objectDir(id), fmt.Sprintf("%016x", uint64(id)))
}
