package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// A long read is of one version although the file is overwritten, deleted and
// checkpointed meanwhile; its object goes when it is done.
func TestReadKeepsItsVersion(t *testing.T) {
	f := real(t)
	old := fill(1_000_000, 1)
	ino := f.create("a", old)
	f.checkpoint()
	name := f.objectFile(ino)
	w := &pieces{}
	w.hook = func(p wire.Piece) {
		switch p.Offset {
		case 0:
			f.overwrite(ino, fill(500_000, 2))
			f.checkpoint()
			f.create("b", old) // reuses what was freed, if anything was
			f.checkpoint()
		case wire.PieceSize:
			f.apply(nil, vote.Bound{Kind: wire.MutDeleteFile, Dir: 1, Name: "a", Ino: ino})
			f.checkpoint()
		}
		if _, err := os.Stat(name); err != nil {
			t.Error("unlinked under its reader:", err)
		}
	}
	reply, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: "a"}, Length: -1}, w)
	if err != nil || !bytes.Equal(w.data, old) || reply.Attr.Version != w.version {
		t.Fatalf("read %d bytes, version %s (%s): %v", len(w.data), w.version, reply.Attr.Version, err)
	}
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the last reader has not unlinked it: %v", err)
	}
	if _, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: ino}, Length: -1}, w); wire.CodeOf(err) != wire.CodeStale {
		t.Fatalf("a deleted inode: %v", err)
	}
}

// Readers, stages, digests and checkpoints run beside the owner. Each read of
// a file sees one whole version; each listing one moment.
func TestConcurrentReads(t *testing.T) {
	f := real(t)
	var inos []wire.Ino
	for i := range 4 {
		inos = append(inos, f.create(fmt.Sprint("f", i), bytes.Repeat([]byte{byte(i)}, 100_000)))
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := f.readWhole(g); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for range 5 {
			if _, err := f.Digest(context.Background()); err != nil {
				t.Error(err)
			}
			// As a participant does: a stage of this epoch may still be named.
			if err := f.Sweep(func(id wire.ID) bool { return id.Epoch() >= 1 }); err != nil {
				t.Error(err)
			}
		}
	})
	var ck sync.WaitGroup
	for i := range 200 {
		data := bytes.Repeat([]byte{byte(i)}, []int{1000, 40_000, 100_000}[i%3])
		f.overwrite(inos[i%4], data)
		f.apply(nil, vote.Bound{Kind: wire.MutRename, Ino: inos[i%4], Dir: 1, Name: fmt.Sprint("f", i%4), ToDir: 1, ToName: "moved"})
		f.apply(nil, vote.Bound{Kind: wire.MutRename, Ino: inos[i%4], Dir: 1, Name: "moved", ToDir: 1, ToName: fmt.Sprint("f", i%4)})
		if i%20 == 0 {
			ck.Wait()
			c, err := f.Freeze(f.lsn, nil)
			if err != nil {
				t.Fatal(err)
			}
			ck.Go(func() {
				if err := c.Run(func() error { return nil }); err != nil {
					t.Error(err)
				}
			})
		}
	}
	close(stop)
	ck.Wait()
	wg.Wait()
}

func (f *fixture) readWhole(g int) error {
	var w pieces
	_, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: fmt.Sprint("f", g)}, Length: -1}, &w)
	if wire.CodeOf(err) == wire.CodeNotExist {
		err = nil // it has its other name
	}
	if err == nil && len(w.data) > 0 && !bytes.Equal(w.data, bytes.Repeat(w.data[:1], len(w.data))) {
		err = errors.New("a read mixes two versions")
	}
	if err != nil {
		return err
	}
	reply, err := f.Read(wire.Read{Kind: wire.ReadList, At: wire.At{Dir: 1}}, nil)
	if err == nil && (len(reply.Entries) != 4 || reply.Attr.Size != 4) {
		err = fmt.Errorf("a listing of two moments: %v", reply.Entries)
	}
	return err
}

