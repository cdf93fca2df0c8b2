package store

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tpcfs/wire"
)

var update = flag.Bool("update", false, "write the golden files")

// The bytes of rows and files on disk stay as they are: stores of today are
// read tomorrow.
func TestGolden(t *testing.T) {
	n := inode{
		attr: wire.Attr{Ino: 7, Mode: 0o100644, Nlink: 2, UID: 3, GID: 4, Rdev: 5, Size: 6 << 32, Atime: 8, Mtime: 9, Ctime: -10,
			Version: wire.MakeID(11, 12), Parent: 13},
		content: contentObject, valid: 5 << 32, object: wire.MakeID(14, 15), blocks: 7, target: "t",
	}
	toCome := n
	toCome.later = true
	op := wire.OpID{Session: wire.SessionID{1, 2, 3}, Seq: 16}
	outcome := wire.Outcome{Tx: wire.MakeID(1, 2), Results: []wire.Result{{Ino: 3, Created: true}}}
	sums := []uint32{1, 2}
	rows := []struct {
		name string
		b    []byte
	}{
		{"entry key", []byte(entryKey(1, "name"))},
		{"inode key", []byte(inodeKey(2))},
		{"inline key", []byte(inlineKey(2))},
		{"sum key", []byte(sumKey(wire.MakeID(1, 2), 3))},
		{"op key", []byte(opKey(op))},
		{"op time key", []byte(opTimeKey(17, op))},
		{"change key", []byte(changeKey(wire.Position{Epoch: 18, Index: 19}, 20))},
		{"inode", seal(inodeKey(7), encodeInode(&n))},
		{"inode with an mtime to come", seal(inodeKey(7), encodeInode(&toCome))},
		{"entry", seal(entryKey(1, "name"), encodeIno(7))},
		{"sums", seal(sumKey(1, 0), encodeSums([]blockCheck{{blockSum, 1}, {}, {blockBad, 0}, {state: blockUnwritten}}))},
		{"attribute", append([]byte(xattrKey(7, "user.x")), seal(xattrKey(7, "user.x"), []byte("val"))...)},
		{"orphan", append([]byte(orphanKey(7)), seal(orphanKey(7), encodeOrphan(orphan{wire.SessionID{1, 2}, true}))...)},
		{"op", seal(opKey(op), encodeOp(21, &outcome))},
		{"meta", seal(metaKey, wire.Marshal(&metaRow{1, 2, 3, 4, wire.Position{Epoch: 5, Index: 6}, wire.Position{}}))},
		{"stage", encodeTail(wire.MakeID(1, 2), &staged{size: 70_000, sum: sumOfSums(sums), sums: sums})},
		{"stage within a block", encodeTail(wire.MakeID(1, 2), &staged{size: 70_000, skew: 3, sum: sumOfSums(sums), sums: sums})},
		{"FORMAT", format{uuid: wire.UUID{0xab}, dirs: 64}.encode()},
	}
	var b strings.Builder
	for _, r := range rows {
		b.WriteString(r.name + " " + hex.EncodeToString(r.b) + "\n")
	}
	name := filepath.Join("testdata", "rows.golden")
	if *update {
		if err := os.WriteFile(name, []byte(b.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil || string(want) != b.String() {
		t.Errorf("got\n%swant\n%s(error %v)", b.String(), want, err)
	}

	back, err := decodeInode(7, encodeInode(&n))
	n.attr.Blocks = 7 * wire.BlockSize / 512
	if err != nil || back != n {
		t.Errorf("inode %+v came back as %+v, %v", n, back, err)
	}
	first, err := hex.DecodeString("0102000081a4000000020000000300000004000000050000000600000000000000050000000000000000000000080000000000000009fffffffffffffff600000b000000000c000000000000000d00000e000000000f74")
	if err != nil {
		t.Fatal(err)
	}
	n.blocks, n.attr.Blocks = 5<<32/wire.BlockSize, 5<<32/512
	if back, err = decodeInode(7, first); err != nil || back != n {
		t.Errorf("inode %+v in format 1 came back as %+v, %v", n, back, err)
	}
	if _, o, err := decodeOp(encodeOp(21, &outcome)); err != nil || o.Tx != outcome.Tx || o.Results[0] != outcome.Results[0] {
		t.Errorf("outcome %v came back as %v, %v", outcome, o, err)
	}
	if f, err := decodeFormat(format{uuid: wire.UUID{0xab}, dirs: 64}.encode()); err != nil || f.dirs != 64 || f.uuid[0] != 0xab {
		t.Errorf("format came back as %v, %v", f, err)
	}
	if opOfKey(opKey(op)) != op {
		t.Error("an operation's key does not come back")
	}
}

// No bytes make a decoder panic, and what it takes it writes the same.
func FuzzRows(f *testing.F) {
	f.Add(encodeInode(&inode{target: "x"}))
	f.Add(encodeSums([]blockCheck{{blockSum, 5}}))
	f.Add(format{dirs: 1}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := decodeInode(1, b); err == nil {
			if got := encodeInode(&n); b[0] == inodeFormat && !bytes.Equal(got, b) {
				t.Errorf("inode %x is written as %x", b, got)
			} else if back, err := decodeInode(1, got); err != nil || back != n {
				t.Errorf("inode %x is written as %x, and that is %+v, %v", b, got, back, err)
			}
		}
		if c, err := decodeSums(b); err == nil && !bytes.Equal(encodeSums(c), b) {
			t.Errorf("sums %x are written as %x", b, encodeSums(c))
		}
		if g, err := decodeFormat(b); err == nil && (g.dirs < 1 || g.dirs > 1<<16) {
			t.Errorf("format %v", g)
		}
		if o, ok := decodeOrphan(b); ok && !bytes.Equal(encodeOrphan(o), b) {
			t.Errorf("orphan %x is written as %x", b, encodeOrphan(o))
		}
		_, _, _ = decodeOp(b)
		if val, ok := unseal("ikey", b); ok && !bytes.Equal(seal("ikey", bytes.Clone(val)), b) {
			t.Error("unseal took what seal did not make")
		}
		k := ModelKV{}
		k.rows = newModelRows()
		_ = k.replay(b)
	})
}

// A flipped bit, or a value under another key, is noticed.
func TestSeal(t *testing.T) {
	val := seal("ikey", []byte("value"))
	for i := range len(val) * 8 {
		bad := bytes.Clone(val)
		bad[i/8] ^= 1 << (i % 8)
		if _, ok := unseal("ikey", bad); ok {
			t.Fatalf("bit %d", i)
		}
	}
	if _, ok := unseal("ckey", val); ok {
		t.Error("a value was taken under another key")
	}
	if _, ok := unseal("ikey", val[:3]); ok {
		t.Error("a short value was taken")
	}
}
