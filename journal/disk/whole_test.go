package disk_test

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"testing"

	"tpcfs/journal/disk"
	"tpcfs/journal/disk/forget"
)

// A crash at each of its operations leaves the old file or the new one, and the
// next WriteWhole is not kept from its work by what it leaves.
func TestWriteWholeCrashes(t *testing.T) {
	const name, temp = "/d/F", "/d/F.tmp"
	for _, before := range []string{"", "old"} {
		for at := 1; ; at++ {
			fsys := forget.New(uint64(at))
			if err := fsys.MkdirAll("/d"); err != nil {
				t.Fatal(err)
			}
			if before != "" {
				if err := disk.WriteWhole(fsys, name, temp, []byte(before)); err != nil {
					t.Fatal(err)
				}
			}
			fsys.CrashAt(fsys.Ops() + at)
			err := disk.WriteWhole(fsys, name, temp, []byte("the new one"))
			for seed := range uint64(16) {
				left := fsys.Crash(rand.New(rand.NewPCG(seed, uint64(at))))
				got, rerr := disk.ReadWhole(left, name, 100)
				switch {
				case err == nil && string(got) == "the new one":
				case err != nil && rerr == nil && (string(got) == before && before != "" || string(got) == "the new one"):
				case err != nil && before == "" && errors.Is(rerr, fs.ErrNotExist):
				default:
					t.Fatalf("operation %d: %v; then %q, %v", at, err, got, rerr)
				}
				if err := disk.WriteWhole(left, name, temp, []byte("next")); err != nil {
					t.Fatal(err)
				}
			}
			if err == nil {
				if at < 5 {
					t.Fatalf("only %d operations", at)
				}
				break
			}
		}
	}
}

func TestReadWhole(t *testing.T) {
	fsys := disk.New()
	name := t.TempDir() + "/F"
	if _, err := disk.ReadWhole(fsys, name, 10); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := disk.WriteWhole(fsys, name, name+".tmp", []byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	if b, err := disk.ReadWhole(fsys, name, 10); string(b) != "0123456789" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := disk.ReadWhole(fsys, name, 9); err == nil {
		t.Error("it is longer than it may be")
	}
}
