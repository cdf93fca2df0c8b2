// Package sim runs a whole cluster in one goroutine under one seed: the real
// machines (coordinator/commit, participant/vote), the real journal.Log and the
// real participant/store over the forgetful file system, with a simulated
// network, simulated time and simulated crashes (DESIGN.md section 10).
//
// A schedule is a list of steps. Each step has a name that does not depend on
// the others ("P1 handles its stream") and a seed of its own for what happens
// inside it; which of the possible steps comes next is drawn from the run's
// seed. So a failing schedule replays exactly, and still means something when
// steps are taken out of it: that is how it is shrunk.
//
// The machines' shells run on goroutines and are not used. The driver does what
// they do, in their order, so that what is proved here holds there:
//
//	member.go     participant: owner.go, service.go (Greet), gate.go, stream.go
//	restart.go    participant: recovery.go, teardown; coordinator: reign, ledger.go (openLedger)
//	reign.go      coordinator: owner.go (turn, carryOut, journal, tick), link.go, ledger.go
//	client.go     a client of wire.Service: links, retries, stages, reads (coordinator: read.go, stage.go, transact.go)
//	writer.go     journal.Writer: the queue before the Log, and its goroutine
//	operator.go   coordinator: members.go, and the operators who call it
//	rejoin.go     coordinator: rejoin.go; a participant's side, resync.go, in resync.go
//	repair.go     coordinator: repair.go; participant: repair.go
//	scrub.go      coordinator: scrub.go, compare.go, scrubtime.go; participant: scrub.go
//	mounts.go     a mount's lease (fusefs: lease.go); coordinator: Watch (transact.go)
//
// Faults: computers lose their power, between steps or in the middle of an
// operation of the disk, processes are killed, stopped, or silent for long;
// links break, or pass nothing in one direction; clients give up, vanish, try
// again by new links; an old coordinator goes on talking, another starts on an
// old backup (world.go); syncs fail, disks are full; a participant comes up on
// an empty disk (damage.go), bits flip on disks (rot.go), syncs lie (lie.go).
// In some schedules (evict.go) members are evicted, catch up, also on an empty disk,
// and return, while all that goes on; their donors, the coordinator and they
// themselves die meanwhile. In some of those operators replace, remove and add
// participants, and declare lost what a flood has taken of two of three (operator.go).
// In some there are scrubs (scrub.go), and files that no client names (bystanders.go), of
// which rows become others at some members and blocks rot: what a scrub says and does is
// compared with what there is (scrubjudge.go).
// Rotten blocks of contents are repaired (repair.go), and at the end all that any member has
// must be so; where nobody is evicted the operator puts back the true disk or restores other
// bits, at the latest when the faults end, and then all must settle. What
// is not flipped, and what is not promised of a disk that lies, stands there.
//
// In some schedules clients have leases, keep what they read and answer from that
// (mounts.go): late with what they forget, cut off, dead, or back under another coordinator.
// In some, files are objects that grow over their trailers (generate.go).
//
// Some schedules are about names, nodes, extended attributes and files without
// a name (unnamed.go): at their end all sessions leave, and what they held has
// to be gone everywhere.
//
// What a shell does on another goroutine (a flush of the journal, a checkpoint,
// a sweep, a stage) is a task here: a coroutine that stops before each operation
// that changes the disk, so that anything may happen in between, a crash too.
//
// What the simulator is worth shows when a rule is missing: integration/sim/mutate
// (make mutate) leaves out one after the other in the machines, the store and the
// journal, and demands that TestHunt finds a schedule that fails, or that a trace
// does; rules of the shells are left out by Options.broken (TestRulesAreMissed). A
// new rule gets its mutant there.
package sim
