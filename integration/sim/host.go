package sim

import (
	"errors"
	"iter"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"syscall"

	"tpcfs/journal"
	"tpcfs/journal/disk/forget"
)

// host is a computer with its disk. Its process may end (the page cache stays)
// or its power may fail (what was not synced is there or not).
type host struct {
	name string
	at   string // a participant's address
	fs   *forget.FS

	met      func(reached int) // counts
	tasks    []*task
	current  *task // runs now
	failSync bool  // the next sync fails (P12)
	trap     int   // the power fails before the operation of that number on checksums put aside (S2); 0: no
	releases int   // weight of the step that ends it
	squeezed bool  // the disk is full, or nearly
	hurt     bool  // a fault was injected since the start: an error is excused
	silent   bool  // the process is there and takes no step
	wakes    int   // weight of the step that ends it

	syncedTo journal.LSN // of the disk's journal, over all processes
	kept     *medium     // the true disk, while an empty one takes its place
	disks    uint64      // empty ones that it has had
	replaced bool        // the last one of them for good
	removed  bool        // a participant that operators have taken out (operator.go)
	told     bool        // ... and it has made that durable
	rot
	lie
}

// diskSize of a host, in bytes, while it is not squeezed.
const diskSize = 1 << 30

func newHost(name string, rng *rand.Rand, met func(int)) *host {
	h := &host{name: name, met: met}
	h.install(forget.New(rng.Uint64()))
	return h
}

func (h *host) install(fs *forget.FS) {
	h.fs = fs
	fs.SetHook(h.before)
	fs.SetCapacity(diskSize)
	fs.SetFull(func(op forget.Op) {
		h.met(reachFull + placeOf(op.Name))
		if h.current != nil && h.current.what == "checkpoint" {
			h.met(reachFullCheckpoint)
		}
	})
	h.squeezed = false
}

// before is called before each operation on the disk.
func (h *host) before(op forget.Op) error {
	if t := h.current; t != nil && changes(op.Kind) {
		// The store gives up its ballast under a lock that its owner takes, too.
		if !t.over && path.Base(op.Name) != "ballast" {
			t.yield(struct{}{})
		}
		if t.over {
			return forget.ErrCrashed
		}
	}
	if h.trap > 0 && changes(op.Kind) && strings.HasSuffix(op.Name, ".sums") {
		if h.trap--; h.trap == 0 {
			h.met(reachTrapped)
			h.fs.CrashAt(1)
			return h.fs.SyncDir("/") // it does not happen, nor does this operation
		}
	}
	switch {
	case op.Kind != forget.Sync && op.Kind != forget.SyncDir:
	case h.failSync:
		h.failSync = false
		h.met(reachSync + placeOf(op.Name))
		return syscall.EIO
	case h.lies > 0:
		return h.tellLie(op.Name)
	default:
		delete(h.lied, op.Name)
	}
	return nil
}

func changes(k forget.Kind) bool {
	switch k {
	case forget.Open, forget.ReadDir, forget.Read, forget.DropCache, forget.Lock:
		return false
	default:
		return true
	}
}

// task is work that a shell leaves to another goroutine.
type task struct {
	h     *host
	what  string
	next  func() (struct{}, bool)
	stop  func()
	yield func(struct{}) bool
	over  bool // it may do nothing more: its process has ended
	waits bool // it waits for somebody else
	done  bool
}

// start begins a task; nothing of it runs yet.
func (h *host) start(what string, fn func(t *task)) *task {
	t := &task{h: h, what: what}
	t.next, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = yield
		fn(t)
	})
	h.tasks = append(h.tasks, t)
	return t
}

// wait lets others go on; false: the process has ended.
func (t *task) wait() bool {
	if !t.over {
		t.waits = true
		t.yield(struct{}{})
	}
	return !t.over
}

// run lets a task go on up to n operations further, to its end for n < 0, but
// not past where it waits for somebody.
func (t *task) run(n int) {
	for t.waits = false; n != 0 && !t.done && !t.waits; n-- {
		t.h.current = t
		_, more := t.next()
		t.h.current = nil
		t.done = !more
	}
	if t.done {
		t.h.forget(t)
	}
}

func (h *host) forget(t *task) {
	for i, o := range h.tasks {
		if o == t {
			h.tasks = append(h.tasks[:i], h.tasks[i+1:]...)
			return
		}
	}
}

// endTasks ends the process's tasks where they are.
func (h *host) endTasks() {
	for _, t := range h.tasks {
		h.met(reachCrash + slices.Index(crashes[:], t.what))
		t.over, h.current = true, t
		t.stop()
		t.done, h.current = true, nil
	}
	h.tasks = nil
}

// powerFails ends everything; the disk keeps what it likes of what was not synced.
func (h *host) powerFails(rng *rand.Rand) {
	old := h.fs
	image := old.Crash(rng) // from here on the old one is dead
	h.endTasks()
	h.clean()
	h.install(image)
}

// processEnds leaves the page cache as it is.
func (h *host) processEnds() {
	h.fs.Restart() // first: what a task is about to do neither happens nor fails
	h.endTasks()
	h.clean()
}

func (h *host) clean() { h.failSync, h.silent, h.hurt = false, false, h.squeezed }

// squeeze leaves so many bytes of the disk.
func (h *host) squeeze(left int64) {
	free, _ := h.fs.Free("/") // the forgetful disk has no error here
	h.fs.SetCapacity(diskSize - int64(free) + left)
	h.squeezed, h.hurt = true, true
}

func (h *host) release() {
	h.fs.SetCapacity(diskSize)
	h.squeezed = false
}

// struck reports whether CrashAt has stopped the disk in the middle of something.
func (h *host) struck() bool { return h.fs.Crashed() }

func crashed(err error) bool { return errors.Is(err, forget.ErrCrashed) }
