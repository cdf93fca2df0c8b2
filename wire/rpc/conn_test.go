package rpc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tpcfs/wire"
)

// recorder is a connection that notes its writes.
type recorder struct {
	net.Conn
	writes [][]byte
	read   []byte
	step   int
}

func (r *recorder) Write(b []byte) (int, error) {
	r.writes = append(r.writes, bytes.Clone(b))
	return len(b), nil
}

func (r *recorder) Read(b []byte) (int, error) {
	n := copy(b[:min(len(b), r.step)], r.read)
	r.read = r.read[n:]
	return n, nil
}

func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

func muxFrame(kind, flags byte, length int) []byte {
	b := []byte{0, kind, 0, flags, 0, 0, 0, 1, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(b[8:], uint32(length))
	return b
}

// A header goes out together with its body, and nothing else waits.
func TestConnJoins(t *testing.T) {
	r := &recorder{}
	c := newConn(r, time.Minute, time.Minute)
	body := random(100)
	for _, b := range [][]byte{muxFrame(muxTypeData, 0, 100), body, muxFrame(1, 1, 5), muxFrame(muxTypeData, 4, 0), muxFrame(muxTypeData, 0, 12), random(12)} {
		if n, err := c.Write(b); n != len(b) || err != nil {
			t.Fatal(n, err)
		}
	}
	var lengths []int
	for _, w := range r.writes {
		lengths = append(lengths, len(w))
	}
	if len(lengths) != 4 || lengths[0] != 112 || lengths[1] != 12 || lengths[2] != 12 || lengths[3] != 24 || !bytes.Equal(r.writes[0][12:], body) {
		t.Fatal(lengths)
	}
	// A large body goes by writev: in order, all of it.
	near, far := tcpPair(t)
	big := random(300 << 10)
	go func() {
		c := newConn(near, time.Minute, time.Minute)
		_, _ = c.Write(muxFrame(muxTypeData, 0, len(big)))
		if n, err := c.Write(big); n != len(big) || err != nil {
			t.Error(n, err)
		}
		_ = near.Close()
	}()
	var got bytes.Buffer
	_, _ = got.ReadFrom(far)
	if want := append(muxFrame(muxTypeData, 0, len(big)), big...); !bytes.Equal(got.Bytes(), want) {
		t.Fatal(got.Len(), "bytes, garbled")
	}
}

func tcpPair(t *testing.T) (near, far net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	return near, far
}

// Pings are counted wherever reads cut the frames; bytes of contents that look
// like pings are not.
func TestConnCountsPings(t *testing.T) {
	ping := muxFrame(muxTypePing, muxFlagSYN, 7)
	var calm, wild []byte
	for range pingBurst - 1 {
		calm = append(calm, ping...)
	}
	calm = append(append(calm, muxFrame(muxTypeData, 0, 100*len(ping))...), bytes.Repeat(ping, 100)...)
	for range 100 {
		calm = append(calm, muxFrame(muxTypePing, 2, 7)...) // answers
	}
	wild = append(append(wild, calm...), bytes.Repeat(ping, 10)...)
	for _, step := range []int{1, 5, 12, 13, 4096} {
		for name, c := range map[string]struct {
			b  []byte
			ok bool
		}{"calm": {calm, true}, "wild": {wild, false}} {
			conn := newConn(&recorder{read: bytes.Clone(c.b), step: step}, time.Minute, time.Minute)
			buf, ok := make([]byte, 4096), true
			for left := len(c.b); left > 0 && ok; {
				n, err := conn.Read(buf)
				left, ok = left-n, err == nil
			}
			if ok != c.ok {
				t.Errorf("%s in steps of %d: went on %v, want %v", name, step, ok, c.ok)
			}
		}
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o666); err != nil {
		t.Fatal(err)
	}
	taken, err := Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		addr     string
		insecure bool
		want     wire.Code
		say      string
	}{
		{"127.0.0.1:0", false, wire.CodeNone, ""}, {"localhost:0", false, wire.CodeNone, ""}, {"127.8.8.8:0", false, wire.CodeNone, ""},
		{"0.0.0.0:0", false, wire.CodePermission, "--insecure"}, {":0", false, wire.CodePermission, "--insecure"},
		{"[::]:0", false, wire.CodePermission, "--insecure"}, {"8.8.8.8:0", false, wire.CodePermission, "--insecure"},
		{"0.0.0.0:0", true, wire.CodeNone, ""}, {":0", true, wire.CodeNone, ""},
		{taken.Addr().String(), false, wire.CodeBusy, "already in use"},
		{"7420", false, wire.CodeInvalid, "HOST:PORT"}, {"", false, wire.CodeInvalid, "HOST:PORT"}, {"127.0.0.1:", false, wire.CodeInvalid, "HOST:PORT"},
		{"unix:", false, wire.CodeInvalid, "path"}, {"unix:@abstract", false, wire.CodeInvalid, "path"},
		{"unix:" + filepath.Join(dir, strings.Repeat("x", 108)), false, wire.CodeInvalid, "shorter"},
		{"unix:" + file, false, wire.CodeExist, "no socket"},
		{"unix:" + filepath.Join(dir, "missing", "s"), false, wire.CodeNotExist, "does not exist"},
		{"unix:" + filepath.Join(dir, "s"), false, wire.CodeNone, ""},
	} {
		l, err := Listen(c.addr, c.insecure)
		var e *wire.Error
		errors.As(err, &e)
		if wire.CodeOf(err) != c.want || err != nil && (e == nil || e.Name != c.addr || !strings.Contains(e.Text, c.say)) {
			t.Errorf("%q insecure=%v: %v", c.addr, c.insecure, err)
		}
		if err == nil {
			_ = l.Close()
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Error("a file that is no socket was touched:", err)
	}
}

// A socket file that a killed process left is replaced; one that is in use is
// not; nobody else may connect.
func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	_ = left.Close()
	l, err := Listen("unix:"+path, false)
	if err != nil {
		t.Fatal("a stale socket:", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Error(info.Mode(), err)
	}
	if _, err := Listen("unix:"+path, false); wire.CodeOf(err) != wire.CodeBusy {
		t.Error("a socket in use:", err)
	}
	_ = l.Close()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the socket stays behind:", err)
	}
	if _, err := DialService(t.Context(), "unix:"+path, DialOptions{}); wire.CodeOf(err) != wire.CodeUnavailable || !strings.Contains(err.Error(), "no such socket") {
		t.Error(err)
	}
}

