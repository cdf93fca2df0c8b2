package harness

import (
	"os"
	"os/exec"
	"runtime"
)

// home is the mount namespace of this process, as it began.
var home = namespace()

func namespace() string {
	ns, _ := os.Readlink("/proc/thread-self/ns/mnt") // "" is no reason to do anything else
	return ns
}

// starts are what the thread that stays is asked to do.
var starts = make(chan func())

func init() {
	go func() {
		runtime.LockOSThread() // for good
		for start := range starts {
			start()
		}
	}()
}

// start starts a command, in a thread that stays: the kernel's signal at the
// death of a parent comes when the thread ends that has started the process, and
// threads of this process do end, with tests that have locked theirs. Who has left
// the process's mount namespace starts its commands itself, in its own.
func start(cmd *exec.Cmd) error {
	if namespace() != home {
		return cmd.Start()
	}
	done := make(chan error, 1)
	starts <- func() { done <- cmd.Start() }
	return <-done
}
