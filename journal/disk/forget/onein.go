//go:build !race

package forget

// OneIn is 1, and 24 under the race detector: a test of one goroutine, of which
// that has nothing to tell and which it slows down tenfold, takes one in so many
// of its crashes or seeds. `make test` runs those tests without it, too.
const OneIn = 1
