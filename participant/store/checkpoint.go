package store

import (
	"maps"
	"math"
	"slices"

	"golang.org/x/sync/errgroup"

	"tpcfs/journal"
	"tpcfs/wire"
	"tpcfs/wire/failpoint"
)

// Checkpoint makes durable what was applied up to a record of the journal (S3).
type Checkpoint struct {
	s       *Store
	applied journal.LSN
	state   []byte
	table   *table
	counts  metaRow
	noIndex bool // a full comparison: what the index says of before is of no use (P11)
}

// Freeze begins a checkpoint: all that was applied so far, and state, the
// participant's own, which the store keeps. applied is the last record of the
// journal whose effect is in it. One checkpoint at a time. Owner only; it
// does no I/O.
func (s *Store) Freeze(applied journal.LSN, state []byte) (*Checkpoint, error) {
	if err := s.trouble(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen != nil {
		return nil, &wire.Error{Code: wire.CodeBusy, Op: "checkpoint", Text: "the last checkpoint is not done"}
	}
	if applied < s.applied {
		panic("store: a checkpoint goes back")
	}
	s.frozen, s.active = s.active, newTable()
	s.counts.Applied = uint64(applied)
	s.counts.Changes += s.frozen.changes
	s.space.mu.Lock()
	s.space.refused, s.space.stuck = false, false
	s.space.mu.Unlock()
	c := &Checkpoint{s: s, applied: applied, state: state, table: s.frozen, counts: s.counts, noIndex: s.noIndex}
	s.noIndex = s.copying != nil && s.copying.full
	return c, nil
}

// Run does the checkpoint's work on the disk, in S3's order; syncJournal makes
// the journal durable through the applied record. When it has returned, the
// caller may cut the journal below applied+1. An error is fatal to the
// participant (P12). It runs in a goroutine of its own.
func (c *Checkpoint) Run(syncJournal func() error) error {
	failpoint.At("store.checkpoint-journal")
	if err := syncJournal(); err != nil {
		return c.s.fail("sync", "journal", err)
	}
	failpoint.At("store.checkpoint-objects")
	if err := c.copyStaged(); err != nil {
		return err
	}
	if err := c.syncObjects(); err != nil {
		return err
	}
	failpoint.At("store.checkpoint-kv")
	if err := c.writeKV(); err != nil {
		return err
	}
	failpoint.At("store.checkpoint-unlink")
	for _, id := range c.table.dead {
		c.s.unlink(id)
		c.s.objects.become(id, 0, 0, nil)
	}
	if err := c.s.dropAside(); err != nil {
		return err
	}
	c.s.rebuildBallast()
	return nil
}

// syncObjects makes new objects durable, contents and names.
func (c *Checkpoint) syncObjects() error {
	ids := slices.Sorted(maps.Keys(c.table.dirty))
	err := c.each(len(ids), func(i int) error {
		f, name := c.table.dirty[ids[i]], c.s.objectPath(ids[i])
		if err := f.Sync(); err != nil {
			return c.s.fail("sync", name, err)
		}
		return nil
	})
	dirs := map[string]bool{}
	for _, id := range ids {
		dirs[c.s.objectDir(id)] = true
		if cerr := c.table.dirty[id].Close(); cerr != nil && err == nil {
			err = c.s.fail("close", c.s.objectPath(id), cerr)
		}
		delete(c.table.dirty, id)
	}
	if err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(dirs))
	err = c.each(len(names), func(i int) error {
		if err := c.s.fs.SyncDir(names[i]); err != nil {
			return c.s.fail("sync", names[i], err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range ids { // from here on a row of the kv names it
		c.s.objects.settle(id, stateDirty)
	}
	return nil
}

// each calls fn for 0 to n-1, by as many workers as the options say.
func (c *Checkpoint) each(n int, fn func(i int) error) error {
	if c.s.o.Workers == 1 {
		for i := range n {
			if err := fn(i); err != nil {
				return err
			}
		}
		return nil
	}
	var g errgroup.Group
	g.SetLimit(c.s.o.Workers)
	for i := range n {
		g.Go(func() error { return fn(i) })
	}
	return g.Wait()
}

// maxChanges bounds the rows of the changed-keys index: a participant that was
// away for longer is compared in full (P11).
const maxChanges = 1 << 17

// writeKV makes the frozen table and the state one transaction of the kv, and
// gives up the table: the kv now says the same.
func (c *Checkpoint) writeKV() error {
	s := c.s
	s.still.Lock()
	defer s.still.Unlock()
	old, err := c.oldChanges()
	if err != nil {
		return err
	}
	if len(old) > 0 { // before the rows go: who looks meanwhile must not miss them (P11)
		s.mu.Lock()
		if s.counts.ChangesFrom.Before(c.counts.ChangesFrom) {
			s.counts.ChangesFrom = c.counts.ChangesFrom
		}
		s.mu.Unlock()
	}
	meta := seal(metaKey, wire.Marshal(&c.counts))
	state := seal(stateKey, slices.Clip(c.state))
	err = s.withKVBallast(func() error {
		return s.kv.Update(func(w KVWriter) error {
			var err error
			put := func(key string, val []byte) {
				if err == nil && val == nil {
					err = w.Delete(key)
				} else if err == nil {
					err = w.Put(key, val)
				}
			}
			for _, key := range old {
				put(key, nil)
			}
			c.table.rows.Scan(func(key string, row cell) bool {
				put(key, row.val)
				return err == nil
			})
			put(metaKey, meta)
			put(stateKey, state)
			return err
		})
	})
	if err != nil {
		return s.fail("write", s.path(kvName), err)
	}
	failpoint.At("store.checkpoint-kv-done")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen, s.applied, s.state = nil, c.applied, c.state
	s.counts.Changes -= int64(len(old))
	return nil
}

// withKVBallast is withBallast for the kv, whose errors tell a full disk at a
// write from one at a sync, which is fatal (P12).
func (s *Store) withKVBallast(update func() error) error {
	drops := s.ballastDrops()
	err := update()
	if err != nil && writeNoSpace(err) && s.dropBallast(drops) {
		return update()
	}
	return err
}

// oldChanges returns the oldest rows of the changed-keys index beyond its
// bound, and enters into the counts where the index begins without them.
func (c *Checkpoint) oldChanges() ([]string, error) {
	excess := int(c.counts.Changes - c.s.maxChanges)
	if c.noIndex {
		excess = math.MaxInt
	}
	var old []string
	from := string(bucketChange)
	for len(old) < excess {
		part, err := c.changesFrom(from, min(excess-len(old), maxTxKeys))
		if err != nil {
			return nil, err
		}
		if len(part) == 0 {
			break // the rest is in the table: the next checkpoint's
		}
		old = append(old, part...)
		from = part[len(part)-1] + "\x00"
	}
	c.counts.Changes -= int64(len(old))
	if len(old) > 0 {
		if last := positionOfKey(old[len(old)-1]); c.counts.ChangesFrom.Before(last) {
			c.counts.ChangesFrom = last
		}
	}
	return old, nil
}

func (c *Checkpoint) changesFrom(from string, limit int) ([]string, error) {
	tx, err := c.s.kv.View()
	if err != nil {
		return nil, c.s.kvError(err)
	}
	defer tx.Close()
	var keys []string
	for cur := tx.Seek(from); len(keys) < limit; {
		key, _, ok, err := cur.Next()
		if err != nil || !ok {
			return keys, c.s.kvError(err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}
