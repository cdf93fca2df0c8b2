package fusefs

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"tpcfs/wire"
)

const (
	// rangeBytes is the most that one allocation is at the service.
	rangeBytes = 64 << 30
	// copyBytes is the most that one call of copy_file_range copies.
	copyBytes = 16 << 20
)

// fallocates are the modes of fallocate(2) that there are here; any other is
// EOPNOTSUPP.
var fallocates = map[uint32]wire.Mutation{
	0:                        {Kind: wire.MutAllocate},
	unix.FALLOC_FL_KEEP_SIZE: {Kind: wire.MutAllocate, KeepSize: true},
	unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE: {Kind: wire.MutPunchHole},
	unix.FALLOC_FL_ZERO_RANGE:                            {Kind: wire.MutZeroRange},
	unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE: {Kind: wire.MutZeroRange, KeepSize: true},
}

// Fallocate makes data, zeros or a hole of a range, committed at once, after
// what is gathered.
func (f *fileSystem) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	h, status := f.usable(in.Fh)
	if h == nil {
		return status
	}
	m, ok := fallocates[in.Mode]
	if !ok {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	from, length := int64(in.Offset), int64(in.Length)
	if from < 0 || length <= 0 {
		return fuse.Status(syscall.EINVAL)
	}
	if from > wire.MaxFileSize-length {
		if m.Kind != wire.MutPunchHole || from > wire.MaxFileSize {
			return fuse.Status(syscall.EFBIG)
		}
		length = wire.MaxFileSize - from
	}
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	if in.Uid != 0 { // no flag says it
		if err := f.killPriv(ctx, h.n, &in.InHeader); err != nil {
			return statusOf(staleIfGone(err))
		}
	}
	asked, end := h.changes(ctx)
	defer end()
	return statusOf(staleIfGone(h.changed(f.allocate(asked, h.n, m, from, length))))
}

func (f *fileSystem) allocate(ctx context.Context, n *node, m wire.Mutation, from, length int64) error {
	if err := f.sync(ctx, n); err != nil {
		return err
	}
	n.mu.Lock()
	orphan := n.orphan
	n.mu.Unlock()
	if orphan {
		return &wire.Error{Code: wire.CodeUnsupported, Op: "allocate", Name: n.at().String(), Text: "another mount has deleted the file"}
	}
	for length > 0 {
		m.At, m.Offset, m.Length = n.at(), from, length
		if m.Kind != wire.MutPunchHole {
			m.Length = min(length, rangeBytes)
		}
		if _, err := f.transact(ctx, m); err != nil {
			return f.orLost(n, err)
		}
		from, length = from+m.Length, length-m.Length
	}
	return nil
}

// Lseek finds data and holes (lseek(2)), after a commit of what is gathered.
// All other seeking is the kernel's.
func (f *fileSystem) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h, status := f.usable(in.Fh)
	if h == nil {
		return status
	}
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.Status(syscall.EINVAL)
	}
	if int64(in.Offset) < 0 {
		return fuse.Status(syscall.ENXIO)
	}
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	if err := f.sync(ctx, h.n); err != nil {
		return statusOf(err)
	}
	for b := f.backoff(); ; {
		at, err := f.seek(ctx, h.n, int64(in.Offset), in.Whence == unix.SEEK_DATA)
		if err == nil {
			out.Offset = uint64(at)
			return fuse.OK
		}
		if !b.again(ctx, err) {
			return statusOf(staleIfGone(err))
		}
	}
}

// seek finds the first byte of data, or of a hole, from off on. A file that
// only this mount has is all data.
func (f *fileSystem) seek(ctx context.Context, n *node, off int64, data bool) (int64, error) {
	n.mu.Lock()
	orphan, size := n.orphan, n.attr.Size
	if n.c != nil {
		size = n.c.Size()
	}
	n.mu.Unlock()
	req := wire.Read{Kind: wire.ReadData, At: n.at(), Offset: off}
	for pos := off; ; {
		reply := wire.ReadReply{Attr: wire.Attr{Size: size}, Ranges: []wire.Range{{Offset: pos, Length: size - pos}}}
		if !orphan {
			var err error
			if reply, err = f.client.Read(ctx, req, nil); err != nil {
				return 0, f.orLost(n, err)
			}
		}
		if off >= reply.Attr.Size {
			return 0, syscall.ENXIO
		}
		for _, r := range reply.Ranges {
			switch end := r.Offset + r.Length; {
			case end <= pos:
			case data:
				return max(r.Offset, off), nil
			case r.Offset > pos:
				return pos, nil
			default:
				pos = end
			}
		}
		if !reply.More || len(reply.Ranges) == 0 {
			if data {
				return 0, syscall.ENXIO
			}
			return min(pos, reply.Attr.Size), nil
		}
		last := reply.Ranges[len(reply.Ranges)-1]
		req.Offset, req.IfVersion = last.Offset+last.Length, reply.Attr.Version
	}
}

// CopyFileRange gathers what it reads: it saves the copy through the caller.
func (f *fileSystem) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from, status := f.usable(in.FhIn)
	if from == nil {
		return 0, status
	}
	to, status := f.usable(in.FhOut)
	if to == nil {
		return 0, status
	}
	if in.Flags != 0 {
		return 0, fuse.Status(syscall.EINVAL)
	}
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	left := int64(min(in.Len, copyBytes))
	src, dst, done := int64(in.OffIn), int64(in.OffOut), int64(0)
	if src < 0 || dst < 0 || dst >= wire.MaxFileSize {
		return 0, fuse.Status(syscall.EFBIG)
	}
	left = min(left, wire.MaxFileSize-dst)
	if in.Uid != 0 { // no flag says it
		if err := f.killPriv(ctx, to.n, &in.InHeader); err != nil {
			return 0, statusOf(staleIfGone(err))
		}
	}
	buf := make([]byte, min(left, maxWrite))
	for left > 0 {
		k, err := f.readNode(ctx, from.n, buf[:min(left, int64(len(buf)))], src)
		if err == nil {
			err = f.stillLocked(ctx, from)
		}
		if err == nil && k > 0 {
			k, err = f.write(ctx, to, buf[:k], dst)
		}
		switch {
		case err != nil && done == 0:
			return 0, statusOf(staleIfGone(err))
		case err != nil || k == 0:
			return uint32(done), fuse.OK
		}
		src, dst, done, left = src+int64(k), dst+int64(k), done+int64(k), left-int64(k)
	}
	return uint32(done), fuse.OK
}

// write gathers bytes at their place.
func (f *fileSystem) write(ctx context.Context, h *handle, data []byte, at int64) (written int, err error) {
	n := h.n
	if err := f.makeRoom(ctx, n, false); err != nil {
		return 0, err
	}
	err = f.change(ctx, n, needBase, func() error {
		if h.lost.Load() {
			return syscall.EIO
		}
		size := n.c.Size()
		k, err := n.c.WriteAt(data, at)
		if written = k; k > 0 {
			n.cur.write(at, at+int64(k), size)
			return nil // a short write says the rest
		}
		return err
	})
	return written, err
}
