package fusefs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"tpcfs/wire"
)

// TestAbsentService: calls wait and go on by themselves; Ctrl-C ends a wait,
// the signals that processes live with do not.
func TestAbsentService(t *testing.T) {
	s := newFake()
	s.put("f", "data\n")
	dir, _ := mountAt(t, s, Options{})
	start := s.stop()
	defer start()
	cmd := command(context.Background(), dir, "trap '' CHLD; exec cat $D/f")
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitBlocked(t, s, cmd.Process.Pid)
	for range 20 {
		for _, sig := range []syscall.Signal{syscall.SIGURG, syscall.SIGCHLD, syscall.SIGWINCH} {
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(10 * time.Millisecond)
	}
	start()
	if err := waitFor(t, cmd); err != nil || out.String() != "data\n" {
		t.Fatalf("after the service is back: %v, %q", err, out.String())
	}

	defer s.stop()()
	// A process that this one starts is ended by a SIGINT then, also where it is
	// ignored here, as in the background of a script.
	ints := make(chan os.Signal, 1)
	signal.Notify(ints, os.Interrupt)
	defer signal.Stop(ints)
	cmd = command(context.Background(), dir, "exec mkdir $D/d")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitBlocked(t, s, cmd.Process.Pid)
	began := time.Now()
	_ = cmd.Process.Signal(syscall.SIGINT)
	if err := waitFor(t, cmd); err == nil || !strings.Contains(err.Error(), "interrupt") {
		t.Fatalf("a wait that is interrupted: %v", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Fatalf("Ctrl-C took %v", took)
	}
}

// waitFor waits for a process, not for ever: what hangs in the mount goes
// when the mount does.
func waitFor(t *testing.T, cmd *exec.Cmd) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(15 * time.Second):
		t.Fatal("the process hangs")
		return nil
	}
}

// waitBlocked waits until a process waits in the mount: it sleeps in a
// request, and the service has been asked for nothing for a while.
func waitBlocked(t *testing.T, s *fake, pid int) {
	t.Helper()
	eventually(t, "the process waits in the mount", func() bool {
		wchan, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stack", pid))
		state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid))
		return strings.Contains(string(wchan)+string(state), "request_wait_answer") || strings.Contains(string(wchan)+string(state), "fuse")
	})
}

// TestExitingDoesNotWait: a process that exits, or is killed, while its file
// is dirty goes soon, and what it wrote is committed when the service is back.
func TestExitingDoesNotWait(t *testing.T) {
	for _, how := range []string{"exit", "kill"} {
		t.Run(how, func(t *testing.T) {
			s := newFake()
			dir, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
			f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
			f.must("write precious", "ok")
			start := s.stop()
			defer start()
			if how == "kill" {
				_ = f.cmd.Process.Kill()
			} else {
				f.begin("exit")
			}
			select {
			case <-f.gone:
			case <-time.After(15 * time.Second):
				t.Fatal("the process waits for the service")
			}
			wantFile(t, s, "f", "")
			start()
			eventually(t, "the data are committed", func() bool { got, _ := s.file("f"); return got == "precious" })
		})
	}
}

// TestInterruptedCloseIsNoError: a healthy commit that takes a while, under a
// rain of signals.
func TestInterruptedCloseIsNoError(t *testing.T) {
	s := newFake()
	s.before = func(m []wire.Mutation) error {
		s.mu.Unlock()
		<-time.After(300 * time.Millisecond)
		s.mu.Lock()
		return nil
	}
	dir, _ := mountAt(t, s, Options{})
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE) // a Go process: SIGURG and SIGCHLD are its runtime's
	f.must("write data", "ok")
	f.begin("close")
	for range 50 {
		_ = f.cmd.Process.Signal(syscall.SIGURG)
		<-time.After(5 * time.Millisecond)
	}
	if got := f.answer(); got != "ok" {
		t.Fatalf("close: %s", got)
	}
	wantFile(t, s, "f", "data")
}

func TestFatalPending(t *testing.T) {
	line := func(pnd, shd, blk, ign, cgt uint64) string {
		return fmt.Sprintf("Name:\tx: y\nThreads:\t1\nSigQ:\t1/95\nSigPnd:\t%016x\nShdPnd:\t%016x\nSigBlk:\t%016x\nSigIgn:\t%016x\nSigCgt:\t%016x\n", pnd, shd, blk, ign, cgt)
	}
	bit := func(s syscall.Signal) uint64 { return 1 << (s - 1) }
	for _, c := range []struct {
		name   string
		status string
		want   bool
	}{
		{"nothing", line(0, 0, 0, 0, 0), false},
		{"INT", line(0, bit(syscall.SIGINT), 0, 0, 0), true},
		{"INT, to the thread", line(bit(syscall.SIGINT), 0, 0, 0, 0), true},
		{"INT caught", line(0, bit(syscall.SIGINT), 0, 0, bit(syscall.SIGINT)), false},
		{"INT ignored", line(0, bit(syscall.SIGINT), 0, bit(syscall.SIGINT), 0), false},
		{"TERM blocked", line(0, bit(syscall.SIGTERM), bit(syscall.SIGTERM), 0, 0), false},
		{"KILL, whatever is blocked", line(bit(syscall.SIGKILL), 0, ^uint64(0), ^uint64(0), ^uint64(0)), true},
		{"CHLD and URG", line(bit(syscall.SIGCHLD)|bit(syscall.SIGURG), 0, 0, 0, 0), false},
		{"stopped", line(0, bit(syscall.SIGTSTP)|bit(syscall.SIGCONT)|bit(syscall.SIGWINCH), 0, 0, 0), false},
		{"garbage", "SigPnd:\tzz\nx", false},
	} {
		if got := fatalPending(c.status); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if threadDying(uint32(os.Getpid())) || threadExiting(uint32(os.Getpid())) || threadDying(0) {
		t.Error("this process is not dying")
	}
	if !threadDying(1 << 30) {
		t.Error("a thread that is gone needs no answer")
	}
}
