package rpc

import (
	"context"
	"testing"
	"time"

	"tpcfs/wire"
)

// Peers that connect and ask for nothing keep nobody out; those that have
// asked, or are asking, stay longest.
func TestIdleLinksMakeRoom(t *testing.T) {
	release := make(chan struct{})
	asking := make(chan struct{}, 1)
	f := &fake{transact: func(context.Context, wire.Transact, []byte) (wire.TransactReply, error) {
		asking <- struct{}{}
		<-release
		return wire.TransactReply{}, nil
	}}
	addr, s := serve(t, ServerOptions{Service: fakeService{f}, MaxLinks: 4, LinkIdle: time.Nanosecond})
	busy := dialService(t, addr, DialOptions{})
	answer := make(chan error, 1)
	go func() {
		_, err := busy.Transact(t.Context(), wire.Transact{}, nil)
		answer <- err
	}()
	<-asking
	good := dialService(t, addr, DialOptions{})
	well(t, good)
	var idle []ServiceConn
	for range 10 {
		idle = append(idle, dialService(t, addr, DialOptions{}))
	}
	for _, c := range idle[:8] { // the last two have their places still
		select {
		case <-c.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("a link that asks for nothing stays")
		}
	}
	well(t, good)
	close(release)
	if err := <-answer; err != nil {
		t.Error("the one that was asking:", err)
	}
	eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.links) <= 4 })
}
