package sim

import (
	"errors"

	"tpcfs/journal"
)

// writer mirrors journal.Writer: records wait in a queue, one flush at a time
// takes what there is, and its owner is told by a signal.
type writer struct {
	h   *host
	log *journal.Log // nil: a zombie's, whose disk answers no more

	end, synced journal.LSN
	queue       []queued
	force, seal bool
	cut         journal.LSN
	flush       *task // under way
	err         error // sticky
	full        error // of the last try
	signal      bool  // the owner has something to look at
}

type queued struct {
	record     []byte
	newSegment bool // the record begins one
}

func newWriter(h *host, log *journal.Log) *writer {
	return &writer{h: h, log: log, end: log.End(), synced: log.Synced(), seal: true}
}

func (w *writer) append(records [][]byte, force bool) (journal.LSN, error) {
	if w.err != nil {
		return 0, w.err
	}
	for _, r := range records {
		w.queue = append(w.queue, queued{record: r})
		w.end++
	}
	w.force = w.force || force
	return w.end, nil
}

// appendHead appends a record that begins a segment.
func (w *writer) appendHead(record []byte) (journal.LSN, error) {
	lsn, err := w.append([][]byte{record}, true)
	if err == nil {
		w.queue[len(w.queue)-1].newSegment = true
	}
	return lsn, err
}

func (w *writer) forceLazy() { w.force = w.force || w.end > w.synced }

func (w *writer) cutBelow(lsn journal.LSN) error {
	w.cut = max(w.cut, lsn)
	return w.err
}

func (w *writer) sealIdle() error {
	w.seal = true
	return w.err
}

func (w *writer) segmentFull() bool {
	return w.log != nil && w.flush == nil && w.log.SegmentFull()
}

// ready: is there work?
func (w *writer) ready() bool {
	return w.flush != nil || w.log != nil && w.err == nil && (w.force || w.seal || w.cut > 0)
}

// work does some of it: n operations of the disk, all for n < 0.
func (w *writer) work(n int) {
	if w.flush == nil {
		w.flush = w.h.start("journal", func(*task) { w.step() })
		w.flush.run(1) // to the first operation, or through
		if n > 0 {
			n--
		}
	}
	w.flush.run(n)
	w.look()
	if w.flush.done {
		w.flush = nil
	}
}

// step mirrors Writer.step.
func (w *writer) step() {
	force, seal, cut := w.force, w.seal, w.cut
	w.force, w.seal, w.cut = false, false, 0
	idle := w.end == w.synced || force
	if force {
		queue := w.queue
		w.queue = nil
		for _, q := range queue {
			if q.newSegment && w.note(w.log.NewSegment()) {
				return
			}
			if _, err := w.log.Append(q.record); w.note(err) {
				return
			}
		}
		w.full = nil
		if w.note(w.log.Flush()) {
			return
		}
	}
	if cut > 0 && w.note(w.log.Cut(cut)) {
		return
	}
	if seal && idle {
		w.note(w.log.Seal())
	}
}

// note keeps an error; true: it is sticky.
func (w *writer) note(err error) bool {
	var full *journal.FullError
	switch {
	case err == nil:
		return false
	case errors.As(err, &full):
		w.full, w.signal = err, true
		return false
	}
	if w.err == nil {
		w.err, w.signal = err, true
	}
	return true
}

// look notices what has become durable.
func (w *writer) look() {
	if s := w.log.Synced(); s > w.synced {
		w.synced, w.signal = s, true
		w.h.syncedTo = max(w.h.syncedTo, s)
	}
}

// take mirrors Participant.takeSynced: how far it is durable, and an error once.
func (w *writer) take() (journal.LSN, error) {
	w.signal = false
	err := w.err
	if err == nil {
		err = w.full
		w.full = nil
	}
	return w.synced, err
}
