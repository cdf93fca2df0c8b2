package store

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// Names in a data directory. The journal's is the participant's.
const (
	formatName  = "FORMAT"
	lockName    = "LOCK"
	kvName      = "meta.db"
	objectsName = "objects"
	ballastName = "ballast"
	journalName = "journal"
	newSuffix   = ".new"

	formatVersion  = 1
	maxFormatBytes = 4096

	coordinatorFormat = `{"kind":"tpcfs coordinator"` // begins a coordinator's FORMAT
)

// format is what FORMAT says (S4).
type format struct {
	uuid wire.UUID
	dirs int // directories below objects/
}

func (f format) encode() []byte {
	body := fmt.Sprintf("tpcfs participant\nversion %d\nuuid %s\ndirectories %d\n", formatVersion, f.uuid, f.dirs)
	return fmt.Appendf(nil, "%ssum %08x\n", body, wire.Sum([]byte(body)))
}

var (
	errNewer       = errors.New("use the tpcfs that made it, or a newer one")
	errCoordinator = errors.New("it is a coordinator's data directory: give the participant's own, or a new one")
)

// decodeFormat reads a FORMAT file; the error is words for a user.
func decodeFormat(b []byte) (format, error) {
	var f format
	var version int
	text := string(b)
	if strings.HasPrefix(text, coordinatorFormat) {
		return f, errCoordinator
	}
	if _, err := fmt.Sscanf(text, "tpcfs participant\nversion %d\n", &version); err != nil {
		return f, errors.New("it is not the FORMAT file of a tpcfs participant")
	}
	if version != formatVersion {
		return f, fmt.Errorf("its version is %d and this tpcfs knows version %d: %w", version, formatVersion, errNewer)
	}
	body, tail, ok := strings.Cut(text, "sum ")
	var sum uint32
	var uuid string
	if _, err := fmt.Sscanf(tail, "%08x\n", &sum); !ok || err != nil || sum != wire.Sum([]byte(body)) {
		return f, errors.New("its checksum does not match")
	}
	if _, err := fmt.Sscanf(body, "tpcfs participant\nversion %d\nuuid %s\ndirectories %d\n", &version, &uuid, &f.dirs); err != nil {
		return f, fmt.Errorf("it is malformed: %v", err)
	}
	raw, err := hex.DecodeString(uuid)
	if err != nil || len(raw) != len(f.uuid) || f.dirs < 1 || f.dirs > 1<<16 {
		return f, errors.New("it is malformed")
	}
	copy(f.uuid[:], raw)
	return f, nil
}

func (s *Store) path(parts ...string) string {
	return path.Join(append([]string{s.o.Dir}, parts...)...)
}

// readFormat reads FORMAT; found is false if the directory has none.
func (s *Store) readFormat() (found bool, err error) {
	name := s.path(formatName)
	b, err := disk.ReadWhole(s.fs, name, maxFormatBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return false, dirError(s.o.Dir, err)
	}
	if err != nil {
		return false, openError(wire.CodeIO, name, err.Error())
	}
	s.format, err = decodeFormat(b)
	if errors.Is(err, errCoordinator) {
		return false, openError(wire.CodeInvalid, s.o.Dir, err.Error())
	}
	if errors.Is(err, errNewer) {
		return false, openError(wire.CodeUnsupported, name, err.Error())
	}
	if err != nil {
		return false, openError(wire.CodeCorrupt, name, err.Error()+": give a participant's directory, or put the file back from a backup")
	}
	return true, nil
}

// readUpTo reads into b and returns how much there was of it.
func readUpTo(f disk.File, b []byte, at int64) (int, error) {
	n, err := f.ReadAt(b, at)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// closeRead closes what was only read: nothing is lost if that fails.
func closeRead(c io.Closer) { _ = c.Close() }

// checkDir refuses what is not a participant's data directory and cannot become one, before
// anything is left in it. One that is missing will be made.
func (s *Store) checkDir() error {
	entries, err := s.fs.ReadDir(s.o.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return dirError(s.o.Dir, err)
	}
	for _, e := range entries {
		if e.Name == formatName {
			_, err := s.readFormat()
			return err
		}
	}
	return s.refuseForeign(entries)
}

// refuseForeign refuses a directory without FORMAT in which somebody else's
// files lie, or a store that has lost its FORMAT.
func (s *Store) refuseForeign(entries []disk.Entry) error {
	for _, e := range entries {
		switch e.Name {
		case formatName + newSuffix, lockName, objectsName, ballastName, journalName, "lost+found":
		case kvName:
			if s.o.KV == nil && e.Size > boltFreshSize {
				return openError(wire.CodeCorrupt, s.o.Dir, "there is a "+kvName+" with data but no FORMAT file: put that back from a backup")
			}
		default:
			return openError(wire.CodeInvalid, s.o.Dir, fmt.Sprintf("it is not a participant's data directory (no FORMAT file) and not empty (%s is in it): give an empty or a new directory", e.Name))
		}
	}
	return nil
}

// create makes what a new store consists of; FORMAT comes last, so that a
// crash before it leaves a directory that is made again.
func (s *Store) create() error {
	s.format = format{uuid: s.o.UUID, dirs: s.o.Fanout}
	if s.format.uuid.IsZero() {
		if _, err := rand.Read(s.format.uuid[:]); err != nil {
			return openError(wire.CodeIO, s.o.Dir, err.Error())
		}
	}
	for i := range s.format.dirs {
		if err := s.fs.MkdirAll(s.path(objectsName, dirName(i))); err != nil {
			return openError(wire.CodeIO, s.o.Dir, err.Error())
		}
	}
	return nil
}

// checkObjectDirs refuses a store that has lost a directory of objects: create
// made them all before FORMAT, and with one gone so are the contents in it.
func (s *Store) checkObjectDirs() error {
	entries, err := s.fs.ReadDir(s.path(objectsName))
	if errors.Is(err, fs.ErrNotExist) {
		return openError(wire.CodeCorrupt, s.path(objectsName), "it is missing, and with it the contents of files")
	}
	if err != nil {
		return openError(wire.CodeIO, s.path(objectsName), err.Error())
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.Name] = true
	}
	for i := range s.format.dirs {
		if !there[dirName(i)] {
			return openError(wire.CodeCorrupt, s.path(objectsName, dirName(i)), "it is missing, and with it the contents of files")
		}
	}
	return nil
}

// writeFormat makes the directory a store.
func (s *Store) writeFormat() error {
	name := s.path(formatName)
	if err := disk.WriteWhole(s.fs, name, name+newSuffix, s.format.encode()); err != nil {
		return openError(wire.CodeIO, name, err.Error())
	}
	return nil
}

// dirError is why a data directory cannot be used, with what to do about it.
func dirError(dir string, err error) *wire.Error {
	e := openError(wire.CodeIO, dir, disk.Advice(err))
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

// openError is why a store cannot be opened, with what to do about it.
func openError(code wire.Code, name, reason string) *wire.Error {
	return &wire.Error{Code: code, Op: "open", Name: name, Text: reason}
}

// kvOpenError is why the kv cannot be opened. Damage is left to the caller's
// words: what to do about it depends on the other participants.
func kvOpenError(name string, err error) error {
	var damage *DamageError
	var e *wire.Error
	switch {
	case errors.As(err, &damage):
		return &wire.Error{Code: wire.CodeCorrupt, Text: damage.Error()}
	case errors.Is(err, fs.ErrNotExist):
		return &wire.Error{Code: wire.CodeCorrupt, Text: name + " is missing"}
	case errors.As(err, &e):
		return e
	default:
		return openError(wire.CodeIO, name, err.Error())
	}
}
