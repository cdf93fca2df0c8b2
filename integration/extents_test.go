package integration

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/participant"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// Parts of a file, small and staged, appends of many clients at once, cuts and
// holes: the file is what a byte array would be, over a restart from the
// journal too, and the participants hold the same.
func TestExtents(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	p, err := harness.OpenInProcess(ctx, dir, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	want := random(700_000)
	if _, err := c.WriteFile(ctx, "f", client.Bytes(want), client.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	put := func(at int, data []byte) {
		if end := at + len(data); end > len(want) {
			want = append(want, make([]byte, end-len(want))...)
		}
		copy(want[at:], data)
	}
	check := func(when string) {
		t.Helper()
		if got, err := c.ReadFile(ctx, "f"); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: %d bytes, error %v; want %d", when, len(got), err, len(want))
		}
	}
	for i := range 30 {
		var err error
		switch i % 6 {
		case 0, 1: // small
			data := random(1 + rng.IntN(5000))
			at := rng.IntN(len(want))
			_, err = c.WriteExtents(ctx, "f", []client.Extent{{Offset: int64(at), Content: client.Bytes(data)}}, client.ExtentOptions{})
			put(at, data)
		case 2: // staged, and small ones around it, after a cut
			size := int64(rng.IntN(len(want) + 100_000))
			big := random(100_000 + rng.IntN(300_000))
			_, err = c.WriteExtents(ctx, "f", []client.Extent{{Offset: 10, Content: client.Bytes([]byte("one"))},
				{Offset: 70_000, Content: client.Bytes(big)}, {Offset: 900_000, Content: client.Bytes([]byte("two"))}}, client.ExtentOptions{SetSize: &size})
			want = append(want, make([]byte, max(0, int(size)-len(want)))...)[:size]
			put(10, []byte("one"))
			put(70_000, big)
			put(900_000, []byte("two"))
		case 3:
			data := random([]int{100, 200_000}[rng.IntN(2)])
			var r wire.Result
			r, err = c.Append(ctx, "f", client.Bytes(data), client.WriteOptions{})
			if r.Offset != int64(len(want)) && err == nil {
				t.Fatalf("the append began at %d, not %d", r.Offset, len(want))
			}
			put(len(want), data)
		case 4:
			at, n := rng.IntN(len(want)), 1+rng.IntN(200_000)
			err = c.PunchHole(ctx, "f", int64(at), int64(n))
			clear(want[at:min(len(want), at+n)])
		default:
			at, n := rng.IntN(len(want)), 1+rng.IntN(200_000)
			err = c.ZeroRange(ctx, "f", int64(at), int64(n), false)
			put(at, make([]byte, n))
		}
		if err != nil {
			t.Fatal(i, err)
		}
		check(fmt.Sprint("after step ", i))
	}
	if err := c.Truncate(ctx, "f", 1<<40); err != nil {
		t.Fatal(err)
	}
	ranges, err := c.Data(ctx, "f")
	if err != nil || len(ranges) == 0 || ranges[len(ranges)-1].Offset+ranges[len(ranges)-1].Length > int64(len(want)) {
		t.Fatalf("data in %v, error %v", ranges, err)
	}
	if err := c.Truncate(ctx, "f", int64(len(want))); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p, err = harness.OpenInProcess(ctx, dir, 3, nil); err != nil {
		t.Fatal(err)
	}
	if c, err = p.Client(ctx); err != nil {
		t.Fatal(err)
	}
	check("after a restart")
	appendAtOnce(t, p)
	wantSameDigests(t, p)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// appendAtOnce: of appends at once, large and small, none is lost or torn.
func appendAtOnce(t *testing.T, p *harness.InProcess) {
	ctx := t.Context()
	var wg sync.WaitGroup
	var total int
	for i := range 4 {
		c, err := p.Client(ctx)
		if err != nil {
			t.Fatal(err)
		}
		size := []int{3000, 3000, 90_000, 150_000}[i]
		total += 5 * size
		wg.Go(func() {
			for range 5 {
				for {
					_, err := c.Append(ctx, "log", client.Bytes(bytes.Repeat([]byte{byte(i + 1)}, size)), client.WriteOptions{})
					if err == nil {
						break
					}
					if wire.CodeOf(err) != wire.CodeConflict {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	c, err := p.Client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.ReadFile(ctx, "log")
	if err != nil || len(got) != total {
		t.Fatalf("%d bytes, error %v; want %d", len(got), err, total)
	}
	for len(got) > 0 {
		size := []int{3000, 3000, 90_000, 150_000}[got[0]-1]
		if !bytes.Equal(got[:size], bytes.Repeat(got[:1], size)) {
			t.Fatal("an append is torn")
		}
		got = got[size:]
	}
}

func wantSameDigests(t *testing.T, p *harness.InProcess) {
	t.Helper()
	digests := map[string]bool{}
	for _, one := range p.Participants {
		digests[digestOf(t, one)] = true
	}
	if len(digests) != 1 {
		t.Errorf("participants differ: %v", digests)
	}
}

// digestOf waits until the participant has carried out what was decided.
func digestOf(t *testing.T, p *participant.Participant) (digest string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	eventually(ctx, t, "the participant has a digest", func() bool {
		st, err := p.Status(ctx, wire.StatusRequest{Digest: true})
		if err != nil {
			t.Fatal(err)
		}
		digest = st.Digest
		return digest != ""
	})
	return digest
}
