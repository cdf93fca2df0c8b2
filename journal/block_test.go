package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tpcfs/journal/disk/forget"
)

var update = flag.Bool("update", false, "write testdata anew")

func golden(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return want
}

var goldenPlace = place{
	id:      [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	segment: 0x1122334455667788, page: 3,
}

// build makes a block of records as it lies on disk.
func build(p place, first, synced LSN, compress bool, records ...[]byte) []byte {
	var raw []byte
	for _, r := range records {
		raw = appendRecord(raw, r)
	}
	h := header{id: p.id, segment: p.segment, page: p.page, first: first, synced: synced,
		count: uint32(len(records)), raw: uint32(len(raw))}
	payload := raw
	if compress {
		payload = encoder.EncodeAll(raw, nil)
		h.zstd = true
	}
	return seal(&h, payload)
}

func seal(h *header, payload []byte) []byte {
	h.stored = uint32(len(payload))
	h.sum = crc32.Checksum(payload, castagnoli)
	b := make([]byte, h.length())
	putHeader(b, h)
	copy(b[headerSize:], payload)
	return b
}

// read decodes a block as the journal does.
func read(b []byte, p place) (header, [][]byte, error) {
	h, err := parseHeader(b, p)
	if err != nil {
		return h, nil, err
	}
	if h.length() > int64(len(b)) {
		return h, nil, errors.New("too short")
	}
	payload := b[headerSize:][:h.stored]
	if err := h.checkPayload(payload); err != nil {
		return h, nil, err
	}
	var buf []byte
	raw, err := h.decode(payload, &buf)
	if err != nil {
		return h, nil, err
	}
	var records [][]byte
	err = h.eachRecord(raw, func(lsn LSN, r []byte) error {
		if lsn != h.first+LSN(len(records)) {
			return errors.New("wrong LSN")
		}
		records = append(records, r)
		return nil
	})
	return h, records, err
}

// A journal written by this version stays readable.
func TestGolden(t *testing.T) {
	long := []byte(strings.Repeat("a record that compresses well. ", 300))
	tests := []struct {
		name    string
		block   []byte
		records [][]byte
		exact   bool // zstd's output may change with its version
	}{
		{"raw.block", build(goldenPlace, 7, 5, false, []byte("one"), nil, []byte("three")), [][]byte{[]byte("one"), nil, []byte("three")}, true},
		{"zstd.block", build(goldenPlace, 7, 5, true, long, []byte("x")), [][]byte{long, []byte("x")}, false},
		{"empty.block", build(goldenPlace, 7, 6, false), nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := golden(t, tt.name, tt.block)
			if tt.exact && !bytes.Equal(tt.block, want) {
				t.Error("encodes differently from the golden file")
			}
			if len(want)%pageSize != 0 {
				t.Errorf("%d bytes: not padded", len(want))
			}
			h, records, err := read(want, goldenPlace)
			if err != nil || h.first != 7 || len(records) != len(tt.records) {
				t.Fatalf("%+v, %d records, %v", h, len(records), err)
			}
			for i := range records {
				if !bytes.Equal(records[i], tt.records[i]) {
					t.Errorf("record %d differs", i)
				}
			}
		})
	}
	ident := encodeIdent(goldenPlace.id, 16<<20)
	if want := golden(t, "ident", ident); !bytes.Equal(ident, want) {
		t.Error("the identity file differs")
	}
	id, size, err := decodeIdent(ident)
	if err != nil || id != goldenPlace.id || size != 16<<20 {
		t.Error(id, size, err)
	}
}

