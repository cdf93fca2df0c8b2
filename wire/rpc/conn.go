package rpc

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"tpcfs/wire"
)

// The few words of yamux's own framing (its spec.md) that conn looks at: a
// header is 12 bytes, version, type, flags, stream id and length, big-endian.
const (
	muxHeader   = 12
	muxTypeData = 0
	muxTypePing = 2
	muxFlagSYN  = 1
)

// joinBytes is up to which size a body is copied behind its header instead of
// being handed over with writev. Below encryption there is no writev: there,
// what fits into one piece and its frame is copied.
const (
	joinBytes    = 8 << 10
	joinBytesTLS = wire.PieceSize + 64<<10
)

// readAhead is how many bytes are read at once where yamux asks for less: a
// small message in one call.
const readAhead = 8 << 10

// Pings that a peer may send: a burst, then so many a second. yamux starts a
// goroutine for each.
const (
	pingBurst  = 32
	pingPerSec = 20
)

// directBytes is up to how many bytes are read or written directly: what takes
// longer leaves the scheduler its say.
const directBytes = 64 << 10

// unixBuffer is how many bytes may be on their way through a unix socket: a few
// pieces, so that writing one waits less often for the peer to read another.
const unixBuffer = 512 << 10

var errPings = errors.New("the peer sends pings without measure")

// conn is a connection below a yamux session. It joins the header and the body
// that yamux writes separately into one system call, puts a deadline on every
// read and write, and counts pings (W1a). yamux reads from one goroutine and
// writes from one other, so most fields need no lock.
//
// It knows the session's streams, and aborts them when yamux closes it: a Read
// of yamux that waits goes round and round from the moment when its session
// shuts down until the closing goroutine has come to its stream, which hundreds
// of them keep from the processors.
type conn struct {
	net.Conn
	direct       *direct // nil: Conn has no direct way
	writeTimeout time.Duration
	readTimeout  time.Duration

	mu     sync.Mutex // guards what follows; taken before a stream's
	live   map[*stream]struct{}
	over   bool
	reason error // the first error of a read or a write

	// The writer's.
	join    int  // up to which size a body is copied
	held    bool // hdr waits for its body
	hdr     [muxHeader]byte
	joined  []byte
	pair    [2][]byte
	both    net.Buffers // pair, while it is written
	writeBy time.Time   // the deadline that is set

	// The reader's.
	in     []byte // read and not yet taken, part of inBuf
	inBuf  []byte
	readBy time.Time
	part   [muxHeader]byte // of the header that is being read
	have   int
	skip   uint32 // bytes of body still to come
	pings  float64
	pinged time.Time
}

func newConn(c net.Conn, readTimeout, writeTimeout time.Duration) *conn {
	join := joinBytes
	switch c := c.(type) {
	case safeConn:
		join = joinBytesTLS
	case *net.UnixConn:
		_ = c.SetWriteBuffer(unixBuffer) // smaller, it is slower
	}
	return &conn{Conn: c, direct: newDirect(c), readTimeout: readTimeout, writeTimeout: writeTimeout, inBuf: make([]byte, readAhead), pings: pingBurst, pinged: time.Now(),
		live: map[*stream]struct{}{}, join: join}
}

// adopt makes st one of the session's streams, until its close.
func (c *conn) adopt(st *stream) *stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	st.conn = c
	if c.over {
		st.abort()
	} else {
		c.live[st] = struct{}{}
	}
	return st
}

// drop forgets a stream.
func (c *conn) drop(st *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.live, st)
}

// Close ends the streams, then the connection. yamux calls it as soon as it
// has begun to close the session.
func (c *conn) Close() error {
	c.mu.Lock()
	c.over = true
	for st := range c.live {
		st.abort()
	}
	clear(c.live)
	c.mu.Unlock()
	return c.Conn.Close()
}

// failed keeps the error that ends the connection, if it is the first.
func (c *conn) failed(err error) {
	if err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason == nil && !c.over {
		c.reason = err
	}
}

// why is what ended the connection; nil: nothing has.
func (c *conn) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over && c.reason == nil {
		return net.ErrClosed
	}
	return c.reason
}

// Write writes b, or keeps it when it is a header whose body comes next.
func (c *conn) Write(b []byte) (int, error) {
	if !c.held && len(b) == muxHeader && b[1] == muxTypeData && binary.BigEndian.Uint32(b[8:]) > 0 {
		copy(c.hdr[:], b)
		c.held = true
		return len(b), nil
	}
	if err := c.extend(&c.writeBy, c.writeTimeout, c.Conn.SetWriteDeadline); err != nil {
		return 0, err
	}
	if !c.held {
		return c.write(b)
	}
	c.held = false
	if len(b) <= c.join {
		c.joined = append(append(c.joined[:0], c.hdr[:]...), b...)
		n, err := c.write(c.joined)
		return max(0, n-muxHeader), err
	}
	c.pair = [2][]byte{c.hdr[:], b}
	c.both = c.pair[:]
	n, err := c.both.WriteTo(c.Conn)
	c.pair[1] = nil
	return max(0, int(n)-muxHeader), err
}

// Read reads, and follows yamux's frames as they pass.
func (c *conn) Read(b []byte) (int, error) {
	if len(c.in) > 0 {
		n := copy(b, c.in)
		c.in = c.in[n:]
		return n, nil
	}
	if err := c.extend(&c.readBy, c.readTimeout, c.Conn.SetReadDeadline); err != nil {
		return 0, err
	}
	into := b
	if len(b) < readAhead {
		into = c.inBuf
	}
	n, err := c.read(into)
	c.failed(err)
	if !c.follow(into[:n]) {
		c.failed(errPings)
		return 0, errPings
	}
	if len(b) < readAhead {
		c.in = into[:n]
		n = copy(b, c.in)
		c.in = c.in[n:]
	}
	return n, err
}

func (c *conn) write(b []byte) (int, error) {
	if c.direct != nil && len(b) <= directBytes {
		return c.direct.write(b)
	}
	return c.Conn.Write(b)
}

func (c *conn) read(b []byte) (int, error) {
	if c.direct != nil && len(b) <= directBytes {
		return c.direct.read(b)
	}
	return c.Conn.Read(b)
}

// extend moves a deadline on, once at least a sixteenth of it has passed:
// setting one at every call would cost more than it is worth.
func (c *conn) extend(by *time.Time, timeout time.Duration, set func(time.Time) error) error {
	now := time.Now()
	if by.Sub(now) > timeout-timeout/16 {
		return nil
	}
	*by = now.Add(timeout)
	return set(*by)
}

// follow reports whether what was read keeps to the measure of pings.
func (c *conn) follow(b []byte) bool {
	for len(b) > 0 {
		if c.skip > 0 {
			n := min(uint32(len(b)), c.skip)
			c.skip -= n
			b = b[n:]
			continue
		}
		n := copy(c.part[c.have:], b)
		c.have += n
		b = b[n:]
		if c.have < muxHeader {
			return true
		}
		c.have = 0
		switch c.part[1] {
		case muxTypeData:
			c.skip = binary.BigEndian.Uint32(c.part[8:])
		case muxTypePing:
			if binary.BigEndian.Uint16(c.part[2:])&muxFlagSYN != 0 && !c.allowPing(time.Now()) {
				return false
			}
		}
	}
	return true
}

func (c *conn) allowPing(now time.Time) bool {
	c.pings = min(pingBurst, c.pings+now.Sub(c.pinged).Seconds()*pingPerSec) - 1
	c.pinged = now
	return c.pings >= 0
}
