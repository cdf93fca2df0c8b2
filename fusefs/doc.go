// Package fusefs serves a service's tree as a FUSE mount: kernel requests
// become calls on a client, an interface of this package's own. It knows
// nothing of how the service commits.
//
// The caller mounts with Mount, and ends with Unmount (commits what is
// gathered) or Close (gives it up); the process must not touch its own mount.
//
// # Writes
//
// Writes gather per inode, shared by all handles of this mount: the bytes
// written, in memory up to FileMemory, then in an unlinked file in SpillDir.
// Nothing is read for them. One transaction of what was written (F4), with the
// times that fstat showed, commits them at fsync, at close and by itself
// CommitAfter after the first: extents, and what O_APPEND wrote at wherever the
// end is by then; a new file, or one after O_TRUNC, as a whole. READ lays
// gathered bytes over the service's, and every attribute shows gathered size
// and times. Size and times of a file with gathered data gather too; all else
// is committed when its call returns.
//
// # Two mounts, one file
//
// A commit that leaves bytes of a base says which version that was. When
// another mount was faster, the edits are laid over the newer version, of which
// only the size is asked for, and the commit is tried again: plain writes keep
// their offsets, appends move to the new end, so neither mount undoes the
// other's bytes. What is overtaken again and again goes without a
// version, unless it begins with a truncation. After a truncation to nothing the contents owe nothing to a base: of
// two whole rewrites the later wins, whole.
//
// Changes that others' abort are tried again for ConflictWait, then the error is
// EAGAIN (F5). The next try waits at the service for the one that was in the way, if
// that is known; else there are growing pauses. A failed commit is reported by
// the fsync or close that asked for it and logged once; the data stay gathered,
// and each later fsync, close and CommitAfter tries again. After the last
// close, data that can never be committed are dropped with a line in the log;
// while the service is away, or busy with others, they are kept.
//
// # Files without a name
//
// A file that this mount unlinks, or renames over, while it is open here, or
// makes with O_TMPFILE, is held: the service keeps it for the mount's session,
// without a name, and the mount reclaims it after the last close, or the service
// when the session ends. Where another mount takes the last name, the service
// asks this one whether it has the file open, and keeps it so (heldOf).
//
// # Waiting
//
// How long a call waits for an absent service is the client's matter. A signal
// that will end the caller ends its wait, no other does; a transaction goes on
// without it (F6). A process that is exiting does not wait for an absent
// service in its closes: what it wrote is committed later.
//
// Locks, flock's and fcntl's, are the coordinator's: they hold in all mounts, and
// end with their process, their mount, or its session (F10).
package fusefs
