package fusefs

import (
	"context"
	"slices"

	"tpcfs/wire"
)

// owned is a service whose files all seem to be one user's, or one group's, or
// both: what is stored of it is overlaid in every answer, what is made belongs
// to them, and nothing is given to others.
type owned struct {
	service
	uid, gid *uint32 // nil: as stored
}

// TransactBehind implements service.
func (o owned) TransactBehind(ctx context.Context, behind *wire.Behind, mutations []wire.Mutation, contents []Content) (wire.Outcome, error) {
	mutations = slices.Clone(mutations)
	for i := range mutations {
		m := &mutations[i]
		if m.Kind == wire.MutSetattr {
			if o.uid != nil && m.Set&wire.SetUID != 0 && m.UID != *o.uid || o.gid != nil && m.Set&wire.SetGID != 0 && m.GID != *o.gid {
				return wire.Outcome{}, &wire.Error{Code: wire.CodePermission, Op: "chown", Text: "on this mount all files are one owner's", Mutation: i}
			}
			continue
		}
		if o.uid != nil {
			m.UID = *o.uid
		}
		if o.gid != nil {
			m.GID = *o.gid
		}
	}
	return o.service.TransactBehind(ctx, behind, mutations, contents)
}

// Read implements service.
func (o owned) Read(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	reply, err := o.service.Read(ctx, req, w)
	o.overlay(&reply.Attr)
	for i := range reply.Entries {
		o.overlay(&reply.Entries[i].Attr)
	}
	return reply, err
}

func (o owned) overlay(a *wire.Attr) {
	if o.uid != nil {
		a.UID = *o.uid
	}
	if o.gid != nil {
		a.GID = *o.gid
	}
}
