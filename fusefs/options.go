package fusefs

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"tpcfs/wire"
)

// Content is a file's new contents: readable from the beginning each time
// that a transaction has to be sent again.
type Content = interface {
	Size() int64 // bytes
	Open() (io.ReadCloser, error)
}

// Ahead is what of a file's new contents is sent while they are still being
// written. Of ends it, and makes of a content, whose bytes were all written to
// it, one that Transact need not send. Abort gives it up.
type Ahead = interface {
	Write(p []byte) (int, error)
	Of(content Content) (Content, error)
	Abort()
}

// Client is what a mount needs of the service's client, C being what that
// calls a Content. Errors are *wire.Error. How long a call waits for an absent
// service is the client's matter; a call whose context ends returns soon.
type Client[C Content] interface {
	// TransactBehind commits the mutations as one. contents[i], if there is one and
	// it is not nil, is what mutation i writes. behind, if not nil, has it wait for
	// the transaction that was in the way of its last try (F5).
	TransactBehind(ctx context.Context, behind *wire.Behind, mutations []wire.Mutation, contents []C) (wire.Outcome, error)
	// Read gives a ReadFile's pieces to w before it returns, none after.
	Read(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error)
	Statfs(ctx context.Context) (wire.Statfs, error)
	// Ahead begins to send contents for a later Transact. They begin at an
	// offset, in bytes, of the file that errors call name. It ends with ctx.
	Ahead(ctx context.Context, name string, at int64) (Ahead, error)
	Locker
	// Watch asks for a lease on what was read (wire.Watched). Who sends it
	// counts the lease from before the call.
	Watch(ctx context.Context, req wire.Watch) (wire.Watched, error)
}

// service is a client whose contents are this package's.
type service = Client[Content]

// adapter makes a service of a client that has its own name for Content.
type adapter[C Content] struct{ Client[C] }

func (a adapter[C]) TransactBehind(ctx context.Context, behind *wire.Behind, mutations []wire.Mutation, contents []Content) (wire.Outcome, error) {
	list := make([]C, len(contents))
	for i, c := range contents {
		if c != nil {
			list[i] = c.(C)
		}
	}
	return a.Client.TransactBehind(ctx, behind, mutations, list)
}

// Options are those of a mount. The zero value is usable.
type Options struct {
	// ReadOnly refuses every change with EROFS.
	ReadOnly bool
	// NoExec refuses to execute files of the mount.
	NoExec bool
	// UID and GID, where they are set, own all files as this mount shows them,
	// whatever is stored, and what is made in it.
	UID, GID *uint32
	// AllowOther lets users other than the one who mounts in.
	AllowOther bool
	// SpillDir is where gathered writes go that are too many for memory, as
	// unlinked files; it must not be below the mount. Default: os.TempDir().
	SpillDir string
	// FileMemory and Memory bound the gathered writes kept in memory, of one
	// file and of all, in bytes. Defaults: 1 MiB and 64 MiB.
	FileMemory, Memory int64
	// CommitAfter is how long after the first unsaved write of a file a
	// commit begins by itself. Default: 5 s.
	CommitAfter time.Duration
	// SpillCommitAfter is the same for a file beyond FileMemory: most likely
	// it is still being written. Default: 60 s.
	SpillCommitAfter time.Duration
	// AheadFrom is how many bytes, written one after another, are worth a head
	// start: they go to the participants while the file is still being written
	// (F3). Default: 4 MiB.
	AheadFrom int64
	// AheadMost is how far a file's writer may be before what was sent of it,
	// in bytes, before it has to wait: 256 KiB, or AheadFrom, at least. Default: 1 GiB.
	AheadMost int64
	// ConflictWait is how long a change that others' changes abort is tried
	// again before EAGAIN (F5). Default: 10 s.
	ConflictWait time.Duration
	// FlushWait is how long Unmount waits for gathered writes. Default: 10 s.
	FlushWait time.Duration
	// MaxBackground bounds the kernel's requests that nobody waits for, most
	// of them read-ahead of up to 1 MiB. Default: 64.
	MaxBackground int
	// Logger takes what goes wrong. Default: nothing is logged.
	Logger *slog.Logger
	// Debug logs every request, at the debug level.
	Debug bool
}

// validate fills in the defaults.
func (o *Options) validate(mountpoint string) error {
	setDefault(&o.FileMemory, 1<<20)
	setDefault(&o.Memory, 64<<20)
	setDefault(&o.CommitAfter, 5*time.Second)
	setDefault(&o.SpillCommitAfter, max(60*time.Second, o.CommitAfter))
	setDefault(&o.AheadFrom, 4<<20)
	setDefault(&o.AheadMost, 1<<30)
	o.AheadMost = max(o.AheadMost, min(aheadChunk, o.AheadFrom)) // less is never taken
	setDefault(&o.ConflictWait, 10*time.Second)
	setDefault(&o.FlushWait, 10*time.Second)
	setDefault(&o.MaxBackground, 64)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.SpillDir == "" {
		o.SpillDir = os.TempDir()
	}
	dir, err := filepath.Abs(o.SpillDir)
	if err != nil {
		return mountError(wire.CodeInvalid, o.SpillDir, "cannot be made absolute: "+err.Error())
	}
	if within(dir, mountpoint) {
		return mountError(wire.CodeInvalid, o.SpillDir, "the spill directory is below the mount point: choose one on a local disk")
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return mountError(wire.CodeNotDir, o.SpillDir, "is not a directory that gathered writes can spill to: make it, or choose another")
	}
	// One that is full now may have space later.
	if f, err := spillFile(dir); err == nil {
		_ = f.Close() // nothing was written
	} else if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) && !o.ReadOnly {
		return mountError(wire.CodeInvalid, o.SpillDir, "gathered writes cannot spill there ("+err.Error()+"): choose another")
	}
	if o.MaxBackground < 2 || o.MaxBackground > 1<<15 {
		return mountError(wire.CodeInvalid, mountpoint, "MaxBackground is from 2 to 32768")
	}
	o.SpillDir = dir
	return nil
}

func setDefault[T int | int64 | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
