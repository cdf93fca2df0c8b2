package journal

import (
	"context"
	"fmt"
	"testing"

	"tpcfs/journal/disk"
	"tpcfs/journal/disk/forget"
)

func TestSmoke(t *testing.T) {
	for _, o := range []Options{{FS: forget.New(1), Dir: "j", SegmentSize: 64 << 10}, {FS: disk.New(), Dir: t.TempDir() + "/a/b"}} {
		l, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		w := NewWriter(l, func(up LSN, err error) { t.Log(up, err) })
		for i := range 100 {
			w.Append([][]byte{make([]byte, 3000), []byte(fmt.Sprint(i))}, true)
			if i == 50 {
				w.NewSegment()
			}
			if i%10 == 0 {
				if err := w.Sync(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.Cut(120)
		t.Logf("%+v", w.Stats())
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if l, err = Open(o); err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", l.Stats())
		n := l.First()
		if err := l.Replay(0, func(lsn LSN, r []byte) error {
			if lsn != n {
				t.Fatal(lsn, n)
			}
			n++
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
}
