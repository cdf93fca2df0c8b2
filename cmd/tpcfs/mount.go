package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"tpcfs/fusefs"
	"tpcfs/wire/client"
)

// mountFlags are the flags of the commands that mount.
type mountFlags struct {
	readOnly, allowOther, noExec bool
	uid, gid                     int64 // < 0: as stored
	spillDir                     string
}

func (f *mountFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.readOnly, "read-only", false, "refuse every change through the mount")
	cmd.Flags().BoolVar(&f.allowOther, "allow-other", false, "let other users use the mount (needs user_allow_other in /etc/fuse.conf, or root)")
	cmd.Flags().BoolVar(&f.noExec, "no-exec", false, "execute no file of the mount")
	cmd.Flags().Int64Var(&f.uid, "uid", -1, "show all files as those of the user with this `number`, and make new ones that user's; chown to others is refused")
	cmd.Flags().Int64Var(&f.gid, "gid", -1, "as --uid, for the group with this `number`")
	cmd.Flags().StringVar(&f.spillDir, "spill-dir", "", "`directory` for written data that is not committed yet and too large for memory (default: the system's for temporary files)")
}

func (f *mountFlags) options(log *slog.Logger) fusefs.Options {
	o := fusefs.Options{ReadOnly: f.readOnly, AllowOther: f.allowOther, NoExec: f.noExec, SpillDir: f.spillDir, Logger: log}
	for _, id := range []struct {
		flag int64
		to   **uint32
	}{{f.uid, &o.UID}, {f.gid, &o.GID}} {
		if id.flag >= 0 {
			n := uint32(id.flag)
			*id.to = &n
		}
	}
	return o
}

// maxID is the greatest number of a user or a group: the one beyond it means none.
const maxID = 1<<32 - 2

func (f *mountFlags) check(command string) error {
	if f.uid < -1 || f.uid > maxID || f.gid < -1 || f.gid > maxID {
		return usage(command, "--uid %d, --gid %d: numbers from 0 to %d, or -1 for what is stored", f.uid, f.gid, maxID)
	}
	return nil
}

type mountCmdFlags struct {
	clientFlags
	mountFlags
	foreground bool
	logFile    string
	slack      time.Duration
	readyFD    int
}

func (a *app) mountCommand() *cobra.Command {
	var f mountCmdFlags
	cmd := &cobra.Command{
		Use:   "mount MOUNTPOINT",
		Short: "Mount the files on a directory",
		Long: `Mounts the files of a running cluster on the directory MOUNTPOINT and returns;
a process of its own serves the mount until tpcfs umount, and logs to --log-file.
With --foreground it stays until Ctrl-C. Mounting, and operations on the mount
later, wait while the coordinator is away (--wait 0: for ever) and go on by
themselves. A SIGTERM commits what is written, then unmounts.

For /etc/fstab and mount -t fuse.tpcfs, link this binary as /sbin/mount.fuse.tpcfs; the
options are ro, noexec, allow_other, uid=, gid=, wait=, tls=, spill_dir= and log_file=.`,
		Example: `  mkdir /tmp/files && tpcfs mount /tmp/files
  tpcfs mount --foreground --read-only --coordinator unix:/run/tpcfs.sock /mnt/files
  tpcfs umount /tmp/files`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(f.clientFlags.check("mount"), f.mountFlags.check("mount"), checkSlack("mount", f.slack)); err != nil {
				return err
			}
			if err := checkMountpoint(args[0]); err != nil {
				return err
			}
			if f.foreground {
				a.slacken(f.slack)
			}
			a.settle()
			if f.foreground {
				return a.mountForeground(cmd.Context(), f, args[0])
			}
			return a.mountBackground(cmd.Context(), f, args[0])
		},
	}
	f.clientFlags.add(cmd, 0)
	f.mountFlags.add(cmd)
	cmd.Flags().BoolVar(&f.foreground, "foreground", false, "stay until the mount ends; Ctrl-C unmounts")
	cmd.Flags().StringVar(&f.logFile, "log-file", "", "where the background process logs (default: in tpcfs/ in the user's cache directory, or in /var/log where there is none)")
	slackFlag(cmd, &f.slack)
	cmd.Flags().IntVar(&f.readyFD, "ready-fd", 0, "where the background process tells how mounting went")
	if err := cmd.Flags().MarkHidden("ready-fd"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

// mountForeground serves the mount until it ends or the user stops it.
func (a *app) mountForeground(ctx context.Context, f mountCmdFlags, mountpoint string) (err error) {
	tell, err := openTeller(f.readyFD)
	if err != nil {
		return err
	}
	c, m, err := a.mountOn(ctx, f, mountpoint)
	if err != nil {
		return errors.Join(err, tell.say(describe("mount", err), exitCode(err)))
	}
	defer c.close()
	force := forceOnSecondSignal(mountpoint)
	defer force()
	defer func() { err = errors.Join(err, a.unmount(m, mountpoint)) }()
	defer a.notify(notifyStopping) // before unmounting, which may wait for who is in it
	a.notify(notifyReady)
	if f.readyFD != 0 {
		err = tell.say("", exitDone)
	} else {
		err = a.print(ready{Ready: true, Listen: f.coordinator, Mountpoint: mountpoint, PID: os.Getpid()},
			fmt.Sprintf("ready: coordinator at %s, mounted on %s", f.coordinator, mountpoint))
	}
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-m.Done():
	}
	return nil
}

