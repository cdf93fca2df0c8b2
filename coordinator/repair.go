package coordinator

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"tpcfs/wire"
)

// A block that a participant has found rotten is rewritten from another one's
// (S5). Reads do not wait for it: they go to another participant themselves.

// Bounds of repairing.
const (
	maxRottenBlocks = 4096             // that wait; more are found again
	repairRest      = 10 * time.Second // before a block is tried again that could not be repaired
	repairBusy      = 100 * time.Millisecond
	repairTries     = 20 // at a participant that is busy
)

// rottenBlock is a block of a participant's copy.
type rottenBlock struct {
	member int
	ino    wire.Ino
	object wire.ID
	block  int64
}

// repairer holds what is to be repaired.
type repairer struct {
	mu     sync.Mutex // guards the following
	queue  []rottenBlock
	known  map[rottenBlock]time.Time // queued or under way (zero), or not repaired at that time
	counts map[int]repairCount       // by member
	wake   chan struct{}             // capacity 1: there is something in queue
}

// repairCount counts blocks since the coordinator's start.
type repairCount struct{ repaired, failed int64 }

// rottenAt queues the block that an error is about; nothing if it is about none.
func (c *Coordinator) rottenAt(member int, e *wire.Error) {
	if e.Code != wire.CodeCorrupt || e.Ino == 0 || e.Object == 0 {
		return
	}
	k, r := rottenBlock{member, e.Ino, e.Object, e.Block}, &c.repairs
	r.mu.Lock()
	defer r.mu.Unlock()
	at, known := r.known[k]
	switch {
	case known && (at.IsZero() || time.Since(at) < repairRest), len(r.queue) >= maxRottenBlocks:
		return
	case r.known == nil || len(r.known) >= 2*maxRottenBlocks:
		r.known = map[rottenBlock]time.Time{}
		for _, q := range r.queue {
			r.known[q] = time.Time{}
		}
	}
	r.known[k] = time.Time{}
	r.queue = append(r.queue, k)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take returns what is queued, in order.
func (r *repairer) take() []rottenBlock {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.queue
	r.queue = nil
	slices.SortFunc(list, func(a, b rottenBlock) int {
		for _, d := range []int64{int64(a.member - b.member), int64(a.ino) - int64(b.ino), int64(a.object) - int64(b.object), a.block - b.block} {
			if d != 0 {
				return int(max(-1, min(1, d)))
			}
		}
		return 0
	})
	return list
}

// end notes what became of a block.
func (r *repairer) end(k rottenBlock, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if delete(r.known, k); failed {
		r.known[k] = time.Now()
	}
}

func (r *repairer) count(member int, repaired, failed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil {
		r.counts = map[int]repairCount{}
	}
	n := r.counts[member]
	n.repaired += int64(repaired)
	n.failed += int64(failed)
	r.counts[member] = n
}

// forget drops what was counted of a member whose number is another's now.
func (r *repairer) forget(member int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.counts, member)
}

// repairQueued repairs what reads have met, one page of checksums after the other,
// until the coordinator ends.
func (c *Coordinator) repairQueued() {
	for {
		select {
		case <-c.repairs.wake:
		case <-c.ctx.Done():
			return
		}
		list := c.repairs.take()
		for len(list) > 0 && c.ctx.Err() == nil {
			n := 1
			for n < len(list) && n < wire.MaxDonated && list[n].page() == list[0].page() {
				n++
			}
			blocks := make([]int64, n)
			for i := range blocks {
				blocks[i] = list[i].block
			}
			m := c.repair(c.ctx, list[0].member, wire.Lack{Ino: list[0].ino, Object: list[0].object, Blocks: blocks})
			for _, k := range list[:n] {
				c.repairs.end(k, slices.Contains(m.rotten, k.block))
			}
			list = list[n:]
		}
	}
}

// page is what the blocks of one repair have in common.
func (k rottenBlock) page() rottenBlock {
	k.block /= wire.SumsPerPage
	return k
}

// mending is what became of rotten blocks.
type mending struct {
	right  int     // are right now, and durable
	gone   int     // are others by now: the file has changed
	rotten []int64 // are rotten still
	err    error   // why the last of them are; nil: none is
}

