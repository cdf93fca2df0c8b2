package main

// gcFloorBytes is how much the garbage collector takes the heap to hold beside
// what it holds. It is never touched, so it takes no memory by itself, but
// garbage may grow to it before there is a collection.
const gcFloorBytes = 16 << 20

// gcFloor is memory that is to be kept until the end. A server of few files has
// a live heap of some MiB, and a commit leaves garbage of tens of KiB: it
// collected every hundred commits or so, with all goroutines and threads that this
// wakes. Whoever has set the collector with GOGC or GOMEMLIMIT gets no floor.
func gcFloor(lookupEnv func(string) (string, bool)) []byte {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		if v, ok := lookupEnv(name); ok && v != "" {
			return nil
		}
	}
	return make([]byte, gcFloorBytes)
}
