package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"tpcfs/coordinator/commit"
	"tpcfs/wire"
)

// A participant that is out of sync catches up in rounds, from a member picked
// as donor, while service goes on; in the last one nothing is put, until it is
// let in (P11). Everything goes through here: participants never dial.

// Bounds of catching up.
const (
	lastRoundBytes = 64 << 20        // so much may be left for the last round
	stagesWait     = 5 * time.Second // for contents that are being staged, before the last round
	catchUpPause   = 200 * time.Millisecond
	catchUpRest    = 10 * time.Second // at most, before what was interrupted begins again
	drainPause     = 2 * time.Millisecond
	yieldTimes     = 3 // as long as a step has taken
	mostYield      = time.Second
	slowPause      = time.Second // before a newcomer whose disk is slow is tried again
)

// catchUp brings a participant that was greeted as an outsider back in sync,
// beginning again after whatever interrupts it, until its link ends.
func (c *Coordinator) catchUp(l *link) {
	c.peers[l.member].catches(wire.CatchUp{Began: time.Now().UnixMilli()})
	c.log.Log(context.Background(), c.noticeLevel(), "participant is out of sync and catches up", "name", l.name)
	told, rest := "", catchUpPause
	for l.ctx.Err() == nil {
		r := &rejoin{c: c, l: l, began: time.Now()}
		err := r.run()
		if err == nil && r.whole && c.comparesAll(l.member) {
			if err := c.renews(l.name, false); err != nil {
				c.log.Warn("that a participant has got everything anew cannot be remembered: it does so once more when it is evicted", "name", l.name, "err", err)
			}
		}
		if err == nil || l.ctx.Err() != nil {
			return
		}
		if text := err.Error(); text != told {
			told = text
			c.log.Log(context.Background(), slog.LevelWarn, "catching up was interrupted, and begins again", "name", l.name, "err", err)
		}
		r.sleep(rest) // writes have waited for a last round that was given up
		rest = min(2*rest, catchUpRest)
	}
}

// rejoin is one attempt.
type rejoin struct {
	c     *Coordinator
	l     *link
	began time.Time
	donor *link
	since wire.Position
	// attempt is the newcomer's number of it: a step that comes late, over a link
	// that was given up, has an older one.
	attempt uint64
	full    bool
	whole   bool  // it was told to compare everything: a verdict that comes while it does not, stays
	quick   bool  // its disk is: the last round may begin
	limit   bool  // ResyncRate counts: not in the last round
	moved   int64 // bytes, in this round
	total   int64 // ... and in all
	seen    wire.CatchUp
	speed   speed
	stepped time.Time // when the last step began
	changes uint64    // that clients had made then
}

// speed is how fast a newcomer catches up, as of the last seconds.
type speed struct {
	at           time.Time
	copied, work int64   // then
	rate, pace   float64 // of both, a second
}

const speedWindow = time.Second

// mostLeft bounds the time left that is told: nobody waits for so long.
const mostLeft = 100 * 24 * time.Hour

// left is how long, in milliseconds, so many bytes take at so many a second.
func left(bytes int64, speed float64) int64 {
	return int64(min(float64(bytes)/speed*1000, float64(mostLeft.Milliseconds())))
}

// note takes how far it is, and tells how fast that is and what is left.
func (s *speed) note(now time.Time, c *wire.CatchUp) {
	done, all := c.Work()
	passed := now.Sub(s.at)
	switch {
	case s.at.IsZero():
		s.at, s.copied, s.work = now, c.Copied, done
	case passed >= speedWindow:
		rate, pace := float64(c.Copied-s.copied)/passed.Seconds(), float64(done-s.work)/passed.Seconds()
		if s.rate > 0 || s.pace > 0 { // not too nervous
			rate, pace = (rate+s.rate)/2, (pace+s.pace)/2
		}
		if rate < 1 { // it stands still, however it was before
			rate = 0
		}
		if pace < 1 {
			pace = 0
		}
		s.at, s.copied, s.work, s.rate, s.pace = now, c.Copied, done, rate, pace
	}
	c.Rate, c.LeftMS = int64(s.rate), 0
	switch {
	case all > done && s.pace > 0:
		c.LeftMS = left(all-done, s.pace)
	case all == 0 && c.Lacking > 0 && s.rate > 0:
		c.LeftMS = left(c.Lacking, s.rate)
	}
}

// sleep waits; that is no work that a rest would follow.
func (r *rejoin) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.l.ctx.Done():
	}
	r.stepped = time.Time{}
}

func (r *rejoin) run() error {
	if r.donor = r.c.pick(nil); r.donor == nil {
		return wire.NewError(wire.CodeUnavailable, "no participant is in sync and there to copy from")
	}
	r.whole = r.c.comparesAll(r.l.member) || r.c.scrub.lostVerdicts()
	got, err := r.resync(r.l.ctx, wire.Resync{Step: wire.ResyncBegin, Full: r.whole}, nil)
	if err != nil {
		return err
	}
	r.since, r.full, r.limit = got.Since, got.Full, true
	for {
		if err := r.middleRound(); err != nil {
			return err
		}
		if r.moved >= lastRoundBytes || !r.quick {
			continue
		}
		again, err := r.lastRound()
		if err != nil || !again {
			return err
		}
	}
}

