package posix

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// leftOut are the suite's tests that do not hold, with the reason.
var leftOut = map[string]string{
	"FcntlFlockLocksFile": "it wants a process to be refused by its own lock, which fcntl(2) and every local disk grant; the suite itself leaves it out",
}

// TestSuite runs go-fuse's own tests of what is expected of a file system,
// which touch the mount from this process. One of them makes thousands of
// changes one after another: the mount is the plain one.
func TestSuite(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testContext(t), plain, 1, "GOMAXPROCS=1")
	for i, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		t.Run(name, func(t *testing.T) {
			if why := leftOut[name]; why != "" {
				t.Skip(why)
			}
			dir := filepath.Join(w.mounts[0], string(rune('a'+i/26))+string(rune('a'+i%26)))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if t.Skipped() {
					t.Error("skipped itself: that is no answer")
				}
			}()
			posixtest.All[name](t, dir)
		})
	}
}
