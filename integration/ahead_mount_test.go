package integration

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tpcfs/integration/harness"
)

// storedAt is how many bytes lie on a participant's disk.
func storedAt(t *testing.T, c *harness.Cluster, name string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(c.DataDir(name), "objects"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if info, err := d.Info(); err == nil { // else it is gone
			sum += info.Size()
		}
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return sum
}

// A large file that is written in a mount goes to the participants while it is
// open, shows to nobody before its close, and is whole whatever is killed
// meanwhile; so does what is written behind its end, and in its middle. Nothing
// of what went ahead in vain stays.
func TestMountSendsAhead(t *testing.T) {
	t.Parallel()
	const piece, pieces = 4 << 20, 6
	ctx := testContext(t)
	c := newCluster(t)
	c.Evicts = evictFast
	startAll(t, ctx, c)
	mnt, _ := foreground(t, c.Addr(harness.Coordinator), nil, "--wait", "60s")
	cl := dial(t, ctx, c, time.Minute)
	data := make([]byte, piece*pieces)
	rand.New(rand.NewSource(3)).Read(data)
	source := filepath.Join(tempDir(t), "source")
	if err := os.WriteFile(source, data, 0o644); err != nil {
		t.Fatal(err)
	}
	h := startHolder(t, ctx, mnt)
	h.wants(fmt.Sprintf("globals().update(src=open(%q,'rb').read()) or len(src)", source), fmt.Sprint(len(data)))

	whole := int64(0) // bytes of all files
	for _, tt := range []struct {
		name string
		at   int64 // where it is written
		kill string
	}{
		{"plain", 0, ""}, {"behind", 0, ""}, {"participant", 0, "b"}, {"coordinator", 0, harness.Coordinator}, {"middle", 1<<20 + 77, ""},
	} {
		want := data
		if tt.name == "behind" || tt.name == "middle" { // of a file that is there
			mustWrite(t, ctx, cl, tt.name, data[:3<<20])
			if tt.name == "behind" {
				tt.at = 3 << 20
			}
			want = append(append([]byte{}, data[:tt.at]...), data...)
		}
		whole += int64(len(want))
		before := storedAt(t, c, "a")
		h.wants(fmt.Sprintf("(lambda f: (os.dup2(f, 50), os.close(f)))(os.open(%q, os.O_RDWR | os.O_CREAT))", tt.name), "(50, None)")
		for i := range pieces {
			h.wants(fmt.Sprintf("os.pwrite(50, src[%d:%d], %d)", i*piece, (i+1)*piece, tt.at+int64(i)*piece), fmt.Sprint(piece))
			if i == pieces/2 {
				eventually(ctx, t, tt.name+": it is sent ahead", func() bool { return storedAt(t, c, "a") >= before+piece })
				if tt.kill != "" {
					if err := c.Kill(tt.kill); err != nil {
						t.Fatal(err)
					}
					if err := c.Start(ctx, tt.kill); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if attr, err := cl.Stat(ctx, tt.name); tt.kill == "" && (err != nil || attr.Size == int64(len(want))) {
			t.Errorf("%s: it shows before its close: %d bytes, %v", tt.name, attr.Size, err)
		}
		h.wants("os.close(50)", "None")
		got, err := cl.ReadFile(ctx, tt.name)
		if err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
			t.Errorf("%s: %d bytes, want %d: %v", tt.name, len(got), len(want), err)
		}
	}
	eventually(ctx, t, "what went ahead in vain is gone", func() bool { return storedAt(t, c, "a") < whole+piece })
	settle(t, ctx, c)
}

// A mount that is killed while it sends a large file ahead leaves the file as it was, and
// nothing of what it had sent once its session is over.
func TestMountDiesSendingAhead(t *testing.T) {
	t.Parallel()
	const piece = 4 << 20
	ctx := testContext(t)
	c := newCluster(t)
	startAll(t, ctx, c)
	dir := tempDir(t)
	mnt := mountDir(t, dir)
	cl := dial(t, ctx, c, patience)
	mustWrite(t, ctx, cl, "f", []byte("as it was"))
	mount := func(name string) *harness.Proc {
		p := started(t, name, nil, "mount", "--foreground", "--coordinator", c.Addr(harness.Coordinator), mnt)
		if _, err := p.WaitLine(ctx, "ready"); err != nil {
			t.Fatal(err)
		}
		return p
	}
	dies := mount("the mount that dies")
	before := storedAt(t, c, "a")
	h := startHolder(t, ctx, mnt)
	h.opens("f", 50)
	h.opens("f", 51)
	for i := range 3 {
		h.wants(fmt.Sprintf("os.pwrite(50, b'%d' * %d, %d)", i, piece, i*piece), fmt.Sprint(piece))
	}
	eventually(ctx, t, "it is sent ahead", func() bool { return storedAt(t, c, "a") >= before+piece })
	if err := dies.Kill(); err != nil {
		t.Fatal(err)
	}
	h.wants("os.fsync(50)", "ENOTCONN")
	mount("the next one")
	if got := shell(t, ctx, mnt, "cat f"); got != "as it was" {
		t.Errorf("the file has %d bytes", len(got))
	}
	eventually(ctx, t, "what was sent ahead is gone", func() bool { return storedAt(t, c, "a") <= before })
	settle(t, ctx, c)
}
