package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tpcfs/coordinator/commit"
	"tpcfs/journal"
	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// command runs one command line with the given environment.
func command(env map[string]string, args ...string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &o, err: &e, lookupEnv: func(k string) (string, bool) { v, ok := env[k]; return v, ok }}
	code = a.run(context.Background(), args)
	return code, o.String(), e.String()
}

func TestUsageErrorsAreOneLineAndExit2(t *testing.T) {
	tests := []struct {
		args string
		env  map[string]string
		want string
	}{
		{"", nil, "which command"},
		{"bogus", nil, `unknown command "bogus"`},
		{"put one", nil, "tpcfs put LOCAL|- NAME"},
		{"put --frob a b", nil, "unknown flag: --frob"},
		{"put --mode 99 /dev/null b", nil, "--mode"},
		{"put --if-version x /dev/null b", nil, "--if-version"},
		{"ls --wait soon", nil, "--wait"},
		{"ls --wait -1s", nil, "negative"},
		{"ls --coordinator nowhere", nil, "HOST:PORT"},
		{"ls --coordinator unix:", nil, "unix"},
		{"ls --coordinator h:99999", nil, "99999"},
		{"ls -o yaml", nil, "yaml"},
		{"ls --log-level loud", nil, "loud"},
		{"ls", map[string]string{"TPCFS_WAIT": "soon"}, "TPCFS_WAIT"},
		{"get --offset -1 x", nil, "--offset"},
		{"participant", nil, "--dir"},
		{"participant --dir d --segment-size 65536", nil, "at least 1048576"},
		{"nosuch", nil, "nosuch"},
		{"help nosuch", nil, "unknown command \"nosuch\""},
		{"nosuch --help", nil, "unknown command \"nosuch\""},
		{"participant --dir d --segment-size 64k", nil, "65536: a segment"},
		{"participant --dir d --segment-size many", nil, "--segment-size"},
		{"participant --dir d --timer-slack -1us", nil, "--timer-slack"},
		{"participant --dir d --timer-slack 11ms", nil, "--timer-slack"},
		{"mount --timer-slack 11ms .", nil, "--timer-slack"},
		{"coordinator --dir d", nil, "--participant"},
		{"coordinator --dir d --participant a", nil, "NAME=ADDR"},
		{"coordinator --dir d --participant a=h:1 --participant a=h:2", nil, "twice"},
		{"up --participants 17 --dir /nonexistent", nil, "17"},
		{"up --dir /nonexistent --tls x --operator=", nil, "every client would be an operator"},
		{"up --dir /nonexistent --tls x", map[string]string{"TPCFS_OPERATOR": ""}, "every client would be an operator"},
		{"up --dir /nonexistent --tls x --operator alice,", nil, `"" is no name`},
		{"up --dir /nonexistent --tls x", map[string]string{"TPCFS_OPERATOR": "alice, bob"}, `" bob" is no name`},
		{"coordinator --dir /nonexistent --tls x --operator alice --operator not/one", nil, `"not/one" is no name`},
		{"coordinator --dir /nonexistent --operator alice,bob", nil, "--operator alice: only certificates tell who is who"},
	}
	for _, tt := range tests {
		code, out, errOut := command(tt.env, strings.Fields(tt.args)...)
		if code != exitUsage || out != "" || !strings.Contains(errOut, tt.want) || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%q: exit %d, output %q, error %q; want exit 2 and one line with %q", tt.args, code, out, errOut, tt.want)
		}
	}
}

func TestErrorsAreOneJSONObject(t *testing.T) {
	for _, args := range [][]string{{"put", "-o", "json"}, {"put", "--frob", "-ojson"}, {"umount", "-o", "json", t.TempDir()}} {
		code, _, errOut := command(nil, args...)
		var p problem
		if err := json.Unmarshal([]byte(errOut), &p); err != nil || p.Exit != code || p.Error == "" {
			t.Errorf("%v: exit %d, %q does not say so: %v", args, code, errOut, err)
		}
	}
	if _, _, errOut := command(map[string]string{"TPCFS_OUTPUT": "json"}, "put", "--frob"); !strings.HasPrefix(errOut, "{") {
		t.Errorf("TPCFS_OUTPUT=json is not heeded: %q", errOut)
	}
}

