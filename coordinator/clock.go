package coordinator

import "time"

// clockSlew is by how much the count of time goes slower while the machine's
// clock is behind it: one part of so many. Mounts count on it (fusefs/clock.go).
const clockSlew = 100

// clock counts the time that transactions get (F4a). It goes on when the machine's
// clock is set back, or is behind that of the machine that the coordinator was on
// before: it then goes a little slower until that has caught up. The owner's alone.
type clock struct {
	wall func() int64         // nanoseconds since 1970
	mono func() time.Duration // since some time, of a clock that nobody sets
	time int64                // nanoseconds since 1970, when mono was at
	at   time.Duration
}

// begin begins the count, after last.
func (c *clock) begin(last int64) {
	if c.wall == nil {
		began := time.Now()
		c.wall = func() int64 { return time.Now().UnixNano() }
		c.mono = func() time.Duration { return time.Since(began) }
	}
	c.time, c.at = max(c.wall(), last), c.mono()
}

// now is the count; not before last.
func (c *clock) now(last int64) int64 {
	at := c.mono()
	gone := int64(at - c.at)
	c.time, c.at = max(c.wall(), c.time+gone-gone/clockSlew, last), at
	return c.time
}
