package rpc

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"tpcfs/wire"
)

// handing hands the writers of its reads to the test.
type handing struct {
	fakeService
	writers chan wire.PieceWriter
	ended   chan error
}

func (h handing) Read(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	h.writers <- w
	reply, err := h.fakeService.Read(ctx, req, w)
	if req.At.Path == "stopped" {
		h.ended <- err
	}
	return reply, err
}

// What a reader that stops has not taken does not keep the read: interrupted, it
// ends, wherever it waits, and with it the streams. The link, and what it reads
// beside and after that, go on. An Interrupt that comes too late changes nothing.
func TestInterruptedRead(t *testing.T) {
	var at atomic.Int64 // how far the last read has come
	f := &fake{contents: random(2 << 20), version: 3, readHook: func(_ context.Context, n int64) error { at.Store(n); return nil }}
	h := handing{fakeService{f}, make(chan wire.PieceWriter, 1), make(chan error, 1)}
	addr, s := serve(t, ServerOptions{Service: h})
	for name, tc := range map[string]struct {
		channel wire.Channel
		adopt   bool
	}{
		"in the middle of the contents":       {channel: wire.ChannelBulk},
		"between its connections":             {channel: wire.ChannelControl},
		"in the middle, on the second stream": {channel: wire.ChannelControl, adopt: true},
	} {
		t.Run(name, func(t *testing.T) {
			good := dialService(t, addr, DialOptions{BulkCalls: 1})
			var l *link = good.(*serviceStub).link
			ch := l.control
			if tc.channel == wire.ChannelBulk {
				ch = l.bulk
			}
			st, err := l.open(t.Context(), ch)
			if err != nil {
				t.Fatal(err)
			}
			defer st.close()
			at.Store(0)
			req := wire.Read{Kind: wire.ReadFile, At: wire.At{Path: "stopped"}, Length: -1}
			if err := st.send(0, wire.FrameRead, true, wire.Marshal(req), nil); err != nil {
				t.Fatal(err)
			}
			w := (<-h.writers).(*pieceWriter)
			var second *stream
			if tc.channel == wire.ChannelControl {
				second = adopt(t, l, st, tc.adopt)
			}
			if tc.channel == wire.ChannelBulk || tc.adopt { // the reader's window is less than this
				eventually(t, func() bool { return at.Load() >= 2*wire.PieceSize })
			}
			w.Interrupt()
			if err := <-h.ended; wire.CodeOf(err) != wire.CodeCanceled {
				t.Error("the read ended with", err)
			}
			if second != nil {
				defer second.close()
				drained(t, second)
			}
			drained(t, st)
			for range 3 {
				w.Interrupt()
				var got collect
				if _, err := good.Read(t.Context(), wire.Read{Kind: wire.ReadFile, Length: -1}, &got); err != nil || got.Len() != 2<<20 {
					t.Fatal(got.Len(), err)
				}
				(<-h.writers).(*pieceWriter).Interrupt() // behind it
				well(t, good)
			}
		})
	}
	eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.active == 0 })
}

// adopt receives what comes before the move, and opens the second stream if it
// is to.
func adopt(t *testing.T, l *link, st *stream, follow bool) *stream {
	t.Helper()
	for {
		m, err := st.receive(10*time.Second, wire.MaxMessage)
		if err != nil {
			t.Fatal(err)
		}
		if m.kind != wire.FrameMoved {
			continue
		}
		if !follow {
			return nil
		}
		var moved wire.Moved
		if err := wire.Unmarshal(m.header, &moved); err != nil {
			t.Fatal(err)
		}
		second, err := l.open(t.Context(), l.bulk)
		if err != nil {
			t.Fatal(err)
		}
		if err := second.send(0, wire.FrameAdopt, true, wire.Marshal(moved), nil); err != nil {
			t.Fatal(err)
		}
		return second
	}
}

// drained reads a stream to its end.
func drained(t *testing.T, st *stream) {
	t.Helper()
	for {
		if _, err := st.receive(10*time.Second, wire.MaxMessage); err != nil {
			st.mu.Lock()
			timedOut := time.Now().After(st.receiveBy)
			st.mu.Unlock()
			if timedOut {
				t.Error("the stream does not end:", err)
			}
			return
		}
	}
}
