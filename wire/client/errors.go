package client

import "tpcfs/wire"

// What errors.Is finds in an error of a Client, beside fs.ErrNotExist,
// fs.ErrExist, fs.ErrPermission, fs.ErrInvalid and context.Canceled. Every error
// is a *wire.Error, whose Code tells more.
var (
	// ErrConflict: another operation on the same file came first; nothing has
	// changed. Try again.
	ErrConflict error = &wire.Error{Code: wire.CodeConflict}
	// ErrVersion: the file has not the version that was asked for; nothing has
	// changed. Read it again, decide again.
	ErrVersion error = &wire.Error{Code: wire.CodeVersion}
	// ErrChanged: the file has changed since it was opened. Open it again.
	ErrChanged error = &wire.Error{Code: wire.CodeChanged}
	// ErrUnknownOutcome: it may have happened or not, and may yet happen (G6).
	// Look; then decide.
	ErrUnknownOutcome error = &wire.Error{Code: wire.CodeUnknownOutcome}
	// ErrUnavailable: somebody who is needed was not there in time; nothing has
	// changed. Try again later.
	ErrUnavailable error = &wire.Error{Code: wire.CodeUnavailable}
	// ErrNoSpace: a participant's disk is full; nothing has changed.
	ErrNoSpace error = &wire.Error{Code: wire.CodeNoSpace}
	// ErrTooLarge and ErrTooMany: a limit of the service, named in the text;
	// nothing has changed.
	ErrTooLarge error = &wire.Error{Code: wire.CodeTooLarge}
	ErrTooMany  error = &wire.Error{Code: wire.CodeTooMany}
	// ErrCorrupt: a checksum does not match on any participant that could be asked.
	ErrCorrupt error = &wire.Error{Code: wire.CodeCorrupt}
)