// repair rewrites a participant's rotten blocks, at most MaxDonated of a page of
// checksums, with those of any other participant that has them.
func (c *Coordinator) repair(ctx context.Context, member int, lack wire.Lack) mending {
	m := mending{rotten: lack.Blocks}
	to := c.links[member].Load()
	if to == nil || to.outside.Load() {
		m.err = wire.NewError(wire.CodeUnavailable, fmt.Sprintf("participant %s is not in sync and there", c.peers[member].called()))
		return m
	}
	var from []string
	for _, l := range c.others(member) {
		index := c.readPoint.Load()
		if len(m.rotten) == 0 || index == 0 || ctx.Err() != nil {
			break
		}
		given, lacking, err := c.blocksOf(ctx, l, wire.Donate{Index: index, Ino: lack.Ino, Object: lack.Object, Blocks: m.rotten})
		if err != nil {
			m.err = fmt.Errorf("participant %s: %w", l.name, err)
			continue
		}
		// A donor leaves out what the file has no more.
		asked, bad := len(m.rotten)-len(lacking), lacking
		for i := range given {
			asked -= len(given[i].Blocks)
			got, err := c.bring(ctx, to, index, &lack, &given[i])
			if err != nil {
				m.err = fmt.Errorf("participant %s: %w", to.name, err)
				for _, d := range given[i].Blocks {
					bad = append(bad, d.Block)
				}
				continue
			}
			m.right += len(got.Right)
			m.gone += len(given[i].Blocks) - len(got.Right) - len(got.Rotten)
			if bad = append(bad, got.Rotten...); len(got.Rotten) > 0 {
				m.err = wire.NewError(wire.CodeCorrupt, "what was written there cannot be read back: see to the disk of participant "+to.name)
			}
			from = append(from, l.name)
		}
		m.gone += asked
		slices.Sort(bad)
		m.rotten = bad
	}
	c.tellRepair(to, &lack, &m, from)
	return m
}

// tellRepair logs and counts what became of it.
func (c *Coordinator) tellRepair(to *link, lack *wire.Lack, m *mending, from []string) {
	c.repairs.count(to.member, m.right, len(m.rotten))
	if m.right > 0 {
		c.log.Warn("a participant's rotten blocks are repaired", "name", to.name, "inode", lack.Ino, "blocks", m.right, "from", slices.Compact(from))
	}
	switch {
	case len(m.rotten) == 0:
		m.err = nil
	case m.err == nil:
		m.err = wire.NewError(wire.CodeCorrupt, "no other participant that is in sync has a sound copy")
	}
	if m.err != nil {
		c.log.Error("a participant's rotten blocks are not repaired", "name", to.name, "inode", lack.Ino, "blocks", len(m.rotten), "err", m.err)
	}
}

// others are the links to all participants in sync but one, or all (-1), in order.
func (c *Coordinator) others(member int) []*link {
	var list []*link
	for i := range c.links {
		if l := c.links[i].Load(); l != nil && i != member && !l.outside.Load() {
			list = append(list, l)
		}
	}
	return list
}

// donation is blocks that a participant gave.
type donation struct {
	wire.Donated
	body []byte
}

// blocksOf asks a participant for blocks. Those that are rotten there are returned
// apart, and queued to be repaired.
func (c *Coordinator) blocksOf(ctx context.Context, l *link, req wire.Donate) (given []donation, rotten []int64, err error) {
	d, body, err := c.donate(ctx, l, req)
	if err == nil {
		return []donation{{d, body}}, nil, nil
	}
	e := asError(err)
	if e.Code != wire.CodeCorrupt {
		return nil, nil, err
	}
	c.rottenAt(l.member, e)
	if len(req.Blocks) == 1 {
		return nil, req.Blocks, nil
	}
	for i := range req.Blocks {
		one := req
		one.Blocks = req.Blocks[i : i+1]
		got, bad, err := c.blocksOf(ctx, l, one)
		if err != nil {
			return nil, nil, err
		}
		given, rotten = append(given, got...), append(rotten, bad...)
	}
	return given, rotten, nil
}

// donate asks a participant; a link that is lost ends the call.
func (c *Coordinator) donate(ctx context.Context, l *link, req wire.Donate) (wire.Donated, []byte, error) {
	ctx, cancel := l.during(ctx)
	defer cancel()
	req.Epoch = c.epoch
	l.need(req.Index)
	return l.replica.Donate(ctx, req)
}

// bring takes blocks to where they are rotten.
func (c *Coordinator) bring(ctx context.Context, to *link, index uint64, lack *wire.Lack, d *donation) (wire.Repaired, error) {
	if len(d.Blocks) == 0 {
		return wire.Repaired{}, nil
	}
	ctx, cancel := to.during(ctx)
	defer cancel()
	to.need(index)
	req := wire.Repair{Epoch: c.epoch, Index: index, Ino: lack.Ino, Object: lack.Object, Version: d.Version, Blocks: d.Blocks}
	for n := 1; ; n++ {
		got, err := to.replica.Repair(ctx, req, d.body)
		if wire.CodeOf(err) != wire.CodeBusy || n == repairTries {
			return got, err
		}
		pause(ctx, repairBusy)
	}
}
