package participant

import (
	"sync"

	"tpcfs/wire"
)

// Bounds of what a stream holds for an owner that is behind.
const (
	maxQueued      = 1024    // entries
	maxQueuedBytes = 8 << 20 // ... or that many bytes; one entry always fits
)

// stream is a transaction stream inside this process. What comes down waits
// in a bounded queue; what goes up is joined into one message until it is
// received, so that the owner never waits for a slow coordinator.
type stream struct {
	epoch wire.Epoch
	came  func() // the queue has something, for the owner

	room     chan struct{} // capacity 1: ... has room, for Send
	upward   chan struct{} // capacity 1: up has something, for Recv
	finished chan struct{} // closed with err set

	mu    sync.Mutex // guards everything below
	queue []wire.Down
	bytes int
	up    wire.Up
	news  bool // up has something
	err   error
}

func newStream(epoch wire.Epoch, came func()) *stream {
	return &stream{epoch: epoch, came: came, room: make(chan struct{}, 1), upward: make(chan struct{}, 1), finished: make(chan struct{})}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sizeOf is about what an entry takes in memory.
func sizeOf(d *wire.Down) int {
	n := 128
	if d.Entry != nil {
		n += len(d.Entry.Payload)
		if p := d.Entry.Prepare; p != nil {
			for i := range p.Mutations {
				n += p.Mutations[i].Cost()
			}
			if p.Pack != nil {
				n += 8 * len(p.Pack.Stages)
			}
		}
	}
	return n
}

// Send implements wire.TxStream; it may do the owner's work. The entries' memory is shared from then on:
// nobody may change it.
func (s *stream) Send(batch ...wire.Down) error {
	for {
		n, err := s.enqueue(batch)
		if err != nil {
			return err
		}
		if n > 0 {
			s.came()
		}
		if batch = batch[n:]; len(batch) == 0 {
			return nil
		}
		select {
		case <-s.room:
		case <-s.finished:
		}
	}
}

// enqueue takes as many entries as there is room for.
func (s *stream) enqueue(batch []wire.Down) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	for ; n < len(batch); n++ {
		size := sizeOf(&batch[n])
		if len(s.queue) > 0 && (len(s.queue) >= maxQueued || s.bytes+size > maxQueuedBytes) {
			break
		}
		s.queue = append(s.queue, batch[n])
		s.bytes += size
	}
	return n, nil
}

// next takes the entry at the queue's head when ready agrees to it; ok is
// false when there is none that it agrees to.
func (s *stream) next(ready func(*wire.Down) bool) (d wire.Down, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 || !ready(&s.queue[0]) {
		return wire.Down{}, false
	}
	d = s.queue[0]
	s.queue[0] = wire.Down{}
	s.queue = s.queue[1:]
	s.bytes -= sizeOf(&d)
	if len(s.queue) == 0 {
		s.queue = nil
	}
	signal(s.room)
	return d, true
}

// post adds to the message that goes up next.
func (s *stream) post(up wire.Up) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.up.Votes = append(s.up.Votes, up.Votes...)
	s.up.Handled = max(s.up.Handled, up.Handled)
	s.up.Durable = max(s.up.Durable, up.Durable)
	if up.Free != 0 {
		s.up.Free = up.Free
	}
	s.news = true
	signal(s.upward)
}

// Recv implements wire.TxStream.
func (s *stream) Recv() (wire.Up, error) {
	for {
		s.mu.Lock()
		if s.err != nil {
			defer s.mu.Unlock()
			return wire.Up{}, s.err
		}
		if s.news {
			up := s.up
			s.up.Votes, s.up.Free, s.news = nil, 0, false
			s.mu.Unlock()
			return up, nil
		}
		s.mu.Unlock()
		select {
		case <-s.upward:
		case <-s.finished:
		}
	}
}

// end ends both directions; the first reason counts.
func (s *stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err, s.queue, s.bytes = err, nil, 0
		close(s.finished)
	}
}

// Close implements wire.TxStream.
func (s *stream) Close() error {
	s.end(&wire.Error{Code: wire.CodeUnavailable, Text: "the transaction stream is closed"})
	return nil
}
