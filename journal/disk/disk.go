// Package disk is the small file-system interface below the journal and the
// store. New returns the real one; journal/disk/forget is the one that forgets
// what was not synced, for tests.
//
// Names are ordinary slash-separated paths. Errors are those of package os
// (errors.Is with fs.ErrNotExist, fs.ErrExist and syscall.ENOSPC holds). After
// Sync, SyncDir or a lock has failed, the caller may trust nothing that it has
// not read back from the disk itself (DropCache).
package disk

import "io"

// Unit is what a Direct file is written in, in bytes.
const Unit = 4096

// FS is what the journal and the store need of a file system.
type FS interface {
	// Create makes a new file for reading and writing; fs.ErrExist if the
	// name is taken. The name is durable only after SyncDir of its directory.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// MkdirAll makes a directory and the missing ones above it (mode 0700)
	// and syncs the directories that it changed.
	MkdirAll(name string) error
	// ReadDir lists a directory in the order of names.
	ReadDir(name string) ([]Entry, error)
	// Rename replaces to, if it exists. Durable after SyncDir of both directories.
	Rename(from, to string) error
	// Remove removes a file or an empty directory. An open file stays readable.
	Remove(name string) error
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
	// Lock takes the lock file name, exclusively, until Close. When another
	// process holds it, the error is a *LockedError. The file holds the pid
	// of its owner.
	Lock(name string) (io.Closer, error)
	// Free is the space that is left to this process, in bytes.
	Free(name string) (uint64, error)
	// FreeFiles is how many more files can be made; math.MaxUint64 where the file
	// system has no bound of its own.
	FreeFiles(name string) (uint64, error)
}

// Entry is a name in a directory.
type Entry struct {
	Name  string
	IsDir bool
	Size  int64 // bytes; 0 for a directory
}

// File is an open file. ReadAt and WriteAt may be called concurrently.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size is the file's length in bytes.
	Size() (int64, error)
	// Truncate sets the length; what it adds reads as zeros.
	Truncate(size int64) error
	// Sync makes contents and length durable (fdatasync).
	Sync() error
	// Direct makes WriteAt write to the disk itself, past the page cache, where
	// the file system can; elsewhere nothing changes. It is durable after Sync,
	// as before. Offsets and lengths of writes are multiples of Unit from then on.
	Direct() error
	// StartWriteback asks for the range to be written soon, without waiting.
	StartWriteback(offset, length int64) error
	// Allocate reserves the blocks of [0, size) and sets the length to size
	// if it was shorter.
	Allocate(size int64) error
	// AllocateRange reserves the blocks of [offset, offset+length) if the file
	// system can; the length stays.
	AllocateRange(offset, length int64) error
	// DropCache drops the file's clean pages, so that the next reads come
	// from the disk.
	DropCache() error
}

// LockedError says that another process holds a lock file.
type LockedError struct {
	Name string // the lock file
	PID  int    // the holder's process id; 0 if it could not be read
}
