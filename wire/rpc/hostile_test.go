package rpc

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"tpcfs/wire"
)

// quick are timeouts for tests in which they pass.
// What their client does in time on a busy machine does not run into them: an
// answer to a ping may take 2 s.
var quick = Timeouts{Handshake: 300 * time.Millisecond, KeepAlive: 100 * time.Millisecond, Write: 2 * time.Second, Stall: time.Second, StageIdle: time.Second}

// log collects what a server logs.
type log struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *log) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// say connects and exchanges prefaces by hand.
func say(t testing.TB, addr string, p wire.Preface) (net.Conn, wire.Preface, error) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := writePreface(c, p); err != nil {
		t.Fatal(err)
	}
	theirs, err := readPreface(c)
	return c, theirs, err
}

func clientPreface() wire.Preface {
	p := wire.Preface{Versions: wire.Versions, Role: wire.RoleClient, Channel: wire.ChannelControl}
	_, _ = rand.Read(p.Nonce[:])
	return p
}

// rawSession is a client without manners: a bare yamux session after a proper
// handshake, and a bulk one so that the link is complete.
func rawSession(t testing.TB, addr string) (*yamux.Session, net.Conn) {
	t.Helper()
	p := clientPreface()
	c, _, err := say(t, addr, p)
	if err != nil {
		t.Fatal(err)
	}
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
	config.EnableKeepAlive = false
	s, err := yamux.Client(c, config)
	if err != nil {
		t.Fatal(err)
	}
	p.Channel = wire.ChannelBulk
	b, _, err := say(t, addr, p)
	if err != nil {
		t.Fatal(err)
	}
	bulk, err := yamux.Client(b, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(); _ = bulk.Close() })
	return s, c
}

// well fails the test when a good client is not served.
func well(t testing.TB, c ServiceConn) {
	t.Helper()
	if _, err := c.Statfs(t.Context()); err != nil {
		t.Fatal("a good client suffers:", err)
	}
}

// Both sides say which versions they speak, and neither hangs.
func TestVersionsDoNotOverlap(t *testing.T) {
	var l log
	addr, _ := serve(t, ServerOptions{Service: fakeService{&fake{}}, Logger: l.logger(), Versions: wire.VersionRange{From: 3, Upto: 4}})
	_, err := DialService(t.Context(), addr, DialOptions{})
	if wire.CodeOf(err) != wire.CodeProtocol || !strings.Contains(err.Error(), "this side speaks versions 1-1, the peer 3-4") {
		t.Error(err)
	}
	eventually(t, func() bool { return strings.Contains(l.String(), "this side speaks versions 3-4, the peer 1-1") })
}

// eventually waits for something that another goroutine will do soon.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it does not happen")
		}
	}
}

func TestRefusals(t *testing.T) {
	service, _ := serve(t, ServerOptions{Service: fakeService{&fake{}}, Cluster: func() wire.UUID { return wire.UUID{1} }})
	replica, _ := serve(t, ServerOptions{Replica: fakeReplica{&fake{}}})
	if _, err := DialService(t.Context(), replica, DialOptions{}); wire.CodeOf(err) != wire.CodeProtocol || !strings.Contains(err.Error(), "participant") {
		t.Error("a client at a participant:", err)
	}
	if _, err := DialReplica(t.Context(), service, DialOptions{}); wire.CodeOf(err) != wire.CodeProtocol || !strings.Contains(err.Error(), "coordinator") {
		t.Error("a coordinator at a coordinator:", err)
	}
	if _, err := DialService(t.Context(), service, DialOptions{Cluster: wire.UUID{2}}); wire.CodeOf(err) != wire.CodeProtocol || !strings.Contains(err.Error(), "cluster") {
		t.Error("another cluster:", err)
	}
	c := dialService(t, service, DialOptions{Cluster: wire.UUID{1}})
	well(t, c)
	for name, change := range map[string]func(*wire.Preface){
		"bulk first":       func(p *wire.Preface) { p.Channel = wire.ChannelBulk },
		"an odd channel":   func(p *wire.Preface) { p.Channel = 9 },
		"a participant":    func(p *wire.Preface) { p.Role = wire.RoleParticipant },
		"an unknown role":  func(p *wire.Preface) { p.Role = 77 },
		"another cluster":  func(p *wire.Preface) { p.Cluster = wire.UUID{9} },
		"another version":  func(p *wire.Preface) { p.Versions = wire.VersionRange{From: 8, Upto: 9} },
		"a used nonce":     func(p *wire.Preface) { first := *p; _, _, _ = say(t, service, first) },
		"not our protocol": nil,
	} {
		p := clientPreface()
		if change == nil {
			c, err := net.Dial("tcp", service)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: example.com\r\nAccept: everything/that-makes-this-long-enough\r\n\r\n"))
			answer, err := readPreface(c)
			if err != nil || answer.Code != wire.CodeProtocol {
				t.Errorf("%s: %+v, %v", name, answer, err)
			}
			_ = c.Close()
			continue
		}
		change(&p)
		_, answer, err := say(t, service, p)
		if err != nil || answer.Code != wire.CodeProtocol || answer.Refusal == "" {
			t.Errorf("%s: %+v, %v", name, answer, err)
		}
	}
	well(t, c)
}

