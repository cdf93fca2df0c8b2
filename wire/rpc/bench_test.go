package rpc

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"tpcfs/wire"
)

// relay is a coordinator that passes reads and stages on to a participant.
type relay struct {
	fakeService
	to wire.Replica
}

func (r relay) Read(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	return r.to.Read(ctx, wire.PositionedRead{Read: req}, w)
}

func (r relay) Stage(ctx context.Context, _ wire.SessionID, req wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
	return r.to.Stage(ctx, req, pieces)
}

// twoHops returns a client of a coordinator of a participant that holds n bytes.
func twoHops(b testing.TB, n int) ServiceConn {
	f := &fake{contents: random(n), version: 1}
	addr, _ := serve(b, ServerOptions{Replica: fakeReplica{f}})
	to := dialReplica(b, addr, DialOptions{})
	addr, _ = serve(b, ServerOptions{Service: relay{fakeService{f}, to}})
	return dialService(b, addr, DialOptions{})
}

type discard struct{}

func (discard) WritePiece(p wire.Piece) error {
	if wire.Sum(p.Data) != p.Sum {
		return wire.NewError(wire.CodeCorrupt, "")
	}
	return nil
}

func BenchmarkRead(b *testing.B) {
	for _, n := range []int{4 << 10, 64 << 10, 1 << 20, 64 << 20} {
		b.Run(fmt.Sprintf("%dKiB", n>>10), func(b *testing.B) {
			c := twoHops(b, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				if _, err := c.Read(b.Context(), wire.Read{Kind: wire.ReadFile, Length: -1}, discard{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkStage64MiB(b *testing.B) {
	c := twoHops(b, 0)
	b.SetBytes(64 << 20)
	for b.Loop() {
		if _, err := c.Stage(b.Context(), wire.SessionID{}, wire.StageRequest{}, &pieces{n: 64 << 20}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTransact(b *testing.B) {
	addr, _ := serve(b, ServerOptions{Service: fakeService{&fake{}}})
	c := dialService(b, addr, DialOptions{})
	req := wire.Transact{Mutations: []wire.Mutation{{Kind: wire.MutWriteFile, At: wire.At{Dir: 1, Path: "a/b"}}}}
	payload := random(4096)
	b.Run("1", func(b *testing.B) {
		for b.Loop() {
			if _, err := c.Transact(b.Context(), req, payload); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("64", func(b *testing.B) {
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := c.Transact(b.Context(), req, payload); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

// BenchmarkBare is what two hops of yamux itself cost: a request of 64 bytes
// there, n bytes back, on streams that stay open or one for each request, with
// header and body joined (conn) or not.
func BenchmarkBare(b *testing.B) {
	for _, n := range []int{4 << 10, 64 << 10, 1 << 20, 64 << 20} {
		for _, joined := range []bool{true, false} {
			for _, reuse := range []bool{true, false} {
				b.Run(fmt.Sprintf("%dKiB/joined=%v/reuse=%v", n>>10, joined, reuse), func(b *testing.B) {
					back := random(n)
					near, far := muxPair(b, joined), muxPair(b, joined)
					go answerStreams(far.server, func(st net.Conn) error {
						return writeAll(st, back)
					})
					var up net.Conn
					go answerStreams(near.server, func(st net.Conn) (err error) {
						if up == nil || !reuse {
							if up, err = far.client.Open(); err != nil {
								return err
							}
						}
						if !reuse {
							defer up.Close()
						}
						return relayOnce(up, st, n)
					})
					st, err := near.client.Open()
					if err != nil {
						b.Fatal(err)
					}
					buf := make([]byte, 128<<10)
					b.SetBytes(int64(n))
					for b.Loop() {
						if !reuse {
							if st, err = near.client.Open(); err != nil {
								b.Fatal(err)
							}
						}
						if _, err := st.Write(make([]byte, 64)); err != nil {
							b.Fatal(err)
						}
						for got := 0; got < n; {
							k, err := st.Read(buf)
							if err != nil {
								b.Fatal(err)
							}
							got += k
						}
						if !reuse {
							_ = st.Close()
						}
					}
				})
			}
		}
	}
}

type muxes struct{ client, server *yamux.Session }

func muxPair(b *testing.B, joined bool) muxes {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	if joined {
		near, far = newConn(near, time.Minute, time.Minute), newConn(far, time.Minute, time.Minute)
	}
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
	config.MaxStreamWindowSize = bulkWindow
	var m muxes
	if m.client, err = yamux.Client(near, config); err != nil {
		b.Fatal(err)
	}
	if m.server, err = yamux.Server(far, config); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = m.client.Close(); _ = m.server.Close() })
	return m
}

func answerStreams(s *yamux.Session, answer func(net.Conn) error) {
	for {
		st, err := s.Accept()
		if err != nil {
			return
		}
		go func() {
			defer st.Close()
			for {
				if _, err := io.ReadFull(st, make([]byte, 64)); err != nil {
					return
				}
				if answer(st) != nil {
					return
				}
			}
		}()
	}
}

func writeAll(w io.Writer, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), 128<<10)
		if _, err := w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func relayOnce(up, down net.Conn, n int) error {
	if _, err := up.Write(make([]byte, 64)); err != nil {
		return err
	}
	buf := make([]byte, 128<<10)
	for got := 0; got < n; {
		k, err := up.Read(buf)
		if err != nil {
			return err
		}
		got += k
		if _, err := down.Write(buf[:k]); err != nil {
			return err
		}
	}
	return nil
}
