package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

type getFlags struct {
	clientFlags
	offset, length   int64
	recursive, force bool
}

func (a *app) getCommand() *cobra.Command {
	var f getFlags
	cmd := &cobra.Command{
		Use:   "get NAME [LOCAL|-]",
		Short: "Read a file",
		Long: `Reads the file NAME into the local file LOCAL, or to standard output (- or
nothing). All of it is of one version. LOCAL appears under its name only when it
is whole; a directory gets a file with NAME's last part. A file that changes
while it goes to standard output, after bytes have left, is exit code 5.

With -r NAME is a directory, and LOCAL, which must be new or empty, becomes a copy
of it: files, symbolic links, hard links, pipes, permissions and times. Each file is
of one version and appears when it is whole; the directory as a whole is not of
one moment. When it is interrupted it says how far it came. --force writes over
what is in LOCAL.`,
		Example: `  tpcfs get docs/notes
  tpcfs get archive/2026/report.pdf report.pdf
  tpcfs get -r archive/2026 ./archive-2026
  tpcfs get --offset 1048576 --length 4096 disk.img - | xxd`,
		Args: takes(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			local := "-"
			if len(args) == 2 {
				local = args[1]
			}
			if !f.recursive {
				return a.get(cmd.Context(), f, args[0], local)
			}
			if local == "-" || f.offset != 0 || f.length != 0 {
				return usage("get", "-r needs a local directory, and takes neither --offset nor --length")
			}
			return a.getTree(cmd.Context(), f, args[0], local)
		},
	}
	f.add(cmd, defaultWait)
	cmd.Flags().Int64Var(&f.offset, "offset", 0, "where to begin, in bytes")
	cmd.Flags().Int64Var(&f.length, "length", 0, "how many bytes; 0 is to the end")
	cmd.Flags().BoolVarP(&f.recursive, "recursive", "r", false, "copy a directory and all that is in it")
	cmd.Flags().BoolVar(&f.force, "force", false, "with -r: write over what is in LOCAL")
	return cmd
}

func (a *app) get(ctx context.Context, f getFlags, name, local string) error {
	if f.offset < 0 || f.length < 0 {
		return usage("get", "--offset and --length are not negative")
	}
	c, err := a.connect(ctx, "get", f.clientFlags)
	if err != nil {
		return err
	}
	defer closeClient(c)
	bar := a.meter(name, -1)
	if bar.show {
		if attr, err := c.Stat(ctx, name); err == nil { // an error shows when it is read
			bar.total = sizeOfRange(attr.Size, f.offset, f.length)
		}
	}
	o := client.ReadOptions{Offset: f.offset, Length: f.length, Progress: bar.set}
	if local == "-" {
		_, err := c.ReadTo(ctx, name, a.out, o)
		bar.done()
		return about(name, err)
	}
	dst, err := openTarget(local, path.Base("/"+name))
	if err != nil {
		return err
	}
	attr, err := c.ReadTo(ctx, name, dst, o)
	bar.done()
	if err != nil {
		return errors.Join(about(name, err), dst.discard())
	}
	if err := dst.keep(attr.Mode); err != nil {
		return err
	}
	return a.print(newFileInfo(name, attr), "")
}

// sizeOfRange is how many bytes a range of a file has; length 0 is to the end.
func sizeOfRange(size, offset, length int64) int64 {
	left := max(0, size-offset)
	if length == 0 {
		return left
	}
	return min(left, length)
}

// target is the local file that get writes. Until keep it has another name.
type target struct {
	file  *os.File
	final string // "": file is what was asked for (a device, a pipe)
}

func openTarget(local, base string) (*target, error) {
	info, err := os.Stat(local)
	switch {
	case err == nil && info.IsDir():
		local = filepath.Join(local, base)
		if info, err = os.Stat(local); err == nil && info.IsDir() {
			return nil, fmt.Errorf("%s is a directory", local)
		}
	case err == nil && !info.Mode().IsRegular():
		file, err := os.OpenFile(local, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		return &target{file: file}, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	dir := filepath.Dir(local)
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(dir, filepath.Base(local)+".tmp-*")
	if err != nil {
		return nil, err
	}
	return &target{file: file, final: local}, nil
}

func (t *target) Write(b []byte) (int, error) { return t.file.Write(b) }

// Restart begins again, where the file changed while it was read.
func (t *target) Restart() error {
	if t.final == "" {
		return wire.NewError(wire.CodeChanged, "and part of the old contents has been written; try again")
	}
	if err := t.file.Truncate(0); err != nil {
		return err
	}
	_, err := t.file.Seek(0, io.SeekStart)
	return err
}

// keep gives the file its name and the permissions of the one it is a copy of.
func (t *target) keep(mode uint32) error {
	if t.final == "" {
		return t.file.Close()
	}
	mask := unix.Umask(0)
	unix.Umask(mask)
	err := t.file.Chmod(fs.FileMode(mode&0o777) &^ fs.FileMode(mask))
	err = errors.Join(err, t.file.Close())
	if err == nil {
		err = os.Rename(t.file.Name(), t.final)
	}
	if err != nil {
		return errors.Join(err, os.Remove(t.file.Name()))
	}
	return nil
}

// discard leaves nothing behind.
func (t *target) discard() error {
	err := t.file.Close()
	if t.final == "" {
		return err
	}
	return errors.Join(err, os.Remove(t.file.Name()))
}
