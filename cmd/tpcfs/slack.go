package main

import (
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Of --timer-slack, of a participant and of a mount.
const (
	usualSlack = 500 * time.Microsecond
	mostSlack  = 10 * time.Millisecond
)

func slackFlag(cmd *cobra.Command, slack *time.Duration) {
	cmd.Flags().DurationVar(slack, "timer-slack", usualSlack, "how much later the kernel may wake a thread that sleeps for some time: it saves processor time for each change; 0: leave it as it is")
}

func checkSlack(command string, slack time.Duration) error {
	if slack < 0 || slack > mostSlack {
		return usage(command, "--timer-slack %s: from 0 to %s are possible", slack, mostSlack)
	}
	return nil
}

// slackVariable keeps a process from beginning again for ever where the kernel
// does not take the slack (real-time threads have none).
const slackVariable = "TPCFS_HAS_TIMER_SLACK"

// slacken lets timed sleeps of all threads of this process end so much later (man 2
// PR_SET_TIMERSLACK). While a thread waits for a sync, Go's monitor thread looks
// every 20 us whether somebody needs what it keeps, and with the kernel's usual
// slack of 50 us it really does so every 70 us: a third of the threads' switches for
// a change. Nothing that a participant or a mount waits for is that exact.
//
// A thread has the slack of the one that made it, and an unprivileged process may
// set only its current thread's, when Go has made others already. So the process
// begins again, as the same process; if it cannot, it goes on as it is.
func (a *app) slacken(slack time.Duration) {
	if _, again := a.lookupEnv(slackVariable); again || a.exec == nil || slack == 0 {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	have, err := timerSlack()
	if err != nil || have >= slack {
		return
	}
	path, err := os.Executable()
	if err == nil {
		err = setTimerSlack(slack)
	}
	if err == nil {
		err = a.exec(path, os.Args, append(os.Environ(), slackVariable+"=1"))
		_ = setTimerSlack(have) // as it was
	}
	a.logger().Debug("the threads' timer slack stays as it is", "slack", have, "err", err)
}

// settle: the process does not begin again. What a signal asks of one that does, it
// would not know any more.
func (a *app) settle() {
	runtime.UnlockOSThread()
	if a.catch != nil {
		a.catch()
	}
}

// timerSlack is that of the current thread.
func timerSlack() (time.Duration, error) {
	n, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	return time.Duration(n), err
}

func setTimerSlack(d time.Duration) error {
	return unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(d), 0, 0, 0)
}
