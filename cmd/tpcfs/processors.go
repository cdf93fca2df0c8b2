package main

import (
	"runtime"
	"syscall"
	"time"
)

// useProcessors sets on how many processors a coordinator runs, and returns what
// undoes that.
func useProcessors(lookupEnv func(string) (string, bool)) (undo func()) {
	before := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(processors(lookupEnv, before))
	return func() { runtime.GOMAXPROCS(before) }
}

// processors is on how many of those that there are a coordinator runs: of two, on
// one. It does little for each of many messages, waits for no disk meanwhile, and
// the participants and clients beside it need the other: on both, it starts and
// stops a thread with each message to look for what one thread is about to do.
// Whoever has set GOMAXPROCS gets what was set.
func processors(lookupEnv func(string) (string, bool), have int) int {
	if v, ok := lookupEnv("GOMAXPROCS"); ok && v != "" || have != 2 {
		return have
	}
	return 1
}

// lookEvery is how often a participant looks at how much it has to do.
const lookEvery = 500 * time.Millisecond

// shareProcessors has a participant run on one processor of two as a coordinator does,
// but on both while it is worth that: a sync keeps the one that it was begun on for
// up to half a millisecond, in which changes of other clients wait. It returns what
// ends and undoes that.
func shareProcessors(lookupEnv func(string) (string, bool), written func() (records, syncs uint64)) (undo func()) {
	ticker := time.NewTicker(lookEvery)
	end := shareWhen(ticker.C, lookupEnv, written)
	return func() {
		ticker.Stop()
		end()
	}
}

// shareWhen is told by ticks when to look.
func shareWhen(ticks <-chan time.Time, lookupEnv func(string) (string, bool), written func() (records, syncs uint64)) (undo func()) {
	before := runtime.GOMAXPROCS(0)
	least := processors(lookupEnv, before)
	if least == before {
		return func() {}
	}
	runtime.GOMAXPROCS(least)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		began, have := time.Now(), least
		last := effortNow(began, written)
		for {
			select {
			case <-ticks:
			case <-quit:
				return
			}
			now := effortNow(began, written)
			if want := now.since(last).processors(have, least, before); want != have {
				runtime.GOMAXPROCS(want)
				have = want
			}
			last = now
		}
	}()
	return func() {
		close(quit)
		<-done
		runtime.GOMAXPROCS(before)
	}
}

// effort is what a participant has done.
type effort struct {
	records, syncs uint64        // of its journal
	cpu, took      time.Duration // processor time, and in what time
}

func effortNow(began time.Time, written func() (records, syncs uint64)) effort {
	e := effort{took: time.Since(began)}
	e.records, e.syncs = written()
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) == nil {
		e.cpu = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	return e
}

func (e effort) since(before effort) effort {
	return effort{e.records - before.records, e.syncs - before.syncs, e.cpu - before.cpu, e.took - before.took}
}

// processors is on how many a participant runs that has one or the other number and
// has done so much. One client's change is two records of one sync, the PREPARE and
// the last COMMIT: four are of several at once.
func (e effort) processors(have, least, most int) int {
	switch {
	case e.records >= 4*e.syncs && e.syncs > 0 || e.cpu > e.took*7/10:
		return most
	case e.records < 3*e.syncs+1 && e.cpu < e.took*4/10:
		return least
	}
	return have
}
