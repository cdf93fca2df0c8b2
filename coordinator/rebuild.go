package coordinator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"tpcfs/coordinator/commit"
	"tpcfs/wire"
)

// How long Rebuild waits for participants that do not answer, and how soon it asks again.
const (
	rebuildWait  = 20 * time.Second
	rebuildAgain = 500 * time.Millisecond
)

// Word is what an operator says of a journal that is rebuilt.
type Word struct {
	Lost  []string // the participants that are lost, with their data, for good
	Force bool     // though what was acknowledged without the others is lost with them
	By    string   // who says so
}

// Rebuild makes up for a data directory that is lost, or old (P13): it takes epoch and
// config from the participants, and leaves a journal with which Open goes on. Those of
// Options.Participants are asked, and those that they name, where they were last. The
// directory is made if it is missing; a journal that is damaged has to be out of the way.
// The coordinator that is replaced must not run any more.
//
// false: the journal is as new as what the participants hold, and goes on. Errors are
// *wire.Error, and nothing has changed: CodeUnavailable where participants do not answer
// that may know more.
func Rebuild(ctx context.Context, o Options, word Word) (rebuilt bool, err error) {
	if err := o.validate(); err != nil {
		return false, err
	}
	held, err := hearHoldings(ctx, &o, word.Lost)
	if err != nil {
		return false, err
	}
	newest, err := commit.NewestConfig(held.list)
	if err != nil {
		return false, err
	}
	var fresh wire.UUID
	r := commit.Rebuilding{Held: held.list, Silent: len(held.silent), Lost: word.Lost, Force: word.Force, MinInSync: o.MinInSync, Majority: o.MinInSync == 0,
		Edit: wire.Edit{By: word.By, Time: time.Now().UnixMilli()}}
	for _, random := range [][]byte{fresh[:], r.StandIn[:]} {
		if _, err := rand.Read(random); err != nil {
			return false, wire.NewError(wire.CodeIO, "no random numbers: "+err.Error())
		}
	}
	if newest != nil {
		fresh = newest.Cluster
	}
	if _, err := o.FS.ReadDir(o.Dir); errors.Is(err, fs.ErrNotExist) { // it is not made in vain
		if _, err := commit.Rebuild(&commit.State{}, r); err != nil {
			return false, held.explain(err)
		}
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
	if newest != nil && newest.Cluster != cluster { // a start on an empty directory gave it a name
		if err := writeFormat(o.FS, o.Dir, newest.Cluster); err != nil {
			return false, err
		}
	}
	if _, err = led.log.Append(rec.Encode()); err == nil {
		err = led.log.Flush()
	}
	if err != nil {
		return false, openError(o.Dir, err)
	}
	switch rec.Kind {
	case commit.RecSnapshot:
		o.Logger.Warn("the journal was rebuilt from what the participants hold: take --rebuild away for the next start", "dir", o.Dir,
			"epoch", rec.Epoch.Number, "config", rec.Config.ID, "members", strings.Join(rec.Config.InSync, ", "))
	case commit.RecLease:
		o.Logger.Warn("--rebuild: the journal is as new as what the participants hold; take the flag away", "dir", o.Dir)
		return false, nil
	default:
		o.Logger.Warn("no participant holds a config: a new cluster is made", "dir", o.Dir, "epoch", rec.Epoch.Number)
	}
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

// heard is one's answer.
type heard struct {
	peer Peer
	g    *wire.Greeting
	err  error
}

// hearHoldings asks the participants, and those that they name, until all have answered
// that the newest config names, or rebuildWait is over. Who is said to be lost is asked
// once: it may be there.
func hearHoldings(ctx context.Context, o *Options, lost []string) (*holdings, error) {
	within, cancel := context.WithTimeout(ctx, rebuildWait)
	defer cancel()
	answers := make(chan heard)
	state := map[string]*heard{} // of those that were asked, by name
	ask := func(p Peer) {
		if state[p.Name] != nil {
			return
		}
		state[p.Name] = &heard{peer: p}
		once := slices.Contains(lost, p.Name)
		go func() {
			g, err := hearHolding(within, o, p, once)
			answers <- heard{p, g, err}
		}()
	}
	for _, p := range o.Participants {
		ask(p)
	}
	var config *wire.Config
	for waits := len(state); waits > 0; waits-- {
		a := <-answers
		state[a.peer.Name] = &a
		if a.g == nil {
			continue
		}
		if c := &a.g.Config; c.ID.Epoch != 0 && (config == nil || c.ID.Compare(config.ID) > 0) {
			config = c
		}
		before := len(state)
		for _, mem := range a.g.Config.Configured {
			ask(Peer{Name: mem.Name, Addr: mem.Addr})
		}
		waits += len(state) - before
		if config != nil && !slices.ContainsFunc(config.Configured, func(mem wire.Member) bool { return state[mem.Name].g == nil }) {
			cancel() // who else was asked has no part in it
		}
	}
	if ctx.Err() != nil {
		return nil, wire.NewError(wire.CodeCanceled, "interrupted; nothing was changed")
	}
	h := &holdings{}
	for _, name := range slices.Sorted(maps.Keys(state)) {
		switch a := state[name]; {
		case a.g != nil:
			h.list = append(h.list, commit.Holding{Name: name, Greeting: *a.g})
		case !slices.Contains(lost, name):
			h.silent = append(h.silent, fmt.Sprintf("%s (%s): %v", name, a.peer.Addr, a.err))
		}
	}
	return h, nil
}

// hearHolding asks one until it answers, or once.
func hearHolding(ctx context.Context, o *Options, p Peer, once bool) (*wire.Greeting, error) {
	for {
		g, err := askHolding(ctx, o, p)
		if err == nil || once {
			return g, err
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
