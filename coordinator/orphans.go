package coordinator

import (
	"time"

	"tpcfs/wire"
)

// orphansPause is how long a list of orphans that could not be read is left alone.
const orphansPause = time.Second

// readOrphans gives the machine a page of the inodes without a name, from a
// participant, however long that takes: nobody waits for it.
func (c *Coordinator) readOrphans(req wire.Read) {
	for told := false; ; {
		reply, err := c.read(c.ctx, req, nil)
		if err == nil {
			c.post(func() { c.m.Orphans(reply) })
			return
		}
		if c.ctx.Err() == nil && !told {
			told = true
			c.log.Warn("the files without a name cannot be listed; they are reclaimed later", "err", err)
		}
		select {
		case <-time.After(orphansPause):
		case <-c.ctx.Done():
			return
		}
	}
}
