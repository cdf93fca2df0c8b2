package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"tpcfs/integration/harness"
)

const (
	unchangedDirs  = 20
	unchangedFiles = 100 // in each
	looks          = 7   // of each kind, warm
	coldLooks      = 3
)

// mountUnchanged measures find and git status over files that nobody changes.
func mountUnchanged(ctx context.Context, bin, dir string, o options) (rows []row, err error) {
	s, err := openSides(ctx, bin, dir, o, "unchanged")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.putRepository(ctx); err != nil {
		return nil, err
	}
	for _, what := range []struct {
		name    string
		command func(dir string) []string
	}{
		{"find -printf %s", func(dir string) []string { return []string{"find", dir, "-printf", "%s"} }},
		{"git status", func(dir string) []string { return []string{"git", "-C", dir, "status", "--porcelain"} }},
	} {
		warm, err := s.look(ctx, looks, false, what.command)
		if err != nil {
			return nil, err
		}
		cold, err := s.look(ctx, coldLooks, true, what.command)
		if err != nil {
			return nil, err
		}
		for _, r := range []struct {
			how   string
			floor float64
			times map[string][]time.Duration
		}{{"warm", 2, warm}, {"cold", 3, cold}} {
			mnt, loop := median(r.times[s.mnt]), median(r.times[s.loop])
			rows = append(rows, row{fmt.Sprintf("mount: %s of 2,000 files, %s, to the loopback", what.name, r.how), mnt.Seconds() / loop.Seconds(), "x", r.floor, 1, true,
				fmt.Sprintf("%v to %v", mnt.Round(100*time.Microsecond), loop.Round(100*time.Microsecond))})
		}
	}
	return append(rows, s.memory("2,000 files looked at", 256, 128)), nil
}

// look times a command on both mounts, in turns, after one that does not count.
func (s *sideBySide) look(ctx context.Context, n int, cold bool, command func(dir string) []string) (map[string][]time.Duration, error) {
	times := map[string][]time.Duration{}
	for turn := range n + 1 {
		if cold {
			if err := s.cool(ctx); err != nil {
				return nil, err
			}
		}
		stop := s.watch()
		for _, point := range []string{s.loop, s.mnt} {
			c := command(filepath.Join(point, "repository"))
			took, err := run(ctx, c[0], c[1:]...)
			if err != nil {
				return nil, err
			}
			if turn > 0 {
				times[point] = append(times[point], took)
			}
		}
		stop()
	}
	return times, nil
}

// putRepository brings a repository of unchanged files to both mounts.
func (s *sideBySide) putRepository(ctx context.Context) error {
	repo := filepath.Join(s.bare, "repository")
	old := time.Now().Add(-time.Hour)
	for i := range unchangedDirs {
		d := filepath.Join(repo, fmt.Sprintf("dir%d", i))
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		for k := range unchangedFiles {
			name := filepath.Join(d, fmt.Sprintf("file%d", k))
			if err := errors.Join(os.WriteFile(name, random(2000, int64(i*1000+k)), 0o644), os.Chtimes(name, old, old)); err != nil {
				return err
			}
		}
	}
	git := []string{"-C", repo, "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"}
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"commit", "-qm", "files"}, {"gc", "-q"}} {
		if _, err := run(ctx, "git", append(git, args...)...); err != nil {
			return err
		}
	}
	if _, err := run(ctx, "cp", "-a", repo, s.loop); err != nil {
		return err
	}
	if _, err := run(ctx, s.bin, "put", "--coordinator", s.cluster.Addr(harness.Coordinator), "-r", repo, "repository"); err != nil {
		return err
	}
	for _, point := range []string{s.loop, s.mnt} { // what the index says of the files is the mount's
		if _, err := run(ctx, "git", "-C", filepath.Join(point, "repository"), "update-index", "-q", "--refresh"); err != nil {
			return err
		}
	}
	return nil
}
