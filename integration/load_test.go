package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"tpcfs/integration/harness"
)

// Eight clients' whole histories are linearizable while the coordinator and the
// participants are killed and stopped at random moments; participants are evicted
// and catch up meanwhile.
func TestLoadIsLinearizableThroughRandomCrashes(t *testing.T) {
	t.Parallel()
	ctx, c, rnd, limit := crashing(t, evictFast)
	p, err := harness.Start("load", nil, plain, "load", "--coordinator", c.Addr(harness.Coordinator), "-o", "json", "--check",
		"--clients", "8", "--names", "12", "--size", "40-100k", "--mix", "4/5/2", "--wait", "2s", "--duration", limit.String(), "--keep", "--seed", fmt.Sprint(1+rnd.Int31()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Kill() }()
	fault, stopFaults := context.WithTimeout(ctx, limit)
	defer stopFaults()
	go func() { // a fault that is found ends the load early
		<-p.Done()
		stopFaults()
	}()
	maker := &troublemaker{c: c, rnd: rnd, counts: map[string]int{}}
	if err := maker.run(fault); err != nil {
		t.Error(err)
	}
	if err := c.Kill(c.All()...); err != nil {
		t.Error(err)
	}
	startAll(t, ctx, c)
	select {
	case <-p.Done():
	case <-ctx.Done():
		t.Fatalf("the load does not end:\n%s", p.Output())
	}
	maker.report(t, limit)
	var r struct {
		Linearizable bool
		Faults       []string
		Errors       map[string]int64
		Write, Read  struct{ Done int64 }
		Check        struct{ Operations, Pieces, Unknown, Undecided int64 }
	}
	out, _, _ := strings.Cut(p.Output()[max(0, strings.Index(p.Output(), `{"clients"`)):], "\n")
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: exit %d\n%s", err, p.ExitCode(), p.Output())
	}
	t.Logf("history: %+v, errors: %v, %d writes, %d reads", r.Check, r.Errors, r.Write.Done, r.Read.Done)
	if p.ExitCode() != 0 || !r.Linearizable || r.Check.Operations == 0 || r.Write.Done == 0 || r.Read.Done == 0 {
		t.Errorf("exit %d: %s\n%s", p.ExitCode(), strings.Join(r.Faults, "\n"), p.Output())
	}
	settle(t, ctx, c)
	trees := exports(t, ctx, c)
	for _, name := range c.Names {
		if diff := harness.Diff(trees[name], trees["a"]); diff != "" {
			t.Errorf("participants %s and a differ:\n%s", name, diff)
		}
	}
}