// What a Log writes is what the diagram says.
func TestLogWritesGoldenBlocks(t *testing.T) {
	f := forget.New(1)
	l, err := Open(Options{FS: f, Dir: "j", SegmentSize: smallSegment, ID: goldenPlace.id})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []string{"one", "", "three"} {
		if _, err := l.Append([]byte(r)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := l.Seal(); err != nil {
		t.Fatal(err)
	}
	file, err := f.Open("j/" + segmentName(1))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3*pageSize)
	if _, err := file.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	want := build(place{id: goldenPlace.id, segment: 1}, 1, 0, false, []byte("one"), nil, []byte("three"))
	want = append(want, build(place{id: goldenPlace.id, segment: 1, page: 1}, 4, 3, false)...)
	want = append(want, make([]byte, pageSize)...)
	if !bytes.Equal(got, want) {
		t.Error("the segment differs from what the format says")
	}
}

// The header's length and place in one sector are what its promise rests on.
func TestHeaderFitsASector(t *testing.T) {
	if headerSize > 512 || pageSize%512 != 0 {
		t.Fatal("a torn write can tear a header")
	}
}

// Every bit of the header and of the payload counts; a block counts only at
// its own place.
func TestBlockNoticesEveryBit(t *testing.T) {
	b := build(goldenPlace, 7, 5, false, []byte("one"), []byte("two"))
	for bit := range (headerSize + 8) * 8 {
		c := bytes.Clone(b)
		c[bit/8] ^= 1 << (bit % 8)
		if _, _, err := read(c, goldenPlace); err == nil {
			t.Errorf("bit %d of byte %d makes no difference", bit%8, bit/8)
		}
	}
	for _, p := range []place{
		{goldenPlace.id, goldenPlace.segment, 4},
		{goldenPlace.id, goldenPlace.segment + 1, 3},
		{[16]byte{1}, goldenPlace.segment, 3},
	} {
		if _, _, err := read(b, p); !errors.Is(err, errNoBlock) {
			t.Errorf("read at %v: %v", p, err)
		}
	}
}

// A block with right checksums and wrong lengths costs nothing (J5).
func TestHostileBlocks(t *testing.T) {
	bomb := encoder.EncodeAll(make([]byte, 8<<20), nil)
	large := bytes.Repeat([]byte{1}, MaxRecord+1)
	framed := func(n int, b []byte) []byte { return append(binary.AppendUvarint(nil, uint64(n)), b...) }
	base := header{id: goldenPlace.id, segment: goldenPlace.segment, page: goldenPlace.page, first: 7, synced: 6, count: 1}
	tests := []struct {
		name    string
		change  func(h *header)
		payload []byte
	}{
		{"bomb that says 4 MiB", func(h *header) { h.raw, h.zstd = maxRaw, true }, bomb},
		{"bomb that says little", func(h *header) { h.raw, h.zstd = uint32(len(bomb))+1, true }, bomb},
		{"more than 4 MiB raw", func(h *header) { h.raw, h.zstd = maxRaw+1, true }, bomb},
		{"stored more than raw", func(h *header) { h.raw = 3 }, []byte{3, 1, 2, 3}},
		{"stored less than raw", func(h *header) { h.raw = 5 }, []byte{3, 1, 2, 3}},
		{"not zstd", func(h *header) { h.raw, h.zstd = 100, true }, []byte{1, 2, 3, 4, 5}},
		{"record above the limit", func(h *header) { h.raw = uint32(len(large)) + 3 }, framed(len(large), large)},
		{"record longer than the block", func(h *header) { h.raw = 4 }, []byte{4, 1, 2, 3}},
		{"record shorter than the block", func(h *header) { h.raw = 4 }, []byte{2, 1, 2, 3}},
		{"fewer records than counted", func(h *header) { h.raw, h.count = 4, 2 }, []byte{3, 1, 2, 3}},
		{"more records than bytes", func(h *header) { h.raw, h.count = 4, 5 }, []byte{0, 0, 0, 0}},
		{"length without end", func(h *header) { h.raw = 11 }, bytes.Repeat([]byte{0xff}, 11)},
		{"records in an empty block", func(h *header) { h.raw, h.count = 4, 0 }, []byte{3, 1, 2, 3}},
		{"empty block without a promise", func(h *header) { h.raw, h.count, h.synced = 0, 0, 5 }, nil},
		{"first LSN 0", func(h *header) { h.raw, h.first, h.synced = 4, 0, 0 }, []byte{3, 1, 2, 3}},
		{"LSN overflows", func(h *header) { h.raw, h.first = 4, maxLSN+1 }, []byte{3, 1, 2, 3}},
		{"promises itself", func(h *header) { h.raw, h.synced = 4, 7 }, []byte{3, 1, 2, 3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := base
			tt.change(&h)
			b := seal(&h, tt.payload)
			allocs := testing.AllocsPerRun(1, func() {
				if _, _, err := read(b, goldenPlace); err == nil {
					t.Error("accepted")
				}
			})
			if allocs > 1000 {
				t.Errorf("%v allocations", allocs)
			}
		})
	}
}

// A bomb costs no more memory than its header says.
func TestBombIsBounded(t *testing.T) {
	bomb := encoder.EncodeAll(make([]byte, 3<<20), nil)
	h := header{id: goldenPlace.id, segment: 1, first: 7, count: 1, raw: uint32(len(bomb)) + 1, zstd: true}
	b := seal(&h, bomb)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, _, err := read(b, place{id: goldenPlace.id, segment: 1}); err == nil {
		t.Fatal("accepted")
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Fatalf("%d bytes were allocated", n)
	}
}

func TestBlockRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 300), 1, 40).Draw(t, "records")
		compress := rapid.Bool().Draw(t, "compress")
		first := LSN(rapid.Uint64Range(1, uint64(maxLSN)).Draw(t, "first"))
		b := build(goldenPlace, first, LSN(rapid.Uint64Range(0, uint64(first)-1).Draw(t, "synced")), compress, records...)
		h, got, err := read(b, goldenPlace)
		if compress && h.stored >= h.raw {
			return // such a block is stored raw
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(records) || h.first != first || h.last() != first+LSN(len(records))-1 {
			t.Fatalf("%d records from %d, want %d from %d", len(got), h.first, len(records), first)
		}
		for i := range got {
			if !bytes.Equal(got[i], records[i]) {
				t.Fatalf("record %d differs", i)
			}
			if framedLength(records[i]) != len(appendRecord(nil, records[i])) {
				t.Fatal("framed length")
			}
		}
	})
}

