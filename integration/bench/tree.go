package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mountTree measures the sources of Go's standard library unpacked through a
// mount, and removed again.
func mountTree(ctx context.Context, bin, dir string, o options) (rows []row, err error) {
	s, err := openSides(ctx, bin, dir, o, "tree")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	archive := filepath.Join(s.bare, "std.tar")
	if err := archiveOfGo(ctx, archive); err != nil {
		return nil, err
	}
	defer s.watch()()
	took, files := map[string]time.Duration{}, 0
	for _, point := range []string{s.loop, s.mnt, s.bare} {
		began := time.Now()
		if files, err = unpack(archive, point, point == s.loop); err != nil {
			return nil, err
		}
		took[point] = time.Since(began)
	}
	began := time.Now()
	if err := removeSynced(filepath.Join(s.bare, "src")); err != nil {
		return nil, err
	}
	bare := time.Since(began)
	removed, err := run(ctx, "rm", "-rf", filepath.Join(s.mnt, "src"))
	if err != nil {
		return nil, err
	}
	detail := func(mnt, other time.Duration) string {
		return fmt.Sprintf("%d files, %v to %v", files, mnt.Round(time.Millisecond), other.Round(time.Millisecond))
	}
	return []row{
		{"mount: Go's sources unpacked, to the loopback + fsync", took[s.mnt].Seconds() / took[s.loop].Seconds(), "x", 3, 1, true, detail(took[s.mnt], took[s.loop])},
		{"mount: rm -rf of them, to unlink + fsync on the bare disk", removed.Seconds() / bare.Seconds(), "x", 4, 1.5, true, detail(removed, bare)},
		s.memory("many small files", 256, 128),
	}, nil
}

// archiveOfGo makes a tar file of the standard library without commands and
// tests' data: some 5,000 files.
func archiveOfGo(ctx context.Context, name string) error {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	_, err = run(ctx, "tar", "-cf", name, "--exclude=cmd", "--exclude=testdata", "-C", strings.TrimSpace(string(root)), "src")
	return err
}

// unpack unpacks a tar file below dir, one system call after the other as tar(1)
// does for root, and is how many files there were. With fsync each is durable then.
func unpack(archive, dir string, fsync bool) (files int, err error) {
	f, err := os.Open(archive)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		} else if err != nil {
			return files, err
		}
		name := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = unix.Mkdir(name, uint32(h.Mode)&0o777)
		case tar.TypeReg:
			files++
			err = unpackFile(name, h, r, fsync)
		}
		if err != nil {
			return files, fmt.Errorf("%s: %w", name, err)
		}
	}
}

func unpackFile(name string, h *tar.Header, from io.Reader, fsync bool) (err error) {
	data, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	for len(data) > 0 {
		n, err := unix.Write(fd, data[:min(len(data), 10240)])
		if err != nil {
			return err
		}
		data = data[n:]
	}
	at := unix.NsecToTimeval(h.ModTime.UnixNano())
	if err := unix.Futimes(fd, []unix.Timeval{at, at}); err != nil {
		return err
	}
	if err := unix.Fchown(fd, os.Getuid(), os.Getgid()); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, uint32(h.Mode)&0o777); err != nil {
		return err
	}
	if fsync {
		return unix.Fsync(fd)
	}
	return nil
}

// removeSynced removes a tree, each removal durable before the next.
func removeSynced(root string) error {
	var dirs, names []string
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, name)
		} else {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		return err
	}
	for i := len(dirs) - 1; i >= 0; i-- { // what is in a directory before it
		names = append(names, dirs[i])
	}
	for _, name := range names {
		if err := removeOne(name); err != nil {
			return err
		}
	}
	return nil
}

func removeOne(name string) error {
	if err := os.Remove(name); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
