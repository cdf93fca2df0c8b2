//go:build !linux

package client

import "time"

var started = time.Now().Round(0)

// bootClock is the wall clock: the monotonic one stands still while the
// machine sleeps.
func bootClock() time.Duration { return time.Now().Round(0).Sub(started) }
