package store

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"tpcfs/wire"
)

// listEntries is the longest page of a listing: each entry takes two keys of
// the kv, and with names of MaxNameLen a page is well below MaxFrame.
const listEntries = maxTxKeys / 2

var readOps = map[wire.ReadKind]string{
	wire.ReadFile: "readFile", wire.ReadStat: "stat", wire.ReadList: "list", wire.ReadLink: "readlink",
	wire.ReadGetxattr: "getxattr", wire.ReadListxattr: "listxattr", wire.ReadOrphans: "orphans",
	wire.ReadData: "readData",
}

// Read answers a read from one moment. A ReadFile's pieces, of one version,
// go to w first: applies and checkpoints go on meanwhile. It leaves
// ReadReply.Position to the caller. Any goroutine may call it.
func (s *Store) Read(req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	reply, err := s.read(req, w)
	if err == nil {
		return reply, nil
	}
	var sent *pieceError
	if errors.As(err, &sent) {
		return wire.ReadReply{}, sent.err
	}
	named := wire.Error{Code: wire.CodeUnavailable, Text: err.Error()}
	var e *wire.Error
	if errors.As(err, &e) {
		named = *e
	}
	named.Op, named.Name = readOps[req.Kind], req.At.String()
	return wire.ReadReply{}, &named
}

// pieceError is an error of the caller's PieceWriter, which it gets back as it is.
type pieceError struct{ err error }

func (e *pieceError) Error() string { return e.err.Error() }

func (s *Store) read(req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	switch req.Kind {
	case wire.ReadFile:
		return s.readFile(req, w)
	case wire.ReadList:
		return s.readList(req)
	case wire.ReadData:
		return s.readData(req)
	case wire.ReadOp:
		return s.readOp(req.Op)
	case wire.ReadOrphans:
		return s.readOrphans(req)
	case wire.ReadListxattr:
		return s.readListxattr(req)
	case wire.ReadStat, wire.ReadLink, wire.ReadGetxattr:
	default:
		return wire.ReadReply{}, wire.NewError(wire.CodeUnsupported, fmt.Sprintf("this participant knows no read of kind %d", req.Kind))
	}
	var n inode
	var value []byte
	err := s.look(func(m *moment) (err error) {
		if n, err = m.walk(req.At); err == nil && req.Kind == wire.ReadGetxattr {
			value, err = m.xattr(&n, req.Name)
		}
		return err
	})
	reply := wire.ReadReply{Attr: n.attr, Value: value}
	switch {
	case err != nil:
	case req.Kind == wire.ReadLink && !n.isSymlink():
		err = wire.NewError(wire.CodeInvalid, "it is no symbolic link")
	case req.Kind == wire.ReadLink:
		reply.Target = n.target
	}
	return reply, err
}

// readOp tells what an operation has done (S1a): all that is decided up to the
// read's position is applied (P5).
func (s *Store) readOp(op wire.OpID) (wire.ReadReply, error) {
	outcome, found, err := s.Op(op)
	if err != nil || !found {
		return wire.ReadReply{}, err
	}
	return wire.ReadReply{Outcome: &outcome}, nil
}

// walk finds what At names, and whether that has extended attributes; a symbolic
// link as the last component is found itself, one on the way answers CodeSymlink.
func (m *moment) walk(at wire.At) (inode, error) {
	if bad := wire.CheckPath(at.Path); bad != nil {
		return inode{}, bad
	}
	n, err := m.inode(at.Dir)
	if wire.CodeOf(err) == wire.CodeNotExist {
		return n, wire.NewError(wire.CodeStale, fmt.Sprintf("there is no inode %d (any more)", at.Dir))
	}
	for done := 0; err == nil && done < len(at.Path); {
		end := len(at.Path)
		if i := strings.IndexByte(at.Path[done:], '/'); i >= 0 {
			end = done + i
		}
		if n, err = m.step(&n, at.Path[done:end]); err != nil {
			break
		}
		if end < len(at.Path) && n.isSymlink() {
			return n, &wire.Error{Code: wire.CodeSymlink, Prefix: at.Path[:end], Target: n.target, Rest: at.Path[end+1:]}
		}
		done = end + 1
	}
	if err == nil {
		n.attr.NoXattrs, err = m.bare(n.attr.Ino, &bareRun{})
	}
	return n, err
}

