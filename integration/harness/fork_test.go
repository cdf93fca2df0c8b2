package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A process outlasts the thread on which its test was when it started it: some
// tests' threads end with them.
func TestProcessesOutlastThreads(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var p *Proc
	thread := 0
	for first := true; first || thread == os.Getpid(); first = false { // the process's first thread stays
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			if thread = unix.Gettid(); thread != os.Getpid() {
				p, err = Start("reader", nil, "bash", "-c", `read line < "$0"; echo got $line`, fifo)
			}
		}()
		<-done
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	limit := time.Now().Add(time.Minute)
	for {
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", thread)); err != nil {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("the thread does not end")
		}
		runtime.Gosched()
	}
	if _, err := f.WriteString("it\n"); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if p.Output() != "got it\n" {
		t.Errorf("it ended with %d and said %q", p.ExitCode(), p.Output())
	}
}