// unmount ends a mount. While somebody is in it, or written data could not be
// committed yet, it is served on; a second signal ends the process. An error says
// what was written and is lost.
func (a *app) unmount(m *fusefs.Mounted, mountpoint string) error {
	err := m.Unmount()
	select {
	case <-m.Done():
		return lost(mountpoint, m)
	default:
	}
	why, then := "it is in use, here or in another mount namespace", ""
	if err != nil {
		why, then = describe("mount", err), ", and what is not committed is lost"
	}
	fmt.Fprintf(a.err, "tpcfs: mount: %s is unmounted but still served: %s; Ctrl-C ends it at once%s\n", mountpoint, why, then)
	<-m.Done()
	return lost(mountpoint, m)
}

// lost is what was lost through a mount that has ended.
func lost(mountpoint string, m *fusefs.Mounted) error {
	if err := m.Close(); err != nil {
		return fmt.Errorf("%s: %w", printable(mountpoint), err)
	}
	return nil
}

// mountClient is a mount's client, registered.
type mountClient struct {
	*client.Client
	file *registered
}

func (c mountClient) close() {
	closeClient(c.Client)
	c.file.leave()
}

func (a *app) mountOn(ctx context.Context, f mountCmdFlags, mountpoint string) (mountClient, *fusefs.Mounted, error) {
	var none mountClient
	c, err := a.connect(ctx, "mount", f.clientFlags)
	if err != nil {
		return none, nil, err
	}
	// A wrong address shows here and not as a directory that never answers.
	_, err = c.Stat(ctx, "")
	if err != nil {
		closeClient(c)
		return none, nil, err
	}
	of := mountClient{c, register(ctx, a.logger(), c, mountpoint)}
	m, err := fusefs.Mount(mountpoint, c, f.options(a.logger()))
	if err != nil {
		of.close()
		return none, nil, err
	}
	return of, m, nil
}

// told is what the background process tells the one that started it.
type told struct {
	Error string `json:"error,omitempty"`
	Exit  int    `json:"exit"`
}

type teller struct{ pipe *os.File }

func openTeller(fd int) (teller, error) {
	if fd == 0 {
		return teller{}, nil
	}
	syscall.CloseOnExec(fd) // the pipe is not for fusermount3
	pipe := os.NewFile(uintptr(fd), "ready-fd")
	if pipe == nil {
		return teller{}, usage("mount", "--ready-fd %d is not open", fd)
	}
	return teller{pipe}, nil
}

// say tells once how mounting went, if anybody listens.
func (t teller) say(text string, code int) error {
	if t.pipe == nil {
		return nil
	}
	err := json.NewEncoder(t.pipe).Encode(told{text, code})
	return errors.Join(err, t.pipe.Close())
}

// mountBackground starts this binary again, in a session of its own, and
// returns when that one has mounted or failed.
func (a *app) mountBackground(ctx context.Context, f mountCmdFlags, mountpoint string) error {
	logFile, err := openLog(f.logFile, mountpoint)
	if err != nil {
		return err
	}
	defer func() { _ = logFile.Close() }() // this process does not write it
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // only read
	const readyFD = 3
	args := []string{"mount", "--foreground", fmt.Sprintf("--ready-fd=%d", readyFD), "--output=text",
		"--coordinator=" + f.coordinator, "--tls=" + f.tls, "--wait=" + f.wait.String(), fmt.Sprintf("--read-only=%t", f.readOnly),
		fmt.Sprintf("--allow-other=%t", f.allowOther), fmt.Sprintf("--no-exec=%t", f.noExec),
		fmt.Sprintf("--uid=%d", f.uid), fmt.Sprintf("--gid=%d", f.gid), "--spill-dir=" + f.spillDir, fmt.Sprintf("--timer-slack=%dns", f.slack.Nanoseconds()), "--log-level=" + a.logLevel, "--", mountpoint}
	child := exec.Command(self, args...)
	child.Args[0] = "tpcfs" // it is no helper of mount(8), whatever the file's name is
	child.Stdout, child.Stderr, child.ExtraFiles = logFile, logFile, []*os.File{w}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := errors.Join(child.Start(), w.Close()); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = child.Process.Signal(syscall.SIGTERM) })
	defer stop()
	line, err := bufio.NewReader(io.LimitReader(r, 64<<10)).ReadBytes('\n')
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var how told
	if err == nil {
		err = json.Unmarshal(line, &how)
	}
	if err != nil {
		return fmt.Errorf("the background process ended before it had mounted: see %s", logFile.Name())
	}
	if how.Exit != exitDone {
		text := strings.TrimPrefix(strings.TrimPrefix(how.Error, "tpcfs: "), "mount: ")
		return &exitError{code: how.Exit, err: errors.New(text)}
	}
	pid := child.Process.Pid
	if err := child.Process.Release(); err != nil {
		return err
	}
	return a.print(ready{Ready: true, Listen: f.coordinator, Mountpoint: mountpoint, PID: pid}, "")
}

// logDir makes the directory of the logs of background mounts: in the user's
// cache directory, or, for root at boot, in /var/log.
func logDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		if os.Getuid() != 0 {
			return "", fmt.Errorf("nowhere to log to: set HOME, or give --log-file (%w)", err)
		}
		cache = "/var/log"
	}
	dir := filepath.Join(cache, "tpcfs")
	return dir, os.MkdirAll(dir, 0o700)
}

// openLog opens the log of a background mount for appending.
func openLog(name, mountpoint string) (*os.File, error) {
	if name == "" {
		dir, err := logDir()
		if err != nil {
			return nil, err
		}
		abs, err := clean(mountpoint)
		if err != nil {
			return nil, err
		}
		name = filepath.Join(dir, "mount"+strings.ReplaceAll(abs, "/", "-")+".log")
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil { // exit code 3 is for files of the service
		return nil, &exitError{code: exitFailed, err: fmt.Errorf("--log-file: %w", err)}
	}
	return f, nil
}
