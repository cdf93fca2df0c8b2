package fusefs

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/wire"
)

func TestMountPointsThatWillNotDo(t *testing.T) {
	mounted, _ := mountAt(t, newFake(), Options{})
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, point string
		o           Options
		code        wire.Code
		says        string
	}{
		{"missing", dir + "/missing", Options{}, wire.CodeNotExist, "mkdir -p"},
		{"missing above", dir + "/missing/too", Options{}, wire.CodeNotExist, "no such file"},
		{"a file", file, Options{}, wire.CodeNotDir, "directory"},
		{"empty", "", Options{}, wire.CodeNotExist, "no mount point"},
		{"mounted", mounted, Options{}, wire.CodeBusy, "already"},
		{"spill dir below", dir, Options{SpillDir: dir + "/x"}, wire.CodeInvalid, "below the mount point"},
		{"spill dir that takes no file", dir, Options{SpillDir: "/proc"}, wire.CodeInvalid, "cannot spill there"},
		{"spill dir missing", dir, Options{SpillDir: "/nonexistent"}, wire.CodeNotDir, "spill"},
		{"too much background", dir, Options{MaxBackground: 1 << 20}, wire.CodeInvalid, "32768"},
	} {
		m, err := Mount(c.point, newFake(), c.o)
		if err == nil {
			_ = m.Close()
		}
		if wire.CodeOf(err) != c.code || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: %v, want %v with %q", c.name, err, c.code, c.says)
		}
		if strings.Contains(fmt.Sprint(err), "\n") {
			t.Errorf("%s: more than one line: %q", c.name, err)
		}
	}
	if _, err := Mount(dir+"/missing", newFake(), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("errors.Is: %v", err)
	}
	if err := Unmount(dir, true); wire.CodeOf(err) != wire.CodeInvalid {
		t.Errorf("unmounting what is not mounted: %v", err)
	}
}

