package coordinator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"tpcfs/coordinator/meter"
	"tpcfs/wire"
)

// digestTime is how long Status waits for digests where they are asked for.
const digestTime = time.Minute

// Status implements wire.Service. It waits for nobody longer than StatusWait,
// for digests digestTime.
func (c *Coordinator) Status(ctx context.Context, req wire.StatusRequest) (wire.Status, error) {
	wait := c.o.StatusWait
	if req.Digest {
		wait = digestTime
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	answer := make(chan wire.Status, 1)
	var numbers []int // of its members
	ok := c.ask(ctx, func() {
		s := c.m.Status()
		numbers = c.m.Numbers()
		s.Locks, s.LockWaits = c.locks.table.Count()
		answer <- s
	})
	if !ok {
		return wire.Status{Cluster: c.cluster, Epoch: c.epoch, Problem: c.gone(ctx, "status").Error()}, nil
	}
	s := <-answer
	s.Changes, s.Reads = c.opStats(&c.changes), c.opStats(&c.reads)
	replicas := c.replicas(ctx, req, wait)
	for k, i := range numbers {
		m := &s.Members[k]
		c.describe(i, m)
		m.Scrub = c.scrubOf(m.Name)
		m.Replica = replicas[i].status
		if err := replicas[i].err; err != nil && m.Error == "" {
			m.Error = err.Error()
		}
	}
	s.Warnings = append(append(s.Warnings, fullWarnings(s.Members)...), c.scrubWarnings(s.Members)...)
	return s, nil
}

// fewFiles is of how many files that a disk can still make status warns: a change may need
// some at once.
const fewFiles = 64

// fullWarnings name those whose full disk keeps changes from all.
func fullWarnings(members []wire.MemberStatus) (list []string) {
	for _, m := range members {
		if r := m.Replica; r != nil && m.InSync && r.Total > 0 && r.Free == 0 {
			list = append(list, "the disk of participant "+m.Name+" is full: changes that take space are refused until some is free there; files can be deleted")
		}
		if r := m.Replica; r != nil && m.InSync && r.FilesLeft != nil && *r.FilesLeft < fewFiles {
			list = append(list, fmt.Sprintf("the disk of participant %s has inodes left for %d files: changes that need more are refused until some are free there (df -i tells); files can be deleted", m.Name, *r.FilesLeft))
		}
	}
	return list
}

// describe puts into words how a participant is.
func (c *Coordinator) describe(i int, m *wire.MemberStatus) {
	p := c.peers[i]
	p.mu.Lock()
	defer p.mu.Unlock()
	m.State, m.Error = p.state, p.err
	if !p.since.IsZero() {
		m.Since = p.since.UnixMilli()
	}
	switch l := c.links[i].Load(); {
	case m.InSync:
	case l == nil:
		m.State = stateEvicted
	default:
		m.State = stateCatchingUp
		cu := p.copy
		m.CatchUp = &cu
	}
}

// count counts an operation that began so long after the start. One that its caller has
// given up, or has lost the connection of, has not failed: a change that was put then goes on,
// though nobody hears its outcome but by a retry, which is counted by itself.
func (c *Coordinator) count(ctx context.Context, m *meter.Meter, began time.Duration, err error) {
	outcome := meter.Done
	code := wire.CodeOf(err)
	if errors.Is(ctx.Err(), context.Canceled) {
		code = wire.CodeCanceled
	}
	switch code {
	case wire.CodeConflict:
		outcome = meter.Conflict
	case wire.CodeUnavailable, wire.CodeUnknownOutcome, wire.CodeNoSpace, wire.CodeCorrupt, wire.CodeIO, wire.CodeProtocol:
		outcome = meter.Failed
	default:
	}
	now := time.Since(c.began)
	m.Add(now, now-began, outcome)
}

func (c *Coordinator) opStats(m *meter.Meter) wire.OpStats {
	var s wire.OpStats
	s.Done, s.Conflicts, s.Failed = m.Counts()
	rate, took := m.Recent(time.Since(c.began))
	q := took.Quantiles(0.5, 0.99, 1)
	s.PerSecond, s.P50, s.P99, s.Max = rate, q[0].Microseconds(), q[1].Microseconds(), q[2].Microseconds()
	return s
}

type replicaAnswer struct {
	status *wire.ReplicaStatus
	err    error
}

// replicas asks all linked participants how they are, at once, and waits so long for each.
func (c *Coordinator) replicas(ctx context.Context, req wire.StatusRequest, wait time.Duration) []replicaAnswer {
	type numbered struct {
		i int
		replicaAnswer
	}
	answers := make(chan numbered, len(c.links))
	asked := 0
	for i := range c.links {
		l := c.links[i].Load()
		if l == nil {
			continue
		}
		started := c.crew.start(func() { // may outlive this call, not the link
			asking, cancel := context.WithTimeout(l.ctx, wait)
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			st, err := l.replica.Status(asking, req)
			if err != nil {
				answers <- numbered{i, replicaAnswer{nil, err}}
				return
			}
			answers <- numbered{i, replicaAnswer{&st, nil}}
		})
		if started {
			asked++
		}
	}
	list := make([]replicaAnswer, len(c.links))
	for range asked {
		select {
		case a := <-answers:
			list[a.i] = a.replicaAnswer
		case <-ctx.Done():
			return list
		}
	}
	return list
}

// spaceAge is how long the answer to Statfs is used again.
const spaceAge = time.Second

// spaceCache is the last answer to Statfs.
type spaceCache struct {
	mu    sync.Mutex // guards the following; held while the participants are asked, for StatusWait at most
	at    time.Time
	space wire.Statfs
}

// Statfs implements wire.Service: the space of the fullest participant.
func (c *Coordinator) Statfs(ctx context.Context) (wire.Statfs, error) {
	type heard struct {
		serviceTime int64
		free        []uint64
	}
	answer := make(chan heard, 1)
	ok := c.ask(ctx, func() {
		h := heard{serviceTime: c.m.Status().ServiceTime}
		for _, mem := range c.m.Members() {
			h.free = append(h.free, mem.Free)
		}
		answer <- h
	})
	if !ok {
		return wire.Statfs{}, c.gone(ctx, "statfs")
	}
	h := <-answer
	s, ok := c.fullest(ctx)
	if !ok {
		return wire.Statfs{}, &wire.Error{Code: wire.CodeUnavailable, Op: "statfs", Text: "no participant answered"}
	}
	for i, free := range h.free {
		if l := c.links[i].Load(); free > 0 && l != nil && !l.outside.Load() {
			s.Free = min(s.Free, free)
		}
	}
	s.ServiceTime = h.serviceTime
	return s, nil
}

// fullest asks the participants for their space, at most once in spaceAge.
func (c *Coordinator) fullest(ctx context.Context) (wire.Statfs, bool) {
	c.space.mu.Lock()
	defer c.space.mu.Unlock()
	if !c.space.at.IsZero() && time.Since(c.space.at) < spaceAge {
		return c.space.space, true
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.StatusWait)
	defer cancel()
	found := false
	var s wire.Statfs
	for _, a := range c.replicas(ctx, wire.StatusRequest{}, c.o.StatusWait) {
		if a.status == nil {
			continue
		}
		if !found || a.status.Free < s.Free {
			s.Total, s.Free = a.status.Total, a.status.Free
		}
		if left := a.status.FilesLeft; left != nil && (s.FilesLeft == nil || *left < *s.FilesLeft) {
			s.FilesLeft = left
		}
		s.Files = max(s.Files, a.status.Files)
		found = true
	}
	if !found {
		return c.space.space, !c.space.at.IsZero()
	}
	c.space.space, c.space.at = s, time.Now()
	return s, true
}
