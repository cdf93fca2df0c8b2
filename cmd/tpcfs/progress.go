package main

import (
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progressAfter is how long work must have taken before a bar appears.
const progressAfter = time.Second

// meter is a progress bar on standard error, shown on a terminal only and
// only for work that takes long.
type meter struct {
	app   *app
	what  string
	start time.Time
	show  bool
	total int64 // bytes; -1: not known

	mu  sync.Mutex // guards bar
	bar *progressbar.ProgressBar
}

func (a *app) meter(what string, total int64) *meter {
	return &meter{app: a, what: what, total: total, start: time.Now(), show: isTerminal(a.err) && !a.json()}
}

// set tells how many bytes are done.
func (m *meter) set(done int64) {
	if !m.show || time.Since(m.start) < progressAfter {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bar == nil {
		m.bar = progressbar.NewOptions64(m.total, progressbar.OptionSetWriter(m.app.err),
			progressbar.OptionSetDescription(m.what), progressbar.OptionShowBytes(true),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetWidth(30))
	}
	_ = m.bar.Set64(done) // a bar that cannot be drawn is no failure
}

// of tells how many bytes are done of how many that are known of by now.
func (m *meter) of(done, total int64) {
	m.set(done)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bar != nil {
		m.bar.ChangeMax64(total)
	}
}

// done takes the bar away.
func (m *meter) done() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bar != nil {
		_ = m.bar.Clear() // as above
	}
}
