package main

import (
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"tpcfs/wire/client"
)

// completed is what a shell is told after tpcfs ARGS..., and how to go on.
func completed(t *testing.T, addr string, args ...string) (words []string, directive cobra.ShellCompDirective) {
	t.Helper()
	code, out, _ := at(t.Context(), addr, "", append([]string{"__completeNoDesc"}, args...)...)
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if code != 0 || len(lines) == 0 {
		t.Fatal(code, out)
	}
	if _, err := fmt.Sscanf(lines[len(lines)-1], ":%d", &directive); err != nil {
		t.Fatal(err, out)
	}
	return lines[:len(lines)-1], directive
}

func TestCompletion(t *testing.T) {
	addr := startService(t)
	c := clientOf(t, addr, map[string]string{"notes": "", "now": "", "other": "", "odd\nname": ""})
	for _, dir := range []string{"north", "north/in"} {
		if err := c.Mkdir(t.Context(), dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Symlink(t.Context(), "north", "way"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteFile(t.Context(), "north/in/deep", client.Bytes(nil), client.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	const none, space = cobra.ShellCompDirectiveNoFileComp, cobra.ShellCompDirectiveNoSpace
	tests := []struct {
		args string // the last word after the last blank
		want []string
		how  cobra.ShellCompDirective
	}{
		{"rm no", []string{"north/", "notes", "now"}, none},
		{"rm notes now", []string{"now"}, none},
		{"get ", []string{"north/", "notes", "now", "other", "way"}, none},
		{"ls north", []string{"north/"}, none | space},
		{"stat north/in/", []string{"north/in/deep"}, none},
		{"stat way/i", []string{"way/in/"}, none | space},
		{"ls none/x", nil, none},
		{"scrub ", []string{"a"}, none},
		{"scrub a a", []string{"a"}, none},
		{"get notes ", nil, cobra.ShellCompDirectiveDefault},
		{"put ", nil, cobra.ShellCompDirectiveDefault},
		{"put x ot", []string{"other"}, none},
		{"mv notes ot", []string{"other"}, none},
		{"run ", nil, cobra.ShellCompDirectiveDefault},
		{"mount ", nil, cobra.ShellCompDirectiveFilterDirs},
		{"ls a ", nil, none},
		{"-o ", []string{"text", "json"}, none},
		{"completion ", []string{"bash", "zsh", "fish"}, none},
		{"comp", []string{"completion"}, none},
	}
	for _, tt := range tests {
		got, how := completed(t, addr, strings.Split(tt.args, " ")...)
		if !slices.Equal(got, tt.want) || how != tt.how {
			t.Errorf("tpcfs %s: %q %d, want %q %d", tt.args, got, how, tt.want, tt.how)
		}
	}
	if got, _ := completed(t, "unix:/nowhere", "rm", "--coordinator", addr, "ot"); !slices.Equal(got, []string{"other"}) {
		t.Errorf("--coordinator is not heeded: %q", got)
	}
}

// A service that is not there, or says nothing, holds no shell up.
func TestCompletionWithoutAService(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, addr := range []string{"unix:/nowhere", "nonsense", l.Addr().String()} {
		start := time.Now()
		if got, how := completed(t, addr, "rm", "x"); len(got) > 0 || how != cobra.ShellCompDirectiveNoFileComp {
			t.Errorf("%s: %q %d", addr, got, how)
		}
		if took := time.Since(start); took > 5*completeTime {
			t.Errorf("%s: took %s", addr, took)
		}
	}
}

// The scripts are what the shells take; of the shells that are here.
func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		code, out, errOut := command(nil, "completion", shell)
		if code != 0 || errOut != "" || !strings.Contains(out, "tpcfs") {
			t.Errorf("%s: exit %d, %q", shell, code, errOut)
		}
		if _, err := exec.LookPath(shell); err != nil {
			continue
		}
		cmd := exec.Command(shell, "-n")
		cmd.Stdin = strings.NewReader(out)
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", shell, err, said)
		}
	}
	if code, _, errOut := command(nil, "completion", "csh"); code != exitUsage || strings.Count(errOut, "\n") != 1 {
		t.Errorf("csh: exit %d, %q", code, errOut)
	}
}
