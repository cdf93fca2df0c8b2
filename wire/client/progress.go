package client

import "sync"

// progress adds up what the parts of a transfer report.
type progress struct {
	report func(bytes int64) // may be nil

	mu    sync.Mutex // guards what follows, and keeps reports in order
	total int64      // sent once, however often
	sum   int64
}

// part returns a function that reports how far one part is; a part that starts
// again takes back what it had reported.
func (p *progress) part() func(at int64) {
	var last int64
	return func(at int64) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.sum += at - last
		last = at
		if p.report != nil && p.sum > p.total {
			p.total = p.sum
			p.report(p.total)
		}
	}
}
