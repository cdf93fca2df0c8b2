package coordinator

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"syscall"

	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// The files of a coordinator's data directory.
const (
	formatName  = "FORMAT"
	formatTemp  = "FORMAT.tmp"
	lockName    = "LOCK"
	journalName = "journal"
)

const (
	formatKind    = "tpcfs coordinator"
	formatVersion = 1
	maxFormat     = 4096 // bytes

	participantFormat = "tpcfs participant\n" // begins a participant's FORMAT
)

// format is what FORMAT says.
type format struct {
	Kind    string `json:"kind"`
	Version int    `json:"version"`
	Cluster string `json:"cluster"` // 32 hexadecimal digits
}

// openDir locks the data directory and returns the cluster's name, which a new
// directory is given. One that is refused is left as it is.
func openDir(fsys disk.FS, dir string, fresh wire.UUID) (lock io.Closer, cluster wire.UUID, err error) {
	if err := checkDir(fsys, dir); err != nil {
		return nil, cluster, err
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, cluster, dirError(dir, err)
	}
	lock, err = fsys.Lock(path.Join(dir, lockName))
	var locked *disk.LockedError
	if errors.As(err, &locked) {
		return nil, cluster, &wire.Error{Code: wire.CodeBusy, Name: dir, Text: fmt.Sprintf(
			"the data directory is in use by process %d (%s): stop it first, or give another directory", locked.PID, path.Join(dir, lockName))}
	}
	if err != nil {
		return nil, cluster, dirError(dir, err)
	}
	cluster, err = readFormat(fsys, dir)
	if errors.Is(err, fs.ErrNotExist) {
		cluster, err = fresh, makeFormat(fsys, dir, fresh)
	}
	if err != nil {
		_ = lock.Close()
		return nil, cluster, err
	}
	return lock, cluster, nil
}

// CheckDir tells why Open would refuse the directory, as far as that can be told without
// the lock, and changes nothing in it. Errors are *wire.Error: CodeInvalid where it is
// none for a coordinator.
func CheckDir(dir string) error { return checkDir(disk.New(), dir) }

func checkDir(fsys disk.FS, dir string) error {
	entries, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is made
	}
	if err != nil {
		return dirError(dir, err)
	}
	for _, e := range entries {
		if e.Name == formatName {
			_, err := readFormat(fsys, dir)
			return err
		}
	}
	return refuseForeign(dir, entries)
}

// dirError is why a data directory cannot be used, with what to do about it.
func dirError(dir string, err error) *wire.Error {
	e := &wire.Error{Code: wire.CodeIO, Op: "open", Name: dir, Text: disk.Advice(err)}
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		e.Code = wire.CodeInvalid
	case errors.Is(err, fs.ErrPermission):
		e.Code = wire.CodeAccess
	case errors.Is(err, syscall.EROFS):
		e.Code = wire.CodeReadOnly
	}
	return e
}

// readFormat returns fs.ErrNotExist if there is none.
func readFormat(fsys disk.FS, dir string) (cluster wire.UUID, err error) {
	name := path.Join(dir, formatName)
	damaged := func(why string) (wire.UUID, error) {
		return cluster, &wire.Error{Code: wire.CodeCorrupt, Op: "open", Name: name, Text: why}
	}
	b, err := disk.ReadWhole(fsys, name, maxFormat)
	if errors.Is(err, fs.ErrNotExist) {
		return cluster, err
	}
	if errors.Is(err, fs.ErrPermission) {
		return cluster, dirError(dir, err)
	}
	if err != nil {
		return damaged("cannot be read (" + err.Error() + "): put it back from a backup")
	}
	if bytes.HasPrefix(b, []byte(participantFormat)) {
		return cluster, &wire.Error{Code: wire.CodeInvalid, Op: "open", Name: dir, Text: "it is a participant's data directory: give the coordinator's own, or a new one"}
	}
	var have format
	if err := json.Unmarshal(b, &have); err != nil || have.Kind != formatKind {
		return damaged("it is not the FORMAT of a coordinator's data directory: give the directory that the coordinator was started with, or a new one")
	}
	if have.Version != formatVersion {
		return damaged(fmt.Sprintf("data format %d; this program reads format %d: use the version that wrote it", have.Version, formatVersion))
	}
	name16, err := hex.DecodeString(have.Cluster)
	if err != nil || len(name16) != len(cluster) {
		return damaged("the cluster's name in it is damaged: put it back from a backup")
	}
	return wire.UUID(name16), nil
}

// makeFormat makes a new data directory.
func makeFormat(fsys disk.FS, dir string, cluster wire.UUID) error {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return dirError(dir, err)
	}
	if err := refuseForeign(dir, entries); err != nil {
		return err
	}
	return writeFormat(fsys, dir, cluster)
}

// refuseForeign refuses a directory without FORMAT in which something is.
func refuseForeign(dir string, entries []disk.Entry) error {
	for _, e := range entries {
		switch e.Name {
		case lockName, formatTemp: // a crash left it
		case "lost+found":
		default:
			return &wire.Error{Code: wire.CodeInvalid, Op: "open", Name: dir, Text: fmt.Sprintf(
				"it is not a coordinator's data directory (no FORMAT file) and not empty (%s is in it): give an empty or a new directory", e.Name)}
		}
	}
	return nil
}

// writeFormat puts FORMAT there, whole, in place of another one.
func writeFormat(fsys disk.FS, dir string, cluster wire.UUID) error {
	b, err := json.Marshal(format{formatKind, formatVersion, hex.EncodeToString(cluster[:])})
	if err != nil {
		panic("coordinator: " + err.Error())
	}
	if err := disk.WriteWhole(fsys, path.Join(dir, formatName), path.Join(dir, formatTemp), append(b, '\n')); err != nil {
		return dirError(dir, err)
	}
	return nil
}
