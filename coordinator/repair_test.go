package coordinator

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/wire"
)

// rotten is what a participant says of a rotten block.
func rotten(block int64) *wire.Error {
	return &wire.Error{Code: wire.CodeCorrupt, Text: "the checksum of the block does not match", Ino: 5, Object: 6, Block: block}
}

// copies has every node donate blocks 0 to 9 of one file, but for those that are
// rotten there, and note what it is brought.
type copies struct {
	mu     sync.Mutex // guards the following
	rotten [3]map[int64]bool
	asked  [3]int
	fixed  [3][]int64
}

func (k *cluster) copies() *copies {
	f := &copies{}
	for i, n := range k.nodes {
		f.rotten[i] = map[int64]bool{}
		n.set(func() {
			n.onDonate = func(req wire.Donate) (wire.Donated, []byte, error) { return f.donate(i, req) }
			n.onRepair = func(req wire.Repair, body []byte) (wire.Repaired, error) { return f.repair(i, req, body) }
		})
	}
	return f
}

func (f *copies) donate(i int, req wire.Donate) (d wire.Donated, body []byte, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[i]++
	d.Version = 77
	for _, b := range req.Blocks {
		switch {
		case f.rotten[i][b]:
			return wire.Donated{}, nil, rotten(b)
		case b < 10: // the file has no more
			d.Blocks = append(d.Blocks, wire.DonatedBlock{Block: b, Sum: uint32(b), Size: 1})
			body = append(body, byte(b))
		}
	}
	return d, body, nil
}

func (f *copies) repair(i int, req wire.Repair, body []byte) (r wire.Repaired, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if req.Ino != 5 || req.Object != 6 || req.Version != 77 || len(body) != len(req.Blocks) || req.Index == 0 {
		return r, fmt.Errorf("a repair %+v with %d bytes", req, len(body))
	}
	for j, d := range req.Blocks {
		if body[j] != byte(d.Block) {
			return r, fmt.Errorf("block %d is %d", d.Block, body[j])
		}
		r.Right = append(r.Right, d.Block)
		f.fixed[i] = append(f.fixed[i], d.Block)
		delete(f.rotten[i], d.Block)
	}
	return r, nil
}

// rots has a node find these blocks rotten, now and when it is asked for them.
func (f *copies) rots(i int, blocks ...int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range blocks {
		f.rotten[i][b] = true
	}
}

func (f *copies) left(i int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.rotten[i])
}

// A read that meets a rotten block is answered by another participant, and the block
// is rewritten from one that has it; one that turns out to be rotten at the donor, too.
func TestReadRepairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		k.put("x", []byte("1"))
		f := k.copies()
		f.rots(0, 3)
		f.rots(1, 3)
		var once atomic.Bool
		k.nodes[0].set(func() {
			k.nodes[0].onRead = func(wire.PositionedRead, wire.PieceWriter) (wire.ReadReply, bool, error) {
				once.Store(true)
				return wire.ReadReply{}, true, rotten(3)
			}
		})
		for !once.Load() {
			k.wantGet("x", []byte("1"))
		}
		synctest.Wait()
		if f.left(0) > 0 {
			t.Error("it is rotten still")
		}
		if f.left(1) > 0 && f.asked[1] > 0 {
			t.Error("the donor's block is rotten still")
		}
		k.close()
	})
}

// Blocks of one page are repaired together, each by whoever has it; what the file has
// no more is nothing that is rotten; what nobody has is said.
func TestRepairFromSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		f := k.copies()
		f.rots(0, 1, 2, 3, 4)
		f.rots(1, 2, 4)
		f.rots(2, 3, 4)
		m := k.c.repair(ctx, 0, wire.Lack{Ino: 5, Object: 6, Blocks: []int64{1, 2, 3, 4, 40}})
		if m.right != 3 || m.gone != 1 || !slices.Equal(m.rotten, []int64{4}) || m.err == nil || !strings.Contains(m.err.Error(), "no other participant") {
			t.Errorf("%+v", m)
		}
		synctest.Wait() // what was met of the donors' is queued by now, and repaired
		if f.left(0) != 1 {
			t.Errorf("%d blocks are left", f.left(0))
		}
		if f.left(1) != 1 || f.left(2) != 2 {
			t.Errorf("left are %d and %d", f.left(1), f.left(2))
		}
		k.close()
	})
}

// A block that cannot be repaired is not tried again for a while, however often it
// is read; then it is. A participant that is busy is asked again.
func TestRepairRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		f := k.copies()
		for i := range k.nodes {
			f.rots(i, 3)
		}
		k.c.rottenAt(0, rotten(3))
		synctest.Wait()
		asked := f.asked
		for range 5 {
			k.c.rottenAt(0, rotten(3))
			synctest.Wait()
		}
		if f.asked != asked || asked[1] == 0 {
			t.Errorf("the donors were asked %v times, and then %v", asked, f.asked)
		}
		time.Sleep(repairRest)
		f.mu.Lock()
		clear(f.rotten[1])
		f.mu.Unlock()
		busy := 3
		k.nodes[0].set(func() {
			k.nodes[0].onRepair = func(req wire.Repair, body []byte) (wire.Repaired, error) {
				if busy--; busy > 0 {
					return wire.Repaired{}, wire.NewError(wire.CodeBusy, "the table is full")
				}
				return f.repair(0, req, body)
			}
		})
		k.c.rottenAt(0, rotten(3))
		time.Sleep(time.Second)
		if synctest.Wait(); f.left(0) > 0 {
			t.Error("it is rotten still")
		}
		k.close()
	})
}

// What is written and cannot be read back is not repaired, and that is said.
func TestRepairOfABrokenDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		f := k.copies()
		f.rots(0, 3)
		k.nodes[0].set(func() {
			k.nodes[0].onRepair = func(req wire.Repair, _ []byte) (wire.Repaired, error) { return wire.Repaired{Rotten: []int64{3}}, nil }
		})
		m := k.c.repair(ctx, 0, wire.Lack{Ino: 5, Object: 6, Blocks: []int64{3}})
		if m.right != 0 || !slices.Equal(m.rotten, []int64{3}) || m.err == nil || !strings.Contains(m.err.Error(), "see to the disk of participant a") {
			t.Errorf("%+v", m)
		}
		k.close()
	})
}

// Blocks that are rotten at the donor keep nobody out: others have them. Here no
// donor has all, and none can be repaired.
func TestCatchingUpPastARottenBlock(t *testing.T) {
	k := newEvicting(t)
	k.serve()
	k.put("x", []byte("before"))
	f := k.copies()
	f.rots(0, 7)
	f.rots(2, 8)
	for _, n := range k.nodes {
		n.set(func() {
			n.onRepair = func(req wire.Repair, _ []byte) (r wire.Repaired, err error) {
				for _, d := range req.Blocks {
					r.Rotten = append(r.Rotten, d.Block)
				}
				return r, nil
			}
		})
	}
	k.nodes[1].kill()
	k.put("x", []byte("meanwhile"))
	k.state(1, stateEvicted)
	k.nodes[1].revive()
	k.state(1, stateInSync)
	k.c.Close()
	k.wantAlike()
}
