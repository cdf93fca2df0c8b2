package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

// A mount that dies leaves its session behind, with the deleted files that it had open
// and its locks, until the coordinator has heard nothing of it for a while. So each
// mount has a file on its machine that says which session is its own, and keeps a lock
// of the kernel's on it: who can lock it knows that the mount's process is no more, and
// the next mount of that user ends such sessions at once (F10). Whatever goes wrong
// with these files, a mount does without.

const (
	mountFiles   = ".mount"
	mostMounts   = 1024           // of these files are looked at
	mountFileMax = 4096           // bytes of one
	mountFileOld = 24 * time.Hour // after which one is removed that nobody ends: the coordinator has long forgotten it
	endWait      = 5 * time.Second
)

// registered is a mount's file, while it is locked.
type registered struct {
	file *os.File // nil: there is none
	name string
}

// registration is what a mount's file says.
type registration struct {
	Boot       string    `json:"boot"` // of the machine: only there, and since then, the lock tells anything
	Cluster    wire.UUID `json:"cluster"`
	Session    wire.UUID `json:"session"`
	Mountpoint string    `json:"mountpoint"` // for who looks
	// Of the file itself: nobody has locked a copy, or what an overlay shows of it, while the mount lives.
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

// isOf: is the registration that of this very file?
func (r *registration) isOf(f *os.File) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, err
	}
	return r.Device == st.Dev && r.Inode == st.Ino, nil
}

// register ends the sessions of the service's mounts that have died on this machine, and
// writes down that of the client's own.
func register(ctx context.Context, log *slog.Logger, c *client.Client, mountpoint string) *registered {
	dir, err := mountsDir()
	var boot []byte
	if err == nil {
		boot, err = os.ReadFile("/proc/sys/kernel/random/boot_id")
	}
	var cluster wire.UUID
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, endWait)
		defer cancel()
		cluster, err = c.Cluster(ctx)
	}
	r := &registered{}
	if err == nil {
		own := registration{Boot: strings.TrimSpace(string(boot)), Cluster: cluster, Session: wire.UUID(c.Session()), Mountpoint: mountpoint}
		own.endDead(ctx, log, dir, c.EndSession)
		r, err = own.write(dir)
	}
	if err != nil {
		log.Debug("when this mount dies its session ends by itself, after a while", "err", err)
	}
	return r
}

// leave removes the mount's file: its session has ended.
func (r *registered) leave() {
	if r.file != nil {
		_ = os.Remove(r.name) // as of one that died it is found unlocked, and its session is no more
		_ = r.file.Close()
	}
}

// mountsDir is the directory of the user's mounts on this machine, which nobody else may use.
func mountsDir() (string, error) {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	switch {
	case dir != "":
		dir = filepath.Join(dir, "tpcfs")
	case os.Getuid() == 0:
		dir = "/run/tpcfs"
	default:
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("tpcfs-%d", os.Getuid()))
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Getuid() || st.Mode&0o077 != 0 {
		return "", fmt.Errorf("%s is not a directory of this user alone", dir)
	}
	return dir, nil
}

// write makes the file, which has its name once it is locked and whole.
func (r registration) write(dir string) (*registered, error) {
	f, err := os.CreateTemp(dir, "new-*")
	if err != nil {
		return &registered{}, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	r.Device, r.Inode = st.Dev, st.Ino
	var text []byte
	if err == nil {
		text, err = json.Marshal(r)
	}
	name := filepath.Join(dir, r.Session.String()+mountFiles)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		_, err = f.Write(text)
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return &registered{}, errors.Join(err, os.Remove(f.Name()), f.Close())
	}
	return &registered{f, name}, nil
}

// ender ends a session.
type ender func(ctx context.Context, session wire.SessionID) error

// endDead ends the sessions of mounts that are no more.
func (r registration) endDead(ctx context.Context, log *slog.Logger, dir string, end ender) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		log.Debug("mounts that have died here are not found", "err", err)
		return
	}
	for _, e := range entries[:min(len(entries), mostMounts)] {
		if !strings.HasSuffix(e.Name(), mountFiles) {
			continue
		}
		if err := r.endOne(ctx, log, filepath.Join(dir, e.Name()), end); err != nil {
			log.Debug("the session of a mount that has died ends by itself, after a while", "file", e.Name(), "err", err)
		}
	}
}

// endOne ends the session that a file is of, if its mount is no more and was one of
// the same service. Of a copy the lock tells nothing.
func (r registration) endOne(ctx context.Context, log *slog.Logger, name string, end ender) error {
	f, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil // it lives
	}
	var was registration
	text, err := io.ReadAll(io.LimitReader(f, mountFileMax))
	if err == nil {
		err = json.Unmarshal(text, &was)
	}
	own := false
	if err == nil {
		own, err = was.isOf(f)
	}
	if err != nil || !own || was.Boot != r.Boot || was.Cluster != r.Cluster {
		if info, serr := f.Stat(); serr == nil && time.Since(info.ModTime()) > mountFileOld {
			return os.Remove(name)
		}
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, endWait)
	defer cancel()
	if err := end(ctx, wire.SessionID(was.Session)); err != nil {
		return err
	}
	log.Info("a mount that has died here is forgotten", "mountpoint", was.Mountpoint)
	return os.Remove(name)
}
