package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// examplesOf are the lines below "Examples:" in a command's help.
func examplesOf(t *testing.T, ctx context.Context, command string) []string {
	t.Helper()
	r := run(t, ctx, nil, "", command, "--help")
	_, rest, found := strings.Cut(r.Out, "\nExamples:\n")
	if r.Code != 0 || !found {
		t.Fatalf("%s --help: exit %d, %q", command, r.Code, r.Out)
	}
	block, _, _ := strings.Cut(rest, "\n\n")
	return strings.Split(block, "\n")
}

// emptyOut has a transaction remove all that is in a directory of the service.
func emptyOut(t *testing.T, ctx context.Context, c *client.Client, tx *client.Tx, dir string) {
	t.Helper()
	entries, err := c.List(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := strings.TrimPrefix(dir+"/"+e.Name, "/")
		if e.Attr.Mode&wire.ModeType == wire.ModeDir {
			emptyOut(t, ctx, c, tx, name)
			tx.Rmdir(name)
		} else {
			tx.DeleteFile(name)
		}
	}
}

// Every example in the help of a command that clients use does what it says,
// where what it is about is there.
func TestExamplesOfTheHelp(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	_, addr := up(t, ctx, dir+"/data")
	c, err := client.Dial(ctx, addr, client.Options{Wait: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(plain, bin+"/tpcfs"); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"jq", "xxd"} { // where they are missing, only what they are given is tried
		if _, err := exec.LookPath(tool); err != nil {
			if err := os.WriteFile(bin+"/"+tool, []byte("#!/bin/sh\nexec cat\n"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	here := map[string]string{"report.pdf": "r", "job.lock": "", "new.cfg": "n", "src/a": "a", "src/b/c": "c",
		"requests.txt": "list\n", "many.txt": "delete none\n"}
	there := []string{"docs/notes", "archive/2026/report.pdf", "locks/x", "old/a", "old/b", "disk.img", "draft", "cfg", "projects/x", "new-config/x", "blue", "green", "report"}
	for _, command := range []string{"put", "get", "rm", "ls", "stat", "mkdir", "rmdir", "mv", "ln", "run", "load", "status", "scrub", "completion"} {
		for i, example := range examplesOf(t, ctx, command) {
			tx := c.Tx()
			emptyOut(t, ctx, c, tx, "")
			made := map[string]bool{".": true}
			for _, name := range append(there, "archive/2025/", "config/") {
				parts := strings.Split(filepath.Dir(name), "/")
				for n := range parts {
					if parent := strings.Join(parts[:n+1], "/"); !made[parent] {
						made[parent] = true
						tx.Mkdir(parent, 0o755)
					}
				}
				if !strings.HasSuffix(name, "/") {
					tx.WriteFile(name, client.Bytes([]byte(name)), client.WriteOptions{Mode: 0o644})
				}
			}
			if _, err := tx.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			local := filepath.Join(dir, command+string(rune('a'+i)))
			for name, text := range here {
				if err := os.MkdirAll(filepath.Join(local, filepath.Dir(name)), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(local, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			prepare := map[string]string{
				"tpcfs mkdir docs":      "tpcfs rm docs/notes && tpcfs rmdir docs; ",
				"tpcfs completion fish": "mkdir -p .config/fish/completions; ",
			}
			line := strings.TrimSpace(example)
			for beginning, words := range prepare {
				if strings.HasPrefix(line, beginning) {
					line = words + line
				}
			}
			cfg, err := c.Stat(ctx, "cfg")
			if err != nil {
				t.Fatal(err)
			}
			line = strings.NewReplacer("3.17", cfg.Version.String(), "--duration 1m", "--duration 1s", "--duration 5m", "--duration 1s",
				"--clients 64", "--clients 9", "--ops 10000", "--ops 300", "/home", "./src", "tpcfs status --watch", "timeout --preserve-status -s INT 1 tpcfs status --watch", "completion zsh)", "completion bash)").Replace(line)
			if line == "tpcfs load" {
				line += " --duration 1s"
			}
			want := 0
			if strings.Contains(line, "many.txt") { // the failures that it shows
				want = 3
			}
			r := harness.Run(ctx, []string{"TPCFS_COORDINATOR=" + addr, "HOME=" + local, "PATH=" + bin + ":" + os.Getenv("PATH")}, nil,
				"bash", "-c", "set -o pipefail; cd "+local+"; "+line)
			if r.Code != want || want == 0 && r.Err != "" {
				t.Errorf("%s --help: %s: exit %d, %q", command, line, r.Code, r.Err)
			}
		}
	}
}