// FuzzBlock: no bytes make the decoder panic or allocate beyond its limits,
// also with right checksums.
func FuzzBlock(f *testing.F) {
	f.Add(build(goldenPlace, 7, 5, false, []byte("one"), nil), false)
	f.Add(build(goldenPlace, 7, 5, true, bytes.Repeat([]byte("abc"), 5000)), true)
	f.Add(build(goldenPlace, 7, 6, false), true)
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		if fix {
			fixChecksums(b, goldenPlace)
		}
		h, records, err := read(b, goldenPlace)
		if err != nil {
			return
		}
		total := 0
		for _, r := range records {
			total += framedLength(r)
		}
		if len(records) != int(h.count) || total > maxRaw {
			t.Fatalf("%d records of %d, %d bytes", len(records), h.count, total)
		}
	})
}

// fixChecksums makes bytes pass for a block of the place, as far as checksums
// and identity go.
func fixChecksums(b []byte, p place) {
	if len(b) < headerSize {
		return
	}
	le := binary.LittleEndian
	copy(b, blockMagic)
	copy(b[8:], p.id[:])
	le.PutUint64(b[24:], p.segment)
	le.PutUint32(b[48:], p.page)
	stored := min(int(le.Uint32(b[60:])), len(b)-headerSize)
	le.PutUint32(b[64:], crc32.Checksum(b[headerSize:headerSize+stored], castagnoli))
	le.PutUint32(b[68:], crc32.Checksum(b[:68], castagnoli))
}

// FuzzOpen: whatever bytes are in the segments, Open refuses them or gives a
// journal that can be read, appended to and opened again.
func FuzzOpen(f *testing.F) {
	id := [16]byte{1, 2, 3}
	first := build(place{id: id, segment: 1}, 1, 0, false, []byte("one"))
	second := build(place{id: id, segment: 1, page: 1}, 2, 1, false, []byte("two"))
	f.Add(append(bytes.Clone(first), second...), first, false)
	f.Add(first, build(place{id: id, segment: 2}, 2, 1, false, []byte("two")), true)
	f.Add(build(place{id: id, segment: 1}, 1, 0, true, bytes.Repeat([]byte("abc"), 3000)), build(place{id: id, segment: 2}, 2, 1, false), true)
	f.Add([]byte{}, second, true)
	f.Fuzz(func(t *testing.T, one, two []byte, fix bool) {
		fs := forget.New(1)
		o := Options{FS: fs, Dir: "j", SegmentSize: 4 * pageSize, ID: id}
		l, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Cut(0); err != nil { // makes the spare
			t.Fatal(err)
		}
		for i, b := range [][]byte{one, two} {
			b = bytes.Clone(b[:min(len(b), 4*pageSize)])
			for at := 0; fix && at < len(b); at += pageSize {
				fixChecksums(b[at:], place{id: id, segment: uint64(i + 1), page: uint32(at / pageSize)})
			}
			file, err := fs.Open("j/" + segmentName(uint64(i+1)))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteAt(b, 0); err != nil {
				t.Fatal(err)
			}
		}
		openAny(t, o)
	})
}

func openAny(t *testing.T, o Options) {
	report, verifyErr := Verify(o.FS, o.Dir)
	if verifyErr != nil {
		t.Fatal(verifyErr)
	}
	l, err := Open(o)
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = l.Replay(0, func(LSN, []byte) error { n++; return nil })
	if errors.As(err, &corrupt) { // right checksum, wrong contents
		if report.Corrupt == nil {
			t.Fatalf("Replay says %v, Verify nothing", err)
		}
		return
	}
	if err != nil || report.Corrupt != nil || LSN(n) != l.End()-l.First()+1 {
		t.Fatalf("%d records of %d to %d, %v, %v", n, l.First(), l.End(), err, report.Corrupt)
	}
	lsn, err := l.Append([]byte("more"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if l, err = Open(o); err != nil || l.End() != lsn {
		t.Fatalf("opened again: %v", err)
	}
}
