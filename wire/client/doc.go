// Package client is the Go client of tpcfs: it writes, reads and deletes the
// files that a coordinator keeps identical on all its participants.
//
//	c, err := client.Dial(ctx, "127.0.0.1:7420", client.Options{Wait: 30 * time.Second})
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	_, err = c.WriteFile(ctx, "notes/today", client.Bytes(text), client.WriteOptions{})
//
// When WriteFile has returned nil, the contents are on stable storage of every
// participant, and whoever reads the file from then on, anywhere, gets them.
//
// # What there is
//
//	WriteFile, ReadFile, ReadTo      whole contents, or a part of them
//	DeleteFile, Rename, Link, ...    one change; each is a transaction of its own
//	Stat, Lstat, List, Readlink      reads
//	Create                           a *Writer: contents as a stream, there as a whole at Close
//	Open                             a *Reader: one version of a file, read in order or anywhere
//	Tx                               a *Tx: many changes that happen together or not at all
//	FS                               the tree as an fs.FS, for fs.WalkDir, http.FS, ...
//	Transact, Read                   the service's own words, for front ends
//	Status, Statfs                   how the cluster does, and the space left
//
// Names are paths from the root: "a/b" or "/a/b"; "", "." and "/" are the root
// itself. "..", empty components and NUL are refused. Symbolic links are
// followed as by a program on a local disk.
//
// # Errors
//
// Every error is a *wire.Error that names the file; errors.Is and errors.As work.
// What to do about it:
//
//	errors.Is(err, ...)      what has happened                                what to do
//	fs.ErrNotExist           nothing: there is no such file, or directory     -
//	fs.ErrExist              nothing: it exists, or a directory is not empty  -
//	fs.ErrInvalid            nothing: a name or an argument cannot be meant   mend the call
//	fs.ErrPermission         nothing: not to be done to such a file           -
//	client.ErrConflict       nothing: another change of the file was first    again, at once
//	client.ErrVersion        nothing: IfVersion does not hold                 read, decide again
//	client.ErrChanged        a Reader's file is another one by now            open it again
//	client.ErrUnavailable    nothing: somebody who is needed is not there     again, later
//	client.ErrUnknownOutcome it happened, or not, or happens yet              look, then decide
//	client.ErrNoSpace        nothing: a participant's disk is full            make room
//	client.ErrTooLarge       nothing: a file is over a limit                  -
//	client.ErrTooMany        nothing: a transaction is over a limit           split it
//	client.ErrCorrupt        no participant has sound contents                restore the file
//	context.Canceled         nothing: the caller gave up in time              -
//
// "Nothing" is meant: it did not happen and never will (G6). Limits (wire.MaxFileSize,
// wire.MaxMutations, wire.MaxPack, wire.MaxNameLen) are looked at before anything is sent.
//
// # Lost connections
//
// A Client connects when it needs to, and again when a connection is lost. What
// was asked then is asked again under the same operation id, so it happens
// once (G5), also over a restart of the coordinator. Contents that have arrived
// are not sent twice, unless the coordinator was started again before the write
// was committed. Only a Writer cannot send again what it has sent: see Create.
//
// # Waits
//
// Options.Wait bounds how long an operation waits for a service that is not
// there; time in which a transfer goes on is not counted. After it the error is
// ErrUnavailable, or ErrUnknownOutcome if the request was sent. 0 is forever. A
// context ends an operation in the same way at any time; what has been put on its
// way to the participants goes on without its caller.
//
// # Sessions
//
// A Client is a session: the coordinator knows it by a random id, keeps what it
// stages and the outcomes of its requests, and forgets all of that at Close, or
// when nothing was heard of it for long. One Client is enough for a program.
//
// # Concurrency
//
// A Client is safe for concurrent use, and calls that run at the same time share
// syncs at the participants: many small writes are fastest side by side. A Reader
// and what FS gives are safe too; a Writer and a Tx are not. Whoever makes a
// Client, Reader or Writer closes it; Close waits until nothing of it runs.
package client
