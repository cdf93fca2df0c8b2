package rpc

import (
	"context"
	"fmt"
	"sync"

	"tpcfs/wire"
)

// maxDownBatch is how many entries that came together are passed on at once.
const maxDownBatch = 64

// greet serves a transaction stream: the greeting, then entries one way and
// votes the other until either side ends it.
func (c *call) greet(m message) bool {
	var req wire.Greet
	if err := c.decode(m.header, &req); err != nil {
		return c.answer(nil, err, false)
	}
	stop := context.AfterFunc(c.p.txCtx, c.cancel)
	defer stop()
	c.watch()
	greeting, tx, err := c.p.s.o.Replica.Greet(c.ctx, req)
	c.unwatch()
	if err != nil {
		return c.answer(nil, err, false)
	}
	c.st.put(wire.FrameReply, false, wire.Marshal(greeting), nil)
	if err := c.st.flush(c.st.stall); err != nil {
		_ = tx.Close() // ended either way
		return false
	}
	c.pump(tx)
	return false
}

// pump carries messages between the stream and tx until one of them ends, and
// ends the other.
func (c *call) pump(tx wire.TxStream) {
	var once sync.Once
	end := func() {
		once.Do(func() {
			c.st.abort()
			_ = tx.Close() // ended either way
		})
	}
	stop := context.AfterFunc(c.ctx, end)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer end()
		for {
			up, err := tx.Recv()
			if err != nil {
				return
			}
			if err := c.st.send(c.st.stall, wire.FrameUp, false, wire.Marshal(up), nil); err != nil {
				return
			}
		}
	})
	c.st.roomy()
	var batch []wire.Down
	for {
		down, err := c.receiveDown()
		if err != nil {
			c.p.log.Debug("transaction stream ended", "err", err)
			break
		}
		if batch = append(batch, down); c.st.holdsFrame() && len(batch) < maxDownBatch {
			continue
		}
		if err := tx.Send(batch...); err != nil {
			break
		}
		clear(batch)
		batch = batch[:0]
	}
	end()
	stop()
	wg.Wait()
}

func (c *call) receiveDown() (wire.Down, error) {
	var down wire.Down
	m, err := c.st.receive(0, wire.MaxFrame)
	switch {
	case err != nil:
		return down, err
	case m.kind != wire.FrameDown:
		return down, wire.NewError(wire.CodeProtocol, fmt.Sprintf("want an entry, got a frame of kind %d", m.kind))
	}
	if err := wire.Unmarshal(m.header, &down); err != nil {
		return down, err
	}
	switch {
	case down.Entry != nil:
		// The participant keeps it until the decision.
		down.Entry.Payload = append([]byte(nil), m.body...)
	case len(m.body) > 0:
		return down, wire.NewError(wire.CodeProtocol, "a payload without an entry")
	}
	return down, nil
}

// txStream is the coordinator's end of a transaction stream.
type txStream struct {
	l      *link
	st     *stream
	sendMu sync.Mutex // orders Send with Close: a send finishes before the stream is given up
	once   sync.Once
}

// Send waits while the participant does not read; the session's keep-alive
// and Close end that wait.
func (t *txStream) Send(batch ...wire.Down) error {
	err := t.sendAll(batch)
	if err != nil {
		_ = t.Close() // the order would have a hole
	}
	return err
}

func (t *txStream) sendAll(batch []wire.Down) error {
	t.sendMu.Lock()
	defer t.sendMu.Unlock()
	for i := range batch {
		header, payload := wire.Marshal(batch[i]), []byte(nil)
		if batch[i].Entry != nil {
			payload = batch[i].Entry.Payload
		}
		if len(header)+len(payload) > wire.MaxFrame {
			return wire.NewError(wire.CodeTooLarge, fmt.Sprintf("an entry of %d bytes, at most %d are allowed", len(header)+len(payload), wire.MaxFrame))
		}
		t.st.put(wire.FrameDown, false, header, payload)
		if i+1 < len(batch) && len(t.st.wbuf) < writeChunk {
			continue
		}
		if err := t.st.flush(0); err != nil {
			return t.l.lost(true, err)
		}
	}
	return nil
}

func (t *txStream) Recv() (wire.Up, error) {
	var up wire.Up
	m, err := t.st.receive(0, wire.MaxMessage)
	if err != nil {
		return up, t.l.lost(true, err)
	}
	if m.kind != wire.FrameUp {
		return up, t.l.broken(fmt.Sprintf("want votes, got a frame of kind %d", m.kind))
	}
	if err := wire.Unmarshal(m.header, &up); err != nil {
		return up, t.l.broken(err.Error())
	}
	return up, nil
}

func (t *txStream) Close() error {
	t.st.abort()
	t.once.Do(func() {
		t.sendMu.Lock()
		defer t.sendMu.Unlock()
		t.l.give(t.l.control, t.st, false, true)
	})
	return nil
}
