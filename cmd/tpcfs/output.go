package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"tpcfs/wire"
)

// print writes a result: v with -o json, else the text, which may be empty.
func (a *app) print(v any, text string) error {
	if a.json() {
		return json.NewEncoder(a.out).Encode(v)
	}
	if text == "" {
		return nil
	}
	_, err := fmt.Fprintln(a.out, text)
	return err
}

// fileInfo is a file as -o json shows it. Names that are not UTF-8 come in
// name_bytes (base64) too.
type fileInfo struct {
	Name      string    `json:"name"`
	NameBytes []byte    `json:"name_bytes,omitempty"`
	Type      string    `json:"type"`
	Inode     uint64    `json:"inode"`
	Mode      string    `json:"mode"` // octal permission bits
	Links     uint32    `json:"links"`
	UID       uint32    `json:"uid"`
	GID       uint32    `json:"gid"`
	Size      int64     `json:"size"`
	Blocks    int64     `json:"blocks"` // of 512 bytes
	Modified  time.Time `json:"modified"`
	Changed   time.Time `json:"changed"`
	Accessed  time.Time `json:"accessed"`
	Version   string    `json:"version"`
	Target    string    `json:"target,omitempty"` // of a symbolic link
	Device    string    `json:"device,omitempty"` // "major:minor"
	// Xattrs are the extended attributes, with stat alone; values in base64.
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
}

func newFileInfo(name string, at wire.Attr) fileInfo {
	info := fileInfo{
		Name: name, Type: typeName(at.Mode), Inode: uint64(at.Ino), Mode: fmt.Sprintf("%04o", at.Mode&wire.ModePerm),
		Links: at.Nlink, UID: at.UID, GID: at.GID, Size: at.Size, Blocks: at.Blocks,
		Modified: time.Unix(0, at.Mtime), Changed: time.Unix(0, at.Ctime), Accessed: time.Unix(0, at.Atime),
		Version: at.Version.String(),
	}
	if t := at.Mode & wire.ModeType; t == wire.ModeChar || t == wire.ModeBlock {
		info.Device = fmt.Sprintf("%d:%d", unix.Major(uint64(at.Rdev)), unix.Minor(uint64(at.Rdev)))
	}
	if !utf8.ValidString(name) {
		info.NameBytes = []byte(name)
	}
	return info
}

func typeName(mode uint32) string {
	switch mode & wire.ModeType {
	case wire.ModeDir:
		return "directory"
	case wire.ModeRegular:
		return "file"
	case wire.ModeSymlink:
		return "symlink"
	case wire.ModeFifo:
		return "fifo"
	case wire.ModeSocket:
		return "socket"
	case wire.ModeChar:
		return "character device"
	case wire.ModeBlock:
		return "block device"
	default:
		return "other"
	}
}

// show is a name for the output: on a terminal without what would upset it.
func (a *app) show(name string) string {
	if isTerminal(a.out) {
		return printable(name)
	}
	return name
}

// owner is the user and group that new files get.
func owner() (uid, gid uint32) { return uint32(os.Getuid()), uint32(os.Getgid()) }