// Of many that start at once on a stale socket, one gets it.
func TestListenUnixAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 30 {
		left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		left.SetUnlinkOnClose(false)
		_ = left.Close()
		var wg sync.WaitGroup
		got := make(chan net.Listener, 10)
		for range 10 {
			wg.Go(func() {
				if l, err := Listen("unix:"+path, false); err == nil {
					got <- l
				} else if wire.CodeOf(err) != wire.CodeBusy {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(got) != 1 {
			t.Error(len(got), "have it")
		}
		for len(got) > 0 {
			_ = (<-got).Close()
		}
	}
}

// Idle streams keep no memory, and are used again.
func TestIdleStreamsShrink(t *testing.T) {
	f := &fake{contents: random(wire.PieceSize)}
	addr, _ := serve(t, ServerOptions{Service: fakeService{f}})
	c := dialService(t, addr, DialOptions{})
	l := c.(*serviceStub).link
	for range 3 {
		if _, err := c.Read(t.Context(), wire.Read{Kind: wire.ReadFile, Length: -1}, &collect{}); err != nil {
			t.Fatal(err)
		}
		l.control.mu.Lock()
		if len(l.control.idle) != 1 || cap(l.control.idle[0].rbuf) < wire.PieceSize {
			t.Error("the stream is not kept for the next call")
		}
		l.control.mu.Unlock()
		l.control.shrink(time.Now().Add(2 * idleAfter))
		l.control.mu.Lock()
		if l.control.idle[0].rbuf != nil {
			t.Error("it keeps its memory")
		}
		l.control.mu.Unlock()
	}
	if n := l.control.mux.NumStreams(); n != 1 {
		t.Error(n, "streams for one call at a time")
	}
}

// A read that waits for its bulk stream ends when nobody comes for it, and a
// token is good for one stream.
func TestMoveIsNotFetched(t *testing.T) {
	ended := make(chan struct{}, 1)
	addr, s := serve(t, ServerOptions{Service: ending{fakeService{&fake{contents: random(1 << 20)}}, ended}, Timeouts: quick})
	y, _ := rawSession(t, addr)
	mux, err := y.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	st := newStream(mux, time.Minute)
	if err := st.send(0, wire.FrameRead, true, wire.Marshal(wire.Read{Kind: wire.ReadFile, Length: -1}), nil); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := st.receive(10*time.Second, wire.MaxMessage)
		if err != nil {
			t.Fatal(err)
		}
		if m.kind == wire.FrameMoved {
			break
		}
	}
	<-ended // by its timeout
	eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, p := range s.links {
			p.mu.Lock()
			defer p.mu.Unlock()
			if len(p.moves) > 0 {
				return false
			}
		}
		return len(s.links) > 0
	})
	c := dialService(t, addr, DialOptions{}).(*serviceStub)
	var reply wire.ReadReply
	if err := c.readFrom(t.Context(), c.bulk, wire.FrameAdopt, wire.Moved{Token: 99}, &collect{}, &reply); wire.CodeOf(err) != wire.CodeCanceled {
		t.Error("a token of nobody's:", err)
	}
}

// A peer that does not even accept a stream loses the link, keep-alive or not.
func TestStreamNotAccepted(t *testing.T) {
	addr, _ := serve(t, ServerOptions{Service: fakeService{&fake{}}})
	p := newProxy(t, addr, 1<<40, true)
	timeouts := quick
	timeouts.KeepAlive = time.Hour
	c, err := DialService(t.Context(), p.l.Addr().String(), DialOptions{Timeouts: timeouts})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p.left.Store(0)
	_, err = c.Statfs(t.Context())
	isLost(t, 0, err, wire.CodeUnavailable)
	<-c.Done()
}
