package client

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"testing"

	"tpcfs/wire"
)

// What was sent ahead is not sent again, as a file and as a part of one, and
// what the participants have lost meanwhile is.
func TestAhead(t *testing.T) {
	const n, at = 3<<20 + 77, wire.BlockSize + 1234
	want := contents(n)
	for name, tt := range map[string]struct {
		extent, restart bool
		sent            int64 // bytes, in the end
	}{
		"file": {sent: n}, "extent": {extent: true, sent: n}, "file, lost": {restart: true, sent: 2 * n}, "extent, lost": {extent: true, restart: true, sent: 2 * n},
	} {
		t.Run(name, func(t *testing.T) {
			f := NewFake()
			c := newClient(t, f, Options{})
			if _, err := c.WriteFile(t.Context(), "a", Bytes(contents(at)), WriteOptions{}); err != nil {
				t.Fatal(err)
			}
			m := wire.Mutation{Kind: wire.MutWriteFile, At: wire.At{Dir: wire.RootIno, Path: "a"}}
			full, place := want, int64(0)
			if tt.extent {
				m.Write, m.Extents = wire.WriteExtents, []wire.Extent{{Offset: at, Size: n}}
				full, place = append(contents(at), want...), at
			}
			f.staged = 0
			a, err := c.Ahead(t.Context(), "a", place)
			if err != nil {
				t.Fatal(err)
			}
			for rest := want; len(rest) > 0; rest = rest[min(len(rest), 100<<10):] {
				if _, err := a.Write(rest[:min(len(rest), 100<<10)]); err != nil {
					t.Fatal(err)
				}
			}
			content, err := a.Of(Bytes(want))
			if err != nil || f.staged != n {
				t.Fatal(err, f.staged)
			}
			a.Abort() // does nothing
			if attr, err := c.Stat(t.Context(), "a"); err != nil || attr.Size != at {
				t.Fatal("it shows before it is committed:", attr, err)
			}
			if tt.restart {
				f.restart()
			}
			if _, err := c.Transact(t.Context(), []wire.Mutation{m}, []Content{content}); err != nil {
				t.Fatal(err)
			}
			if got, err := c.ReadFile(t.Context(), "a"); err != nil || !bytes.Equal(got, full) {
				t.Error(len(got), err)
			}
			if f.staged != tt.sent || len(f.stages) != 0 {
				t.Errorf("%d bytes sent, want %d; %d stages left", f.staged, tt.sent, len(f.stages))
			}
		})
	}
}

// A head start that does not come to its end leaves the content as it was.
func TestAheadIsLost(t *testing.T) {
	want := contents(2 << 20)
	for name, spoil := range map[string]func(f *Fake, a Ahead, cancel func()) error{
		"aborted":  func(_ *Fake, a Ahead, _ func()) error { a.Abort(); return nil },
		"canceled": func(_ *Fake, _ Ahead, cancel func()) error { cancel(); return nil },
		"too much": func(_ *Fake, a Ahead, _ func()) error { _, err := a.Write([]byte("x")); return err },
		"link": func(f *Fake, _ Ahead, _ func()) error {
			f.fault = script("stage", lostAfter)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := NewFake()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if name == "link" {
				_ = spoil(f, nil, nil)
			}
			c := newClient(t, f, Options{})
			a, err := c.Ahead(ctx, "a", 0)
			if err == nil {
				_, err = a.Write(want)
			}
			if err == nil && name != "link" {
				err = spoil(f, a, cancel)
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := a.Of(Bytes(want))
			if err == nil {
				t.Error("it is taken")
			}
			a.Abort()
			if _, err := a.Write([]byte("x")); !errors.Is(err, ErrAheadOver) {
				t.Error(err)
			}
			if _, err := a.Of(content); !errors.Is(err, ErrAheadOver) {
				t.Error(err)
			}
			if _, err := c.Stat(t.Context(), "a"); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			if _, err := c.Transact(t.Context(), []wire.Mutation{{Kind: wire.MutWriteFile, At: wire.At{Dir: wire.RootIno, Path: "a"}}}, []Content{content}); err != nil {
				t.Fatal(err)
			}
			if got, err := c.ReadFile(t.Context(), "a"); err != nil || !bytes.Equal(got, want) {
				t.Error(len(got), err)
			}
		})
	}
}