// middleRound is one while service goes on; the next begins where it began to read.
func (r *rejoin) middleRound() error {
	at := r.c.readPoint.Load()
	if at == 0 {
		return errStopped
	}
	if err := r.round(r.l.ctx, at); err != nil {
		return err
	}
	start := wire.Position{Epoch: r.c.epoch.Number, Index: at}
	if _, err := r.resync(r.l.ctx, wire.Resync{Step: wire.ResyncRound, Position: start}, nil); err != nil {
		return err
	}
	r.since, r.full = start, false
	return r.paces(time.Since(r.stepped)) // a round has no body: nothing has slept since
}

// paces tells how long the newcomer took to make a round durable, and waits a moment
// where that is too long for the last one (P15): quick says so.
func (r *rejoin) paces(took time.Duration) error {
	quick := make(chan bool, 1)
	if !r.c.ask(r.l.ctx, func() { quick <- r.c.m.RoundTook(r.l.member, r.l.number, r.moved, took.Milliseconds()) }) {
		return errStopped
	}
	if r.quick = <-quick; !r.quick {
		r.sleep(slowPause)
	}
	return nil
}

// round brings what the donor has more than since, rows first, as of index or later.
func (r *rejoin) round(ctx context.Context, index uint64) error {
	r.moved = 0
	var cursor []byte
	for more := true; more; {
		d, body, err := r.donate(ctx, wire.Donate{Index: index, Since: r.since, Full: r.full, Cursor: cursor})
		if err != nil {
			return err
		}
		if d.TooOld {
			if _, err := r.resync(ctx, wire.Resync{Step: wire.ResyncBegin, Full: true}, nil); err != nil {
				return err
			}
			r.full, r.whole, cursor = true, true, nil
			continue
		}
		if r.full {
			r.seen.Files, r.seen.BytesTotal = d.Files, d.Bytes
		}
		_, err = r.resync(ctx, wire.Resync{Step: wire.ResyncRows, Full: r.full, Position: d.Position, Cursor: cursor, Next: d.Cursor}, body)
		if err != nil {
			return err
		}
		cursor, more = d.Cursor, len(d.Cursor) > 0
	}
	return r.blocks(ctx, index)
}

// blocks brings the contents that the newcomer lacks.
func (r *rejoin) blocks(ctx context.Context, index uint64) error {
	for {
		v, err := r.resync(ctx, wire.Resync{Step: wire.ResyncVerify}, nil)
		if err != nil {
			return err
		}
		for _, k := range v.Lacks {
			for len(k.Blocks) > 0 {
				n := min(len(k.Blocks), wire.MaxDonated)
				if err := r.bring(ctx, wire.Donate{Index: index, Ino: k.Ino, Object: k.Object, Blocks: k.Blocks[:n]}); err != nil {
					return err
				}
				k.Blocks = k.Blocks[n:]
			}
		}
		if !v.More && len(v.Lacks) == 0 {
			return nil
		}
	}
}

// bring brings blocks: the donor's, and where one is rotten there, any other
// member's. What does not go with the rows that the newcomer has, it leaves.
func (r *rejoin) bring(ctx context.Context, req wire.Donate) error {
	from := append([]*link{r.donor}, r.c.others(r.donor.member)...)
	var last error
	for _, l := range from {
		given, rotten, err := r.c.blocksOf(ctx, l, req)
		if err != nil && l == r.donor {
			return r.notGiven(l, err)
		}
		if err != nil {
			last = r.notGiven(l, err)
			continue
		}
		for _, d := range given {
			if _, err := r.resync(ctx, wire.Resync{Step: wire.ResyncBlocks, Ino: req.Ino, Object: req.Object, Blocks: d.Blocks}, d.body); err != nil {
				return err
			}
		}
		if req.Blocks = rotten; len(rotten) == 0 {
			return nil
		}
	}
	return errors.Join(wire.NewError(wire.CodeCorrupt, fmt.Sprintf("%d blocks of inode %d are rotten at all participants that are in sync and there", len(req.Blocks), req.Ino)), last)
}

func (r *rejoin) notGiven(l *link, err error) error {
	return fmt.Errorf("participant %s cannot be copied from: %w", l.name, err)
}

