package hostile

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

// What a peer may leave in memory, all of it together, in bytes.
const maxHeap = 256 << 20

// beside is a service with a good client, while others do what they like.
type beside struct {
	*service
	good       *client.Client
	goroutines int
	inputs     uint64
}

func newBeside(tb testing.TB) *beside {
	b := &beside{service: newService(tb, nil, nil)}
	b.ready()
	b.good = b.client(tb)
	b.well(tb)
	b.goroutines = runtime.NumGoroutine()
	return b
}

const goodFile = "a good client's file"

// well: a good client is served, and what it wrote is there.
func (b *beside) well(t testing.TB) {
	t.Helper()
	b.inputs++
	want := binary.LittleEndian.AppendUint64(bytes.Repeat([]byte("good "), 20), b.inputs)
	if _, err := b.good.WriteFile(t.Context(), goodFile, client.Bytes(want), client.WriteOptions{Mode: 0o644}); err != nil {
		t.Fatal("a good client suffers:", err)
	}
	if got, err := b.good.ReadFile(t.Context(), goodFile); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("a good client reads %q: %v", got, err)
	}
}

func (b *beside) end(tb testing.TB) {
	if err := b.good.Close(); err != nil {
		tb.Error(err)
	}
	if err := b.close(); err != nil {
		tb.Error(err)
	}
	b.log.check(tb)
}

// A script that spoils nothing is a client that is served: what is fuzzed goes
// deep.
func TestScriptsReachTheService(t *testing.T) {
	b := newBeside(t)
	defer b.end(t)
	p := &peer{addr: b.addr("coordinator"), role: wire.RoleClient, s: &script{}, wait: patience}
	p.k.session[0], p.k.patient = 1, uint64(patience.Milliseconds())
	defer p.close()
	p.connect()
	do := func(bytes ...byte) { p.s.b = bytes; p.request(clientCalls); p.receive() }
	do(3)
	if p.k.link == 0 {
		t.Fatal("it is not attached")
	}
	do(0)
	if len(p.k.inos) != 1 {
		t.Fatal("nothing was committed")
	}
	p.open(1)
	p.s.b = []byte{2, 0, 0, 0, 255, 4} // of a size that is not known yet
	p.request(clientCalls)
	for range 3 {
		p.s.b = []byte{3}
		p.sendPiece()
	}
	p.frame(wire.FrameEnd, wire.FlagEnd, nil, nil)
	p.write(p.last)
	p.receive()
	if len(p.k.stages) != 1 || p.k.stages[0].Size != 3*wire.PieceSize {
		t.Fatal("nothing was staged: ", p.k.stages)
	}
}

// attack lets a hostile client do what an input says, and looks at the others.
func (b *beside) attack(t testing.TB, input []byte) {
	p := &peer{addr: b.addr("coordinator"), role: wire.RoleClient, s: &script{input}, wait: stepWait}
	binary.LittleEndian.PutUint64(p.k.session[:], b.inputs+1)
	p.k.session[14], p.k.patient = 0xbb, 50
	p.run(clientCalls)
	p.close()
	// Its leases and locks would be respected for seconds, as they have to be.
	for i := range byte(sessions) {
		p.k.session[15] = i
		if err := b.coordinator.Detach(t.Context(), p.k.session); err != nil {
			t.Fatal(err)
		}
	}
	b.well(t)
	b.log.check(t)
}

// FuzzClient: whatever a client says, in whatever order, on however many
// streams, only its own session ends; a good client beside it is served, and
// the participants hold the same.
func FuzzClient(f *testing.F) {
	var b *beside
	f.Cleanup(func() {
		if b != nil {
			b.end(f)
		}
	})
	f.Fuzz(func(t *testing.T, input []byte) {
		if b == nil || b.inputs > 1000 { // what has been made is not kept for ever
			if b != nil {
				b.end(t)
			}
			b = newBeside(t)
		}
		b.attack(t, input)
		b.digests(t, "a", "b", "c")
		settled(t, b.goroutines+20)
		if b.inputs%100 == 0 {
			if n := heap(); n > maxHeap {
				t.Errorf("%d MiB are held", n>>20)
			}
		}
	})
}
