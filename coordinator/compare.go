package coordinator

import (
	"context"
	"time"

	"tpcfs/coordinator/scrub"
	"tpcfs/wire"
)

// compare carries out what follows when contents are verified: the rows of all participants in
// sync are compared, and one that does not agree with the majority gets everything anew.
func (r *scrubRun) compare(ctx context.Context) {
	for {
		var there []int
		for _, l := range r.c.others(-1) {
			there = append(there, l.member)
		}
		var s scrub.Step
		r.locked(func() {
			if ctx.Err() != nil {
				r.m.Stop()
			}
			s = r.m.Next(there, r.c.readPoint.Load())
		})
		why := ""
		switch s.Kind {
		case scrub.End:
			return
		case scrub.Rest:
			pause(ctx, repairBusy)
			continue
		case scrub.Ask:
			all := r.askAll(ctx, s.Of, s.Req)
			if ctx.Err() == nil {
				r.locked(func() { r.m.Answered(all) })
			}
			continue
		case scrub.Enter:
			r.enter()
		case scrub.MayGo:
			why = r.mayGo(ctx, s.Of[0])
		case scrub.Condemn:
			if err := r.c.renews(r.names[s.Of[0]], true); err != nil {
				why = "it is not evicted, since a restart of the coordinator would forget why: " + err.Error()
			}
		case scrub.Evict:
			why = r.c.expel(ctx, s.Of[0])
		default: // scrub.Await
			why = r.await(ctx, r.names[s.Of[0]])
		}
		r.locked(func() { r.m.Did(why) })
	}
}

// askAll asks participants at once; one that is not there any more has an error.
func (r *scrubRun) askAll(ctx context.Context, of []int, req wire.Compare) []scrub.Answer {
	answers := make(chan scrub.Answer, len(of))
	for _, i := range of {
		go func() { // it ends with the call, which is waited for
			l, err := r.member(i)
			if err != nil {
				answers <- scrub.Answer{Member: i, Err: err}
				return
			}
			c, body, err := r.ask(ctx, l, req)
			answers <- scrub.Answer{Compared: c, Member: i, Body: body, Err: err}
		}()
	}
	all := make([]scrub.Answer, 0, len(of))
	for range of {
		all = append(all, <-answers)
	}
	return all
}

func (r *scrubRun) ask(ctx context.Context, l *link, req wire.Compare) (wire.Compared, []byte, error) {
	during, cancel := l.during(ctx)
	defer cancel()
	req.Epoch = r.c.epoch
	l.need(req.Index)
	c, body, err := l.replica.Compare(during, req)
	return c, body, gone(ctx, l, err)
}

// enter takes what the comparison says over: durably, if an older verdict ends.
func (r *scrubRun) enter() {
	s := &r.c.scrub
	ends := false
	r.locked(func() {
		v := r.m.Verdict()
		for _, name := range v.Right {
			ends = ends || s.book.ComparesAll(name)
		}
		s.book.Take(v)
		s.doubtLocked()
	})
	if !ends {
		return
	}
	if err := r.c.keepScrub(); err != nil {
		r.c.log.Warn("what a scrub has found cannot be remembered", "err", err)
	}
}

// mayGo: may a participant be evicted? "": yes; else, why not.
func (r *scrubRun) mayGo(ctx context.Context, i int) (why string) {
	if r.c.peers[i].called() != r.names[i] {
		return "another participant has its place meanwhile"
	}
	may := make(chan bool, 1)
	if !r.c.ask(ctx, func() { may <- r.c.m.InSync(i) && r.c.m.MayGo(i) }) {
		return "it was stopped before its end"
	}
	if !<-may {
		return "too few participants are in sync for it to leave and get everything anew"
	}
	return ""
}

// await waits until a participant has got everything anew. "": it has; else, what else.
func (r *scrubRun) await(ctx context.Context, name string) (why string) {
	for end := time.Now().Add(rejoinWait); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, catchUpPause) {
		has := false
		r.locked(func() { has = r.c.scrub.book.ComparesAll(name) })
		if !has {
			return ""
		}
	}
	return "it was evicted, and has not caught up yet"
}

// expel has a participant evicted, whose verdict is durable: it compares everything when it
// comes back, which this coordinator may not see. "": it is out; else, why not.
func (c *Coordinator) expel(ctx context.Context, i int) (why string) {
	p := c.peers[i]
	p.hold(true)
	defer p.hold(false)
	if l := c.links[i].Load(); l != nil {
		l.cancel()
	}
	for end := time.Now().Add(c.o.EvictAfter + 2*time.Second); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, c.o.Tick) {
		in := make(chan bool, 1)
		if !c.ask(ctx, func() { c.m.Refusing(i); in <- c.m.InSync(i) }) {
			break
		}
		if !<-in {
			return ""
		}
	}
	return "it could not be evicted in time: it is looked at again soon, and gets everything anew whenever it is evicted"
}
