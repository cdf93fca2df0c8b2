package exhaust

import (
	"fmt"
	"strings"

	"tpcfs/wire"
)

// Box bounds what is explored: every interleaving of what it allows.
type Box struct {
	Name     string
	Replicas int      // at most 3
	Ops      []string // each the names that one client's transaction writes: "x", "x y"
	Retries  int      // of any operation, by a new link with the same op id

	CoordinatorCrashes int // lose any number of unsynced records
	ReplicaCrashes     int // of any of them; the same
	Breaks             int // of any link; what is under way both ways is lost
	LostGreetings      int // fenced, but the coordinator does not hear of it
	Refusals           int // prepares that one replica refuses alone (its disk is full)
	Late               int // messages of a link that is gone, looked at later
	Delayed            int // requests that arrive by a session's old link, after its new one
	Beats              int // heartbeats while other things happen; when nothing else can, they are free

	// Symmetric: the first fault of a participant is P0's. The others are the
	// same with names exchanged.
	Symmetric bool
	Bootstrap bool // begins with empty disks, not with a cluster that serves
}

func (b *Box) session(op int) wire.SessionID { return wire.SessionID{byte(op + 1)} }

func (b *Box) op(i int) wire.OpID { return wire.OpID{Session: b.session(i), Seq: 1} }

func (b *Box) mutations(i int) []wire.Mutation {
	var list []wire.Mutation
	for _, name := range strings.Fields(b.Ops[i]) {
		list = append(list, wire.Mutation{Kind: wire.MutWriteFile, At: wire.At{Dir: wire.RootIno, Path: name}, Mode: 0o644})
	}
	return list
}

func (b *Box) String() string {
	return fmt.Sprintf("%s: %d replicas, operations %q, %d retries; crashes %d coordinator, %d replicas; %d broken links, %d lost greetings, %d refusals, %d late messages, %d late requests, %d heartbeats",
		b.Name, b.Replicas, b.Ops, b.Retries, b.CoordinatorCrashes, b.ReplicaCrashes, b.Breaks, b.LostGreetings, b.Refusals, b.Late, b.Delayed, b.Beats)
}
