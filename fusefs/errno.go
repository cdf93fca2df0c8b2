package fusefs

import (
	"context"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tpcfs/wire"
)

// errnos is the one table from the service's codes to what a system call
// returns. Those that a mount retries by itself stand for what is left when
// the bound of the retries is over.
var errnos = map[wire.Code]syscall.Errno{
	wire.CodeNone:        0,
	wire.CodeNotExist:    syscall.ENOENT,
	wire.CodeExist:       syscall.EEXIST,
	wire.CodeNotDir:      syscall.ENOTDIR,
	wire.CodeIsDir:       syscall.EISDIR,
	wire.CodeNotEmpty:    syscall.ENOTEMPTY,
	wire.CodeInvalid:     syscall.EINVAL,
	wire.CodeNameTooLong: syscall.ENAMETOOLONG,
	wire.CodeNoSpace:     syscall.ENOSPC,
	wire.CodeTooLarge:    syscall.EFBIG,
	wire.CodeTooMany:     syscall.E2BIG,
	wire.CodePermission:  syscall.EPERM,
	wire.CodeAccess:      syscall.EACCES,
	wire.CodeReadOnly:    syscall.EROFS,
	wire.CodeLinks:       syscall.EMLINK,
	wire.CodeLoop:        syscall.ELOOP,
	wire.CodeNoAttr:      syscall.ENODATA,
	wire.CodeStale:       syscall.ESTALE,
	wire.CodeUnsupported: syscall.EOPNOTSUPP,
	wire.CodeBusy:        syscall.EBUSY,
	wire.CodeIO:          syscall.EIO,

	wire.CodeConflict: syscall.EAGAIN, // F5
	wire.CodeVersion:  syscall.EAGAIN, // others kept changing the file
	wire.CodeChanged:  syscall.EAGAIN,
	// It may have happened: no errno says so, and EIO is the one after which
	// programs look again instead of assuming either.
	wire.CodeUnknownOutcome: syscall.EIO,
	// It did not happen, for want of an answer in the mount's --wait.
	wire.CodeUnavailable: syscall.ETIMEDOUT,
	wire.CodeCorrupt:     syscall.EIO,
	wire.CodeProtocol:    syscall.EIO,
	wire.CodeStaleEpoch:  syscall.EIO,
	wire.CodeReplaced:    syscall.EIO,
	wire.CodeStageLost:   syscall.EIO,
	// Names go to the service one at a time, below their directory: a link
	// can only be the last component, where a link is not expected.
	wire.CodeSymlink:  syscall.ELOOP,
	wire.CodeCanceled: syscall.EINTR,

	wire.CodeLocked:   syscall.EAGAIN,
	wire.CodeDeadlock: syscall.EDEADLK,
	wire.CodeNoLocks:  syscall.ENOLCK,
}

// errnoOf is what a system call returns for err.
func errnoOf(err error) syscall.Errno {
	var service *wire.Error
	var local syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &service):
		if errno, ok := errnos[service.Code]; ok {
			return errno
		}
		return syscall.EIO // a code of a newer service
	case errors.Is(err, context.Canceled):
		return syscall.EINTR
	case errors.Is(err, context.DeadlineExceeded):
		return syscall.ETIMEDOUT
	case errors.As(err, &local):
		return local
	default:
		return syscall.EIO
	}
}

func statusOf(err error) fuse.Status { return fuse.Status(errnoOf(err)) }
