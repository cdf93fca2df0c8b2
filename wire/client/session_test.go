package client

import (
	"testing"

	"tpcfs/wire"
)

// TestEndSession: a client ends another one's session, over lost connections too; not
// its own.
func TestEndSession(t *testing.T) {
	f := NewFake()
	f.fault = script("detach", lostBefore, lostAfter)
	dead, c := newClient(t, f, Options{}), newClient(t, f, Options{})
	linked := func(s wire.SessionID) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.links[s] > 0
	}
	for _, one := range []*Client{dead, c} {
		if _, err := one.Cluster(t.Context()); err != nil || !linked(one.Session()) {
			t.Fatal(err, "no link")
		}
	}
	if err := c.EndSession(t.Context(), dead.Session()); err != nil {
		t.Fatal(err)
	}
	if linked(dead.Session()) || !linked(c.Session()) {
		t.Errorf("the session is there: %t; that of who ended it: %t", linked(dead.Session()), linked(c.Session()))
	}
	if err := c.EndSession(t.Context(), c.Session()); wire.CodeOf(err) != wire.CodeInvalid || !linked(c.Session()) {
		t.Errorf("its own: %v", err)
	}
}