// Every command can be learned from its help, and every flag from its variable.
func TestHelp(t *testing.T) {
	a := &app{out: io.Discard, err: io.Discard}
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			visit(sub)
		}
		if c.HasSubCommands() || c.Name() == "help" {
			return
		}
		if !strings.Contains(c.Long, "Exit codes: 0 ") && !strings.Contains(c.Long, "Exit codes: that") {
			t.Errorf("%s: its exit codes are not told", c.CommandPath())
		}
		if examples := strings.Split(c.Example, "\n"); len(examples) < 2 {
			t.Errorf("%s: %d examples, want 2 or more", c.CommandPath(), len(examples))
		}
		for _, line := range strings.Split(c.Long+"\n"+c.Example, "\n") {
			if len(line) > 110 {
				t.Errorf("%s: a line of %d columns: %s", c.CommandPath(), len(line), line)
			}
		}
		if c.Example == "" || c.Long == "" || c.Short == "" {
			t.Errorf("%s: no example or no description", c.CommandPath())
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if hasVariable(f) && !strings.Contains(f.Usage, "["+variable(f.Name)+"]") {
				t.Errorf("%s --%s: the help does not name its variable: %q", c.CommandPath(), f.Name, f.Usage)
			}
		})
	}
	visit(a.rootCommand())
	if code, out, _ := command(nil, "put", "--help"); code != 0 || !strings.Contains(out, "TPCFS_COORDINATOR") {
		t.Errorf("put --help: exit %d, %q", code, out)
	}
}

func TestVariablesSetFlagsAndTheCommandLineWins(t *testing.T) {
	env := map[string]string{"TPCFS_A": "from env", "TPCFS_B_C": "from env", "TPCFS_D": ""}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	a, bc, d := flags.String("a", "default", ""), flags.String("b-c", "default", ""), flags.String("d", "default", "")
	if err := flags.Parse([]string{"--b-c", "from line"}); err != nil {
		t.Fatal(err)
	}
	if err := applyEnv(flags, func(k string) (string, bool) { v, ok := env[k]; return v, ok }); err != nil {
		t.Fatal(err)
	}
	if *a != "from env" || *bc != "from line" || *d != "default" {
		t.Errorf("got %q %q %q", *a, *bc, *d)
	}
}

func TestExitCodes(t *testing.T) {
	tests := []struct {
		err   error
		code  int
		retry bool
	}{
		{nil, 0, false},
		{errors.New("x"), 1, false},
		{usage("ls", "x"), 2, false},
		{wire.NewError(wire.CodeNotExist, ""), 3, false},
		{&fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist}, 3, false},
		{wire.NewError(wire.CodeUnavailable, ""), 4, true},
		{context.DeadlineExceeded, 4, true},
		{wire.NewError(wire.CodeConflict, ""), 5, true},
		{wire.NewError(wire.CodeVersion, ""), 5, false},
		{wire.NewError(wire.CodeChanged, ""), 5, true},
		{wire.NewError(wire.CodeUnknownOutcome, ""), 6, false},
		{wire.NewError(wire.CodeCanceled, ""), 130, true},
		{context.Canceled, 130, true},
		{wire.NewError(wire.CodeExist, ""), 1, false},
		{wire.NewError(wire.CodeCorrupt, ""), 1, false},
		{&exitError{code: 8, err: errors.New("x")}, 8, false},
	}
	for _, tt := range tests {
		wrapped := tt.err
		if wrapped != nil {
			wrapped = about("a/b", fmt.Errorf("while: %w", tt.err))
		}
		if got := exitCode(wrapped); got != tt.code {
			t.Errorf("%v: exit %d, want %d", tt.err, got, tt.code)
		}
		if got := retryable(wrapped); got != tt.retry {
			t.Errorf("%v: retry %v, want %v", tt.err, got, tt.retry)
		}
	}
}

