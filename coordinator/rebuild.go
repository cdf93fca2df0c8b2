package coordinator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"tpcfs/coordinator/commit"
	"tpcfs/wire"
	"tpcfs/wire/failpoint"
)

// How long Rebuild waits for participants that do not answer, and how soon it asks again.
const (
	rebuildWait  = 20 * time.Second
	rebuildAgain = 500 * time.Millisecond
)

// Rebuild makes up for a data directory that is lost, or old (P13): it takes epoch and
// config from the participants, and leaves a journal with which Open goes on. Those of
// Options.Participants are asked, and those that they name, where they were last. The
// directory is made if it is missing; a journal that is damaged has to be out of the way.
// The coordinator that is replaced must not run any more. Who is lost, with its data, for
// good, has to be named; by is who says so.
//
// false: nothing was to be done, since the journal is as new as what the participants
// hold, or there never was a cluster. Errors are *wire.Error, and nothing has changed:
// CodeUnavailable where participants do not answer that may know more.
func Rebuild(ctx context.Context, o Options, lost []string, by string) (rebuilt bool, err error) {
	if err := o.validate(); err != nil {
		return false, err
	}
	held, err := hearHoldings(ctx, &o, lost)
	if err != nil {
		return false, err
	}
	newest, err := commit.NewestConfig(held.list)
	if err != nil {
		return false, err
	}
	var fresh wire.UUID
	r := commit.Rebuilding{Held: held.list, Silent: len(held.silent), Lost: lost, MinInSync: o.MinInSync, Majority: o.MinInSync == 0,
		Edit: wire.Edit{By: by, Time: time.Now().UnixMilli()}}
	for _, random := range [][]byte{fresh[:], r.StandIn[:]} {
		if _, err := rand.Read(random); err != nil {
			return false, wire.NewError(wire.CodeIO, "no random numbers: "+err.Error())
		}
	}
	if newest != nil {
		fresh = newest.Cluster
	}
	lock, cluster, err := openDir(o.FS, o.Dir, fresh)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	led, state, err := openLedger(o.FS, path.Join(o.Dir, journalName), o.SegmentSize)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, led.close()) }()
	rec, err := commit.Rebuild(&state, r)
	if err != nil {
		return false, held.explain(err)
	}
	if rec == nil {
		return false, nil
	}
	if newest != nil && newest.Cluster != cluster { // a start on an empty directory gave it a name
		if err := writeFormat(o.FS, o.Dir, newest.Cluster); err != nil {
			return false, err
		}
	}
	failpoint.At("coordinator.rebuild")
	if _, err = led.log.Append(rec.Encode()); err == nil {
		err = led.log.Flush()
	}
	if err != nil {
		return false, openError(o.Dir, err)
	}
	if rec.Config == nil {
		o.Logger.Warn("no participant holds a config: a new cluster is made", "dir", o.Dir, "epoch", rec.Epoch.Number)
		return true, nil
	}
	o.Logger.Warn("the journal was rebuilt from what the participants hold", "dir", o.Dir, "epoch", rec.Epoch.Number,
		"config", rec.Config.ID, "members", strings.Join(rec.Config.InSync, ", "))
	return true, nil
}

// holdings is what participants have said, and who has not.
type holdings struct {
	list   []commit.Holding
	silent []string
}

// explain says who did not answer, and why.
func (h *holdings) explain(err error) error {
	e := *asError(err)
	e.Op = "rebuild"
	if len(h.silent) > 0 {
		e.Text += ". No answer from " + strings.Join(h.silent, "; ")
	}
	return &e
}

// hearHoldings asks the participants, and those that they name, until all have answered
// or rebuildWait is over.
func hearHoldings(ctx context.Context, o *Options, lost []string) (*holdings, error) {
	within, cancel := context.WithTimeout(ctx, rebuildWait)
	defer cancel()
	h := &holdings{}
	asked := map[string]bool{}
	for _, name := range lost {
		asked[name] = true
	}
	todo := slices.DeleteFunc(slices.Clone(o.Participants), func(p Peer) bool { return asked[p.Name] })
	for len(todo) > 0 {
		for _, p := range todo {
			asked[p.Name] = true
		}
		answers := make([]*wire.Greeting, len(todo))
		errs := make([]error, len(todo))
		var wg sync.WaitGroup
		for i, p := range todo {
			wg.Go(func() { answers[i], errs[i] = hearHolding(within, o, p) })
		}
		wg.Wait()
		if err := ctx.Err(); err != nil {
			return nil, wire.NewError(wire.CodeCanceled, "interrupted; nothing was changed")
		}
		var more []Peer
		for i, p := range todo {
			if errs[i] != nil {
				h.silent = append(h.silent, fmt.Sprintf("%s (%s): %v", p.Name, p.Addr, errs[i]))
				continue
			}
			h.list = append(h.list, commit.Holding{Name: p.Name, Greeting: *answers[i]})
			for _, mem := range answers[i].Config.Configured {
				if !asked[mem.Name] && !slices.ContainsFunc(more, func(q Peer) bool { return q.Name == mem.Name }) {
					more = append(more, Peer{Name: mem.Name, Addr: mem.Addr})
				}
			}
		}
		todo = more
	}
	return h, nil
}

// hearHolding asks one until it answers.
func hearHolding(ctx context.Context, o *Options, p Peer) (*wire.Greeting, error) {
	for {
		g, err := askHolding(ctx, o, p)
		if err == nil {
			return g, nil
		}
		again := time.NewTimer(rebuildAgain)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return nil, err
		}
	}
}

func askHolding(ctx context.Context, o *Options, p Peer) (*wire.Greeting, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	replica, err := o.Dial(ctx, p)
	if err != nil {
		return nil, err
	}
	defer replica.Close() //nolint:errcheck // it is given up either way
	st, err := replica.Status(ctx, wire.StatusRequest{Standing: true})
	if err != nil {
		return nil, err
	}
	if st.Standing == nil {
		return nil, wire.NewError(wire.CodeProtocol, "it is of a version that does not say what it holds")
	}
	return st.Standing, nil
}
