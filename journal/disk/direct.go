package disk

import (
	"errors"
	"io"
	"io/fs"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A write through the page cache costs the processor twice: to put it there, and
// to have it written at the sync, which looks for what is dirty. A journal's
// block is whole pages, written once and read at a start, so it goes to the disk
// itself (O_DIRECT): with its sync two thirds of the processor time, three quarters
// of the time (BenchmarkDirect). The memory of such a write has to be aligned, so it is
// copied, as it would be into the page cache.

// buffers are aligned, for writes and reads past the page cache.
var buffers = sync.Pool{New: func() any { return aligned(directPiece) }}

// directPiece is how much is written, or read, at once, in bytes.
const directPiece = 512 << 10

// aligned returns memory that begins at a multiple of Unit.
func aligned(n int) *[]byte {
	b := make([]byte, n+Unit)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (Unit - 1)
	b = b[skip : skip+n : skip+n]
	return &b
}

func (f *osFile) Direct() error {
	if f.aligned.Swap(true) {
		return nil
	}
	ok := false
	err := f.control("fcntl", func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags|unix.O_DIRECT)
			ok = err == nil
		}
		if errors.Is(err, unix.EINVAL) {
			return nil // not on this file system
		}
		return err
	})
	f.direct.Store(ok)
	return err
}

// buffered goes back to the page cache: the file system refused a write, or a
// read, past it after all.
func (f *osFile) buffered() error {
	f.direct.Store(false)
	return f.control("fcntl", func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&^unix.O_DIRECT)
		}
		return err
	})
}

func (f *osFile) WriteAt(b []byte, offset int64) (int, error) {
	if !f.aligned.Load() {
		return f.File.WriteAt(b, offset)
	}
	if err := f.checkUnit(b, offset); err != nil {
		return 0, err
	}
	if !f.direct.Load() {
		return f.File.WriteAt(b, offset)
	}
	n, err := f.writeDirect(b, offset)
	if errors.Is(err, unix.EINVAL) {
		if err := f.buffered(); err != nil {
			return n, err
		}
		more, err := f.File.WriteAt(b[n:], offset+int64(n))
		return n + more, err
	}
	return n, err
}

// writeDirect writes b, which is whole Units, from aligned memory.
func (f *osFile) writeDirect(b []byte, offset int64) (int, error) {
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	done := 0
	for done < len(b) {
		piece := (*p)[:copy(*p, b[done:])]
		n := 0
		err := f.control("write", func(fd int) (err error) {
			n, err = unix.Pwrite(fd, piece, offset+int64(done))
			return err
		})
		if err != nil {
			return done, err
		}
		if n <= 0 || n%Unit != 0 { // a disk of larger sectors, or one that is full
			return done, &fs.PathError{Op: "write", Path: f.Name(), Err: io.ErrShortWrite}
		}
		done += n
	}
	return done, nil
}

// ReadAt of a file that is read past the page cache reads whole Units.
func (f *osFile) ReadAt(b []byte, offset int64) (int, error) {
	if !f.direct.Load() || offset < 0 {
		return f.File.ReadAt(b, offset)
	}
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	done := 0
	for done < len(b) {
		at := offset + int64(done)
		from := at &^ (Unit - 1)
		want := min((at+int64(len(b)-done)-from+Unit-1)&^(Unit-1), directPiece)
		n, err := f.File.ReadAt((*p)[:want], from)
		if errors.Is(err, unix.EINVAL) {
			if err := f.buffered(); err != nil {
				return done, err
			}
			more, err := f.File.ReadAt(b[done:], at)
			return done + more, err
		}
		if skip := int(at - from); n > skip {
			done += copy(b[done:], (*p)[skip:n])
		}
		if err != nil && done < len(b) {
			return done, err
		}
	}
	return done, nil
}

func (f *osFile) checkUnit(b []byte, offset int64) error {
	if !f.aligned.Load() || offset%Unit != 0 || len(b)%Unit != 0 {
		return &fs.PathError{Op: "write", Path: f.Name(), Err: unix.EINVAL}
	}
	return nil
}
