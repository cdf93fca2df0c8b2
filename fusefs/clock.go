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
// clock that nobody sets, is not ahead: a ctime that fstat has shown is not after
// the transaction that brings it (wire.Mutation.ChangeTime), and stays.

// clockDrift is by how much of the time since it was heard the coordinator's may
// have passed more slowly than here, one part of so many: it goes slower by a
// hundredth while its machine's clock is behind.
const clockDrift = 50

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

// hear takes a time that an answer tells. It may be of long before: the put of a
// change that has waited for a participant, or is asked for once more.
func (c *clock) hear(t int64, boot time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t > 0 && (c.time == 0 || t > c.atLocked(boot)) {
		c.time, c.heard = t, boot
	}
}

// hearNow takes the time of an answer that was made after its question was sent.
// More than so much later it cannot be now: if the count is, the coordinator has
// lost time, as one does that is started anew where the machine's clock is behind.
func (c *clock) hearNow(t int64, sent, boot time.Duration) {
	c.hear(t, boot)
	c.mu.Lock()
	defer c.mu.Unlock()
	if t > 0 && c.atLocked(boot) > t+int64(boot-sent) {
		c.time, c.heard = t, boot
	}
}

// timed is a service whose answers set a clock.
type timed struct {
	service
	clock *clock
}

func (s timed) TransactBehind(ctx context.Context, behind *wire.Behind, mutations []wire.Mutation, contents []Content) (wire.Outcome, error) {
	out, err := s.service.TransactBehind(ctx, behind, mutations, contents)
	s.clock.hear(out.Time, bootNow())
	return out, err
}

func (s timed) Watch(ctx context.Context, req wire.Watch) (wire.Watched, error) {
	sent := bootNow()
	got, err := s.service.Watch(ctx, req)
	s.clock.hearNow(got.Time, sent, bootNow())
	return got, err
}
