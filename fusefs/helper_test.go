package fusefs

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// helper runs in another process: it opens a file and does to it what its
// standard input says, a line a step, as no shell command can.
func helper(args []string) int {
	signal.Ignore(syscall.SIGHUP)
	if args[0] == "serve" {
		return serveHelper(args[1])
	}
	flags, _ := strconv.Atoi(args[1])
	fd, err := unix.Open(args[0], flags, 0o644)
	fmt.Println(say("", err))
	var mapped []byte
	for in := bufio.NewScanner(os.Stdin); err == nil && in.Scan(); {
		f := strings.Fields(in.Text())
		num := func(i int) int64 { n, _ := strconv.ParseInt(f[i], 10, 64); return n }
		var out string
		var err error
		switch f[0] {
		case "write":
			_, err = unix.Write(fd, []byte(f[1]))
		case "pwrite":
			_, err = unix.Pwrite(fd, []byte(f[2]), num(1))
		case "fill": // at, bytes, of what
			_, err = unix.Pwrite(fd, bytes.Repeat([]byte(f[3]), int(num(2))/len(f[3])), num(1))
		case "read":
			b := make([]byte, 1<<20)
			var n int
			n, err = unix.Pread(fd, b, 0)
			out = strconv.Quote(string(b[:max(n, 0)]))
		case "size":
			var st unix.Stat_t
			err = unix.Fstat(fd, &st)
			out = fmt.Sprint(st.Size, " ", st.Nlink, " ", st.Mtim.Nano())
		case "truncate":
			err = unix.Ftruncate(fd, num(1))
		case "chmod":
			err = unix.Fchmod(fd, uint32(num(1)))
		case "allocate":
			err = unix.Fallocate(fd, 0, 0, num(1))
		case "seekdata":
			_, err = unix.Seek(fd, 0, unix.SEEK_DATA)
		case "fsync":
			err = unix.Fsync(fd)
		case "link":
			err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, f[1], unix.AT_SYMLINK_FOLLOW)
		case "close":
			err = unix.Close(fd)
		case "map":
			mapped, err = unix.Mmap(fd, 0, int(num(1)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		case "poke":
			copy(mapped[num(1):], f[2])
		case "unmap":
			err = unix.Munmap(mapped)
		case "list":
			b := make([]byte, num(1))
			var n int
			n, err = unix.ReadDirent(fd, b)
			_, _, names := unix.ParseDirent(b[:max(n, 0)], -1, nil)
			out = strings.Join(names, " ") + " "
			if n == 0 {
				out = ""
			}
		case "posix":
			typ := map[string]int16{"sh": unix.F_RDLCK, "ex": unix.F_WRLCK, "un": unix.F_UNLCK}[f[1]]
			err = unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: typ})
		case "exit":
			return 0
		case "rewind":
			_, err = unix.Seek(fd, 0, 0)
		}
		fmt.Println(say(out, err))
	}
	return 0
}

// serveHelper mounts and serves until it is killed.
func serveHelper(dir string) int {
	m, err := Mount(dir, newFake(), Options{})
	fmt.Println(say("", err))
	if err == nil {
		m.Wait()
	}
	return 1
}

func say(out string, err error) string {
	switch {
	case err != nil:
		return "error: " + err.Error()
	case out == "":
		return "ok"
	}
	return out
}

// filer is a helper with its file.
type filer struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	end func()

	lines <-chan string
	gone  <-chan struct{} // closed when it has exited
}

func openFile(t *testing.T, path string, flags int) *filer {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return startFiler(t, exec.CommandContext(context.Background(), self, "helper", path, strconv.Itoa(flags)))
}

func startFiler(t *testing.T, cmd *exec.Cmd) *filer {
	t.Helper()
	f := &filer{t: t, cmd: cmd}
	f.cmd.Dir, f.cmd.Stderr = "/", os.Stderr
	f.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	f.in, _ = f.cmd.StdinPipe()
	out, _ := f.cmd.StdoutPipe()
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	f.lines = lines
	gone := make(chan struct{})
	f.gone = gone
	go func() {
		defer close(gone)
		defer close(lines)
		in := bufio.NewScanner(out)
		in.Buffer(nil, 8<<20)
		for in.Scan() {
			lines <- in.Text()
		}
		_ = f.cmd.Wait()
	}()
	f.end = sync.OnceFunc(func() {
		_ = f.in.Close()
		for _, more := f.next(); more; _, more = f.next() {
		}
		select { // one that hangs in the mount goes when the mount does
		case <-gone:
		case <-time.After(time.Second):
			_ = f.cmd.Process.Kill()
		}
	})
	t.Cleanup(f.end)
	if got := f.answer(); got != "ok" {
		t.Fatalf("open: %s", got)
	}
	return f
}

// next is the next answer, if one comes in time.
func (f *filer) next() (string, bool) {
	select {
	case line, ok := <-f.lines:
		return line, ok
	case <-time.After(10 * time.Second):
		return "", false
	}
}

func (f *filer) answer() string {
	f.t.Helper()
	line, ok := f.next()
	if !ok {
		f.t.Fatal("the helper has died, or takes too long")
	}
	return line
}

// begin starts a step.
func (f *filer) begin(step string) { fmt.Fprintln(f.in, step) }

// do is a step and its answer.
func (f *filer) do(step string) string {
	f.t.Helper()
	f.begin(step)
	return f.answer()
}

// must is a step that answers want.
func (f *filer) must(step, want string) {
	f.t.Helper()
	if got := f.do(step); got != want {
		f.t.Fatalf("%s: %s, want %s", step, got, want)
	}
}
