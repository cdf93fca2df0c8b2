package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"

	"tpcfs/integration/harness"
)

// slowDisks are ext4 on loop devices whose files lie in a loopback mount of bench's own
// (loopback.go), which answers each sync so long after it came at the earliest: disks
// whose syncs take longer than this machine's, which may be answered from its host's
// memory. Nothing else about them is slow, and the bare disk is one of them.
type slowDisks struct {
	mounts  []string
	devices []string
	served  *harness.Proc
}

// slowDiskSize is what fits on one, in bytes; it takes what is written.
const slowDiskSize = 24 * gib

// newSlowDisks makes n below dir. When they are closed dir can be removed. It needs root.
func newSlowDisks(ctx context.Context, dir string, sync time.Duration, n int) (_ *slowDisks, err error) {
	d := &slowDisks{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("disks of slow syncs: %w", err), d.close())
		}
	}()
	below, shown := filepath.Join(dir, "below"), filepath.Join(dir, "shown")
	if err := errors.Join(os.Mkdir(below, 0o700), os.Mkdir(shown, 0o700)); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if d.served, err = harness.Start("slow disks", nil, self, "-loopback", below, "-sync", sync.String(), shown); err != nil {
		return nil, err
	}
	if _, err := d.served.WaitLine(ctx, "ready"); err != nil {
		return nil, err
	}
	for i := range n {
		name := fmt.Sprintf("disk-%d", i)
		if err := d.add(ctx, filepath.Join(below, name), filepath.Join(shown, name), filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// add makes a disk whose contents lie in one file, as another one shows it.
func (d *slowDisks) add(ctx context.Context, image, shown, mnt string) error {
	err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, slowDiskSize), os.Mkdir(mnt, 0o700))
	if err != nil {
		return err
	}
	device, err := output(ctx, "losetup", "--find", "--show", shown)
	if err != nil {
		return err
	}
	d.devices = append(d.devices, device)
	if _, err := output(ctx, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device); err != nil {
		return err
	}
	if _, err := output(ctx, "mount", device, mnt); err != nil {
		return err
	}
	d.mounts = append(d.mounts, mnt)
	return nil
}

// close takes them down again.
func (d *slowDisks) close() error {
	var err error
	for _, mnt := range d.mounts {
		if e := syscall.Unmount(mnt, 0); e != nil {
			err = errors.Join(err, fmt.Errorf("unmounting %s: %w", mnt, e))
		}
	}
	for _, device := range d.devices {
		_, e := output(context.Background(), "losetup", "--detach", device)
		err = errors.Join(err, e)
	}
	if d.served != nil {
		err = errors.Join(err, d.served.Terminate(stopWithin))
	}
	return err
}

// output runs a command and returns its first line.
func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	out = bytes.TrimSpace(out)
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return string(out), nil
}

// slowNode is a loopback's node whose files' syncs take long.
type slowNode struct {
	*fs.LoopbackNode
	sync time.Duration // at least
}

var (
	_ fs.NodeFsyncer     = (*slowNode)(nil)
	_ fs.NodeWrapChilder = (*slowNode)(nil)
)

// WrapChild makes a loopback's node one of these.
func (n *slowNode) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	return &slowNode{LoopbackNode: ops.(*fs.LoopbackNode), sync: n.sync} //nolint:forcetypeassert // a loopback has no others
}

func (n *slowNode) Fsync(ctx context.Context, f fs.FileHandle, flags uint32) syscall.Errno {
	timer := time.NewTimer(n.sync)
	defer timer.Stop()
	file, ok := f.(fs.FileFsyncer)
	if !ok {
		return syscall.ENOTSUP
	}
	errno := file.Fsync(ctx, flags)
	<-timer.C
	return errno
}