// Links and half-open connections are bounded; silence is not waited for.
func TestHandshakeLimits(t *testing.T) {
	addr, s := serve(t, ServerOptions{Service: fakeService{&fake{}}, MaxLinks: 2, MaxHalfOpen: 4, Timeouts: quick})
	c := dialService(t, addr, DialOptions{})
	var silent []net.Conn
	for range 10 {
		x, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		silent = append(silent, x)
	}
	for i, x := range silent { // each is dropped: the oldest for room, the last by its deadline
		if _, err := x.Read(make([]byte, 1)); err == nil {
			t.Error("silent connection", i, "got an answer")
		}
	}
	// Room is made at once, not when the deadline has passed.
	patient, _ := serve(t, ServerOptions{Service: fakeService{&fake{}}, MaxHalfOpen: 4})
	for range 10 {
		x, err := net.Dial("tcp", patient)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		silent = append(silent, x)
	}
	for _, x := range silent[10:15] {
		if _, err := x.Read(make([]byte, 1)); err == nil {
			t.Error("a silent connection got an answer")
		}
	}
	well(t, dialService(t, patient, DialOptions{}))
	// A control connection alone counts as half-open, and ends.
	half, _, err := say(t, addr, clientPreface())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, half); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Log("ended with", err)
	}
	eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.links) == 1 && s.half.Len() == 0 })
	d := dialService(t, addr, DialOptions{})
	_, err = DialService(t.Context(), addr, DialOptions{})
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.CodeTooMany || !e.Lost {
		t.Error("a link too many:", err)
	}
	well(t, c)
	_ = d.Close()
	eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.links) == 1 })
	well(t, dialService(t, addr, DialOptions{}))
}

// What a peer does against the protocol costs it its link, and nobody else
// anything.
func TestHostilePeers(t *testing.T) {
	addr, s := serve(t, ServerOptions{Service: fakeService{&fake{}}, Timeouts: quick, ControlStreams: 8})
	good := dialService(t, addr, DialOptions{})
	frame := wire.AppendFrame(nil, wire.Frame{Kind: wire.FrameStatfs, Flags: wire.FlagEnd, Header: []byte{0xa0}})
	long := bytes.Clone(frame)
	binary.LittleEndian.PutUint32(long, wire.MaxFrame+1)
	garbled := bytes.Clone(frame)
	garbled[len(garbled)-1] ^= 1
	endless := wire.AppendFrame(nil, wire.Frame{Kind: wire.FrameTransact, Flags: wire.FlagMore, Header: make([]byte, wire.MaxRecord)})
	for name, attack := range map[string]func(*testing.T, *yamux.Session, net.Conn){
		"a frame too long": func(t *testing.T, y *yamux.Session, _ net.Conn) { stuff(t, y, long) },
		"a garbled frame":  func(t *testing.T, y *yamux.Session, _ net.Conn) { stuff(t, y, garbled) },
		"no frame":         func(t *testing.T, y *yamux.Session, _ net.Conn) { stuff(t, y, bytes.Repeat([]byte{0xff}, 100)) },
		"a message for ever": func(t *testing.T, y *yamux.Session, _ net.Conn) {
			stuff(t, y, append(bytes.Clone(endless), endless...))
		},
		"streams for ever": func(t *testing.T, y *yamux.Session, _ net.Conn) {
			for !y.IsClosed() {
				if _, err := y.OpenStream(); err != nil {
					return
				}
			}
		},
		"pings for ever": func(t *testing.T, y *yamux.Session, _ net.Conn) {
			for !y.IsClosed() {
				if _, err := y.Ping(); err != nil {
					return
				}
			}
		},
		"not even yamux":              func(t *testing.T, y *yamux.Session, c net.Conn) { _, _ = c.Write(bytes.Repeat([]byte("x"), 100)) },
		"half a header, then silence": func(t *testing.T, y *yamux.Session, c net.Conn) { _, _ = c.Write([]byte{0, 0, 0}) },
		"half a frame, then silence": func(t *testing.T, y *yamux.Session, c net.Conn) {
			st, err := y.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			// A frame of yamux that promises 100 bytes and has one.
			b := []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 1}
			binary.BigEndian.PutUint32(b[4:], st.StreamID())
			_, _ = c.Write(b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			y, c := rawSession(t, addr)
			attack(t, y, c)
			select {
			case <-y.CloseChan():
			case <-time.After(10 * time.Second):
				t.Error("the link goes on")
			}
			well(t, good)
		})
	}
	eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.links) == 1 })
}

