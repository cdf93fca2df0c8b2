package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	makers       = 8
	madeATurn    = 150 // files of each maker
	makersRounds = 6
)

// makeSmall makes n files of 4 KiB in a directory, each durable at the end of its
// close, or if that is not enough after an fsync.
func makeSmall(dir string, n int, fsync bool) error {
	data := random(block, 1)
	for i := range n {
		f, err := os.OpenFile(filepath.Join(dir, "f"+strconv.Itoa(i)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		if fsync && err == nil {
			err = f.Sync()
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// serveMaker is the process of one maker: it begins when its input ends.
func serveMaker(dir string, n int, fsync bool) error {
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return makeSmall(dir, n, fsync)
}

// maker starts the process of one that makes files in a new directory below dir.
func maker(ctx context.Context, dir string, begin *os.File, fsync bool) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	d, err := os.MkdirTemp(dir, "made-*")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "-make", strconv.Itoa(madeATurn), "-fsync="+strconv.FormatBool(fsync), d)
	cmd.Stdin, cmd.Stderr = begin, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	_, err = io.ReadFull(out, make([]byte, len("ready")))
	return cmd, err
}

// made has some processes make files, each in a directory of its own, and is
// how long they took together.
func made(ctx context.Context, dir string, processes int, fsync bool) (took time.Duration, err error) {
	input, begin, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer func() { _ = input.Close() }() // the makers have it
	var started []*exec.Cmd
	for range processes {
		cmd, startErr := maker(ctx, dir, input, fsync)
		if cmd != nil {
			started = append(started, cmd)
		}
		err = errors.Join(err, startErr)
	}
	began := time.Now()
	err = errors.Join(err, begin.Close())
	for _, cmd := range started {
		err = errors.Join(err, cmd.Wait())
	}
	return time.Since(began), err
}

// mountSmall measures small files made through a mount.
func mountSmall(ctx context.Context, bin, dir string, o options) (rows []row, err error) {
	s, err := openSides(ctx, bin, dir, o, "small")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	defer s.watch()()
	var bare, one, many []time.Duration
	for turn := range makersRounds + 1 {
		b, err := made(ctx, s.bare, 1, true)
		if err != nil {
			return nil, err
		}
		n, err := made(ctx, s.mnt, 1, false)
		if err != nil {
			return nil, err
		}
		m, err := made(ctx, s.mnt, makers, false)
		if err != nil {
			return nil, err
		}
		if turn > 0 { // the first one warms up
			bare, one, many = append(bare, b), append(one, n), append(many, m)
		}
	}
	b, n, m := median(bare), median(one), median(many)
	each := func(d time.Duration) time.Duration { return (d / madeATurn).Round(time.Microsecond) }
	return []row{
		{"mount: 4 KiB files made, each durable at close, bare disk + fsync to it", 100 * b.Seconds() / n.Seconds(), "%", 40, 100, false,
			fmt.Sprintf("%v to %v each", each(b), each(n))},
		{fmt.Sprintf("mount: the same by %d processes, to one", makers), makers * n.Seconds() / m.Seconds(), "x", 3, 6, false,
			fmt.Sprintf("%.0f to %.0f files a second", makers*madeATurn/m.Seconds(), madeATurn/n.Seconds())},
		s.memory("small files made", 256, 128),
	}, nil
}
