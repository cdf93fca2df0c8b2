package harness

import (
	"bufio"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// OwnMounts gives the calling thread, which has to be locked for good, a mount
// namespace of its own. FUSE mounts of others are not in it: a copy would keep
// their processes serving when they are unmounted elsewhere.
func OwnMounts() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	points, err := fuseMounts()
	for _, point := range points {
		if e := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); e != nil {
			err = errors.Join(err, &os.PathError{Op: "umount", Path: point, Err: e})
		}
	}
	return err
}

// fuseMounts are the mount points of the thread's namespace with FUSE file
// systems, those mounted last first.
func fuseMounts() ([]string, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	var points []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		mount, fs, _ := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(mount); len(fields) > 4 && strings.HasPrefix(fs, "fuse.") {
			points = append([]string{unescape(fields[4])}, points...)
		}
	}
	return points, lines.Err()
}

// unescape undoes what mountinfo does to spaces and the like.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
