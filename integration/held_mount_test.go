package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"tpcfs/integration/harness"
	"tpcfs/wire/client"
)

// holder is a process that has files open in a mount and does what it is told,
// a line of Python a step.
type holder struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

const holderLoop = `
import errno, os, sys
for line in sys.stdin:
    try: print(repr(eval(line)), flush=True)
    except OSError as e: print(errno.errorcode[e.errno], flush=True)
`

func startHolder(t *testing.T, ctx context.Context, dir string) *holder {
	t.Helper()
	h := &holder{t: t, cmd: exec.CommandContext(ctx, "python3", "-c", "import os, sys; os.chdir(sys.argv[1])\n"+holderLoop, dir)}
	h.cmd.Dir = "/"
	in, err := h.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.cmd.Stderr = os.Stderr
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.in, h.out = in, bufio.NewScanner(out)
	t.Cleanup(h.end)
	h.wants("0", "0") // it is there
	return h
}

// end closes all that it has open.
func (h *holder) end() {
	if h.cmd != nil {
		_ = h.in.Close()
		_ = h.cmd.Wait()
		h.cmd = nil
	}
}

func (h *holder) wants(step, want string) {
	h.t.Helper()
	if _, err := fmt.Fprintln(h.in, step); err != nil {
		h.t.Fatal(err)
	}
	if !h.out.Scan() {
		h.t.Fatalf("%s: the process has ended", step)
	}
	if got := h.out.Text(); got != want {
		h.t.Errorf("%s: %s, want %s", step, got, want)
	}
}

// opens opens a file under a number, which is its only one.
func (h *holder) opens(name string, fd int) {
	h.t.Helper()
	h.wants(fmt.Sprintf("(lambda f: (os.dup2(f, %d), os.close(f)))(os.open(%q, os.O_RDWR))", fd, name), fmt.Sprintf("(%d, None)", fd))
}

// unnamedFiles counts the files without a name: all, but for those that a
// directory's names lead to.
func unnamedFiles(t *testing.T, ctx context.Context, look *client.Client, mnt string) int {
	t.Helper()
	st, err := look.Statfs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return int(st.Files) - strings.Count(shell(t, ctx, mnt, "find ."), "\n")
}

// A file that is open in one mount, and deleted or replaced in another or by the
// command line, is there until it is closed, as on a local disk (F7); also when the
// coordinator is killed meanwhile. Then it is reclaimed.
func TestHeldBetweenMounts(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c, _, mnt := twoMounts(t, ctx)
	shell(t, ctx, mnt[0], "for n in unlinked replaced byname other; do printf contents > $n; done; mkdir d d/in")
	look := dial(t, ctx, c, patience)
	left := func(n int) func() bool {
		return func() bool { return unnamedFiles(t, ctx, look, mnt[0]) == n }
	}
	eventually(ctx, t, "all have names", left(0))
	shell(t, ctx, mnt[0], "ln unlinked second")
	h := startHolder(t, ctx, mnt[1])
	for i, name := range []string{"unlinked", "replaced", "byname", "other"} {
		h.opens(name, 100+i)
	}
	in := startHolder(t, ctx, mnt[1]+"/d/in")
	shell(t, ctx, mnt[0], "rm unlinked second; printf new > n; mv n replaced; rm other; rmdir d/in d; [ ! -e unlinked ]; cat replaced")
	if r := harness.Run(ctx, nil, nil, plain, "rm", "--coordinator", c.Addr(harness.Coordinator), "byname"); r.Code != 0 {
		t.Fatalf("rm: %s", r.Err)
	}
	h.wants("os.path.exists('unlinked'), open('replaced').read()", "(False, 'new')")
	for round := range 3 {
		for fd := 100; fd < 104; fd++ {
			h.wants(fmt.Sprintf("(lambda s: (s.st_nlink, s.st_size))(os.fstat(%d))", fd), fmt.Sprintf("(0, %d)", 8+round))
			h.wants(fmt.Sprintf("os.pread(%d, 100, 0)", fd), fmt.Sprintf("b'contents%s'", strings.Repeat("+", round)))
			h.wants(fmt.Sprintf("os.pwrite(%d, b'+', %d), os.fsync(%d)", fd, 8+round, fd), "(1, None)")
		}
		in.wants("os.stat('.').st_nlink, os.listdir('.')", "(0, [])")
		in.wants("open('x', 'w')", "ENOENT")
		in.wants("os.stat('x')", "ENOENT")
		if round == 1 {
			if err := c.Kill(harness.Coordinator); err != nil {
				t.Fatal(err)
			}
			if err := c.Start(ctx, harness.Coordinator); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(ctx, t, "four are without a name", left(4))
	h.wants("os.close(100)", "None")
	eventually(ctx, t, "what is closed is reclaimed", left(3))
	h.wants("os.pread(101, 100, 0)", "b'contents+++'")
	h.end()
	eventually(ctx, t, "all is reclaimed", left(0))
}

// A mount whose session ends, by an unmount, holds nothing any more, and one that
// others hold too stays for them.
func TestHeldByTwoMounts(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c, p, mnt := twoMounts(t, ctx)
	shell(t, ctx, mnt[0], "printf contents > f")
	a, b := startHolder(t, ctx, mnt[0]), startHolder(t, ctx, mnt[1])
	for _, h := range []*holder{a, b} {
		h.opens("f", 100)
	}
	a.wants("os.unlink('f')", "None")
	a.wants("os.pwrite(100, b'C', 0), os.fsync(100)", "(1, None)")
	b.wants("os.pread(100, 100, 0)", "b'Contents'")
	a.wants("os.close(100)", "None")
	b.wants("os.pwrite(100, b'!', 8), os.fsync(100), os.pread(100, 100, 0)", "(1, None, b'Contents!')")
	look := dial(t, ctx, c, patience)
	eventually(ctx, t, "it has no name", func() bool { return unnamedFiles(t, ctx, look, mnt[0]) == 1 })
	b.wants("os.fstat(100).st_nlink", "0")
	b.end()
	if err := p[1].Terminate(patience); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, "it is reclaimed", func() bool { return unnamedFiles(t, ctx, look, mnt[0]) == 0 })
}
