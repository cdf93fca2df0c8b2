package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"tpcfs/journal/disk"
)

// The journal's directory (J1, J6):
//
//	journal.id          written once: random id, segment size
//	%016x.seg           segments; consecutive numbers. After the one that holds
//	                    the newest block come the spares, under the names that
//	                    they will be used by, so that their use needs no sync
//	                    of the directory
//	*.tmp               being made; removed by Open
//	torn-%016x-%08x.bak what recovery cut, by segment and offset
//
// Numbers stay consecutive after a crash anywhere because every change of the
// directory is synced before the next is made: a new segment appears above the
// highest, an old one goes away below the lowest, or the one becomes the other.
const (
	identName     = "journal.id"
	segmentSuffix = ".seg"
	tmpSuffix     = ".tmp"
	tornPrefix    = "torn-"
	tornSuffix    = ".bak"
	zeroChunk     = 1 << 20 // bytes of zeros per write
)

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentSuffix) }

func tornName(number uint64, offset int64) string {
	return fmt.Sprintf("%s%016x-%08x%s", tornPrefix, number, offset, tornSuffix)
}

// segmentNumber parses a segment's file name.
func segmentNumber(name string) (uint64, bool) {
	hex, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(hex) != 16 || strings.ToLower(hex) != hex {
		return 0, false
	}
	n, err := strconv.ParseUint(hex, 16, 64)
	return n, err == nil && n > 0
}

// segment is an open segment file.
type segment struct {
	number uint64
	file   disk.File
	first  LSN   // first record; 0 if it has none
	last   LSN   // last record, synced or not
	used   int64 // bytes from the start that hold blocks with records
}

// files does what a journal needs done to its directory. It has no state, so
// that a Writer's second goroutine can use it.
type files struct {
	fs   disk.FS
	dir  string
	size int64 // of a segment
}

func (m *files) path(name string) string { return path.Join(m.dir, name) }

// job is one change of the directory that makes or retires a segment.
type job struct {
	old    *segment // nil: make a new one
	number uint64   // of the spare to make; 0: remove old
}

// do carries out a job. It returns the spare, if the job makes one. A
// *FullError means that nothing has changed; any other error is a
// *FailedError.
func (m *files) do(j job) (*segment, error) {
	switch {
	case j.old == nil:
		return m.create(j.number)
	case j.number == 0:
		return nil, m.remove(j.old)
	default:
		return m.recycle(j.old, j.number)
	}
}

// create makes a segment of zeros that is durable with its name.
func (m *files) create(number uint64) (*segment, error) {
	name := m.path(segmentName(number))
	tmp := name + tmpSuffix
	if err := m.fs.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, failed("remove", tmp, err)
	}
	f, err := m.fs.Create(tmp)
	if err != nil {
		return nil, growError("create", tmp, err)
	}
	if err := m.fill(f, tmp); err != nil {
		_ = f.Close()        // its contents are given up
		_ = m.fs.Remove(tmp) // else Open does
		return nil, err
	}
	if err := m.install(tmp, name); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &segment{number: number, file: f}, nil
}

// fill allocates a segment and writes it full of zeros: fdatasync of a write
// into it then changes no metadata (J1). It is synced piece by piece, so that
// a sync of the segment in use never waits behind all of it.
func (m *files) fill(f disk.File, name string) error {
	if err := f.Allocate(m.size); err != nil {
		return growError("allocate", name, err)
	}
	return zero(f, name, 0, m.size)
}

// zero writes zeros into [from, to) of f and syncs them.
func zero(f disk.File, name string, from, to int64) error {
	zeros := make([]byte, min(zeroChunk, max(to-from, 0)))
	for at := from; at < to; {
		n := min(int64(len(zeros)), to-at)
		if _, err := f.WriteAt(zeros[:n], at); err != nil {
			return growError("write", name, err)
		}
		at += n
		if err := f.Sync(); err != nil {
			return failed("sync", name, err)
		}
	}
	return nil
}

// recycle gives a cut segment a new number. Its old blocks are recognised by
// their segment number (J4).
func (m *files) recycle(s *segment, number uint64) (*segment, error) {
	if err := m.install(m.path(segmentName(s.number)), m.path(segmentName(number))); err != nil {
		return nil, err
	}
	return &segment{number: number, file: s.file}, nil
}

// install renames and makes that durable.
func (m *files) install(from, to string) error {
	if err := m.fs.Rename(from, to); err != nil {
		return growError("rename", from, err)
	}
	return m.syncDir()
}

func (m *files) remove(s *segment) error {
	name := m.path(segmentName(s.number))
	if err := m.fs.Remove(name); err != nil {
		return failed("remove", name, err)
	}
	if err := m.syncDir(); err != nil {
		return err
	}
	if err := s.file.Close(); err != nil {
		return failed("close", name, err)
	}
	return nil
}

func (m *files) syncDir() error {
	if err := m.fs.SyncDir(m.dir); err != nil {
		return failed("sync directory", m.dir, err)
	}
	return nil
}

// putFile writes a small file so that it is there whole or not at all.
func (m *files) putFile(name string, write func(f disk.File) error) error {
	tmp := m.path(name + tmpSuffix)
	if err := m.fs.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed("remove", tmp, err)
	}
	f, err := m.fs.Create(tmp)
	if err != nil {
		return growError("create", tmp, err)
	}
	if err := write(f); err != nil {
		_ = f.Close()
		_ = m.fs.Remove(tmp) // else the next Open does
		return growError("write", tmp, err)
	}
	err = f.Sync()
	if err = errors.Join(err, f.Close()); err != nil {
		return failed("sync", tmp, err)
	}
	return m.install(tmp, m.path(name))
}

func failed(op, file string, err error) error {
	return &FailedError{Op: op, File: file, Err: err}
}

// growError tells a full disk, which is not fatal while growing, from the rest.
func growError(op, file string, err error) error {
	var done *FailedError
	if errors.As(err, &done) {
		return err
	}
	if isFull(err) {
		return &FullError{Err: fmt.Errorf("%s %s: %w", op, file, err)}
	}
	return failed(op, file, err)
}