func (m *moment) step(dir *inode, name string) (inode, error) {
	if !dir.isDir() {
		return inode{}, &wire.Error{Code: wire.CodeNotDir}
	}
	ino, err := m.lookup(dir.attr.Ino, name)
	if err != nil {
		return inode{}, err
	}
	n, err := m.inode(ino)
	if wire.CodeOf(err) == wire.CodeNotExist {
		return n, m.s.damage(fmt.Sprintf("entry %q of directory %d names inode %d, which is missing", name, dir.attr.Ino, ino))
	}
	return n, err
}

// followed is the error of a read that is not about a link itself.
func followed(n *inode, at wire.At) error {
	if !n.isSymlink() {
		return nil
	}
	if at.Path == "" { // a link by its inode: from where its target counts, nobody knows
		return wire.NewError(wire.CodeLoop, "it is a symbolic link")
	}
	return &wire.Error{Code: wire.CodeSymlink, Prefix: at.Path, Target: n.target}
}

func (s *Store) readList(req wire.Read) (wire.ReadReply, error) {
	m, err := s.snapshot()
	if err != nil {
		return wire.ReadReply{}, err
	}
	defer m.close()
	dir, err := m.walk(req.At)
	if err == nil {
		err = followed(&dir, req.At)
	}
	if err == nil && !dir.isDir() {
		err = &wire.Error{Code: wire.CodeNotDir}
	}
	if err != nil {
		return wire.ReadReply{}, err
	}
	limit := listEntries
	if req.Limit > 0 {
		limit = min(limit, req.Limit)
	}
	reply := wire.ReadReply{Attr: dir.attr}
	reply.Entries, reply.More, err = m.list(dir.attr.Ino, req.After, limit)
	return reply, err
}

// list returns at most limit entries whose names come after a name, in byte
// order, and whether there are more. m is a snapshot.
func (m *moment) list(dir wire.Ino, after string, limit int) (entries []wire.DirEntry, more bool, err error) {
	from := entryKey(dir, after)
	if after != "" {
		from += "\x00" // the next possible key
	}
	prefix := entryKey(dir, "")
	err = m.ascend(from, func(key string, val []byte) (bool, error) {
		if !strings.HasPrefix(key, prefix) {
			return false, nil
		}
		if len(entries) == limit {
			more = true
			return false, nil
		}
		name := key[len(prefix):]
		if len(val) != 8 {
			return false, m.s.damage(rowName(key) + " is malformed")
		}
		n, err := m.inode(wire.Ino(be.Uint64(val)))
		if wire.CodeOf(err) == wire.CodeNotExist {
			err = m.s.damage(fmt.Sprintf("entry %q of directory %d names inode %d, which is missing", name, dir, be.Uint64(val)))
		}
		entries = append(entries, wire.DirEntry{Name: name, Attr: n.attr})
		return true, err
	})
	if err == nil {
		err = m.tellBare(entries)
	}
	return entries, more, err
}

// opened is a file's contents at one moment.
type opened struct {
	n      inode
	inline []byte
	r      *reader // of an object
}

// checksAtOnce bounds the checksums that a read holds, to 16 GiB of contents:
// what is longer is read on only if the file has not changed.
const checksAtOnce = sumsPerPage * maxTxKeys

// openAt finds a file and what is needed to read [from, to) of it, to < 0: the
// end. The caller closes it.
func (s *Store) openAt(at wire.At, version wire.ID, from, to int64) (*opened, error) {
	for {
		o, err := s.tryOpenAt(at, version, from, to)
		if err != nil || o.r == nil || !o.r.again {
			return o, err
		}
		o.r.wait()
		o.close()
	}
}

func (s *Store) tryOpenAt(at wire.At, version wire.ID, from, to int64) (o *opened, err error) {
	o = &opened{}
	first := from / wire.BlockSize
	err = s.look(func(m *moment) (err error) {
		if o.n, err = m.walk(at); err != nil {
			return err
		}
		if err := o.readable(at, version); err != nil {
			return err
		}
		end := o.n.valid
		if to >= 0 {
			end = min(end, to)
		}
		switch {
		case end <= from || o.n.content == contentNone:
			o.n.content = contentNone
			return nil
		case o.n.content == contentInline:
			val, ok, err := m.get(inlineKey(o.n.attr.Ino))
			if err == nil && (!ok || int64(len(val)) < o.n.valid) {
				err = s.damage(fmt.Sprintf("contents of inode %d are missing", o.n.attr.Ino))
			}
			o.inline = val
			return err
		default:
			o.r, err = m.reader(&o.n, first, min(blocksOf(end), first+checksAtOnce))
			return err
		}
	})
	if err != nil || o.r == nil {
		return o, err
	}
	if err = o.r.open(); err != nil {
		o.close()
	}
	return o, err
}

