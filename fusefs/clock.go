package fusefs

import (
	"context"
	"sync"
	"time"

	"tpcfs/wire"
)

// The times of gathered changes are the coordinator's, as those of all others: a
// mount's own clock may be wrong, and files changed by several mounts would not
// tell which change was the later one. What the coordinator says with its answers
// was true before they came, so the time that the mount counts from there, on a
// clock that nobody sets, is never ahead: a ctime that fstat has shown is not after
// the transaction that brings it (wire.Mutation.ChangeTime), and stays.

const (
	// clockDrift is by how much of the time since it was heard the coordinator's
	// may have passed more slowly than here: one part of so many.
	clockDrift = 1000
	// clockSet is how far ahead of what is heard the count is when the
	// coordinator's clock must have been set back: no answer takes as long.
	clockSet = 10 * time.Second
)

// clock counts the coordinator's time.
type clock struct {
	mu    sync.Mutex    // guards the following; nothing is taken after it
	time  int64         // nanoseconds since 1970; 0: nothing was heard yet
	heard time.Duration // of the boot clock, when it was that, or later
}

// now is the coordinator's time, or a little before; before anything was heard
// of it this machine's.
func (c *clock) now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.time == 0 {
		return time.Now().UnixNano()
	}
	return c.atLocked(bootNow())
}

func (c *clock) atLocked(boot time.Duration) int64 {
	since := boot - c.heard
	return c.time + int64(since-since/clockDrift)
}

// hear takes a time that an answer tells.
func (c *clock) hear(t int64) {
	if t <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	boot := bootNow()
	if off := time.Duration(c.atLocked(boot) - t); c.time == 0 || off < 0 || off > clockSet {
		c.time, c.heard = t, boot
	}
}

// timed is a service whose answers set a clock.
type timed struct {
	service
	clock *clock
}

func (s timed) Transact(ctx context.Context, mutations []wire.Mutation, contents []Content) (wire.Outcome, error) {
	out, err := s.service.Transact(ctx, mutations, contents)
	s.clock.hear(out.Time)
	return out, err
}

func (s timed) Watch(ctx context.Context, req wire.Watch) (wire.Watched, error) {
	got, err := s.service.Watch(ctx, req)
	s.clock.hear(got.Time)
	return got, err
}
