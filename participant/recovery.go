package participant

import (
	"errors"
	"fmt"

	"tpcfs/journal"
	"tpcfs/participant/store"
	"tpcfs/participant/vote"
	"tpcfs/wire"
	"tpcfs/wire/failpoint"
)

// recovered is what Open finds: the store and the machine, both as of the
// journal's end.
type recovered struct {
	store    *store.Store
	log      *journal.Log
	machine  *vote.Machine
	view     *view
	replayed int // records
}

// whatToDo is what an operator can do about a directory that is damaged: its
// participant must not testify any more (P7).
const whatToDo = "This participant may not vote or testify any more. The others go on without it, while --min-in-sync of them are there. " +
	"Keep a copy of the directory, and start the participant on an empty one: it gets everything from the others. " +
	"Where all participants are needed, put back this participant's directory from a backup that was made while it was stopped " +
	"and since when nothing was written; `tpcfs export` writes any other one's files out"

// recoverState opens the store and the journal and replays the journal from
// where the store's last checkpoint ends (S3). A crash in the middle of it
// changes nothing that the next one does not find.
func recoverState(o *Options) (*recovered, error) {
	so := store.Options{FS: o.FS, Dir: o.Dir, InlineMax: o.InlineMax, TableBytes: o.TableBytes, Ballast: o.Ballast,
		Workers: o.Workers, UUID: o.UUID, Logger: o.Logger}
	if o.OpenKV != nil {
		kv, err := o.OpenKV(o.FS, o.Dir)
		if err != nil {
			return nil, &wire.Error{Code: wire.CodeIO, Op: "open", Name: o.Dir, Text: err.Error()}
		}
		so.KV = kv
	}
	s, err := store.Open(so)
	if err != nil {
		return nil, openError(o.Dir, err)
	}
	r := &recovered{store: s, view: &view{Store: s}}
	if err := r.open(o); err != nil {
		if r.log != nil {
			err = errors.Join(err, r.log.Close())
		}
		return nil, errors.Join(err, s.Close())
	}
	return r, nil
}

func (r *recovered) open(o *Options) error {
	applied, state := r.store.Meta()
	var err error
	if r.machine, err = vote.Restore(r.view, state); err != nil {
		return openError(o.Dir, err)
	}
	r.log, err = journal.Open(journal.Options{FS: o.FS, Dir: o.journalDir(), SegmentSize: o.SegmentSize})
	if err != nil {
		return openError(o.journalDir(), err)
	}
	if torn := r.log.Recovery(); torn.TornFile != "" {
		o.Logger.Info("the journal had a torn tail, as a crash leaves it; it was never synced and is cut",
			"file", torn.TornFile, "offset", torn.TornOffset, "bytes", torn.TornBytes, "copy", torn.Copy)
	}
	switch {
	case r.log.End() < applied:
		return damaged(o.journalDir(), "the journal ends at record %d, but the store has applied record %d: the journal's end was lost after it was synced", r.log.End(), applied)
	case r.log.First() > applied+1:
		return damaged(o.journalDir(), "the journal begins with record %d, but the store has applied only record %d: records between them were lost", r.log.First(), applied)
	case r.log.End() == applied:
		return nil
	}
	err = r.log.Replay(applied+1, func(lsn journal.LSN, record []byte) error {
		failpoint.At("participant.recovery")
		r.replayed++
		return r.redo(o, lsn, record)
	})
	if err != nil {
		return openError(o.journalDir(), err)
	}
	return nil
}

// redo replays one record. When the table fills, a checkpoint empties it, as
// it did, or would have done, before the crash.
func (r *recovered) redo(o *Options, lsn journal.LSN, record []byte) error {
	out, err := r.machine.Replay(append([]byte(nil), record...))
	if err == nil {
		err = r.apply(&out)
	}
	if err != nil {
		var we *wire.Error
		if errors.As(err, &we) && we.Code == wire.CodeCorrupt && we.Name == "" {
			return damaged(o.journalDir(), "record %d: %s", lsn, we.Text)
		}
		return err
	}
	if !r.store.TableFull() || !r.store.NeedCheckpoint() {
		return nil // the owner's first checkpoint will do
	}
	ck, err := r.store.Freeze(lsn, r.machine.Snapshot())
	if err != nil {
		return err
	}
	return ck.Run(func() error { return nil }) // what is replayed is durable
}

func (r *recovered) apply(out *vote.Ready) error { return applyTo(r.store, out) }

// applyTo carries out what a step of the machine asks of the store.
// A vote that a failed sync stands behind does not leave (P12).
func applyTo(s *store.Store, out *vote.Ready) error {
	switch {
	case out.Commit != nil:
		return s.Apply(out.Commit, out.Position)
	case out.Abort != nil:
		s.Abort(out.Abort)
	case len(out.Discard) > 0:
		for _, tx := range out.Discard {
			s.Abort(tx)
		}
	case out.Bootstrap != nil:
		return s.Bootstrap(*out.Bootstrap, out.Position)
	}
	return s.Failed()
}

func damaged(name, format string, args ...any) *wire.Error {
	return &wire.Error{Code: wire.CodeCorrupt, Op: "open", Name: name, Text: fmt.Sprintf(format, args...) + ". " + whatToDo}
}

// openError puts an error of Open into words.
func openError(name string, err error) error {
	var we *wire.Error
	var bad *journal.CorruptError
	switch {
	case errors.As(err, &bad):
		return damaged(bad.File, "damaged at byte %d: %s", bad.Offset, bad.Reason)
	case errors.As(err, &we) && we.Op == "open":
		return we
	case errors.As(err, &we) && we.Code == wire.CodeCorrupt:
		return damaged(name, "%s", we.Text)
	default:
		return &wire.Error{Code: wire.CodeIO, Op: "open", Name: name, Text: err.Error() + "; see to the disk and start the participant again"}
	}
}