func stuff(t *testing.T, y *yamux.Session, b []byte) {
	st, err := y.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = st.Write(b) // the session may be gone before the end
}

// A call of a newer version is refused; the link goes on, the stream too.
func TestUnknownKind(t *testing.T) {
	addr, _ := serve(t, ServerOptions{Service: fakeService{&fake{}}})
	y, _ := rawSession(t, addr)
	mux, err := y.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	st := newStream(mux, time.Minute)
	for kind, want := range map[wire.FrameKind]wire.FrameKind{31: wire.FrameError, wire.FrameGreet: wire.FrameError, wire.FramePiece: wire.FrameError, wire.FrameStatfs: wire.FrameReply} {
		if err := st.send(0, kind, true, []byte{0xa0}, nil); err != nil {
			t.Fatal(err)
		}
		m, err := st.receive(10*time.Second, wire.MaxMessage)
		if err != nil || m.kind != want {
			t.Fatalf("kind %d: %+v, %v", kind, m, err)
		}
		var e wire.Error
		if want == wire.FrameError && (wire.Unmarshal(m.header, &e) != nil || e.Code != wire.CodeUnsupported) {
			t.Errorf("kind %d: %v", kind, &e)
		}
	}
}

// A server that opens streams, or answers nonsense, is no server.
func TestHostileServer(t *testing.T) {
	for name, misbehave := range map[string]func(*yamux.Session){
		"opens a stream": func(y *yamux.Session) { _, _ = y.OpenStream() },
		"answers garbage": func(y *yamux.Session) {
			if st, err := y.AcceptStream(); err == nil {
				_, _ = st.Write(bytes.Repeat([]byte{7}, 64))
			}
		},
		"answers another question": func(y *yamux.Session) {
			if st, err := y.AcceptStream(); err == nil {
				_, _ = st.Write(wire.AppendFrame(nil, wire.Frame{Kind: wire.FramePiece, Header: []byte{0xa0}}))
			}
		},
		"answers with an error that is none": func(y *yamux.Session) {
			if st, err := y.AcceptStream(); err == nil {
				_, _ = st.Write(wire.AppendFrame(nil, wire.Frame{Kind: wire.FrameError, Flags: wire.FlagEnd, Header: wire.Marshal(wire.Error{Text: "so it says"})}))
			}
		},
		"answers with an odd type": func(y *yamux.Session) {
			if st, err := y.AcceptStream(); err == nil {
				_, _ = st.Write(wire.AppendFrame(nil, wire.Frame{Kind: wire.FrameReply, Flags: wire.FlagEnd, Header: []byte{0x80, 0x80}}))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				for range 2 {
					c, err := l.Accept()
					if err != nil {
						return
					}
					defer c.Close()
					p, err := readPreface(c)
					if err != nil {
						return
					}
					p.Role = wire.RoleCoordinator
					_ = writePreface(c, p)
					y, err := yamux.Server(c, muxConfig(p.Channel, quick, slog.New(slog.DiscardHandler)))
					if err != nil {
						return
					}
					defer y.Close()
					if p.Channel == wire.ChannelBulk {
						<-y.CloseChan()
						continue
					}
					wg.Go(func() { misbehave(y); <-y.CloseChan() })
				}
			})
			c, err := DialService(t.Context(), l.Addr().String(), DialOptions{Timeouts: quick})
			if err != nil {
				return // so soon already
			}
			defer c.Close()
			if _, err := c.Statfs(t.Context()); wire.CodeOf(err) == wire.CodeNone {
				t.Error("that was an answer:", err)
			}
			<-c.Done()
		})
	}
}

// FuzzServer: no bytes on a stream hurt another client.
func FuzzServer(f *testing.F) {
	for kind := range wire.FrameKind(70) {
		if kind > 0 {
			f.Add(wire.AppendFrame(nil, wire.Frame{Kind: kind, Flags: wire.FlagEnd, Header: []byte{0xa0}}))
			f.Add(wire.AppendFrame(nil, wire.Frame{Kind: kind, Flags: wire.FlagMore, Header: []byte{0xa0}}))
		}
	}
	addr, _ := serve(f, ServerOptions{Service: fakeService{&fake{contents: random(200 << 10)}}})
	good := dialService(f, addr, DialOptions{})
	f.Fuzz(func(t *testing.T, b []byte) {
		y, _ := rawSession(t, addr)
		if st, err := y.OpenStream(); err == nil {
			_, _ = st.Write(b)
			_ = st.Close()
		}
		if _, err := good.Statfs(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
}
