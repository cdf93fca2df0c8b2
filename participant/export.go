package participant

import (
	"context"
	"errors"
)

// Export writes the files of the participant in o.Dir, which nobody else may
// be using, as a plain directory tree to out, which must not exist (S7). What
// the journal holds and no checkpoint has yet is replayed; transactions still
// in doubt are left out. progress may be nil. Where ctx ends, out has a part, and the
// error is ctx's.
func Export(ctx context.Context, o Options, out string, progress func(files int, bytes int64)) error {
	if err := o.validate(); err != nil {
		return err
	}
	r, err := recoverState(&o)
	if err != nil {
		return err
	}
	if n := r.machine.InDoubt(); n > 0 {
		o.Logger.Warn("transactions are in doubt here and left out", "transactions", n)
	}
	if why := r.machine.Resync(); why != "" {
		o.Logger.Warn("this participant is out of sync: what is exported is old, or a mixture of old and new; export another one if there is one", "reason", why)
	}
	err = r.store.Export(ctx, out, func(files, bytes int64) {
		if progress != nil {
			progress(int(files), bytes)
		}
	})
	return errors.Join(err, r.log.Close(), r.store.Close())
}
