package exhaust

import (
	"flag"
	"os"
	"strings"
	"testing"

	"tpcfs/journal/disk/forget"
)

var (
	large = flag.Bool("large", false, "TestExhaust takes the large boxes: minutes")
	only  = flag.String("box", "", "TestExhaust takes the boxes whose name contains this")
)

// TestExhaust takes every schedule of the small boxes (or the large ones). A
// violation comes with the shortest schedule that leads to it.
func TestExhaust(t *testing.T) {
	boxes := Small()
	if *large {
		boxes = Large()
	}
	for i := range boxes {
		b := &boxes[i]
		if !strings.Contains(b.Name, *only) || !*large && i%forget.OneIn > 0 {
			continue
		}
		t.Run(b.Name, func(t *testing.T) {
			r := Explore(b, progress())
			if r.Violation != "" {
				t.Errorf("%s\nthe shortest schedule that breaks a rule:\n%s", r.Violation, strings.Join(r.Trace, "\n"))
			}
			t.Logf("%v\n  %v", b, r)
		})
	}
}

func progress() *os.File {
	if *large {
		return os.Stdout
	}
	return nil
}

// The schedules of a box without faults can be counted by hand: the whole is
// explored, and not less because of a digest that leaves something out.
func TestFewSchedules(t *testing.T) {
	one := Box{Replicas: 1, Ops: []string{"x"}}
	r := Explore(&one, nil)
	// sent, handled, durable, heard; COMMIT handled, durable, heard; a
	// heartbeat, heard, durable; and the beginning
	if r.Violation != "" || r.States != 11 || r.Ends != 2 {
		t.Errorf("one operation, one replica: %v %s", r, r.Violation)
	}
}

// The end of a schedule is looked at: what was acknowledged is there, and
// nobody waits.
func TestFindsAViolation(t *testing.T) {
	b := Box{Replicas: 2, Ops: []string{"x"}}
	x := newExplorer(&b)
	s, bad := x.root()
	if bad != nil {
		t.Fatal(bad)
	}
	s.clients[0].acked = true // nobody did it
	if bad := x.settled(s); bad == nil || bad.rule != "G2" {
		t.Errorf("an acknowledged operation that nobody has: %v", bad)
	}
	s.clients[0] = client{waits: true, tries: 1}
	if bad := x.settled(s); bad == nil || bad.rule != "settles" {
		t.Errorf("an operation without an answer: %v", bad)
	}
}