// lastRound pauses, drains, copies the rest, and has the newcomer let in. again:
// it lacked something after all, or could not begin.
func (r *rejoin) lastRound() (again bool, err error) {
	if !r.pause() {
		r.sleep(catchUpPause)
		return true, nil
	}
	defer r.c.post(func() { r.c.m.Unpause(r.l.member) })
	paused := time.Now()
	ctx, cancel := r.limited()
	defer cancel()
	j, err := r.drain(ctx)
	if err != nil {
		return false, err
	}
	r.limit = false
	defer func() { r.limit = true }()
	if err := r.round(ctx, j.Position.Index); err != nil {
		return false, err
	}
	join := &wire.Join{Position: j.Position, W: j.W, Config: j.Config, ServiceTime: j.ServiceTime, LastID: j.LastID}
	if _, err := r.resync(ctx, wire.Resync{Step: wire.ResyncFinish, Join: join}, nil); err != nil {
		if wire.CodeOf(err) == wire.CodeBusy {
			return true, nil
		}
		r.l.cancel() // it may have cleared its mark: it is greeted anew (P11)
		return false, err
	}
	admitted := make(chan bool, 1)
	if !r.c.ask(r.l.ctx, func() { admitted <- r.c.m.Admit(r.l.member, r.l.number) }) || !<-admitted {
		r.l.cancel()
		return false, wire.NewError(wire.CodeUnavailable, "the in-sync set has changed in its last round")
	}
	r.c.log.Log(context.Background(), r.c.noticeLevel(), "participant has caught up", "name", r.l.name,
		"took", time.Since(r.began).Round(time.Millisecond).String(), "bytes", r.total, "paused", time.Since(paused).Round(time.Millisecond).String())
	return false, nil
}

// limited bounds the last round: one that takes longer is given up, and the next may take
// longer where nothing is written without it (P15).
func (r *rejoin) limited() (context.Context, func()) {
	p := r.c.peers[r.l.member]
	answer := make(chan int64, 1) // also where it comes when nobody waits any more
	late, limit := p.tooLate(0), int64(0)
	if r.c.ask(r.l.ctx, func() { answer <- r.c.m.LastRoundMS(late) }) {
		limit = <-answer
	}
	ctx, cancel := context.WithTimeout(r.l.ctx, time.Duration(limit)*time.Millisecond)
	return ctx, func() {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			p.tooLate(1)
		}
		cancel()
	}
}

// pause begins the last round, if can be when nobody is staging.
func (r *rejoin) pause() bool {
	for end := time.Now().Add(stagesWait); r.l.ctx.Err() == nil; r.sleep(r.c.o.Tick) {
		answer := make(chan bool, 2)
		late := time.Now().After(end)
		ok := r.c.ask(r.l.ctx, func() {
			if r.c.m.Staging() > 0 && !late {
				return
			}
			answer <- r.c.m.Pause(r.l.member, r.l.number)
		})
		if !ok {
			return false
		}
		select {
		case paused := <-answer:
			return paused
		default:
		}
	}
	return false
}

// drain waits until all that was put is decided, and durable at all members.
func (r *rejoin) drain(ctx context.Context) (commit.Joining, error) {
	for {
		type state struct {
			j             commit.Joining
			drained, over bool
		}
		answer := make(chan state, 1)
		ok := r.c.ask(ctx, func() {
			var s state
			s.j, s.drained, s.over = r.c.m.Drained(r.l.member, r.l.number)
			answer <- s
		})
		if !ok {
			return commit.Joining{}, wire.NewError(wire.CodeUnavailable, "what was under way did not end in time")
		}
		switch s := <-answer; {
		case s.over:
			return commit.Joining{}, wire.NewError(wire.CodeUnavailable, "the in-sync set has changed in its last round")
		case s.drained:
			return s.j, nil
		}
		r.sleep(drainPause)
	}
}

// donate asks the donor.
func (r *rejoin) donate(ctx context.Context, req wire.Donate) (wire.Donated, []byte, error) {
	d, body, err := r.c.donate(ctx, r.donor, req)
	if err != nil {
		return d, nil, r.notGiven(r.donor, err)
	}
	return d, body, nil
}

// rest is how long to wait before the next step: while clients make changes so long that
// most of the time is theirs, since they share processors and disks with what catches
// up. Where a rate is given that counts; in the last round they wait for its end.
func (r *rejoin) rest() time.Duration {
	done, _, _ := r.c.changes.Counts()
	busy := done != r.changes
	r.changes = done
	if !busy || !r.limit || r.c.o.ResyncRate > 0 || r.stepped.IsZero() {
		return 0
	}
	return min(yieldTimes*time.Since(r.stepped), mostYield)
}

// resync takes a step at the newcomer, at the rate that is allowed.
func (r *rejoin) resync(ctx context.Context, req wire.Resync, body []byte) (wire.Resynced, error) {
	req.Epoch = r.c.epoch
	if d := r.rest(); d > 0 {
		r.sleep(d)
	}
	r.stepped = time.Now()
	r.moved += int64(len(body))
	r.total += int64(len(body))
	if rate := r.c.o.ResyncRate; rate > 0 && r.limit && len(body) > 0 {
		r.sleep(time.Duration(float64(len(body)) / float64(rate) * float64(time.Second)))
	}
	req.Attempt = r.attempt
	got, err := r.l.replica.Resync(ctx, req, body)
	if err == nil {
		if req.Step == wire.ResyncBegin {
			r.attempt = got.Attempt
		}
		r.seen.Rows, r.seen.Bytes, r.seen.Copied = got.Progress.Rows, got.Progress.Verified, r.total
		r.seen.FilesDone, r.seen.Lacking = got.Progress.Files, max(got.Progress.Lacking-got.Progress.Copied, 0)
		r.speed.note(time.Now(), &r.seen)
		r.seen.Began = r.began.UnixMilli()
		r.c.peers[r.l.member].catches(r.seen)
	}
	return got, err
}