// TestStaleMount: what a killed process left mounted is cleared.
func TestStaleMount(t *testing.T) {
	dir := t.TempDir() + "/with space"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	self, _ := os.Executable()
	cmd := exec.Command(self, "helper", "serve", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = detach(dir, true) })
	if in := bufio.NewScanner(out); !in.Scan() || in.Text() != "ok" {
		t.Fatalf("the helper says %q", in.Text())
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if out, err := tryShell(t, dir, `ls "$D"`); err == nil {
		t.Fatalf("the mount is not stale: %s", out)
	}
	m, err := Mount(dir, newFake(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	sh(t, dir, `echo hi > "$D/f"; cat "$D/f"`)
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	if out := sh(t, dir, `ls -A "$D"`); out != "" {
		t.Fatalf("still mounted: %s", out)
	}
}

// TestUnmountFlushes what is open and not saved, lazily when busy, and the
// tree goes on serving those in it.
func TestUnmountFlushes(t *testing.T) {
	s := newFake()
	dir, m := mountAt(t, s, Options{})
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
	f.must("write data", "ok")
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	wantFile(t, s, "f", "data")
	if out := sh(t, dir, "ls -A $D"); out != "" {
		t.Fatalf("still mounted: %s", out)
	}
	f.must("write +more", "ok")
	f.must("close", "ok")
	wantFile(t, s, "f", "data+more")
	f.end()
	select {
	case <-m.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the last one left, but the mount is not done")
	}
}

// TestUnmountedByOthers: what was not saved is committed before Done.
func TestUnmountedByOthers(t *testing.T) {
	s := newFake()
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
	f.must("write data", "ok")
	sh(t, dir, "umount -l $D")
	s.set(func(s *fake) { s.before = func([]wire.Mutation) error { return fakeErr(wire.CodeUnavailable) } })
	f.must("close", "error: connection timed out")
	f.end()
	s.set(func(s *fake) { s.before = nil })
	select {
	case <-m.Done():
	case <-time.After(15 * time.Second):
		t.Fatal("not done")
	}
	wantFile(t, s, "f", "data")
}

// TestCloseEndsEverything, with the service away, callers waiting and a lazy
// unmount before.
func TestCloseEndsEverything(t *testing.T) {
	for _, lazy := range []bool{false, true} {
		t.Run(fmt.Sprint("lazy=", lazy), func(t *testing.T) {
			s := newFake()
			s.put("f", "data")
			dir, m := mountAt(t, s, Options{FlushWait: 100 * time.Millisecond})
			f := openFile(t, dir+"/f", os.O_RDWR)
			f.must("pwrite 0 D", "ok")
			defer s.stop()()
			f.begin("fsync")
			if lazy {
				if err := m.Unmount(); wire.CodeOf(err) != wire.CodeUnavailable {
					t.Fatalf("unmount with data that cannot be saved: %v", err)
				}
			}
			if err := m.Close(); err == nil || !strings.Contains(err.Error(), "1 files were given up") {
				t.Fatalf("close: %v", err)
			} else if wire.CodeOf(err) == wire.CodeUnavailable {
				t.Errorf("of what is lost it says that nothing changed: %v", err)
			}
			if again := m.Close(); again == nil || !strings.Contains(again.Error(), "1 files were given up") {
				t.Errorf("once more: %v", again)
			}
			if got := f.answer(); !strings.HasPrefix(got, "error") {
				t.Fatalf("fsync of what was given up: %s", got)
			}
		})
	}
}

// TestAbortOfAnEndedMount: what ends a mount's connection does nothing to another one
// that has got its number.
func TestAbortOfAnEndedMount(t *testing.T) {
	s := newFake()
	s.put("f", "contents")
	for range 100 { // others take numbers, too
		_, first := mountAt(t, s, Options{})
		if first.aborter == nil {
			t.Fatal("nothing ends the connection")
		}
		fd, err := unix.Dup(int(first.aborter.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		if err := first.Unmount(); err != nil {
			t.Fatal(err)
		}
		first.Wait()
		dir, next := mountAt(t, s, Options{})
		_, _ = unix.Write(fd, []byte("1")) // it may say that there is nothing
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
		if got := sh(t, dir, "cat $D/f"); got != "contents" {
			t.Fatalf("the next mount has %q", got)
		}
		if next.device == first.device {
			return
		}
	}
	t.Fatal("no number was given again")
}

func TestReadOnly(t *testing.T) {
	s := newFake()
	s.put("f", "data\n")
	dir, _ := mountAt(t, s, Options{ReadOnly: true})
	calls := s.calls.Load()
	out, _ := tryShell(t, dir, "cat $D/f; echo x > $D/f; rm $D/f; mkdir $D/d")
	if !strings.HasPrefix(out, "data\n") || strings.Count(out, "Read-only file system") != 3 || s.calls.Load() != calls {
		t.Fatalf("%s", out)
	}
}

// TestOtherUsers: permissions are checked, set-id bits go at a write.
func TestOtherUsers(t *testing.T) {
	s := newFake()
	dir, _ := mountAt(t, s, Options{AllowOther: true})
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := exec.Command("true").Run(); err != nil || d == dir {
			continue // the mount's own mode is the service's
		}
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got := sh(t, dir, `umask 022; cd /; echo a > $D/f; chmod 600 $D/f; echo b > $D/g; chmod 6777 $D/g; mkdir -m 1777 $D/tmp; echo r > $D/tmp/r
		as() { setpriv --reuid 1000 --regid 1000 --clear-groups sh -c "$1" 2>&1 | sed 's/.*: //'; }
		as "cat $D/f"; as "echo x > $D/n"; as "echo more >> $D/g"; stat -c %a $D/g; cat $D/g
		chmod 4777 $D/g; as ": > $D/g"; stat -c %a $D/g; chmod 4777 $D/g; as "truncate -s 1 $D/g"; stat -c %a $D/g
		as "touch $D/tmp/mine"; stat -c '%u %g' $D/tmp/mine; as "rm -f $D/tmp/r"; as "rm $D/tmp/mine"; as "chmod 777 $D/f"; ls $D/tmp`)
	want := "Permission denied\nPermission denied\n777\nb\nmore\n777\n777\n1000 1000\nOperation not permitted\nOperation not permitted\nr\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestParseMountinfo(t *testing.T) {
	text := `22 27 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw
41 27 0:38 / /mnt/with\040space\134x rw,nosuid,nodev - fuse.tpcfs tpcfs rw,user_id=0
42 27 0:39 / /sys rw master:1 shared:2 - tmpfs none rw
short line
43 27 0:40 / /no-dash rw x y z
`
	list := parseMountinfo(text)
	if len(list) != 3 {
		t.Fatalf("%+v", list)
	}
	if on, ok := topmost(list, "/sys"); !ok || on != (mounted{"0:39", "/sys", "tmpfs"}) {
		t.Errorf("the topmost: %+v", on)
	}
	if on, ok := topmost(list, `/mnt/with space\x`); !ok || on.fsType != fsType || on.device != "0:38" {
		t.Errorf("escaped: %+v", on)
	}
	if _, ok := topmost(list, "/mnt"); ok {
		t.Error("nothing is mounted at /mnt")
	}
}
