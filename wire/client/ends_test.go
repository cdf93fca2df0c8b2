package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/wire"
)

// Waits end: unavailable when nothing was sent, unknown when something was.
func TestWaitEnds(t *testing.T) {
	for name, c := range map[string]struct {
		call  string
		fault fault
		want  wire.Code
	}{
		"nobody there":            {"dial", unreachable, wire.CodeUnavailable},
		"nobody lets us in":       {"attach", unreachable, wire.CodeUnavailable},
		"always lost":             {"transact", lostBefore, wire.CodeUnknownOutcome},
		"always lost before sent": {"transact", unreachable, wire.CodeUnavailable},
		"no answer":               {"transact", hang, wire.CodeUnknownOutcome},
		"no answer to attach":     {"attach", hang, wire.CodeUnavailable},
		"contents are not taken":  {"stage", hang, wire.CodeUnavailable},
		"contents always lost":    {"stage", lostBefore, wire.CodeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := NewFake()
				f.wrong = t.Errorf
				f.fault = func(call string) fault {
					if call == c.call {
						return c.fault
					}
					return fine
				}
				client, err := New(t.Context(), f.Dial, Options{Wait: 30 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				start := time.Now()
				_, err = client.WriteFile(t.Context(), "x", Bytes(make([]byte, 100<<10)), WriteOptions{})
				if took := time.Since(start); wire.CodeOf(err) != c.want || took < 30*time.Second || took > 70*time.Second {
					t.Fatal(err, took)
				}
				f.mu.Lock()
				if f.dials > 200 {
					t.Error("dialled", f.dials, "times in half a minute")
				}
				f.mu.Unlock()
			})
		})
	}
}

// Without a wait, an operation goes on when the service is back, however late.
func TestWaitsForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFake()
		f.wrong = t.Errorf
		start := time.Now()
		f.fault = func(call string) fault {
			if call == "dial" && time.Since(start) < 3*time.Hour {
				return unreachable
			}
			return fine
		}
		c, err := New(t.Context(), f.Dial, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Mkdir(t.Context(), "x", 0o755); err != nil {
			t.Fatal(err)
		}
	})
}

// Nobody dials a service that nobody waits for.
func TestIdleClientIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFake()
		f.fault = func(string) fault { return unreachable }
		c, err := New(t.Context(), f.Dial, Options{Wait: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Mkdir(t.Context(), "x", 0o755); wire.CodeOf(err) != wire.CodeUnavailable {
			t.Error(err)
		}
		synctest.Wait()
		time.Sleep(2 * time.Second) // an attempt that is under way may end
		f.mu.Lock()
		before := f.dials
		f.mu.Unlock()
		time.Sleep(time.Hour)
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.dials != before {
			t.Error("dialled", f.dials-before, "times more")
		}
	})
}

// A client that was idle asks for the service time: a request that looks ten
// minutes old would not be run (S1a).
func TestIdleClientKnowsTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFake()
		f.wrong = t.Errorf
		c, err := New(t.Context(), f.Dial, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for i := range 3 {
			if err := c.Mkdir(t.Context(), fmt.Sprint(i), 0o755); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			f.mu.Lock()
			f.now += 3600_000
			f.mu.Unlock()
		}
	})
}

// A cancel counts until the request is sent; after that the outcome is unknown.
func TestCancel(t *testing.T) {
	for call, want := range map[string]wire.Code{"dial": wire.CodeCanceled, "attach": wire.CodeCanceled, "stage": wire.CodeCanceled, "transact": wire.CodeUnknownOutcome, "read": wire.CodeCanceled} {
		t.Run(call, func(t *testing.T) {
			f := NewFake()
			ctx, cancel := context.WithCancel(t.Context())
			var armed atomic.Bool
			f.fault = func(c string) fault {
				if c != call || !armed.Load() {
					return fine
				}
				if call == "dial" {
					go cancel()
					return unreachable
				}
				cancel()
				return hang
			}
			if call == "dial" || call == "attach" {
				armed.Store(true)
			}
			c, err := New(context.Background(), f.Dial, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			armed.Store(true)
			if call == "read" {
				_, err = c.ReadFile(ctx, "x")
			} else {
				_, err = c.WriteFile(ctx, "x", Bytes(make([]byte, 100<<10)), WriteOptions{})
			}
			if wire.CodeOf(err) != want || want == wire.CodeCanceled != errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		})
	}
}

// Close ends what is in flight, whatever it waits for.
func TestCloseEndsOperations(t *testing.T) {
	for call, want := range map[string]wire.Code{"dial": wire.CodeCanceled, "transact": wire.CodeUnknownOutcome, "read": wire.CodeCanceled} {
		f := NewFake()
		at := make(chan struct{})
		var once sync.Once
		f.fault = func(c string) fault {
			if c != call {
				return fine
			}
			once.Do(func() { close(at) })
			if call == "dial" {
				return unreachable
			}
			return hang
		}
		c, err := New(t.Context(), f.Dial, Options{})
		if err != nil {
			t.Fatal(err)
		}
		result := make(chan error)
		go func() {
			var err error
			if call == "read" {
				_, err = c.ReadFile(t.Context(), "x")
			} else {
				err = c.Mkdir(t.Context(), "x", 0o755)
			}
			result <- err
		}()
		<-at
		_ = c.Close()
		if err := <-result; wire.CodeOf(err) != want {
			t.Errorf("%s: %v", call, err)
		}
	}
}