func TestDescribe(t *testing.T) {
	tests := []struct {
		command string
		err     error
		want    string
	}{
		{"put", about("a/b", &wire.Error{Code: wire.CodeNotExist, Op: "writeFile", Name: "a/b"}), "tpcfs: put a/b: no such file or directory"},
		{"get", about("a", wire.NewError(wire.CodeNotExist, "")), "tpcfs: get a: no such file or directory"},
		{"put", about("a", wire.NewError(wire.CodeUnknownOutcome, "")), "tpcfs: put a: outcome unknown: it may have happened or not; look before you try again"},
		{"rm", about("a\x1b[2J", wire.NewError(wire.CodeInvalid, "NUL\nin it")), `tpcfs: rm "a\x1b[2J": invalid argument: NUL; in it`},
		{"put", about("a", &wire.Error{Code: wire.CodeNoSpace, Who: "b", Text: "participant b: the disk is full: 1.5 MiB left to files"}),
			"tpcfs: put a: no space left: participant b: the disk is full: 1.5 MiB left to files"},
		{"put", about("a", &wire.Error{Code: wire.CodeIO, Who: "b", Text: "x"}), "tpcfs: put a: input/output error: x (participant b)"},
		{"up", errors.New("port in use"), "tpcfs: up: port in use"},
		{"get", about("a", fmt.Errorf("x: %w", context.Canceled)), "tpcfs: get: interrupted"},
	}
	for _, tt := range tests {
		if got := describe(tt.command, tt.err); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

func TestVersionsAreReadAsTheyArePrinted(t *testing.T) {
	id := wire.MakeID(3, 17)
	if got, err := parseVersion(id.String()); err != nil || got != id {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"3", "3.", ".17", "0.1", "3.-1", "99999999.1", "3.9999999999999", "x.y"} {
		if _, err := parseVersion(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// Standard input can be read again, however long it is: a retry needs that.
func TestSpoolIsReadableAgain(t *testing.T) {
	for _, n := range []int{0, 1, spoolAbove - 1, spoolAbove, spoolAbove + 1, 3*spoolAbove + 5} {
		want := bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n]
		s, err := spool(bytes.NewReader(want))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			r, err := s.content.Open()
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, want) || s.content.Size() != int64(n) {
				t.Errorf("%d bytes: read %d, size %d, %v", n, len(got), s.content.Size(), err)
			}
			r.Close()
		}
		s.close()
	}
}

func TestTargetAppearsOnlyWhenWhole(t *testing.T) {
	dir := t.TempDir()
	final := filepath.Join(dir, "out")
	names := func() []string {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, e := range entries {
			all = append(all, e.Name())
		}
		return all
	}
	dst, err := openTarget(final, "x")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(dst, "a longer old part")
	if err := dst.Restart(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(dst, "new")
	if _, err := os.Stat(final); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the final name is there before the end: %v", err)
	}
	if err := dst.keep(0o100751); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(final); string(b) != "new" {
		t.Errorf("got %q", b)
	}
	if info, _ := os.Stat(final); info.Mode().Perm()&0o700 != 0o700 {
		t.Errorf("mode %v: the execute bit is lost", info.Mode())
	}
	if dst, err = openTarget(dir, "base"); err != nil {
		t.Fatal(err)
	}
	if dst.final != filepath.Join(dir, "base") {
		t.Errorf("into a directory: %s", dst.final)
	}
	if err := dst.discard(); err != nil {
		t.Fatal(err)
	}
	if got := names(); len(got) != 1 {
		t.Errorf("left behind: %v", got)
	}
}

func TestMountpointIsCheckedBeforeAnythingStarts(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ args, want string }{
		{"up --dir " + dir + "/data " + dir + "/none", "mkdir"},
		{"up --dir " + dir + "/data " + file, "not a directory"},
		{"up --dir " + dir + "/data " + dir, "lies in the mount point"},
		{"mount " + dir + "/none", "mkdir"},
		{"umount " + dir, "not a tpcfs mount"},
		{"umount /proc", "not a tpcfs mount"},
	}
	for _, tt := range tests {
		code, _, errOut := command(nil, strings.Fields(tt.args)...)
		if code == 0 || !strings.Contains(errOut, tt.want) || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%s: exit %d, %q; want one line with %q", tt.args, code, errOut, tt.want)
		}
	}
	if _, err := os.Stat(dir + "/data"); err == nil {
		t.Error("the data directory was made although nothing could start")
	}
}

