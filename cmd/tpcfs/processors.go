package main

import "runtime"

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
