package client

import "tpcfs/wire/rpc"

// ServeFake serves a Fake of its own on a socket, for the examples.
func ServeFake() (addr string, stop func()) {
	l, err := rpc.Listen("127.0.0.1:0", false)
	if err != nil {
		panic(err)
	}
	s := rpc.NewServer(rpc.ServerOptions{Service: &fakeConn{f: NewFake()}})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l) // ends with Close
	}()
	return l.Addr().String(), func() {
		_ = s.Close() // examples print what matters
		<-served
	}
}
