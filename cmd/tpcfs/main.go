// Command tpcfs is the whole of tpcfs in one binary: the servers, the mount,
// and the commands of a client. This package puts the others together and
// holds what only a command line needs: flags, environment, output, exit codes.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// The first goroutine stays on the first thread until begin knows whether slacken
// is to follow: only what begins again from there keeps what the process's parent
// has asked for (man 2 PR_SET_PDEATHSIG).
func init() { runtime.LockOSThread() }

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, lookupEnv: os.LookupEnv, exec: syscall.Exec}
	a.catch = func() {
		asked, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		context.AfterFunc(asked, func() { // the first signal asks, the second one kills
			stop()
			cancel()
		})
	}
	if isMountHelper(os.Args[0]) {
		os.Exit(a.runMountHelper(ctx, os.Args[1:]))
	}
	floor := gcFloor(os.LookupEnv)
	code := a.run(ctx, os.Args[1:])
	runtime.KeepAlive(floor)
	os.Exit(code)
}
