// Package powerloss gives real processes disks that forget: each machine's data
// directory is a FUSE file system over a forget.FS, and a power loss drops what
// was not synced, on as many machines as one likes, at once.
//
// The file systems live in a process of their own (Serve; the test's program
// run again), so that the processes that use them can be killed. The test holds
// the other end, Machines. A power loss is Freeze, a SIGKILL for each process of
// the machines, Drop, their end, Mount: between Freeze and Drop no operation of
// theirs begins or ends, and what comes back after Drop comes to processes
// that are dead.
package powerloss

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tpcfs/journal/disk/forget"
)

// Variable is what makes a test's program Serve: the directory and the
// machines' names in it, with spaces between.
const Variable = "TPCFS_TEST_POWERLOSS"

// machine is one data directory, in the process that serves.
type machine struct {
	point  string
	gate   sync.RWMutex // held for writing while frozen
	frozen bool
	fs     *forget.FS
	syncs  slowness
	server *fuse.Server // nil: not mounted
	said   said
}

// slowness makes each sync of a disk take longer.
type slowness struct {
	mu      sync.Mutex // guards what follows
	by      time.Duration
	changed chan struct{} // closed when by is set anew; nil: nobody waits
}

// set lets those go that wait.
func (s *slowness) set(by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by = by; s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// wait returns when a sync may begin.
func (s *slowness) wait() {
	s.mu.Lock()
	by := s.by
	if by == 0 {
		s.mu.Unlock()
		return
	}
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	changed := s.changed
	s.mu.Unlock()
	select {
	case <-time.After(by):
	case <-changed:
	}
}

// Serve, if the environment asks for it, serves the machines until standard
// input ends, unmounts all, and returns true.
func Serve() bool {
	words := strings.Fields(os.Getenv(Variable))
	if len(words) < 2 {
		return false
	}
	all := map[string]*machine{}
	for i, name := range words[1:] {
		all[name] = &machine{point: filepath.Join(words[0], name), fs: forget.New(uint64(i))}
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		answer := "ok"
		if err := obey(all, strings.Fields(lines.Text())); err != nil {
			answer = "error " + strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		fmt.Println(answer)
	}
	for _, m := range all {
		if err := m.unmount(); err != nil {
			// Whoever uses it still is left with a dead mount, not this process with him.
			fmt.Fprintln(os.Stderr, err, syscall.Unmount(m.point, syscall.MNT_DETACH))
		}
	}
	return true
}

// obey carries a command out: freeze NAME..., drop SEED NAME..., mount NAME...,
// slow MILLISECONDS NAME...
func obey(all map[string]*machine, words []string) error {
	if len(words) == 0 {
		return errors.New("an empty command")
	}
	var rng *rand.Rand
	names := words[1:]
	if words[0] == "drop" && len(names) > 0 {
		seed, err := strconv.ParseUint(names[0], 10, 64)
		if err != nil {
			return err
		}
		rng, names = rand.New(rand.NewPCG(seed, 0)), names[1:]
	}
	var by time.Duration
	if words[0] == "slow" && len(names) > 0 {
		ms, err := strconv.ParseInt(names[0], 10, 64)
		if err != nil {
			return err
		}
		by, names = time.Duration(ms)*time.Millisecond, names[1:]
	}
	for _, name := range names {
		m := all[name]
		if m == nil {
			return fmt.Errorf("no machine %q", name)
		}
		var err error
		switch words[0] {
		case "freeze":
			err = m.freeze()
		case "drop":
			err = m.drop(rng)
		case "mount":
			err = errors.Join(m.unmount(), m.mount())
		case "slow":
			m.syncs.set(by)
		default:
			err = fmt.Errorf("no command %q", words[0])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) freeze() error {
	if m.frozen {
		return fmt.Errorf("%s is frozen", m.point)
	}
	m.gate.Lock()
	m.frozen = true
	return nil
}

// drop replaces the disk by what a power loss leaves of it; whatever waits is refused.
func (m *machine) drop(rng *rand.Rand) error {
	if !m.frozen {
		return fmt.Errorf("%s is not frozen", m.point)
	}
	m.fs = m.fs.Crash(rng)
	m.frozen = false
	m.gate.Unlock()
	return nil
}

func (m *machine) mount() error {
	s, err := newFileSystem(&m.gate, &m.syncs, m.fs)
	if err != nil {
		return err
	}
	server, err := fuse.NewServer(s, m.point, &fuse.MountOptions{Name: "forget", FsName: "forget", DirectMount: true,
		MaxWrite: 1 << 20, DisableSplice: true, DisableReadDirPlus: true, Logger: log.New(&m.said, "", log.LstdFlags)})
	if err != nil {
		return err
	}
	m.server = server
	go server.Serve() // ends with the mount, and unmount waits for it
	return server.WaitMount()
}

func (m *machine) unmount() error {
	m.syncs.set(0)
	if m.frozen { // nobody waits for what it would say
		m.fs.Crash(rand.New(rand.NewPCG(0, 0)))
		m.frozen = false
		m.gate.Unlock()
	}
	if m.server == nil {
		return nil
	}
	m.said.leaving.Store(true)
	err := m.server.Unmount()
	if err == nil {
		m.server = nil
	}
	m.said.leaving.Store(false)
	return err
}

// said passes on what the FUSE library logs, which is an error of the test; but not
// during an unmount: a request that is read just then, the kernel's last FORGETs most
// likely, ends with ECONNABORTED instead of ENODEV.
type said struct{ leaving atomic.Bool }

func (s *said) Write(b []byte) (int, error) {
	if s.leaving.Load() {
		return len(b), nil
	}
	return os.Stderr.Write(b)
}

// Machines are the data directories of a test, which uses them from one goroutine.
type Machines struct {
	cmd    *exec.Cmd
	to     io.WriteCloser
	from   *bufio.Reader
	errors strings.Builder // what it said on standard error
}

// Start makes and mounts dir/NAME for each name, empty. The process is this
// program run again: its main function must begin with Serve.
func Start(dir string, names ...string) (*Machines, error) {
	for _, name := range names {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return nil, err
		}
	}
	m := &Machines{cmd: exec.Command(os.Args[0])}
	m.cmd.Env = append(os.Environ(), Variable+"="+strings.Join(append([]string{dir}, names...), " "))
	m.cmd.Stderr = &m.errors
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C leaves it the time to unmount
	var err error
	if m.to, err = m.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	m.from = bufio.NewReader(out)
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	if err := m.Mount(names...); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Close unmounts all and ends the process. Nobody may use the file systems any more.
func (m *Machines) Close() error {
	err := errors.Join(m.to.Close(), m.cmd.Wait())
	if m.errors.Len() > 0 {
		err = errors.Join(err, errors.New(m.errors.String()))
	}
	return err
}

// Freeze lets what is under way on the machines' disks end; what comes then waits.
func (m *Machines) Freeze(names ...string) error { return m.ask("freeze", names) }

// Drop is the loss of power of frozen machines: of what was not synced stays
// what follows from the seed. What waits fails.
func (m *Machines) Drop(seed uint64, names ...string) error {
	return m.ask("drop", slices.Insert(slices.Clone(names), 0, strconv.FormatUint(seed, 10)))
}

// Mount shows what is on the machines' disks, and nothing that the page cache
// had of them.
func (m *Machines) Mount(names ...string) error { return m.ask("mount", names) }

// Slow makes each sync of the machines' disks take so much longer from now on; those
// under way end.
func (m *Machines) Slow(by time.Duration, names ...string) error {
	return m.ask("slow", slices.Insert(slices.Clone(names), 0, strconv.FormatInt(by.Milliseconds(), 10)))
}

func (m *Machines) ask(command string, words []string) error {
	if _, err := fmt.Fprintln(m.to, command, strings.Join(words, " ")); err != nil {
		return err
	}
	answer, err := m.from.ReadString('\n')
	switch answer = strings.TrimSpace(answer); {
	case err != nil:
		return fmt.Errorf("the process of the disks is gone: %w", err)
	case answer != "ok":
		return fmt.Errorf("%s %s: %s", command, strings.Join(words, " "), answer)
	}
	return nil
}