// Ranges, ends, holes made by growing, and versions of reads.
func TestReadFile(t *testing.T) {
	f := real(t)
	for _, size := range []int{0, 1, 8192, 8193, 65_536, 65_537, 400_000} {
		name := fmt.Sprint("f", size)
		data := fill(size, 9)
		ino := f.create(name, data)
		for round := range 2 {
			for _, at := range []int64{0, 1, 4096, 65_535, 65_536, 131_072, 200_001, int64(size) - 1, int64(size), int64(size) + 5} {
				for _, n := range []int64{-1, 0, 1, 4096, 65_536, 131_072, 300_000} {
					if at < 0 {
						continue
					}
					want := data[min(at, int64(size)):]
					if n >= 0 && n < int64(len(want)) {
						want = want[:n]
					}
					if got, err := f.read(name, at, n); err != nil || !bytes.Equal(got, want) {
						t.Fatalf("%s round %d [%d,+%d): %d bytes, want %d, error %v", name, round, at, n, len(got), len(want), err)
					}
				}
			}
			f.apply(nil, vote.Bound{Kind: wire.MutSetattr, Ino: ino, Set: wire.SetSize, Size: int64(size) + 300_000})
			data = append(slices.Clone(data), make([]byte, 300_000)...)
			size += 300_000
			f.checkpoint()
		}
	}
	if _, err := f.read("f1", -1, 1); wire.CodeOf(err) != wire.CodeInvalid {
		t.Errorf("a negative offset: %v", err)
	}
	_, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: "f1"}, Length: -1, IfVersion: 99}, &pieces{})
	if wire.CodeOf(err) != wire.CodeChanged {
		t.Errorf("another version: %v", err)
	}
	sent := errors.New("the client is gone")
	if _, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: "f1"}, Length: -1}, failing{sent}); !errors.Is(err, sent) || wire.CodeOf(err) != wire.CodeIO {
		t.Errorf("the piece writer's error came back as %v", err)
	}
}

type failing struct{ err error }

func (f failing) WritePiece(wire.Piece) error { return f.err }

