package rpc

import (
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"tpcfs/wire"
)

// stuckConn is a connection whose Close waits.
type stuckConn struct {
	net.Conn
	closing, release chan struct{}
}

func (c *stuckConn) Close() error {
	close(c.closing)
	<-c.release
	return c.Conn.Close()
}

// While a session closes, nobody waits in it any more: a Read of yamux would go
// round and round until the end of the closing, and hundreds of them stop
// everything else in the process for seconds.
func TestClosingSessionLetsItsStreamsGo(t *testing.T) {
	near, far := net.Pipe()
	peer, err := yamux.Client(far, muxConfig(wire.ChannelControl, quick, slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	stuck := &stuckConn{near, make(chan struct{}), make(chan struct{})}
	below := newConn(stuck, time.Minute, time.Minute)
	y, err := yamux.Server(below, muxConfig(wire.ChannelControl, quick, slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 20)
	for range 20 {
		if _, err := peer.OpenStream(); err != nil {
			t.Fatal(err)
		}
		mux, err := y.AcceptStream()
		if err != nil {
			t.Fatal(err)
		}
		st := below.adopt(newStream(mux, time.Minute))
		go func() {
			_, err := st.receive(0, wire.MaxMessage)
			ended <- err
		}()
	}
	closed := make(chan struct{})
	go func() { _ = y.Close(); close(closed) }() // always nil
	<-stuck.closing
	for range 20 {
		select {
		case err := <-ended:
			if err == nil || wire.CodeOf(err) == wire.CodeProtocol {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a stream of a session that closes is still read")
		}
	}
	late := below.adopt(newStream(otherStream(t), time.Minute))
	if _, err := late.receive(0, wire.MaxMessage); err == nil {
		t.Error("a stream that comes late is read")
	}
	close(stuck.release)
	<-closed
}

// otherStream is a stream of another session, which nobody writes to.
func otherStream(t *testing.T) *yamux.Stream {
	a, b := net.Pipe()
	config := yamux.DefaultConfig()
	config.LogOutput, config.EnableKeepAlive = io.Discard, false
	client, err := yamux.Client(a, config)
	if err != nil {
		t.Fatal(err)
	}
	server, err := yamux.Server(b, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	st, err := client.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	return st
}