// cert show tells of an authority's certificate too, and of any other file what it is.
func TestCertShow(t *testing.T) {
	dir := t.TempDir()
	ca, alice := filepath.Join(dir, "ca"), filepath.Join(dir, "alice.pem")
	for _, args := range [][]string{{"cert", "init", ca}, {"cert", "issue", "client", "alice", "--ca", ca, "--out", alice}} {
		if code, _, errOut := command(nil, args...); code != 0 {
			t.Fatal(args, code, errOut)
		}
	}
	for _, tt := range []struct {
		file string
		code int
		want string
	}{
		{alice, exitDone, alice + ": client alice, good until "},
		{filepath.Join(ca, "ca.crt"), exitDone, "ca.crt: authority tpcfs authority "},
		{filepath.Join(ca, "ca.key"), exitFailed, "a private key alone"},
		{ca, exitFailed, "no file: want one that `tpcfs cert issue` has made"},
		{"/dev/null", exitFailed, "no file: want one that `tpcfs cert issue` has made"},
		{filepath.Join(dir, "none"), exitNotExist, "none: no such file"},
	} {
		code, out, errOut := command(nil, "cert", "show", tt.file)
		if code != tt.code || !strings.Contains(out+errOut, tt.want) || strings.Count(out+errOut, "\n") != 1 {
			t.Errorf("cert show %s: exit %d, %q, %q; want %d, %q", tt.file, code, out, errOut, tt.code, tt.want)
		}
	}
	if code, _, errOut := command(nil, "ls", "--tls", filepath.Join(dir, "none")); code != exitFailed || !strings.Contains(errOut, "`tpcfs cert issue` makes one") {
		t.Errorf("ls --tls of a file that is not there: exit %d, %q", code, errOut)
	}
}

// A --dir that holds something else is refused in words about it, and left as it was;
// and so is one that other flags do not go with.
func TestBadDirectoriesAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	file("file", "")
	file("files/thesis.tex", "")
	file("p/FORMAT", "tpcfs participant\nversion 1\n")
	file("c/FORMAT", `{"kind":"tpcfs coordinator","version":1,"cluster":"00"}`+"\n")
	file("up/coordinator/thesis.tex", "")
	coordinatorOf(t, filepath.Join(dir, "made"), "a=127.0.0.1:1", "b=127.0.0.1:2")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "empty"), 0o700), os.Rename(filepath.Join(dir, "made", "coordinator"), filepath.Join(dir, "known"))); err != nil {
		t.Fatal(err)
	}
	file("known/FORMAT", `{"kind":"tpcfs coordinator","version":1,"cluster":"000102030405060708090a0b0c0d0e0f"}`+"\n")
	tree := func() string {
		var names []string
		if err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
			names = append(names, name)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return strings.Join(names, "\n")
	}
	before := tree()
	const alone, peers = "participant --listen 127.0.0.1:0", "coordinator --listen 127.0.0.1:0 --participant a=127.0.0.1:1"
	for _, tt := range []struct{ command, dir, want string }{
		{"coordinator", "empty", "--participant is missing: the first start"},
		{peers + " --min-in-sync 2", "empty", "--min-in-sync 2: there is 1 participant: give no more"},
		{peers + " --participant b=127.0.0.1:1 --min-in-sync 3", "none", "--min-in-sync 3: there are 2 participants: give no more"},
		{peers + " --min-in-sync 3", "known", "--min-in-sync 3: there are 2 participants: give no more"},
		{"up --participants 1 --min-in-sync 2", "none", "--min-in-sync 2: there is 1 participant: give no more"},
		{alone, "files", "not empty (thesis.tex is in it): give an empty or a new directory"},
		{alone, "file", "it is no directory"},
		{alone, "file/below", "lies below a file"},
		{alone, "c", "it is a coordinator's data directory: give the participant's own"},
		{alone, "up", "not empty (coordinator is in it)"},
		{peers, "files", "not empty (thesis.tex is in it): give an empty or a new directory"},
		{peers, "file", "it is no directory"},
		{peers, "file/below", "lies below a file"},
		{peers, "p", "it is a participant's data directory: give the coordinator's own"},
		{peers + " --rebuild", "p", "it is a participant's data directory: give the coordinator's own"},
		{"up --listen 127.0.0.1:0", "file", "it is no directory"},
		{"up --listen 127.0.0.1:0", "file/below", "lies below a file"},
		{"up --listen 127.0.0.1:0", "c", "FORMAT is in it"},
		{"up --listen 127.0.0.1:0", "p", "FORMAT is in it"},
		{"up --listen 127.0.0.1:0", "up", "/coordinator: it is not a coordinator's data directory"},
	} {
		at := filepath.Join(dir, tt.dir)
		code, _, errOut := command(nil, append(strings.Fields(tt.command), "--dir", at)...)
		if named := "--dir " + at; code != exitUsage || !strings.Contains(errOut, named) && !strings.HasPrefix(tt.want, "--") || !strings.Contains(errOut, tt.want) || strings.Contains(errOut, "input/output") || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%s --dir %s: exit %d, %q; want exit 2 and one line with %q", tt.command, tt.dir, code, errOut, tt.want)
		}
		if after := tree(); after != before {
			t.Errorf("%s --dir %s: it has left something:\n%s", tt.command, tt.dir, after)
			before = after
		}
	}
}

