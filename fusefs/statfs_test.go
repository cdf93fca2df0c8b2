package fusefs

import (
	"testing"

	"tpcfs/wire"
)

// df -i shows as many free inodes as there are blocks, and no more than the disks have.
func TestStatfs(t *testing.T) {
	none, few, many := uint64(0), uint64(5), uint64(1<<40)
	for _, tt := range []struct {
		left        *uint64
		files, free uint64
	}{{nil, 110, 100}, {&many, 110, 100}, {&few, 15, 5}, {&none, 10, 0}} {
		out := statfsOf(wire.Statfs{Total: 4096 * 1000, Free: 4096 * 100, Files: 10, FilesLeft: tt.left})
		if out.Files != tt.files || out.Ffree != tt.free || out.Bavail != 100 || out.Blocks != 1000 {
			t.Errorf("%+v, want %d files, %d free", out, tt.files, tt.free)
		}
	}
}
