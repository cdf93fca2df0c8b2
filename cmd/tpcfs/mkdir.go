package main

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

func (a *app) mkdirCommand() *cobra.Command {
	var f clientFlags
	var parents bool
	var mode string
	cmd := &cobra.Command{
		Use:     "mkdir NAME",
		Short:   "Make a directory",
		Long:    "Makes the directory NAME. With -p the missing directories above it too, and one that exists is no error.",
		Example: "  tpcfs mkdir docs\n  tpcfs mkdir -p archive/2026/spring",
		Args:    takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			bits, err := parseMode("mkdir", mode, 0o755)
			if err != nil {
				return err
			}
			return a.mkdir(cmd.Context(), f, parents, bits, args[0])
		},
	}
	f.add(cmd, defaultWait)
	cmd.Flags().BoolVarP(&parents, "parents", "p", false, "make the directories above it too")
	cmd.Flags().StringVar(&mode, "mode", "", "permission bits, octal (default 0755)")
	return cmd
}

func (a *app) mkdir(ctx context.Context, f clientFlags, parents bool, mode uint32, name string) error {
	c, err := a.connect(ctx, "mkdir", f)
	if err != nil {
		return err
	}
	defer closeClient(c)
	if parents {
		err = mkdirAll(ctx, c, mode, name)
	} else {
		err = about(name, c.Mkdir(ctx, name, mode))
	}
	if err != nil {
		return err
	}
	return a.print(nameResult{name, "made"}, "")
}

// mkdirAll makes name and what is missing above it, from the top down.
func mkdirAll(ctx context.Context, c *client.Client, mode uint32, name string) error {
	parts := strings.Split(strings.Trim(name, "/"), "/")
	for i := range parts {
		part := strings.Join(parts[:i+1], "/")
		err := c.Mkdir(ctx, part, mode)
		if errors.Is(err, fs.ErrExist) {
			var attr wire.Attr
			attr, err = c.Stat(ctx, part)
			if err == nil && attr.Mode&wire.ModeType != wire.ModeDir {
				err = wire.NewError(wire.CodeNotDir, "")
			}
		}
		if err != nil {
			return about(part, err)
		}
	}
	return nil
}