// Every read that cannot be answered says why, by code, with the name asked for.
func TestReadErrors(t *testing.T) {
	f := real(t)
	dir := wire.Ino(f.apply(nil, vote.Bound{Kind: wire.MutMkdir, Dir: 1, Name: "d"}))
	link := wire.Ino(f.apply(nil, vote.Bound{Kind: wire.MutSymlink, Dir: dir, Name: "l", Target: "../x"}))
	f.create("f", []byte("x"))
	long := strings.Repeat("n", 256)
	tests := []struct {
		kind wire.ReadKind
		at   wire.At
		code wire.Code
	}{
		{wire.ReadFile, wire.At{Dir: 1, Path: "none"}, wire.CodeNotExist},
		{wire.ReadFile, wire.At{Dir: 1, Path: "d/none/x"}, wire.CodeNotExist},
		{wire.ReadFile, wire.At{Dir: 1, Path: "f/x"}, wire.CodeNotDir},
		{wire.ReadFile, wire.At{Dir: 1, Path: "d"}, wire.CodeIsDir},
		{wire.ReadFile, wire.At{Dir: 1, Path: ""}, wire.CodeIsDir},
		{wire.ReadFile, wire.At{Dir: 999}, wire.CodeStale},
		{wire.ReadFile, wire.At{Dir: 1, Path: "d/l"}, wire.CodeSymlink},
		{wire.ReadFile, wire.At{Dir: link}, wire.CodeLoop},
		{wire.ReadStat, wire.At{Dir: 1, Path: "d/l/a/b"}, wire.CodeSymlink},
		{wire.ReadStat, wire.At{Dir: 1, Path: "a//b"}, wire.CodeInvalid},
		{wire.ReadStat, wire.At{Dir: 1, Path: "../b"}, wire.CodeInvalid},
		{wire.ReadStat, wire.At{Dir: 1, Path: "./b"}, wire.CodeInvalid},
		{wire.ReadStat, wire.At{Dir: 1, Path: "/b"}, wire.CodeInvalid},
		{wire.ReadStat, wire.At{Dir: 1, Path: "b/"}, wire.CodeInvalid},
		{wire.ReadStat, wire.At{Dir: 1, Path: "a\x00b"}, wire.CodeInvalid},
		{wire.ReadStat, wire.At{Dir: 1, Path: long}, wire.CodeNameTooLong},
		{wire.ReadStat, wire.At{Dir: 1, Path: strings.Repeat("n/", 2100) + "n"}, wire.CodeNameTooLong},
		{wire.ReadList, wire.At{Dir: 1, Path: "f"}, wire.CodeNotDir},
		{wire.ReadList, wire.At{Dir: 1, Path: "d/l"}, wire.CodeSymlink},
		{wire.ReadLink, wire.At{Dir: 1, Path: "f"}, wire.CodeInvalid},
		{wire.ReadGetxattr, wire.At{Dir: 1, Path: "f"}, wire.CodeNoAttr},
		{99, wire.At{Dir: 1, Path: "f"}, wire.CodeUnsupported},
	}
	for _, tt := range tests {
		_, err := f.Read(wire.Read{Kind: tt.kind, At: tt.at, Length: -1}, &pieces{})
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != tt.code || e.Name != tt.at.String() {
			t.Errorf("read %d of %s: %v, want %v", tt.kind, tt.at, err, tt.code)
		}
	}
	_, err := f.Read(wire.Read{Kind: wire.ReadStat, At: wire.At{Dir: 1, Path: "d/l/a/b"}}, nil)
	if e := new(wire.Error); !errors.As(err, &e) || e.Prefix != "d/l" || e.Target != "../x" || e.Rest != "a/b" {
		t.Errorf("a link on the way: %+v", e)
	}
	reply, err := f.Read(wire.Read{Kind: wire.ReadStat, At: wire.At{Dir: 1, Path: "d/l"}}, nil)
	if err != nil || reply.Attr.Ino != link || reply.Attr.Size != 4 {
		t.Errorf("stat of a link: %+v %v", reply, err)
	}
	if reply, err = f.Read(wire.Read{Kind: wire.ReadListxattr, At: wire.At{Dir: 1, Path: "f"}}, nil); err != nil || len(reply.Value) > 0 {
		t.Errorf("listxattr: %v %v", reply, err)
	}
}

// Pages of a listing follow each other in byte order, and the largest fits a frame.
func TestListPages(t *testing.T) {
	f := real(t)
	var want []string
	var bounds []vote.Bound
	for i := range 1300 {
		name := fmt.Sprintf("%04d", i) + strings.Repeat("\xff", wire.MaxNameLen-4)
		want = append(want, name)
		bounds = append(bounds, vote.Bound{Kind: wire.MutWriteFile, Created: true, Dir: 1, Name: name})
		if i == 600 {
			f.apply(nil, bounds...)
			f.checkpoint()
			bounds = nil
		}
	}
	f.apply(nil, bounds...)
	for _, limit := range []int{0, 7, 5000} {
		var got []string
		req := wire.Read{Kind: wire.ReadList, At: wire.At{Dir: 1}, Limit: limit}
		for more := true; more; {
			reply, err := f.Read(req, nil)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(wire.Marshal(&reply)); n > wire.MaxFrame/2 || limit > 0 && len(reply.Entries) > limit {
				t.Fatalf("a page of %d entries has %d bytes", len(reply.Entries), n)
			}
			for _, e := range reply.Entries {
				got = append(got, e.Name)
			}
			req.After, more = got[len(got)-1], reply.More
		}
		if !slices.Equal(got, want) {
			t.Fatalf("limit %d: %d names, want %d", limit, len(got), len(want))
		}
	}
}
