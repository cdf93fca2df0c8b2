package client

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootClock goes on while the machine sleeps, and never back: leases are
// counted on it.
func bootClock() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("client: CLOCK_BOOTTIME: " + err.Error()) // Linux has it since 2.6.39
	}
	return time.Duration(t.Nano())
}
