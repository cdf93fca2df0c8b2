package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

// spoolAbove is how much of standard input is kept in memory, in bytes; more
// goes to a temporary file, so that a retry can read it again.
const spoolAbove = 64 << 10

type putFlags struct {
	clientFlags
	mode      string
	ifVersion string
	exclusive bool
	recursive bool
	noAtomic  bool
	preserve  bool
}

func (a *app) putCommand() *cobra.Command {
	var f putFlags
	cmd := &cobra.Command{
		Use:   "put LOCAL|- NAME",
		Short: "Write a whole file, or a directory with all that is in it",
		Long: `Writes the local file LOCAL, or standard input (-), as the file NAME. NAME is
replaced as a whole: readers see the old contents or the new ones, never both.
When put returns 0, the file is on stable storage of every participant.

With -r, LOCAL is a directory and NAME must not exist: files, directories and
symbolic links appear as NAME in one transaction, all of them or none. One
transaction holds at most 65536 of them, and 64 MiB of names and of files up to
64 KiB (larger files do not count). A tree beyond that is refused; --no-atomic
puts it in several transactions, and what an error leaves half done stays.`,
		Example: `  tpcfs put report.pdf archive/2026/report.pdf
  date | tpcfs put - now.txt
  tpcfs put --exclusive job.lock locks/job    # fails if locks/job exists
  tpcfs put --if-version 3.17 new.cfg cfg     # only over the version that stat showed
  tpcfs put -r src projects/src               # a whole tree, all or nothing
  tpcfs put -r --preserve --no-atomic /home backup`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.recursive {
				return a.putTree(cmd.Context(), f, args[0], args[1])
			}
			if f.noAtomic || f.preserve {
				return usage("put", "--no-atomic and --preserve go with -r")
			}
			return a.put(cmd.Context(), f, args[0], args[1])
		},
	}
	f.add(cmd, defaultWait)
	cmd.Flags().StringVar(&f.mode, "mode", "", "permission bits of a new file, octal (default: those of LOCAL)")
	cmd.Flags().StringVar(&f.ifVersion, "if-version", "", "write only if the file's version (see tpcfs stat) is this one")
	cmd.Flags().BoolVar(&f.exclusive, "exclusive", false, "fail if NAME exists")
	cmd.Flags().BoolVarP(&f.recursive, "recursive", "r", false, "put the directory LOCAL with all that is in it, in one transaction")
	cmd.Flags().BoolVar(&f.noAtomic, "no-atomic", false, "with -r: in several transactions, for a tree that is too much for one")
	cmd.Flags().BoolVar(&f.preserve, "preserve", false, "with -r: keep owners and times, too")
	return cmd
}

// putResult is what -o json prints.
type putResult struct {
	Name    string `json:"name"`
	Inode   uint64 `json:"inode"`
	Created bool   `json:"created"`
	Size    int64  `json:"size"`
}

func (a *app) put(ctx context.Context, f putFlags, local, name string) error {
	o := client.WriteOptions{}
	var err error
	if o.IfVersion, err = parseVersion(f.ifVersion); err != nil {
		return usage("put", "--if-version: %v", err)
	}
	if f.exclusive {
		o.Create = wire.MustNotExist
	}
	src, err := a.openSource(local)
	if err != nil {
		return err
	}
	defer src.close()
	if o.Mode, err = parseMode("put", f.mode, src.mode); err != nil {
		return err
	}
	o.UID, o.GID = owner()
	c, err := a.connect(ctx, "put", f.clientFlags)
	if err != nil {
		return err
	}
	defer closeClient(c)
	bar := a.meter(name, src.content.Size())
	o.Progress = bar.set
	result, err := c.WriteFile(ctx, name, src.content, o)
	bar.done()
	if err != nil {
		return about(name, err)
	}
	return a.print(putResult{name, uint64(result.Ino), result.Created, src.content.Size()}, "")
}

// source is what put reads: something that can be read again.
type source struct {
	content client.Content
	mode    uint32 // permission bits
	file    *os.File
}

func (s *source) close() {
	if s.file != nil {
		_ = s.file.Close() // was only read, or has no name
	}
}

func (a *app) openSource(local string) (*source, error) {
	if local == "-" {
		return spool(a.in)
	}
	file, err := os.Open(local)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = fmt.Errorf("%s is a directory: put -r puts one with all that is in it", local)
	case info.Mode().IsRegular():
		mode := uint32(info.Mode().Perm())
		return &source{content: client.ReaderAt(file, info.Size()), mode: mode, file: file}, nil
	default: // a pipe, a device
		var s *source
		s, err = spool(file)
		return s, errors.Join(err, file.Close())
	}
	return nil, errors.Join(err, file.Close())
}

// spool keeps all of r: in memory, or what is longer in a file without a name.
func spool(r io.Reader) (*source, error) {
	const mode = 0o644
	var head bytes.Buffer
	n, err := io.CopyN(&head, r, spoolAbove+1)
	if errors.Is(err, io.EOF) {
		return &source{content: client.Bytes(head.Bytes()), mode: mode}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading standard input: %w", err)
	}
	file, err := os.CreateTemp("", "tpcfs-put-*")
	if err != nil {
		return nil, err
	}
	s := &source{mode: mode, file: file}
	if err := os.Remove(file.Name()); err != nil {
		s.close()
		return nil, err
	}
	rest, err := io.Copy(file, io.MultiReader(&head, r))
	if err != nil {
		s.close()
		return nil, fmt.Errorf("keeping standard input in %s: %w", os.TempDir(), err)
	}
	if rest < n {
		panic("spool: shorter than its head")
	}
	s.content = client.ReaderAt(file, rest)
	return s, nil
}

// parseVersion reads a version as stat prints it, EPOCH.COUNTER; "" is 0.
func parseVersion(s string) (wire.ID, error) {
	if s == "" {
		return 0, nil
	}
	e, c, ok := strings.Cut(s, ".")
	epoch, err1 := strconv.ParseUint(e, 10, 23)
	counter, err2 := strconv.ParseUint(c, 10, 40)
	if !ok || err1 != nil || err2 != nil || epoch == 0 {
		return 0, fmt.Errorf("%q is no version: tpcfs stat prints them, as in 3.17", s)
	}
	return wire.MakeID(epoch, counter), nil
}

// parseMode reads octal permission bits; "" is the default.
func parseMode(command, s string, missing uint32) (uint32, error) {
	if s == "" {
		return missing, nil
	}
	mode, err := strconv.ParseUint(s, 8, 32)
	if err != nil || mode&^wire.ModePerm != 0 {
		return 0, usage(command, "--mode %q is no octal number of permission bits, as in 0644", s)
	}
	return uint32(mode), nil
}