// Who is out of sync is shown with since when, and how far it has caught up.
func TestStateText(t *testing.T) {
	at := time.Date(2025, 3, 4, 5, 6, 7, 0, time.Local)
	for _, c := range []struct {
		m    wire.MemberStatus
		want string
	}{
		{wire.MemberStatus{State: "in sync"}, "in sync"},
		{wire.MemberStatus{State: "evicted", Since: at.UnixMilli()}, "evicted since 2025-03-04 05:06:07"},
		{wire.MemberStatus{State: "catching up", CatchUp: &wire.CatchUp{Bytes: 1, BytesTotal: 3}}, "catching up 33 %"},
		{wire.MemberStatus{State: "catching up", CatchUp: &wire.CatchUp{Bytes: 3, BytesTotal: 3, Lacking: 2}}, "catching up 33 %"},
		{wire.MemberStatus{State: "catching up", CatchUp: &wire.CatchUp{Bytes: 7, BytesTotal: 3}}, "catching up 99 %"},
		{wire.MemberStatus{State: "catching up", CatchUp: &wire.CatchUp{Files: 3, FilesDone: 1}}, "catching up 33 %"},
		{wire.MemberStatus{State: "catching up", CatchUp: &wire.CatchUp{Rows: 7, Copied: 2048}}, "catching up"},
		{wire.MemberStatus{State: "in sync", Slow: &wire.SlowStatus{WaitMS: 3210}}, "in sync, SLOW: up to 3.2s"},
		{wire.MemberStatus{State: "evicted", Slow: &wire.SlowStatus{Evicted: true, ReturnMS: 5000}}, "evicted, too slow: back when fast for 5s"},
		{wire.MemberStatus{State: "catching up", Slow: &wire.SlowStatus{Evicted: true}}, "catching up, was too slow"},
	} {
		if got := stateText(c.m); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestCatchUpText(t *testing.T) {
	for _, c := range []struct {
		c    wire.CatchUp
		want string
	}{
		{
			wire.CatchUp{Files: 20, FilesDone: 21, Bytes: 1 << 20, BytesTotal: 1 << 30, Copied: 1 << 19, Lacking: 2048, Rate: 3 << 20, LeftMS: 61_400},
			"b catches up: 20 of 20 files, 1.0 MiB of 1.0 GiB looked at, 512.0 KiB brought, 2.0 KiB known to be needed yet, 3.0 MiB a second, about 1m1s left",
		},
		{wire.CatchUp{FilesDone: 7, Copied: 2048, LeftMS: 20}, "b catches up with what has changed: 7 files, 2.0 KiB brought, about 1s left"},
	} {
		if got := catchUpText("b", &c.c); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestJudgeStatus(t *testing.T) {
	in, out := wire.MemberStatus{State: "in sync"}, wire.MemberStatus{State: "unreachable"}
	tests := []struct {
		st   wire.Status
		code int
	}{
		{wire.Status{Serving: true, Members: []wire.MemberStatus{in, in}}, 0},
		{wire.Status{Serving: true, Members: []wire.MemberStatus{in, out}}, 8},
		{wire.Status{Serving: true, Members: []wire.MemberStatus{in}, Problem: "x"}, 8},
		{wire.Status{Members: []wire.MemberStatus{in, out}}, 4},
	}
	for _, tt := range tests {
		if got := exitCode(judge(tt.st)); got != tt.code {
			t.Errorf("%+v: exit %d, want %d", tt.st, got, tt.code)
		}
	}
}

func TestJournalOfUpsDirectoryNamesOneOfThem(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "participant-a"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"verify", "dump"} {
		code, _, errOut := command(nil, "journal", verb, dir)
		if code != exitFailed || !strings.Contains(errOut, filepath.Join(dir, "participant-a")) {
			t.Errorf("journal %s: exit %d, %q; want 1 and participant-a", verb, code, errOut)
		}
	}
}

// A participant's directory that got lost is made anew only where the others can
// go on without it, and the user is told which one it is.
func TestUpMissesAParticipant(t *testing.T) {
	for _, c := range []struct {
		there     string
		minInSync int
		missing   string
	}{{"bc", 0, ""}, {"ac", 0, ""}, {"bc", 3, "participant-a"}, {"c", 0, "participant-b"}, {"c", 1, ""}, {"ab", 3, ""}} {
		dir := t.TempDir()
		for _, name := range strings.Split(c.there, "") {
			if err := os.Mkdir(filepath.Join(dir, "participant-"+name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		f := upFlags{participants: 3, evictFlags: evictFlags{minInSync: c.minInSync, evictAfter: time.Second, resyncRate: "0"}, scrubFlags: scrubFlags{rate: "0"}}
		f.dir, f.listen = dir, "127.0.0.1:0"
		err := f.check("")
		if c.missing == "" && err != nil && strings.Contains(err.Error(), "missing") || c.missing != "" && (err == nil || !strings.Contains(err.Error(), c.missing)) {
			t.Errorf("%s, %d needed: %v", c.there, c.minInSync, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "participant-a")); !strings.Contains(c.there, "a") && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("participant-a was made: %v", err)
		}
	}
}

// coordinatorOf makes a coordinator's journal that says who takes part, as NAME=ADDR; those
// with a ! are not in sync.
func coordinatorOf(t *testing.T, dir string, members ...string) {
	t.Helper()
	c := &wire.Config{ID: wire.ConfigID{Epoch: 1, Counter: 1}}
	for _, m := range members {
		name, addr, _ := strings.Cut(strings.TrimSuffix(m, "!"), "=")
		c.Configured = append(c.Configured, wire.Member{Name: name, Addr: addr, Flag: addr})
		if !strings.HasSuffix(m, "!") {
			c.InSync = append(c.InSync, name)
		}
	}
	log, err := journal.Open(journal.Options{FS: disk.New(), Dir: filepath.Join(dir, "coordinator", "journal"), SegmentSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*commit.Record{{Kind: commit.RecEpoch, Epoch: wire.Epoch{Number: 1}}, {Kind: commit.RecConfig, Config: c}} {
		if _, err := log.Append(r.Encode()); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(log.Flush(), log.Close()); err != nil {
		t.Fatal(err)
	}
}

// Who takes part is what the coordinator's journal says, after operators have changed it,
// not how many directories there are: that decides whether up starts, and what it says.
func TestUpAfterMembersHaveChanged(t *testing.T) {
	const a, b, c, d, e = "a=in-process:a", "b=in-process:b", "c=in-process:c", "d=10.0.0.4:1", "e=10.0.0.5:1"
	for _, tc := range []struct {
		what      string
		members   []string
		there     string // directories
		minInSync int
		says      string // "": it starts
		code      int
	}{
		{"two were replaced, their directories are gone", []string{a, d, e}, "a", 0, "", 0},
		{"all were", []string{"x=10.0.0.6:1", d, e}, "c", 0, "", 0},
		{"all were, strictly", []string{"x=10.0.0.6:1", d, e}, "c", 3, "", 0},
		{"one that was replaced is missing, and one that was not", []string{a, d, c}, "c", 0, "", 0},
		{"likewise, strictly", []string{a, d, c}, "c", 3, "participant-a missing, and 3 of 3", 1},
		{"two that take part are missing, with two more", []string{a, b, c, d, e}, "c", 4, "participant-b missing, and 4 of 5", 1},
		{"one that is out of sync is missing, the only other one is there", []string{"a=in-process:a!", b}, "b", 0, "", 0},
		{"more are needed than there are since one was removed", []string{a, b}, "abc", 3, "--min-in-sync 3: there are 2 participants", 2},
		{"more are needed than it has itself", []string{a, b, c, d, e}, "abc", 4, "", 0},
		{"more than with those that were added", []string{a, b, c, d, e}, "abc", 6, "--min-in-sync 6: there are 5 participants", 2},
		{"a directory has gone", []string{a, b, c}, "ab", 0, "was made with c, too: put back from a backup", 1},
		{"they ran as processes since, and two have gone", []string{"a=10.0.0.1:1", "b=10.0.0.2:1", "c=10.0.0.3:1"}, "c", 0, "participant-b missing, and 2 of 3", 1},
		{"all have", []string{a, b, c}, "", 0, "participant-c missing, and 2 of 3", 1},
	} {
		dir := t.TempDir()
		coordinatorOf(t, dir, tc.members...)
		for _, name := range tc.there {
			if err := os.Mkdir(filepath.Join(dir, "participant-"+string(name)), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		f := upFlags{participants: 3, evictFlags: evictFlags{minInSync: tc.minInSync, evictAfter: time.Second, resyncRate: "0"}, scrubFlags: scrubFlags{rate: "0"}}
		f.dir, f.listen = dir, "127.0.0.1:0"
		err := f.check("")
		if tc.says == "" && err != nil || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says) || exitCode(err) != tc.code || tc.code == 2 && strings.Contains(err.Error(), "backup")) {
			t.Errorf("%s: exit %d, %v; want %d, %q", tc.what, exitCode(err), err, tc.code, tc.says)
		}
	}
}

// The exit code of a scrub tells whether something was found, and whether all of it
// is repaired; status says it in few words.
func TestScrubReport(t *testing.T) {
	at := time.Date(2025, 3, 4, 5, 6, 7, 0, time.Local).UnixMilli()
	for _, c := range []struct {
		m    wire.ScrubMember
		code int
		says string
	}{
		{wire.ScrubMember{Ended: at}, 0, "2025-03-04 clean"},
		{wire.ScrubMember{Ended: at, Found: 2, Repaired: 2}, 9, "2025-03-04 2 repaired"},
		{wire.ScrubMember{Ended: at, Found: 2, Repaired: 1, Problem: "it has gone"}, 10, "2025-03-04 1 NOT REPAIRED"},
		{wire.ScrubMember{Ended: at, Problem: "it has gone"}, 8, "2025-03-04 not to the end"},
		{wire.ScrubMember{Bytes: 10, OfBytes: 40}, 0, "25 %"},
		{wire.ScrubMember{}, 0, "under way"},
	} {
		r := wire.ScrubReport{Members: []wire.ScrubMember{{Name: "a", Ended: at}, c.m}}
		if code := exitCode(judgeScrub(&r)); code != c.code {
			t.Errorf("%+v: exit %d", c.m, code)
		}
		if got := scrubState(&c.m); got != c.says {
			t.Errorf("%+v: %q", c.m, got)
		}
	}
	if got := scrubState(nil); got != "-" {
		t.Errorf("no scrub: %q", got)
	}
	for _, f := range []scrubFlags{{every: -1, rate: "0"}, {every: time.Second, rate: "0"}, {every: time.Hour, rate: "fast"}} {
		if err := f.check("up"); exitCode(err) != exitUsage || !strings.Contains(err.Error(), "--scrub-") {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

// What nobody can mean is refused, with the flag's name.
func TestEvictFlags(t *testing.T) {
	good := evictFlags{evictAfter: time.Second, resyncRate: "10m"}
	if err := good.check("up"); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(f *evictFlags){
		"--min-in-sync": func(f *evictFlags) { f.minInSync = -1 },
		"--evict-after": func(f *evictFlags) { f.evictAfter = time.Millisecond },
		"--evict-slow":  func(f *evictFlags) { f.evictSlow = time.Millisecond },
		"--resync-rate": func(f *evictFlags) { f.resyncRate = "fast" },
	} {
		f := good
		spoil(&f)
		if err := f.check("up"); exitCode(err) != exitUsage || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
