package journal

import "errors"

// Cut gives up every record below that LSN that lies in a segment without
// newer ones: a prefix (S3). The last segment with a durable record stays, so
// that the journal never forgets its numbers. The segments are recycled, or
// removed when enough are in reserve, at once or by the Writer's second
// goroutine; until then a crash brings them back.
func (l *Log) Cut(below LSN) error {
	if l.err != nil {
		return l.err
	}
	for len(l.segs) > 1 && l.segs[0].last < below {
		next := l.segs[1]
		if next.first == 0 || next.first > l.synced {
			break
		}
		l.cut = append(l.cut, l.segs[0])
		l.segs = l.segs[1:]
	}
	l.spareErr = nil
	l.maintain()
	return l.err
}

// maintain carries out what there is to do for the directory, or starts it. A
// full disk is remembered in spareErr; the rest is sticky.
func (l *Log) maintain() {
	for l.err == nil && l.busy == nil && l.spareErr == nil {
		j, ok := l.nextJob()
		if !ok {
			return
		}
		l.busy = &j
		if l.background != nil {
			l.background(j)
			return
		}
		seg, err := l.do(j)
		l.handleResult(result{seg, err})
	}
}

// nextJob says what to do next. Cut segments go first and in order, so that
// the numbers on disk stay consecutive.
func (l *Log) nextJob() (job, bool) {
	switch {
	case len(l.cut) > 0 && len(l.spares) < l.opts.MaxSpare:
		return job{old: l.cut[0], number: l.nextNumber()}, true
	case len(l.cut) > 0:
		return job{old: l.cut[0]}, true
	case len(l.spares) < l.opts.Spare:
		return job{number: l.nextNumber()}, true
	}
	return job{}, false
}

// nextNumber is that of the segment above the highest.
func (l *Log) nextNumber() uint64 {
	if n := len(l.spares); n > 0 {
		return l.spares[n-1].number + 1
	}
	return l.active().number + 1
}

// handleResult ends the job under way.
func (l *Log) handleResult(r result) {
	j := l.busy
	l.busy = nil
	var full *FullError
	switch {
	case errors.As(r.err, &full):
		l.spareErr = r.err
		return
	case r.err != nil:
		if l.err == nil {
			l.err = r.err
		}
		return
	}
	l.spareErr = nil
	if j.old != nil {
		l.cut = l.cut[1:]
	}
	if r.seg != nil {
		l.spares = append(l.spares, r.seg)
	}
}

// needSpare returns when a spare is ready. On the way of a sync this waits
// only if segments fill faster than they are made.
func (l *Log) needSpare() error {
	for l.err == nil && len(l.spares) == 0 {
		if l.busy != nil {
			l.handleResult(l.await())
			continue
		}
		j, _ := l.nextJob() // without a spare there is always something to do
		l.busy = &j
		seg, err := l.do(j)
		l.handleResult(result{seg, err})
		if l.spareErr != nil {
			return l.spareErr
		}
	}
	return l.err
}
