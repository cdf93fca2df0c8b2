package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Advice says, in words for a user, why a data directory cannot be used, and what to do
// about it.
func Advice(err error) string {
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Sprintf("it is no directory, or lies below a file (%v): give a directory, or a name that is not there yet", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("%v: give user %d, who runs this, the right to read and write there, or give another directory", err, os.Geteuid())
	case errors.Is(err, syscall.EROFS):
		return fmt.Sprintf("%v: mount it for writing, or give another directory", err)
	default:
		return fmt.Sprintf("%v: see to its disk, or give another directory", err)
	}
}
