package journal

// queue holds appended records as the raw payloads of blocks to be.
type queue struct {
	limit      int // bytes of raw payload in a block
	chunks     []*chunk
	bytes      int64  // raw, of all chunks
	newSegment bool   // the next record begins a segment
	free       []byte // a buffer to use again
}

// chunk is a block before it is encoded.
type chunk struct {
	buf        []byte // headerSize bytes for the header, then the raw payload
	first      LSN
	count      int
	newSegment bool
}

func (c *chunk) raw() []byte { return c.buf[headerSize:] }

// keepBuffer is the largest buffer that is used again, in bytes.
const keepBuffer = 1 << 20

// add copies a record to the end of the queue.
func (q *queue) add(lsn LSN, record []byte) {
	n := framedLength(record)
	var c *chunk
	if len(q.chunks) > 0 && !q.newSegment {
		c = q.chunks[len(q.chunks)-1]
	}
	if c == nil || len(c.raw())+n > q.limit {
		c = &chunk{buf: append(q.free[:0], make([]byte, headerSize)...), first: lsn, newSegment: q.newSegment}
		q.free = nil
		q.newSegment = false
		q.chunks = append(q.chunks, c)
	}
	c.buf = appendRecord(c.buf, record)
	c.count++
	q.bytes += int64(n)
}

// pop drops the first chunk, which is written.
func (q *queue) pop() {
	c := q.chunks[0]
	q.bytes -= int64(len(c.raw()))
	q.chunks[0] = nil
	q.chunks = q.chunks[1:]
	if cap(c.buf) <= keepBuffer {
		q.free = c.buf
	}
}

// take moves everything out of from to the end of q, and gives from a buffer.
func (q *queue) take(from *queue) {
	if len(q.chunks) == 0 {
		q.chunks, from.chunks = from.chunks, q.chunks[:0:0]
	} else {
		q.chunks = append(q.chunks, from.chunks...)
		from.chunks = nil
	}
	q.bytes += from.bytes
	from.bytes = 0
	if from.free == nil {
		from.free, q.free = q.free, nil
	}
}

// fill is how far the newest segment is used.
type fill struct {
	used int64 // bytes
	auto bool  // it was begun without NewSegment
}

// fill is what becomes of f when q is written, before compression.
func (q *queue) fill(f fill) fill {
	for _, c := range q.chunks {
		if c.newSegment {
			f = fill{}
		}
		f.used += blockLength(len(c.raw()))
	}
	if q.newSegment {
		f = fill{}
	}
	return f
}

// full tells whether the owner should begin a new segment: three quarters of
// this one are used.
func (f fill) full(segmentSize int64) bool { return f.auto || f.used > segmentSize-segmentSize/4 }
