package coordinator

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

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
)

// format is what FORMAT says.
type format struct {
	Kind    string `json:"kind"`
	Version int    `json:"version"`
	Cluster string `json:"cluster"` // 32 hexadecimal digits
}

// openDir locks the data directory and returns the cluster's name, which a new
// directory is given.
func openDir(fsys disk.FS, dir string, fresh wire.UUID) (lock io.Closer, cluster wire.UUID, err error) {
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, cluster, dirError(dir, "cannot make the data directory: "+err.Error())
	}
	lock, err = fsys.Lock(path.Join(dir, lockName))
	var locked *disk.LockedError
	if errors.As(err, &locked) {
		return nil, cluster, &wire.Error{Code: wire.CodeBusy, Name: dir, Text: fmt.Sprintf(
			"the data directory is in use by process %d (%s): stop it first, or give another directory", locked.PID, path.Join(dir, lockName))}
	}
	if err != nil {
		return nil, cluster, dirError(dir, "cannot lock it: "+err.Error())
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

func dirError(dir, text string) *wire.Error {
	return &wire.Error{Code: wire.CodeIO, Op: "open", Name: dir, Text: text}
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
	if err != nil {
		return damaged("cannot be read (" + err.Error() + "): put it back from a backup")
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
		return dirError(dir, err.Error())
	}
	for _, e := range entries {
		switch e.Name {
		case lockName, formatTemp: // a crash left it
		default:
			return &wire.Error{Code: wire.CodeInvalid, Op: "open", Name: dir, Text: fmt.Sprintf(
				"it is not a coordinator's data directory (no FORMAT file) and not empty (%s is in it): give an empty or a new directory", e.Name)}
		}
	}
	return writeFormat(fsys, dir, cluster)
}

// writeFormat puts FORMAT there, whole, in place of another one.
func writeFormat(fsys disk.FS, dir string, cluster wire.UUID) error {
	b, err := json.Marshal(format{formatKind, formatVersion, hex.EncodeToString(cluster[:])})
	if err != nil {
		panic("coordinator: " + err.Error())
	}
	if err := disk.WriteWhole(fsys, path.Join(dir, formatName), path.Join(dir, formatTemp), append(b, '\n')); err != nil {
		return dirError(dir, "cannot write FORMAT: "+err.Error())
	}
	return nil
}
