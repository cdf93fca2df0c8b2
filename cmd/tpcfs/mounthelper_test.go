package main

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The mount's exit code 3 would be a file of the service.
func TestLogFileInNoDirectory(t *testing.T) {
	if _, err := openLog("/nonexistent/log", "/m"); exitCode(err) != exitFailed || !strings.Contains(err.Error(), "--log-file: open /nonexistent/log") {
		t.Errorf("exit code %d, %v", exitCode(err), err)
	}
	if err := checkMountpoint(""); exitCode(err) != exitFailed || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("exit code %d, %v", exitCode(err), err)
	}
}

// What mount(8) says becomes the flags of tpcfs mount.
func TestMountHelper(t *testing.T) {
	for _, tc := range []struct{ args, want string }{
		{"127.0.0.1:7420 /mnt", "mount --coordinator=127.0.0.1:7420 -- /mnt"},
		{"none /mnt -o rw", "mount --read-only=false -- /mnt"},
		{"tpcfs /mnt -t fuse.tpcfs -n -v -o ro,noexec,allow_other,_netdev,noauto,x-systemd.automount,nosuid,nodev,relatime",
			"mount --read-only --no-exec --allow-other -- /mnt"},
		{"unix:/run/s /mnt -o uid=7,gid=8,wait=5s,tls=/etc/t.pem,spill_dir=/var/tmp,log_file=/l",
			"mount --uid=7 --gid=8 --wait=5s --tls=/etc/t.pem --spill-dir=/var/tmp --log-file=/l --coordinator=unix:/run/s -- /mnt"},
		{"none -oro /mnt -o rw", "mount --read-only --read-only=false -- /mnt"},
		{"none /mnt -o user,exec", "mount --no-exec --no-exec=false -- /mnt"},
		{"none /mnt -s -o strange=1", "mount -- /mnt"},
		{"none /mnt -nvr", "mount --read-only -- /mnt"},
	} {
		r, err := parseHelper(strings.Fields(tc.args))
		if got := strings.Join(r.args(), " "); err != nil || got != tc.want {
			t.Errorf("%s: %q, %v; want %q", tc.args, got, err, tc.want)
		}
	}
	for _, tc := range []struct{ args, want string }{
		{"", "COORDINATOR MOUNTPOINT"},
		{"none", "COORDINATOR MOUNTPOINT"},
		{"none /mnt more", "COORDINATOR MOUNTPOINT"},
		{"none /mnt -o strange", "option strange is not known"},
		{"none /mnt -o suid", "never run as others"},
		{"none /mnt -o remount,ro", "unmount"},
		{"none /mnt -o uid", "uid=..."},
		{"none /mnt -o", "-o wants a value"},
		{"none /mnt -x", "-x is not known"},
	} {
		if r, err := parseHelper(strings.Fields(tc.args)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, %v; want an error with %q", tc.args, r, err, tc.want)
		}
	}
}

// The lines that the units start are command lines that tpcfs understands.
func TestUnits(t *testing.T) {
	files, err := filepath.Glob("systemd/*.service")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		commands := 0
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			if !slices.Contains([]string{"ExecStart", "ExecStopPost"}, key) {
				continue
			}
			commands++
			words := strings.Fields(strings.TrimPrefix(value, "-"))
			cmd, args, err := (&app{}).rootCommand().Find(words[1:])
			if err == nil {
				err = cmd.ParseFlags(args)
			}
			if err == nil {
				err = cmd.Args(cmd, cmd.Flags().Args())
			}
			if err != nil || words[0] != "/usr/local/bin/tpcfs" || !cmd.HasParent() {
				t.Errorf("%s: %s: %v", file, value, err)
			}
		}
		if commands == 0 || !strings.Contains(string(b), "Type=notify\n") {
			t.Errorf("%s: %d commands, want some, and Type=notify", file, commands)
		}
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	env := map[string]string{"NOTIFY_SOCKET": path}
	a := &app{err: os.Stderr, logLevel: "warn", lookupEnv: func(k string) (string, bool) { v, ok := env[k]; return v, ok }}
	for _, want := range []string{notifyReady, notifyStopping} {
		a.notify(want)
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("heard %q, %v; want %q", buf[:n], err, want)
		}
	}
	delete(env, "NOTIFY_SOCKET")
	a.notify(notifyReady) // to nobody
}
