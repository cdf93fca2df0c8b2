package wire

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"strings"
)

// Code says what went wrong. Numbers are on the wire and in journals: append only.
type Code uint16

// The codes. Up to CodeIO one for each errno that can occur.
const (
	CodeNone        Code = iota
	CodeNotExist         // ENOENT
	CodeExist            // EEXIST
	CodeNotDir           // ENOTDIR
	CodeIsDir            // EISDIR
	CodeNotEmpty         // ENOTEMPTY
	CodeInvalid          // EINVAL
	CodeNameTooLong      // ENAMETOOLONG
	CodeNoSpace          // ENOSPC
	CodeTooLarge         // EFBIG
	CodeTooMany          // a limit of the service: E2BIG
	CodePermission       // EPERM
	CodeAccess           // EACCES
	CodeReadOnly         // EROFS
	CodeLinks            // EMLINK
	CodeLoop             // ELOOP
	CodeNoAttr           // ENODATA
	CodeStale            // ESTALE
	CodeUnsupported      // EOPNOTSUPP
	CodeBusy             // EBUSY
	CodeIO               // EIO

	CodeConflict       // another operation on the same file came first; nothing changed; retry
	CodeUnknownOutcome // it may have happened or not
	CodeUnavailable    // it did not happen: somebody who is needed is not there
	CodeCorrupt        // a checksum does not match
	CodeProtocol       // the peer does not keep to the protocol
	CodeSymlink        // a symbolic link is on the way: Prefix and Target
	CodeVersion        // IfVersion, or IfIno, does not hold
	CodeChanged        // the file changed while it was read
	CodeStaleEpoch     // a newer coordinator has greeted the participant
	CodeReplaced       // a newer link of the session has replaced this one
	CodeStageLost      // staged contents are not there (any more): stage them again
	CodeCanceled       // the caller gave up before anything was put
	CodeLocked         // another holds a lock on it: EAGAIN
	CodeDeadlock       // waiting for the lock would never end: EDEADLK
	CodeNoLocks        // a limit of locks: ENOLCK
)

// Error is the one error type of the service. It crosses the wire whole.
type Error struct {
	Code Code   `cbor:"1,keyasint"`
	Op   string `cbor:"2,keyasint,omitempty"` // what was being done: "readFile"
	Name string `cbor:"3,keyasint,omitempty"` // the file, as the caller named it
	Text string `cbor:"4,keyasint,omitempty"` // what happened and what to do, in words
	// With CodeSymlink: the path up to and with the link, its target, and
	// what is left after it.
	Prefix string `cbor:"5,keyasint,omitempty"`
	Target string `cbor:"6,keyasint,omitempty"`
	Rest   string `cbor:"7,keyasint,omitempty"`
	// Mutation is the index of the mutation at fault.
	Mutation int `cbor:"8,keyasint,omitempty"`
	// Who: the participant that says so.
	Who string `cbor:"9,keyasint,omitempty"`
	// With CodeCorrupt, where a block of contents is rotten: whose, and which.
	Ino    Ino   `cbor:"10,keyasint,omitempty"`
	Object ID    `cbor:"11,keyasint,omitempty"`
	Block  int64 `cbor:"12,keyasint,omitempty"`
	// With CodeConflict: the transaction that is in the way, 0 where none is known,
	// and a number for the lock that it holds, the same at all participants.
	Blocker ID     `cbor:"13,keyasint,omitempty"`
	Key     uint64 `cbor:"14,keyasint,omitempty"`

	// Lost: the link to the peer ended before its answer came. A stub's own
	// word, never on the wire. With CodeUnavailable the request did not reach
	// the peer, with CodeUnknownOutcome it may have; the same request may be
	// sent again by a new link.
	Lost bool `cbor:"-"`
	// Refused: nobody listens at the peer's address. Likewise.
	Refused bool `cbor:"-"`
}

// NewError makes an error with a code and words.
func NewError(code Code, text string) *Error { return &Error{Code: code, Text: text} }

func (e *Error) Error() string {
	var b strings.Builder
	for _, s := range []string{e.Op, e.Name} {
		if s != "" {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(printable(s))
		}
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(e.Code.String())
	if e.Text != "" {
		b.WriteString(": ")
		b.WriteString(e.Text)
	}
	return b.String()
}

// printable quotes names that would garble a terminal or a log.
func printable(s string) string {
	if q := strconv.Quote(s); q[1:len(q)-1] != s {
		return q
	}
	return s
}

// Is makes errors.Is work with the errors of io/fs and context, and with
// another *Error that has only a Code.
func (e *Error) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return e.Code == CodeNotExist
	case fs.ErrExist:
		return e.Code == CodeExist || e.Code == CodeNotEmpty
	case fs.ErrPermission:
		return e.Code == CodePermission || e.Code == CodeAccess
	case fs.ErrInvalid:
		return e.Code == CodeInvalid
	case context.Canceled:
		return e.Code == CodeCanceled
	}
	var t *Error
	return errors.As(target, &t) && *t == Error{Code: e.Code}
}

// CodeOf returns the code of err: CodeNone for nil, CodeIO for an error that is not an *Error.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return CodeNone
	case errors.As(err, &e):
		return e.Code
	default:
		return CodeIO
	}
}

var codeText = map[Code]string{
	CodeNone: "no error", CodeNotExist: "no such file or directory", CodeExist: "file exists",
	CodeNotDir: "not a directory", CodeIsDir: "is a directory", CodeNotEmpty: "directory not empty",
	CodeInvalid: "invalid argument", CodeNameTooLong: "name too long", CodeNoSpace: "no space left",
	CodeTooLarge: "file too large", CodeTooMany: "over a limit", CodePermission: "operation not permitted",
	CodeAccess: "permission denied", CodeReadOnly: "read-only", CodeLinks: "too many links",
	CodeLoop: "too many levels of symbolic links", CodeNoAttr: "no such attribute", CodeStale: "stale inode",
	CodeUnsupported: "operation not supported", CodeBusy: "busy", CodeIO: "input/output error",
	CodeConflict: "conflict", CodeUnknownOutcome: "outcome unknown", CodeUnavailable: "unavailable",
	CodeCorrupt: "corrupt data", CodeProtocol: "protocol error", CodeSymlink: "is a symbolic link",
	CodeVersion: "version does not match", CodeChanged: "file changed while it was read",
	CodeStaleEpoch: "a newer coordinator is at work", CodeReplaced: "replaced by a newer link of the session",
	CodeStageLost: "staged contents are gone", CodeCanceled: "canceled",
	CodeLocked: "locked", CodeDeadlock: "waiting would be a deadlock", CodeNoLocks: "no more locks",
}

func (c Code) String() string {
	if s, ok := codeText[c]; ok {
		return s
	}
	return "unknown error code"
}
