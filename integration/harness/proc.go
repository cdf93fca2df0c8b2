// Package harness runs tpcfs as processes for the whole-system tests and the
// benchmarks: it starts, stops and kills them, waits for what they say, and
// looks at what they leave on disk. Everything it started it can end by
// process id; the kernel ends them too should the test itself die.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Build compiles tpcfs and returns the binary's path, which is name.
func Build(name string, race bool, tags ...string) (string, error) {
	args := []string{"build", "-o", name}
	if race {
		args = append(args, "-race")
	}
	if len(tags) > 0 {
		args = append(args, "-tags", strings.Join(tags, ","))
	}
	out, err := exec.Command("go", append(args, "tpcfs/cmd/tpcfs")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return name, nil
}

// Runtime makes a directory for what mounts leave that are killed: those of a run are
// gone with it.
func Runtime(dir string) error {
	return errors.Join(os.Mkdir(dir, 0o700), os.Setenv("XDG_RUNTIME_DIR", dir))
}

// Proc is a running process.
type Proc struct {
	Name string
	cmd  *exec.Cmd
	out  lines
	done chan struct{} // closed when it has ended
	err  error         // how it ended; readable after done
}

// lines gathers what a process prints and wakes who waits for it.
type lines struct {
	mu   sync.Mutex // guards text and more
	text []byte
	more chan struct{} // closed at the next Write
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	close(l.more)
	l.more = make(chan struct{})
	return len(b), nil
}

func (l *lines) get() (string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text), l.more
}

// Start runs a command; env is added to this process's environment.
func Start(name string, env []string, bin string, args ...string) (*Proc, error) {
	return StartAs(nil, name, env, bin, args...)
}

// StartAs is Start as another user; nil: as this process's.
func StartAs(user *syscall.Credential, name string, env []string, bin string, args ...string) (*Proc, error) {
	p := &Proc{Name: name, cmd: exec.Command(bin, args...), done: make(chan struct{})}
	p.out.more = make(chan struct{})
	p.cmd.Env = append(cleanEnv(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: user}
	if err := start(p.cmd); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// cleanEnv is the environment without the variables that would change what
// tpcfs does. A program with the race detector that ends would sleep for a second
// first, for goroutines that go on meanwhile; ours has waited for all of its own.
func cleanEnv() []string {
	env := []string{"GORACE=atexit_sleep_ms=0"}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "TPCFS_") {
			env = append(env, v)
		}
	}
	return env
}

// Output is all that the process has printed so far.
func (p *Proc) Output() string {
	text, _ := p.out.get()
	return text
}

// PID is its process id.
func (p *Proc) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// ExitCode is its exit code after Done, -1 if a signal ended it.
func (p *Proc) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// WaitLine waits until the process prints a line that begins with prefix and
// returns it.
func (p *Proc) WaitLine(ctx context.Context, prefix string) (string, error) {
	return p.wait(ctx, prefix, strings.HasPrefix)
}

// WaitText is WaitLine for a line that has part somewhere in it.
func (p *Proc) WaitText(ctx context.Context, part string) (string, error) {
	return p.wait(ctx, part, strings.Contains)
}

func (p *Proc) wait(ctx context.Context, what string, has func(line, what string) bool) (string, error) {
	for {
		text, more := p.out.get()
		for line := range strings.Lines(text) {
			if has(line, what) && strings.HasSuffix(line, "\n") {
				return strings.TrimSpace(line), nil
			}
		}
		select {
		case <-more:
		case <-p.done:
			if now, _ := p.out.get(); now != text {
				continue
			}
			return "", fmt.Errorf("%s ended (%v) before it printed %q:\n%s", p.Name, p.err, what, text)
		case <-ctx.Done():
			return "", fmt.Errorf("%s did not print %q: %w\n%s", p.Name, what, ctx.Err(), text)
		}
	}
}

// Signal sends a signal; a process that has ended is no error.
func (p *Proc) Signal(s syscall.Signal) error {
	err := p.cmd.Process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Kill ends the process with SIGKILL and waits for its end.
func (p *Proc) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// Terminate asks the process to stop and waits for its end; after the timeout
// it is made to print its goroutines and end, and that is the error.
func (p *Proc) Terminate(timeout time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(timeout):
	}
	if err := p.Signal(syscall.SIGQUIT); err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(timeout):
		if err := p.Kill(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s did not stop within %s of SIGTERM:\n%s", p.Name, timeout, p.Output())
}

// Result is how a command that ran to its end ended.
type Result struct {
	Out, Err string
	Code     int // -1: a signal, or it could not be started
}

// Run runs a command to its end, or until ctx ends it.
func Run(ctx context.Context, env []string, stdin []byte, bin string, args ...string) Result {
	return RunAs(ctx, nil, env, stdin, bin, args...)
}

// RunAs is Run as another user; nil: as this process's.
func RunAs(ctx context.Context, user *syscall.Credential, env []string, stdin []byte, bin string, args ...string) Result {
	cmd := exec.CommandContext(ctx, bin, args...)
	var out, errOut bytes.Buffer
	cmd.Env = append(cleanEnv(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errOut
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: user}
	err := start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	r := Result{Out: out.String(), Err: errOut.String(), Code: -1}
	switch {
	case err == nil:
		r.Code = 0
	case errors.As(err, &exit):
		r.Code = exit.ExitCode()
	default:
		r.Err += err.Error()
	}
	return r
}
