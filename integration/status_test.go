package integration

import (
	"strings"
	"syscall"
	"testing"

	"tpcfs/integration/harness"
)

// `status` counts what clients do, and --watch goes on showing it until the user
// has seen enough, also while nobody answers.
func TestStatusWatch(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	server, addr := up(t, ctx, tempDir(t)+"/data")
	if r := run(t, ctx, nil, "x", "put", "-", "name", "--coordinator", addr); r.Code != 0 {
		t.Fatal(r.Err)
	}
	if r := run(t, ctx, nil, "", "get", "name", "--coordinator", addr); r.Code != 0 {
		t.Fatal(r.Err)
	}
	p, err := harness.Start("watch", nil, plain, "status", "--watch=100ms", "--coordinator", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	for _, line := range []string{"changes: ", "reads: "} {
		got, err := p.WaitLine(ctx, line)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(got, " 1 done; in the last minute half within") {
			t.Errorf("after one put and one get: %q", got)
		}
	}
	if r := run(t, ctx, nil, "y", "put", "-", "name", "--coordinator", addr); r.Code != 0 {
		t.Fatal(r.Err)
	}
	if _, err := p.WaitText(ctx, " 2 done; "); err != nil {
		t.Fatalf("a second put does not show: %v", err)
	}
	if err := server.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	_, err = p.WaitLine(ctx, "tpcfs: status")
	if cont := server.Signal(syscall.SIGCONT); err != nil || cont != nil {
		t.Fatal(err, cont)
	}
	if r := run(t, ctx, nil, "z", "put", "-", "name", "--coordinator", addr); r.Code != 0 {
		t.Fatal(r.Err)
	}
	if _, err := p.WaitText(ctx, " 3 done; "); err != nil {
		t.Fatalf("it does not go on: %v", err)
	}
	if err := p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if p.ExitCode() != 0 {
		t.Errorf("exit %d after Ctrl-C, want that of a healthy cluster", p.ExitCode())
	}
	if r := run(t, ctx, nil, "", "status", "--watch=1ms", "--coordinator", addr); r.Code != 2 {
		t.Errorf("--watch=1ms: exit %d, %s", r.Code, r.Err)
	}
}
