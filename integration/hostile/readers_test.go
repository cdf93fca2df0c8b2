package hostile

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"tpcfs/coordinator"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// stopped opens many reads of a large file on both connections of several links,
// and takes nothing of what comes.
func stopped(t *testing.T, addr string, links, reads int) *peer {
	t.Helper()
	p := &peer{addr: addr, role: wire.RoleClient, s: &script{}, wait: patience}
	for range links {
		p.connect()
		l := p.links[len(p.links)-1]
		if len(l.sessions) != 2 {
			t.Fatal("no link")
		}
		for i := range reads {
			length := int64(-1)
			if i%2 == 1 {
				length = 3 << 20
			}
			st, err := l.sessions[i%2].OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			req := wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: wire.RootIno, Path: "large"}, Length: length}
			p.current = &rawStream{Stream: st}
			p.frame(wire.FrameRead, wire.FlagEnd, wire.Marshal(req), nil)
			p.write(p.last)
			p.streams = append(p.streams, p.current)
		}
	}
	return p
}

// Clients that read and stop taking, with many times as many reads as there are
// places, keep a good one waiting for a place no longer than their patience, its
// small reads and its commits not at all, and cost bounded memory.
func TestStoppedReaders(t *testing.T) {
	const places, patient = 8, 300 * time.Millisecond
	s := newService(t, func(o *coordinator.Options) { o.MaxReads, o.Patience = places, patient }, nil)
	s.ready()
	good := s.client(t)
	ctx := t.Context()
	large := bytes.Repeat([]byte("0123456789abcdef"), 3<<20/16)
	for name, data := range map[string][]byte{"large": large, "small": []byte("small")} {
		if _, err := good.WriteFile(ctx, name, client.Bytes(data), client.WriteOptions{Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
	}
	before := heap()
	bad := stopped(t, s.addr("coordinator"), 3, 12) // 18 fill the places twice over, 18 wait to be moved
	defer bad.close()
	var waits []time.Duration
	for range 3 {
		began := time.Now()
		if got, err := good.ReadFile(ctx, "large"); err != nil || !bytes.Equal(got, large) {
			t.Fatal("a good client suffers: ", len(got), err)
		}
		waits = append(waits, time.Since(began))
		if got, err := good.ReadFile(ctx, "small"); err != nil || string(got) != "small" {
			t.Fatal("a good client suffers: ", got, err)
		}
		if _, err := good.WriteFile(ctx, "small", client.Bytes([]byte("small")), client.WriteOptions{Mode: 0o644}); err != nil {
			t.Fatal("a good client suffers: ", err)
		}
	}
	held := heap()
	t.Logf("reads of 3 MiB beside %d that stop: %v; %d MiB held, %d before", len(bad.streams), waits, held>>20, before>>20)
	if most := slices.Max(waits); most > 20*time.Second { // without places: a minute
		t.Errorf("a good client has waited %v", most)
	}
	if held > before+128<<20 {
		t.Errorf("%d MiB are held, %d before", held>>20, before>>20)
	}
	bad.close()
	if err := good.Close(); err != nil {
		t.Error(err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	s.log.check(t)
}
