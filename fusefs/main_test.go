package fusefs

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "helper" {
		os.Exit(helper(os.Args[2:]))
	}
	goleak.VerifyTestMain(m)
}

// mountAt mounts c for a test and cleans up after it, whatever it left behind.
func mountAt(t *testing.T, c *fake, o Options) (string, *Mounted) {
	t.Helper()
	if _, err := os.Stat(fuseDevice); err != nil {
		if os.Getenv("TPCFS_SKIP_FUSE") != "" {
			t.Skip("no FUSE here, and TPCFS_SKIP_FUSE is set")
		}
		t.Fatalf("these tests need FUSE: %v (install fuse3; or set TPCFS_SKIP_FUSE)", err)
	}
	dir := t.TempDir()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	if o.SpillDir == "" {
		o.SpillDir = t.TempDir()
	}
	m, err := Mount(dir, c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil && !t.Failed() {
			t.Logf("close: %v", err)
		}
		if m.Panics() > 0 {
			t.Errorf("%d handlers panicked", m.Panics())
		}
	})
	return dir, m
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// sh runs a script with $D set to dir, in another process. The working
// directory is never in a mount: the process that starts it must not touch it.
func sh(t *testing.T, dir, script string) string {
	t.Helper()
	out, err := tryShell(t, dir, script)
	if err != nil {
		t.Fatalf("script: %v\n%s\n--- output\n%s", err, script, out)
	}
	return out
}

func tryShell(t *testing.T, dir, script string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := command(ctx, dir, script)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func command(ctx context.Context, dir, script string) *exec.Cmd {
	self, _ := os.Executable()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = "/"
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "D="+dir, "HELPER="+self+" helper", "GORACE=atexit_sleep_ms=0", "LC_ALL=C", "HOME="+filepath.Join(os.TempDir(), "tpcfs-no-home"),
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=2020-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2020-01-01T00:00:00Z")
	return cmd
}

// eventually waits for what another goroutine or process will bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}
