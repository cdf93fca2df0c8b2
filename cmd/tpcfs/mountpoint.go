package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkMountpoint says what is wrong with a mount point before anything is
// started. A mount that a killed process has left there is fine: mounting
// clears it.
func checkMountpoint(mountpoint string) error {
	if mountpoint == "" {
		return &exitError{code: exitFailed, err: errors.New("the mount point is empty: name a directory")}
	}
	info, err := os.Stat(mountpoint)
	switch {
	case errors.Is(err, syscall.ENOTCONN):
	case errors.Is(err, fs.ErrNotExist):
		// exit code 3 is for files of the service
		return &exitError{code: exitFailed, err: fmt.Errorf("the mount point %s is missing: make it with mkdir %s", mountpoint, mountpoint)}
	case err != nil:
		return fmt.Errorf("mount point: %w", err)
	case !info.IsDir():
		return fmt.Errorf("the mount point %s is not a directory", mountpoint)
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return &exitError{code: exitFailed, err: errors.New("no /dev/fuse: run `modprobe fuse` as root, or give the container --device /dev/fuse --cap-add SYS_ADMIN")}
	}
	return nil
}
