package coordinator

import (
	"context"
	"fmt"
	"time"

	"tpcfs/coordinator/commit"
	"tpcfs/wire"
	"tpcfs/wire/failpoint"
)

// Members implements wire.Service.
func (c *Coordinator) Members(ctx context.Context, req wire.MembersRequest) (wire.MembersReply, error) {
	reply, err := c.members(ctx, req)
	if err != nil {
		e := *err
		e.Op = "members"
		return reply, &e
	}
	c.log.Warn("who takes part was changed", "what", reply.What, "by", req.By, "reason", req.Reason, "forced", req.Force)
	return reply, nil
}

func (c *Coordinator) members(ctx context.Context, req wire.MembersRequest) (wire.MembersReply, *wire.Error) {
	var none wire.MembersReply
	if err := req.Check(); err != nil {
		return none, err
	}
	if req.New.Name != "" {
		if err := c.probe(ctx, Peer{Name: req.New.Name, Addr: req.New.Addr}, req.ID); err != nil {
			return none, err
		}
	}
	answer := make(chan commit.Edited, 1)
	e := &commit.Edit{Request: req, Token: answer}
	if !c.post(func() { failpoint.At("coordinator.edit"); c.m.Edit(e) }) {
		return none, c.gone(ctx, "members")
	}
	var got commit.Edited
	select {
	case got = <-answer:
	case <-ctx.Done():
		c.post(func() { c.m.CancelEdit(e) })
		select {
		case got = <-answer:
		case <-c.done:
			got = c.lastWord(answer)
		}
	case <-c.done:
		got = c.lastWord(answer)
	}
	return got.Reply, got.Err
}

// lastWord is what the owner has said of an edit before it ended.
func (c *Coordinator) lastWord(answer <-chan commit.Edited) commit.Edited {
	select {
	case got := <-answer:
		return got
	default:
		return commit.Edited{Err: wire.NewError(wire.CodeUnavailable, errStopped.Text)}
	}
}

// probe looks whether somebody answers at a new participant's address who has no data
// of another one. A request that was carried out already needs none.
func (c *Coordinator) probe(ctx context.Context, p Peer, id wire.UUID) *wire.Error {
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	done := make(chan bool, 1)
	if !c.ask(ctx, func() { done <- c.m.EditKnown(id) }) {
		return c.gone(ctx, "members")
	}
	if <-done {
		return nil
	}
	nobody := func(err error) *wire.Error {
		e := asError(err)
		return &wire.Error{Code: e.Code, Text: fmt.Sprintf("no participant answers at %s (%s): start tpcfs participant there first, on an empty directory; nothing has changed", p.Addr, e.Error())}
	}
	replica, err := c.o.Dial(ctx, p)
	if err != nil {
		return nobody(err)
	}
	defer replica.Close() //nolint:errcheck // it is given up either way
	st, err := replica.Status(ctx, wire.StatusRequest{})
	if err != nil {
		return nobody(err)
	}
	who := make(chan string, 1)
	if !c.ask(ctx, func() { who <- c.m.Knows(st.Storage) }) {
		return c.gone(ctx, "members")
	}
	switch name := <-who; {
	case name != "":
		return &wire.Error{Code: wire.CodeInvalid, Text: fmt.Sprintf("at %s are the data of participant %s: start tpcfs participant there on an empty directory first; nothing has changed", p.Addr, name)}
	case st.Epoch != c.epoch && st.Epoch != wire.Epoch{}: // by its number alone another cluster's may look like one of ours
		return &wire.Error{Code: wire.CodeInvalid, Text: fmt.Sprintf("the participant at %s has served before, another cluster or this one (epoch %d): start it on an empty directory first; nothing has changed", p.Addr, st.Epoch.Number)}
	}
	return nil
}

// How soon those that were removed are told so again.
const (
	firstTell = time.Second
	lastTell  = time.Minute
)

// tellRemoved tells participants that were removed that they were, until they have
// made that durable (P14). One whose disk is gone never is; that costs a connection
// that fails, once a minute.
func (c *Coordinator) tellRemoved() {
	type telling struct {
		next  time.Time
		pause time.Duration
	}
	when := map[wire.UUID]*telling{}
	ticker := time.NewTicker(firstTell / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-c.ctx.Done():
			return
		}
		list := make(chan []wire.Member, 1)
		if !c.ask(c.ctx, func() { list <- c.m.Untold() }) {
			return
		}
		for _, mem := range <-list {
			t := when[mem.Storage]
			if t == nil {
				t = &telling{pause: firstTell}
				when[mem.Storage] = t
			}
			if time.Now().Before(t.next) {
				continue
			}
			err := c.tell(mem)
			if err == nil {
				c.log.Log(c.ctx, c.noticeLevel(), "participant knows that it was removed", "name", mem.Name, "addr", mem.Addr)
				c.post(func() { c.m.Told(mem.Storage) })
				continue
			}
			c.log.Debug("participant does not know yet that it was removed", "name", mem.Name, "addr", mem.Addr, "err", err)
			t.next, t.pause = time.Now().Add(t.pause), min(2*t.pause, lastTell)
		}
	}
}

// tell greets a participant as one that was removed.
func (c *Coordinator) tell(mem wire.Member) error {
	ctx, cancel := context.WithTimeout(c.ctx, dialWait)
	defer cancel()
	replica, err := c.o.Dial(ctx, Peer{Name: mem.Name, Addr: mem.Addr})
	if err != nil {
		return err
	}
	defer replica.Close() //nolint:errcheck // it is given up either way
	number := make(chan uint64, 1)
	if !c.ask(ctx, func() { c.greets++; number <- c.greets }) {
		return errStopped
	}
	failpoint.At("coordinator.tell-removed")
	_, stream, err := replica.Greet(ctx, wire.Greet{Epoch: c.epoch, Name: mem.Name, Cluster: c.cluster, Outside: true, Number: <-number, Removed: mem.Storage})
	if err != nil {
		return err
	}
	return stream.Close()
}
