package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// All threads of a process that has begun again have the slack, and it begins
// again once.
func TestSlacken(t *testing.T) {
	const variable, slack = "TEST_SLACK", 777 * time.Microsecond
	if os.Getenv(variable) != "" {
		before, _ := timerSlack()
		fmt.Println("process", os.Getpid(), "of slack", before)
		(&app{err: io.Discard, logLevel: "error", lookupEnv: os.LookupEnv, exec: syscall.Exec}).slacken(slack)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				runtime.LockOSThread() // and its thread ends with it
				d, err := timerSlack()
				fmt.Println("thread", d, err)
			})
		}
		wg.Wait()
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestSlacken$", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), variable+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	me := fmt.Sprintln("process", cmd.Process.Pid, "of slack 777µs")
	if n := strings.Count(string(out), "process "); n != 2 || !strings.Contains(string(out), me) {
		t.Errorf("want two beginnings, the second %q: %s", me, out)
	}
	if n := strings.Count(string(out), "thread 777µs <nil>"); n != 8 {
		t.Errorf("want 8 threads with the slack: %s", out)
	}
}

// Where it is not wanted, or does not work, the process goes on as it was.
func TestSlackenGoesOn(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := timerSlack()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what  string
		slack time.Duration
		env   map[string]string
		want  int
	}{
		{"it does not work", before + 1, nil, 1},
		{"it is off", 0, nil, 0},
		{"it has as much", before, nil, 0},
		{"it has begun again already", before + 1, map[string]string{slackVariable: "1"}, 0},
	} {
		calls := 0
		a := &app{err: io.Discard, logLevel: "error", lookupEnv: func(k string) (string, bool) { v, ok := c.env[k]; return v, ok }}
		a.exec = func(path string, args, env []string) error {
			calls++
			if now, _ := timerSlack(); now != c.slack {
				t.Errorf("%s: it begins again with %v, want %v", c.what, now, c.slack)
			}
			return errors.New("no")
		}
		a.slacken(c.slack)
		if after, _ := timerSlack(); calls != c.want || after != before {
			t.Errorf("%s: begun again %d times, want %d; slack %v, was %v", c.what, calls, c.want, after, before)
		}
	}
}
