package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"syscall"

	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// Options say where a store lives and how large its parts are.
type Options struct {
	FS  disk.FS // nil: the real file system
	Dir string  // FORMAT, LOCK, meta.db, objects/ and ballast lie in it
	// KV holds the rows; the store closes it. nil: bbolt in Dir/meta.db.
	KV KV
	// InlineMax is the size in bytes up to which contents live in the kv
	// (0: 8 KiB). Participants of one cluster must agree on it.
	InlineMax int
	// TableBytes bounds the in-memory table (0: 32 MiB).
	TableBytes int64
	// Ballast is the size in bytes of the file that is given up when the disk
	// is full (0: 64 MiB; negative: none).
	Ballast int64
	// Workers sync objects at a checkpoint (0: 16). With 1 all is done in the
	// caller's goroutine, in the order of ids.
	Workers int
	// Fanout is the number of directories that a new store spreads its objects
	// over (0: 64).
	Fanout int
	// UUID of a new store; zero: random.
	UUID   wire.UUID
	Logger *slog.Logger // nil: discard
	// Held, if not nil, is called again and again in place of waiting for a
	// checkpoint that copies into an object; it has to let the checkpoint go
	// on. For simulations in one goroutine.
	Held func()
}

func (o *Options) validate() error {
	if o.Dir == "" {
		return &wire.Error{Code: wire.CodeInvalid, Text: "no data directory given"}
	}
	if o.FS == nil {
		o.FS = disk.New()
	}
	if o.InlineMax == 0 {
		o.InlineMax = 8 << 10
	}
	if o.TableBytes == 0 {
		o.TableBytes = 32 << 20
	}
	if o.Ballast == 0 {
		o.Ballast = 64 << 20
	}
	if o.Workers == 0 {
		o.Workers = 16
	}
	if o.Fanout == 0 {
		o.Fanout = 64
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.InlineMax < 0 || o.InlineMax > wire.MaxInline || o.TableBytes < 0 || o.Workers < 0 || o.Fanout < 0 || o.Fanout > 1<<16 {
		return &wire.Error{Code: wire.CodeInvalid, Text: fmt.Sprintf("store options out of range: inline %d, table %d, workers %d, fanout %d", o.InlineMax, o.TableBytes, o.Workers, o.Fanout)}
	}
	return nil
}

// FatalError says that a write or a sync failed on which durability depends
// (P12). The participant must end without voting; only a restart, which reads
// the disk again, may go on.
type FatalError struct {
	Op   string // "sync", "write", ...
	File string
	Err  error
}

func (e *FatalError) Error() string {
	err := e.Err
	var path *fs.PathError
	if errors.As(err, &path) && path.Path == e.File {
		err = path.Err // what was done to which file is said already
	}
	return fmt.Sprintf("%s %s: %v: this participant cannot go on; see to its disk and start it again", e.Op, e.File, err)
}

func (e *FatalError) Unwrap() error { return e.Err }

// DamageError is a KV's word that what it holds is not what was written: a
// panic or a fault inside it, or an impossible page (S1).
type DamageError struct {
	File, Reason string
}

func (e *DamageError) Error() string { return fmt.Sprintf("%s: damaged: %s", e.File, e.Reason) }

// isFull tells of a full disk, or quota.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// ofProcess tells of an error that says nothing of the file that it is about: the process,
// or its machine, has too little of something, or no right to the file. What is there is
// neither rotten nor lost for it.
func ofProcess(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN, syscall.EINTR, syscall.EROFS, fs.ErrPermission} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// unread is the error of one who could not look at a file for such a reason: nothing has
// changed, and another try may go well.
func unread(err error) *wire.Error {
	return &wire.Error{Code: wire.CodeUnavailable, Text: "this participant cannot open or read a file of its own: " + err.Error()}
}

// cannot is the error of a vote that could not look at a file: a NO, where that says nothing
// of the file.
func cannot(err error) error {
	if ofProcess(err) {
		return unread(err)
	}
	return err
}

// writeNoSpace reports a full disk, met by a write and never by a sync (S6).
// Both kv implementations return a PathError for a write alone.
func writeNoSpace(err error) bool {
	var pe *fs.PathError
	return isFull(err) && errors.As(err, &pe) && pe.Op == "write"
}
