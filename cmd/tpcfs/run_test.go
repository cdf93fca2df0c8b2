package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tpcfs/coordinator"
	"tpcfs/participant"
	"tpcfs/wire"
	"tpcfs/wire/client"
	"tpcfs/wire/rpc"
)

// startService runs a whole service in this process and returns its address.
func startService(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpcfs-") // short, for the socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p, err := participant.Open(participant.Options{Dir: dir + "/a"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := coordinator.Open(coordinator.Options{Dir: dir + "/c", Participants: []coordinator.Peer{{Name: "a", Addr: "here"}},
		Dial: func(context.Context, coordinator.Peer) (wire.Replica, error) { return p.Replica(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	addr := "unix:" + dir + "/s"
	l, err := rpc.Listen(addr, false)
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.NewServer(rpc.ServerOptions{Service: c})
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-done
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return addr
}

// clientOf is a client of the service, with the files of a map in it.
func clientOf(t *testing.T, addr string, files map[string]string) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), addr, client.Options{Wait: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	for name, text := range files {
		if _, err := c.WriteFile(t.Context(), name, client.Bytes([]byte(text)), client.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// at runs a command line against the service at addr, with a standard input.
func at(ctx context.Context, addr, stdin string, args ...string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	a := &app{in: strings.NewReader(stdin), out: &o, err: &e, lookupEnv: func(k string) (string, bool) { return addr, k == "TPCFS_COORDINATOR" }}
	code = a.run(ctx, args)
	return code, o.String(), e.String()
}

func TestSplitWords(t *testing.T) {
	tests := []struct {
		line string
		want string // words with | between; quoted ones begin with !
	}{
		{``, ``},
		{`  # nothing`, ``},
		{`a b	c`, `a|b|c`},
		{`a#b #c`, `a#b`},
		{`write a "x y"`, `write|a|!x y`},
		{`"a\"b" "\\" "\n" "$x" "\$"`, `!a"b|!\|!\n|!$x|!$`},
		{`'a"\b' a\ b \# ./"x y"`, `!a"\b|a b|#|./x y`},
		{`$'a\n\t\x41\'' $x`, "!a\n\tA'|$x"},
		{`a'b'"c"$'d'e`, `abcde`},
		{`""`, `!`},
	}
	for _, tt := range tests {
		words, err := splitWords(tt.line)
		var got []string
		for _, w := range words {
			if w.quoted {
				w.text = "!" + w.text
			}
			got = append(got, w.text)
		}
		if err != nil || strings.Join(got, "|") != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.line, got, err, tt.want)
		}
	}
	for _, bad := range []string{`"a`, `'a`, `$'a`, `a\`, `$'\q'`, `$'\x4'`, `"a\`, `$'\`} {
		if words, err := splitWords(bad); err == nil {
			t.Errorf("%s was taken: %v", bad, words)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add(`write a "b\"" # c`)
	f.Add(`rename $'\x00' \`)
	f.Fuzz(func(t *testing.T, line string) {
		if r, err := parseRequest(1, line); err == nil && r != nil {
			r.touches()
		}
	})
}

func TestRunDoesEachLine(t *testing.T) {
	addr := startService(t)
	dir := t.TempDir()
	local := filepath.Join(dir, "in put")
	if err := os.WriteFile(local, []byte("local\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`# all of the requests
mkdir d
write d/a "hel"
append d/a 'lo'
write d/b %s
read d/a
read d/b %s/out
rename d/a "d/c d"
symlink "c d" d/l
link d/b d/h
list d
stat 'd/c d'
delete "d/c d"
delete d/b
delete d/l
delete d/h
rmdir d
list
`, strings.ReplaceAll(local, " ", `\ `), dir)
	code, out, errOut := at(t.Context(), addr, script, "run")
	if code != 0 || errOut != "" {
		t.Fatal(code, errOut, out)
	}
	want := []string{"2: mkdir d: done", "3: write d/a: 3 bytes", "4: append d/a: 2 bytes", "5: write d/b: 6 bytes", "6: read d/a: 5 bytes", "hello", "7: read d/b: 6 bytes",
		"8: rename d/a: done", "9: symlink d/l: done", "10: link d/h: done", "11: list d: 4 names", "b", "c d", "h", "l", "12: stat d/c d: file, 5 bytes, mode 0644",
		"13: delete d/c d: done", "14: delete d/b: done", "15: delete d/l: done", "16: delete d/h: done", "17: rmdir d: done", "18: list: 0 names"}
	for i, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if i >= len(want) || !strings.HasPrefix(line, want[i]) {
			t.Fatalf("line %d of the output is %q; all of it:\n%s", i+1, line, out)
		}
	}
	if b, err := os.ReadFile(dir + "/out"); err != nil || string(b) != "local\n" {
		t.Error(string(b), err)
	}
	file := filepath.Join(dir, "script")
	if err := os.WriteFile(file, []byte("mkdir e\nwrite e/x $'\\x00\\xff'\nread e/x\nread e/y\nread e/x"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ = at(t.Context(), addr, "", "run", "-o", "json", file)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var third, last outcome
	if len(lines) != 4 || json.Unmarshal([]byte(lines[2]), &third) != nil || json.Unmarshal([]byte(lines[3]), &last) != nil {
		t.Fatal(out)
	}
	if code != exitNotExist || string(third.Bytes) != "\x00\xff" || !third.Done || last.Done || last.Exit != code || last.Line != 4 {
		t.Errorf("exit %d, %+v, %+v", code, third, last)
	}
}

// A line that cannot be understood: of a file nothing is done, of standard
// input nothing from that line on.
func TestRunOfLinesThatCannotBeUnderstood(t *testing.T) {
	addr := startService(t)
	c := clientOf(t, addr, nil)
	for bad, words := range map[string]string{
		"wrote x y":                    `no request is called "wrote"`,
		"write x":                      `the use is: write NAME LOCAL|"text"`,
		"delete":                       "the use is: delete NAME",
		"delete a b":                   "the use is: delete NAME",
		`delete ""`:                    "empty word",
		`write x "y`:                   "without its second",
		strings.Repeat("x", runLine+1): "more than",
	} {
		script := "mkdir before\n\n" + bad + "\nmkdir after\n"
		file := filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, errOut := at(t.Context(), addr, "", "run", "--keep-going", file)
		if entries, err := c.List(t.Context(), ""); code != exitUsage || out != "" || err != nil || len(entries) != 0 ||
			!strings.Contains(errOut, "line 3") || !strings.Contains(errOut, words) || strings.Count(errOut, "\n") != 1 {
			t.Errorf("file: exit %d, %q, %q, %v %v", code, out, errOut, entries, err)
		}
		code, out, errOut = at(t.Context(), addr, script, "run", "--keep-going", "-")
		if _, err := c.Stat(t.Context(), "after"); code != exitUsage || out != "1: mkdir before: done\n" || err == nil || !strings.Contains(errOut, "line 3") {
			t.Errorf("standard input: exit %d, %q, %q", code, out, errOut)
		}
		if err := c.Rmdir(t.Context(), "before"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRunStopsAtTheFirstFailure(t *testing.T) {
	addr := startService(t)
	c := clientOf(t, addr, map[string]string{"big": strings.Repeat("x", runShow+1)})
	code, out, errOut := at(t.Context(), addr, "delete none\nmkdir d\n", "run")
	if _, err := c.Stat(t.Context(), "d"); code != exitNotExist || err == nil || out != "1: failed: delete none: no such file or directory\n" ||
		errOut != "tpcfs: run: line 1: delete none: no such file or directory\n" {
		t.Errorf("exit %d, %q, %q", code, out, errOut)
	}
	code, out, errOut = at(t.Context(), addr, "mkdir d\nmkdir d\nread big\nread /none x\nrmdir d\n", "run", "--keep-going")
	if code != exitFailed || strings.Count(out, "failed") != 3 || !strings.Contains(out, "5: rmdir d: done") ||
		!strings.Contains(errOut, "3 of 5 requests failed, the first one on line 2: mkdir d: file exists") || !strings.Contains(out, "say into which local file") {
		t.Errorf("exit %d, %q, %q", code, out, errOut)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code, _, _ := at(ctx, addr, "mkdir d\n", "run"); code != exitInterrupted {
		t.Errorf("interrupted: exit %d", code)
	}
}

// With --parallel lines about one file, or a directory and what is in it, keep
// their order, and outcomes are printed in the order of all lines.
func TestRunInParallelKeepsTheOrderOfEachFile(t *testing.T) {
	addr := startService(t)
	c := clientOf(t, addr, nil)
	var script strings.Builder
	var want []string
	line := 0
	add := func(request, outcome string) {
		line++
		fmt.Fprintln(&script, request)
		want = append(want, fmt.Sprintf("%d: %s", line, outcome))
	}
	for d := range 10 {
		add(fmt.Sprintf("mkdir d%d", d), fmt.Sprintf("mkdir d%d: done", d))
		for i := range 10 {
			add(fmt.Sprintf("write d%d/f%d %q", d, i%3, fmt.Sprint(i)), fmt.Sprintf("write d%d/f%d: 1 bytes", d, i%3))
		}
	}
	code, out, errOut := at(t.Context(), addr, script.String(), "run", "--parallel", "16")
	if got := strings.Split(strings.TrimSpace(out), "\n"); code != 0 || !slices.Equal(got, want) {
		t.Errorf("exit %d, %s\n%s", code, errOut, out)
	}
	for d := range 10 {
		for i, last := range []string{"9", "7", "8"} {
			if b, err := c.ReadFile(t.Context(), fmt.Sprintf("d%d/f%d", d, i)); err != nil || string(b) != last {
				t.Errorf("d%d/f%d: %q, %v", d, i, b, err)
			}
		}
	}
	if !related([]string{"/a"}, []string{"/a/b"}) || !related([]string{"/"}, []string{"/x"}) || related([]string{"/a"}, []string{"/ab", ":/a"}) {
		t.Error("related")
	}
}