func (o *opened) readable(at wire.At, version wire.ID) error {
	if err := followed(&o.n, at); err != nil {
		return err
	}
	switch {
	case o.n.isDir():
		return &wire.Error{Code: wire.CodeIsDir}
	case !o.n.isRegular():
		return wire.NewError(wire.CodeInvalid, "it is no regular file")
	case version != 0 && version != o.n.attr.Version:
		return wire.NewError(wire.CodeChanged, fmt.Sprintf("it has version %s, not %s", o.n.attr.Version, version))
	}
	return nil
}

func (o *opened) close() {
	if o.r != nil {
		o.r.close()
		o.r = nil
	}
}

func (s *Store) readFile(req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	if req.Offset < 0 {
		return wire.ReadReply{}, wire.NewError(wire.CodeInvalid, "a negative offset")
	}
	to := int64(-1)
	if req.Length >= 0 {
		to = req.Offset + min(req.Length, wire.MaxFileSize)
	}
	at, version, from := req.At, req.IfVersion, req.Offset
	for {
		o, err := s.openAt(at, version, from, to)
		if from > req.Offset && wire.CodeOf(err) == wire.CodeStale {
			err = wire.NewError(wire.CodeChanged, "it was deleted while it was read")
		}
		if err != nil {
			return wire.ReadReply{}, err
		}
		end := o.n.attr.Size
		if to >= 0 {
			end = min(end, to)
		}
		part := end
		if o.r != nil && blocksOf(min(end, o.n.valid)) > o.r.first+int64(len(o.r.checks)) {
			part = (o.r.first + int64(len(o.r.checks))) * wire.BlockSize
		}
		err = o.send(from, part, w)
		o.close()
		if err != nil || part >= end {
			return wire.ReadReply{Attr: o.n.attr}, err
		}
		at, version, from = wire.At{Dir: o.n.attr.Ino}, o.n.attr.Version, part
	}
}

// pieceBuffer is a piece's contents, and room to send them on from where they are.
type pieceBuffer [wire.FrameRoom + wire.PieceSize]byte

var pieceBuffers = sync.Pool{New: func() any { return new(pieceBuffer) }}

// send gives [from, end) to w, in pieces cut at multiples of PieceSize.
func (o *opened) send(from, end int64, w wire.PieceWriter) error {
	buf := pieceBuffers.Get().(*pieceBuffer)
	defer pieceBuffers.Put(buf)
	for at := from; at < end; {
		stop := min(end, at/wire.PieceSize*wire.PieceSize+wire.PieceSize)
		p, err := o.piece(buf, at, stop)
		if err != nil {
			return err
		}
		p.Version, p.Offset = o.n.attr.Version, at
		if err := w.WritePiece(p); err != nil {
			return &pieceError{err}
		}
		at = stop
	}
	return nil
}

// piece returns the contents [at, stop) and their sum, in buf unless they are
// there already; of an object it reads and verifies whole blocks.
func (o *opened) piece(buf *pieceBuffer, at, stop int64) (wire.Piece, error) {
	if o.n.content == contentInline && stop <= o.n.valid {
		data := o.inline[at:stop]
		return wire.Piece{Sum: wire.Sum(data), Data: data}, nil
	}
	room := buf[:wire.FrameRoom]
	if o.r == nil {
		data := buf[wire.FrameRoom:][:stop-at]
		clear(data)
		if o.n.content == contentInline && at < o.n.valid {
			copy(data, o.inline[at:o.n.valid])
		}
		return wire.Piece{Sum: wire.Sum(data), Data: data, Room: room}, nil
	}
	o.r.s.share(o.r.pin)
	defer o.r.pin.mu.RUnlock()
	first, sum := at/wire.BlockSize, uint32(0)
	blocks := buf[wire.FrameRoom:]
	for b := first; b*wire.BlockSize < stop; b++ {
		start := b * wire.BlockSize
		block := blocks[start-first*wire.BlockSize:][:wire.BlockSize]
		if err := o.r.block(b, block); err != nil {
			return wire.Piece{}, err
		}
		// What the block was verified with needs no second look at its bytes.
		part := block[max(at-start, 0):min(stop-start, wire.BlockSize)]
		if whole, ok := o.r.sum(b); ok && len(part) == wire.BlockSize {
			sum = wire.JoinBlock(sum, whole)
		} else {
			sum = wire.SumUpdate(sum, part)
		}
	}
	o.r.next = stop / wire.BlockSize
	skip := at - first*wire.BlockSize
	return wire.Piece{Sum: sum, Data: blocks[skip : stop-first*wire.BlockSize], Room: buf[:wire.FrameRoom+skip]}, nil
}
