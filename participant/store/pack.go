package store

import (
	"fmt"
	"sync"

	"tpcfs/wire"
)

// packCache holds packs that a prepare will ask for soon, so that the owner
// need not read them.
type packCache struct {
	mu   sync.Mutex // guards what follows
	held map[wire.ID]*openPack
	last []wire.ID // oldest first
}

type openPack struct {
	mutations []wire.Mutation
	payload   []byte
}

// packsHeld bounds the packs in memory that no prepare has asked for yet.
const packsHeld = 2

func (c *packCache) put(id wire.ID, p *openPack) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = map[wire.ID]*openPack{}
	}
	if len(c.last) == packsHeld {
		delete(c.held, c.last[0])
		c.last = c.last[1:]
	}
	c.held[id] = p
	c.last = append(c.last, id)
}

// take gives a pack away: each is asked for once, but for redos.
func (c *packCache) take(id wire.ID) *openPack {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.held[id]
	if p == nil {
		return nil
	}
	delete(c.held, id)
	for i := range c.last {
		if c.last[i] == id {
			c.last = append(c.last[:i:i], c.last[i+1:]...)
			break
		}
	}
	return p
}

// ReadyPack reads a pack that was staged just now, for the prepare to come. A
// pack that cannot be read is the prepare's matter. Any goroutine may call it.
func (s *Store) ReadyPack(id wire.ID, size int64, sum uint32) {
	if p, err := s.readPack(&wire.Pack{Stage: id, Size: size, Sum: sum}); err == nil {
		s.packs.put(id, p)
	}
}

// Pack implements vote.View: every block of the pack is verified.
func (s *Store) Pack(p *wire.Pack) ([]wire.Mutation, []byte, error) {
	open := s.packs.take(p.Stage)
	if open == nil {
		var err error
		if open, err = s.readPack(p); err != nil {
			return nil, nil, err
		}
	}
	return open.mutations, open.payload, nil
}

func (s *Store) readPack(p *wire.Pack) (*openPack, error) {
	lost := func(why string) error {
		return &wire.Error{Code: wire.CodeStageLost, Name: p.Name, Text: fmt.Sprintf("stage %v, a pack, %s; stage it again", p.Stage, why)}
	}
	failed := func(err error) error {
		if ofProcess(err) {
			return unread(err)
		}
		return lost(err.Error())
	}
	st, ok, err := s.stagedObject(p.Stage)
	switch {
	case ofProcess(err):
		return nil, unread(err)
	case err != nil:
		return nil, err
	case !ok:
		return nil, lost("is not there")
	case st.skew != 0: // its blocks are not those of its checksums
		return nil, lost("begins within a block")
	case st.size != p.Size || st.sum != p.Sum || p.Size > wire.MaxPack:
		return nil, lost(fmt.Sprintf("has %d bytes with checksum %08x, not %d with %08x", st.size, st.sum, p.Size, p.Sum))
	}
	f, err := s.fs.Open(s.objectPath(p.Stage))
	if err != nil {
		return nil, failed(err)
	}
	defer closeRead(f)
	b := make([]byte, st.size)
	switch n, err := readUpTo(f, b, 0); {
	case err != nil:
		return nil, failed(err)
	case n < len(b):
		return nil, lost(fmt.Sprintf("has %d of %d bytes", n, len(b)))
	}
	for i, sum := range st.sums {
		at := i * wire.BlockSize
		if padSum(b[at:min(len(b), at+wire.BlockSize)]) != sum {
			return nil, lost(fmt.Sprintf("is damaged at byte %d of %s", at, s.objectPath(p.Stage)))
		}
	}
	mutations, payload, err := wire.DecodePack(b)
	if err != nil {
		return nil, err
	}
	return &openPack{mutations, payload}, nil
}

// endPack gives a decided transaction's pack up; its file stays until a
// checkpoint has passed the decision, for redos need it. Owner only.
func (s *Store) endPack(p *wire.Pack) {
	if p != nil {
		s.kill(p.Stage, p.Size)
	}
}
