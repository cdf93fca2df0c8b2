package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// serveLoopback is the process of a loopback mount until a signal ends it:
// go-fuse's own nodes with the options of its example, which a FUSE file system
// in Go that brings nothing anywhere cannot beat by much. As root the kernel passes
// its reads and writes on to the file below, and it sees none of them; unless they are to go
// through it. Syncs take at least so long (slowdisk.go).
func serveLoopback(dir, point string, through bool, sync time.Duration) error {
	root, err := fs.NewLoopbackRoot(dir)
	if err != nil {
		return err
	}
	if sync > 0 {
		root = (&slowNode{sync: sync}).WrapChild(context.Background(), root)
	}
	second := time.Second
	var without uint64
	if through {
		without = fuse.CAP_PASSTHROUGH
	}
	server, err := fs.Mount(point, root, &fs.Options{
		AttrTimeout: &second, EntryTimeout: &second, NullPermissions: true,
		Logger:       log.New(os.Stderr, "", 0),
		MountOptions: fuse.MountOptions{FsName: dir, Name: "loopback", DirectMount: true, DisabledCapabilities: without},
	})
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, unix.SIGTERM)
	go func() {
		<-stop
		if err := server.Unmount(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: unmounting the loopback:", err)
		}
	}()
	fmt.Println("ready")
	server.Wait()
	return nil
}
