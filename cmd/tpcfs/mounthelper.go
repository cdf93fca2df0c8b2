package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// mount(8) and /etc/fstab know a type of file system by a helper of the name
// mount.TYPE, which this binary is when it is called so:
//
//	ln -s /usr/local/bin/tpcfs /sbin/mount.fuse.tpcfs
//	127.0.0.1:7420  /srv/files  fuse.tpcfs  allow_other,_netdev  0 0
const mountHelper = "mount.fuse.tpcfs"

// The exit codes that mount(8) knows.
const (
	helperDone   = 0
	helperUsage  = 1
	helperFailed = 32
)

func isMountHelper(arg0 string) bool { return filepath.Base(arg0) == mountHelper }

// runMountHelper does what mount(8) asks for.
func (a *app) runMountHelper(ctx context.Context, args []string) int {
	r, err := parseHelper(args)
	if err != nil {
		fmt.Fprintf(a.err, "%s: %v\n", mountHelper, err)
		return helperUsage
	}
	if r.fake {
		return helperDone
	}
	switch a.run(ctx, r.args()) {
	case exitDone:
		return helperDone
	case exitUsage:
		return helperUsage
	default:
		return helperFailed
	}
}

// helperRequest is a command line of mount(8).
type helperRequest struct {
	source, dir string
	flags       []string // of tpcfs mount
	fake        bool
}

func (r helperRequest) args() []string {
	args := append([]string{"mount"}, r.flags...)
	if r.source != "none" && r.source != "tpcfs" { // else TPCFS_COORDINATOR, or the default
		args = append(args, "--coordinator="+r.source)
	}
	return append(args, "--", r.dir)
}

// parseHelper reads SOURCE DIR [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]
// (mount(8), "External helpers").
func parseHelper(args []string) (helperRequest, error) {
	var r helperRequest
	var names, options []string
	sloppy := false
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if !strings.HasPrefix(arg, "-") || arg == "-" {
			names = append(names, arg)
			continue
		}
		for k, letter := range arg[1:] {
			switch letter {
			case 's':
				sloppy = true
			case 'f':
				r.fake = true
			case 'n', 'v':
			case 'r':
				options = append(options, "ro")
			case 'w':
				options = append(options, "rw")
			case 'o', 't', 'N':
				value := arg[1+k+1:]
				if value == "" {
					if i++; i == len(args) {
						return r, fmt.Errorf("-%c wants a value", letter)
					}
					value = args[i]
				}
				if letter == 'o' {
					options = append(options, strings.Split(value, ",")...)
				}
			default:
				return r, fmt.Errorf("-%c is not known", letter)
			}
			if strings.ContainsRune("otN", letter) {
				break
			}
		}
	}
	if len(names) != 2 {
		return r, errors.New("use: " + mountHelper + " COORDINATOR MOUNTPOINT [-o OPTIONS], by way of mount -t fuse.tpcfs")
	}
	r.source, r.dir = names[0], names[1]
	var err error
	r.flags, err = helperFlags(options, sloppy)
	return r, err
}

// Mount options. Those that every mount has or that are for others are passed
// over: fstab's, systemd's (x-), and what FUSE mounts always are.
var (
	passedOver = wordSet("defaults auto noauto nouser _netdev nofail async nosuid nodev " +
		"atime noatime diratime nodiratime relatime norelatime strictatime nostrictatime lazytime nolazytime iversion noiversion " +
		"silent loud default_permissions")
	refusedOptions = map[string]string{
		"suid": "files of the mount never run as others", "dev": "devices of the mount do not open",
		"remount": "a mount's options stay: unmount, then mount again", "bind": "that is for mount(8) alone",
		"sync": "every close and fsync is durable, writes between them are not", "dirsync": "every change of a directory is durable already: leave it out",
	}
	switches = map[string]string{"ro": "--read-only", "noexec": "--no-exec", "allow_other": "--allow-other"}
	valued   = map[string]string{
		"coordinator": "--coordinator", "wait": "--wait", "tls": "--tls", "spill_dir": "--spill-dir", "log_file": "--log-file",
		"uid": "--uid", "gid": "--gid", "log_level": "--log-level",
	}
)

func wordSet(s string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(s) {
		set[w] = true
	}
	return set
}

// helperFlags are the flags that options stand for; a later one of rw and ro,
// exec and noexec counts.
func helperFlags(options []string, sloppy bool) ([]string, error) {
	var flags []string
	for _, option := range options {
		name, value, hasValue := strings.Cut(option, "=")
		switch {
		case option == "" || strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-") || name == "comment" || name == "context":
		case option == "rw":
			flags = append(flags, "--read-only=false")
		case option == "exec":
			flags = append(flags, "--no-exec=false")
		case option == "user" || option == "users" || option == "owner" || option == "group":
			flags = append(flags, "--no-exec") // mount(8): they imply it
		case passedOver[option]:
		case switches[option] != "":
			flags = append(flags, switches[option])
		case valued[name] != "" && hasValue:
			flags = append(flags, valued[name]+"="+value)
		case valued[name] != "":
			return nil, fmt.Errorf("option %s wants a value: %s=...", name, name)
		case refusedOptions[name] != "":
			return nil, fmt.Errorf("option %s: %s", name, refusedOptions[name])
		case !sloppy:
			return nil, fmt.Errorf("option %s is not known", name)
		}
	}
	return flags, nil
}
