package coordinator

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/wire"
)

// logBuffer gathers a log.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// take returns what was logged since the last call.
func (l *logBuffer) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.buf.String()
	l.buf.Reset()
	return text
}

// What an operator reads of participants that come and go: at a start nothing
// for a second, then one line for all that are missing, then each when it
// comes; later each loss and each return once, and why, in words that say what
// to do.
func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		k := newCluster(t)
		k.o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		said := func(lines ...[]string) { // in any order
			t.Helper()
			synctest.Wait()
			text := log.take()
			got := strings.Split(text, "\n")
			got = got[:len(got)-1]
			if len(got) != len(lines) {
				t.Fatalf("%d lines, want %d:\n%s", len(got), len(lines), text)
			}
			for _, words := range lines {
				found := false
				for _, line := range got {
					all := true
					for _, w := range words {
						all = all && strings.Contains(line, w)
					}
					found = found || all
				}
				if !found {
					t.Errorf("nothing says %q:\n%s", words, text)
				}
			}
		}
		k.nodes[1].kill()
		k.nodes[2].kill()
		k.open()
		time.Sleep(missingAfter - time.Millisecond)
		said()
		time.Sleep(10 * time.Second)
		said([]string{"waiting for participants", "start them", "b (b), c (c)"})
		k.nodes[2].revive()
		time.Sleep(time.Second)
		said([]string{"participant is there", "name=c"})
		k.nodes[1].revive()
		<-k.c.Ready()
		said([]string{"participant is there", "name=b"})
		k.attach()
		for range 2 {
			k.nodes[0].kill()
			time.Sleep(10 * time.Second)
			said([]string{"participant is unreachable", "name=a", "connection lost; it is tried again by itself: see whether the participant runs at a"})
			st, err := k.c.Status(ctx, wire.StatusRequest{})
			if why := st.Members[0].Error; err != nil || !strings.Contains(why, "see whether the participant runs at a") {
				t.Errorf("status says %q, %v", why, err)
			}
			k.nodes[0].revive()
			time.Sleep(time.Second)
			said([]string{"participant is there", "name=a"})
		}
		k.close()
		said()
	})
}

// Where the participants are of the same process, it says who has ended.
func TestLocalParticipantsAreNotNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		k := newCluster(t)
		k.o.Local = true
		k.o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		k.serve()
		k.nodes[0].kill()
		time.Sleep(10 * time.Second)
		k.nodes[0].revive()
		time.Sleep(time.Second)
		k.close()
		if text := log.take(); text != "" {
			t.Errorf("it says:\n%s", text)
		}
	})
}

// A loss is told, and shown since when, also of one that has been evicted and back.
func TestNoticeOfAnotherLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		k := newEvicting(t)
		k.o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		k.serve()
		for range 2 {
			k.put("x", []byte("1"))
			log.take()
			k.nodes[1].kill()
			time.Sleep(k.o.EvictAfter / 2)
			if text := log.take(); !strings.Contains(text, "participant is unreachable") {
				t.Errorf("the log says %q", text)
			}
			if st, err := k.c.Status(ctx, wire.StatusRequest{}); err != nil || !st.Members[1].InSync || st.Members[1].Since == 0 {
				t.Errorf("%+v, %v", st.Members, err)
			}
			time.Sleep(k.o.EvictAfter)
			k.state(1, stateEvicted)
			k.nodes[1].revive()
			k.state(1, stateInSync)
		}
		k.close()
	})
}

// A participant with whose certificate there is no talking is told of by name and
// reason, and tried again once a second: each attempt is a line of its own log.
func TestNoticeOfRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		k := newCluster(t)
		k.o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		dial, dials := k.o.Dial, 0
		k.o.Dial = func(ctx context.Context, p Peer) (wire.Replica, error) {
			if p.Name == "b" {
				dials++
				return nil, wire.NewError(wire.CodeAccess, "only encrypted connections are served here")
			}
			return dial(ctx, p)
		}
		k.open()
		time.Sleep(10 * time.Second)
		if text := log.take(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "participant is refused") || !strings.Contains(text, "name=b") || !strings.Contains(text, "only encrypted") {
			t.Errorf("it says %q", text)
		}
		k.close()
		if dials > 12 {
			t.Errorf("tried %d times in 10 s", dials)
		}
	})
}
