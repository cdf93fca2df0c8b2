package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"tpcfs/coordinator/commit"
	"tpcfs/wire"
)

// missingAfter is how long a start waits before it says whom it waits for:
// servers that are started together come up in any order.
const missingAfter = time.Second

// left says that the way to a participant has ended, or could not be made:
// once for each time. Of those that have not come yet since the start,
// tellMissing says it.
func (c *Coordinator) left(i int, p Peer, state string, err error) {
	why := c.reason(p, err)
	if c.peers[i].set(state, why) {
		c.log.Log(context.Background(), c.noticeLevel(), "participant is "+state, "name", p.Name, "addr", p.Addr, "why", why)
	}
}

// came says that a participant is there, if it was said that it is not.
func (c *Coordinator) came(i int, p Peer, at wire.Position) {
	level := slog.LevelInfo
	if c.peers[i].set(stateInSync, "") {
		level = c.noticeLevel()
	}
	c.log.Log(context.Background(), level, "participant is there", "name", p.Name, "addr", p.Addr, "position", at.String())
}

// tellInSync says that a participant has been evicted, or is in sync again.
func (c *Coordinator) tellInSync(i int, in bool) {
	c.peers[i].inSync(in)
	text := "participant is evicted: changes go on without it, and it catches up by itself when it is back"
	if in {
		text = "participant is in sync again"
	}
	c.log.Log(context.Background(), c.noticeLevel(), text, "name", c.peers[i].called(), "config", c.m.Status().Config.String())
}

// noticeLevel is that of what an operator should see, unless the process says it itself.
func (c *Coordinator) noticeLevel() slog.Level {
	if c.o.Local {
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

// tellMissing says for whom a start waits, all in one line.
func (c *Coordinator) tellMissing(members []commit.Member) {
	select {
	case <-time.After(missingAfter):
	case <-c.ctx.Done():
		return
	}
	var missing []string
	for i, m := range members {
		if c.peers[i].called() == m.Name && c.peers[i].missing() {
			missing = append(missing, fmt.Sprintf("%s (%s)", m.Name, m.Addr))
		}
	}
	if len(missing) > 0 {
		c.log.Log(context.Background(), c.noticeLevel(), "waiting for participants that do not answer yet: start them, or correct their addresses",
			"participants", strings.Join(missing, ", "))
	}
}

// reason says why a participant is away, as a sentence that says what to do.
func (c *Coordinator) reason(p Peer, err error) string {
	e := asError(err)
	switch {
	case !e.Lost && e.Code != wire.CodeUnavailable || e.Text == "":
		return e.Error()
	case c.o.Local:
		return e.Text
	default:
		return e.Text + "; it is tried again by itself: see whether the participant runs at " + p.Addr
	}
}
