package rpc

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func unixPair(t *testing.T) (near, far net.Conn) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	return near, far
}

// What a conn reads and writes directly, past Go's own calls, comes whole and
// in order, waits for the peer, and ends as with them.
func TestConnIsDirect(t *testing.T) {
	for network, pair := range map[string]func(*testing.T) (net.Conn, net.Conn){"tcp": tcpPair, "unix": unixPair} {
		open := func(t *testing.T) (c *conn, far net.Conn) {
			near, far := pair(t)
			return newConn(near, time.Minute, time.Minute), far
		}
		t.Run(network+"/order", func(t *testing.T) {
			c, far := open(t)
			sent := random(8 << 20) // far more than the socket takes
			go func() {
				for b := sent; len(b) > 0; {
					n := min(len(b), directBytes+1-len(b)%3, 60<<10+len(b)%7)
					if got, err := c.write(b[:n]); got != n || err != nil {
						t.Error(got, err)
					}
					b = b[n:]
				}
				_ = c.Close()
			}()
			if got, err := io.ReadAll(far); err != nil || !bytes.Equal(got, sent) {
				t.Fatal(len(got), "bytes came, garbled or not all:", err)
			}
		})
		t.Run(network+"/wait", func(t *testing.T) {
			c, far := open(t)
			got := make(chan string)
			go func() {
				b := make([]byte, 100)
				n, _ := c.read(b)
				got <- string(b[:n])
				if n, err := c.read(b); n != 0 || !errors.Is(err, io.EOF) {
					t.Error(n, err)
				}
				close(got)
			}()
			select {
			case <-got:
				t.Fatal("it read what nobody wrote")
			case <-time.After(10 * time.Millisecond):
			}
			_, _ = far.Write([]byte("late"))
			if s := <-got; s != "late" {
				t.Fatal(s)
			}
			_ = far.Close()
			<-got
		})
		t.Run(network+"/deadline", func(t *testing.T) {
			c, _ := open(t)
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if n, err := c.read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(n, err)
			}
			_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			total, err := 0, error(nil)
			for b := make([]byte, directBytes); err == nil; { // nobody reads
				var n int
				n, err = c.write(b)
				total += n
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(total, err)
			}
		})
		t.Run(network+"/close", func(t *testing.T) {
			c, _ := open(t)
			ended := make(chan error)
			go func() {
				_, err := c.read(make([]byte, 1))
				ended <- err
			}()
			_ = c.Close()
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
			if _, err := c.write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		})
		t.Run(network+"/gone", func(t *testing.T) {
			c, far := open(t)
			_ = far.Close()
			var err error
			for i := 0; err == nil && i < 1000; i++ { // tcp tells with the second one at the earliest
				_, err = c.write([]byte("x"))
				time.Sleep(time.Millisecond)
			}
			var op *net.OpError
			if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &op) || op.Op != "write" {
				t.Error(err)
			}
		})
	}
}

// A message costs a conn no memory: what is written and read directly is not
// allocated for.
func TestConnAllocates(t *testing.T) {
	near, far := unixPair(t)
	a, b := newConn(near, time.Minute, time.Minute), newConn(far, time.Minute, time.Minute)
	buf := make([]byte, 1000)
	got := testing.AllocsPerRun(100, func() {
		if _, err := a.write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := b.read(buf); err != nil {
			t.Fatal(err)
		}
	})
	if got > 0 {
		t.Errorf("%v allocations for a message", got)
	}
}
