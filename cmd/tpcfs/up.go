package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"tpcfs/coordinator"
	"tpcfs/fusefs"
	"tpcfs/participant"
	"tpcfs/wire"
	"tpcfs/wire/client"
	"tpcfs/wire/rpc"
)

// participantDirs matches the directories of up's participants.
const participantDirs = "participant-*"

const maxParticipants = 16

type upFlags struct {
	serveFlags
	mountFlags
	participants int
	chosen       bool // --participants was given
}

func (a *app) upCommand() *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up [MOUNTPOINT]",
		Short: "Run everything on this machine: coordinator, participants and a mount",
		Long: `Runs a coordinator and its participants in one process, serves clients on
--listen, and mounts the files on MOUNTPOINT if it is given. Prints one line
"ready ..." when usable. Ctrl-C or SIGTERM stops and unmounts; a second Ctrl-C
does so at once. The same --dir starts again with the same files, also after a
kill -9. Each participant's copy is in a directory of its own below --dir.`,
		Example: `  mkdir mnt && tpcfs up ./mnt                # then, elsewhere: cp, cat, ls, mv ... in ./mnt
  tpcfs up --dir /srv/files --listen 127.0.0.1:7500
  tpcfs up --participants 5 ./mnt`,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.chosen = cmd.Flags().Changed("participants")
			return a.up(cmd.Context(), f, strings.Join(args, ""))
		},
	}
	f.serveFlags.add(cmd, "./tpcfs-data", defaultAddr, "clients")
	f.mountFlags.add(cmd)
	cmd.Flags().IntVar(&f.participants, "participants", 3, "how many participants; fixed at the first start")
	return cmd
}

func (f *upFlags) check(mountpoint string) error {
	if err := f.serveFlags.check("up"); err != nil {
		return err
	}
	have, err := filepath.Glob(filepath.Join(f.dir, participantDirs))
	if err != nil {
		return usage("up", "--dir %q: %v", f.dir, err)
	}
	if len(have) > 0 && !f.chosen {
		f.participants = len(have)
	}
	if len(have) > 0 && len(have) != f.participants {
		return usage("up", "%s was made with %d participants, not %d", f.dir, len(have), f.participants)
	}
	if err := f.complete(have); err != nil {
		return err
	}
	if f.participants < 1 || f.participants > maxParticipants {
		return usage("up", "--participants %d: 1 to %d", f.participants, maxParticipants)
	}
	if err := f.mountFlags.check("up"); err != nil {
		return err
	}
	if mountpoint == "" {
		return nil
	}
	dir, err := clean(f.dir)
	if err != nil {
		return err
	}
	at, err := clean(mountpoint)
	if err != nil {
		return err
	}
	if dir == at || strings.HasPrefix(dir, at+"/") {
		return usage("up", "--dir %s lies in the mount point %s: choose another", f.dir, mountpoint)
	}
	return checkMountpoint(mountpoint)
}

// complete refuses a directory in which a participant is missing between
// others: none is made anew in its place.
func (f *upFlags) complete(have []string) error {
	for i := range have {
		dir := filepath.Join(f.dir, "participant-"+participantName(i))
		if !slices.Contains(have, dir) {
			return fmt.Errorf("up %s: %s is missing, and the others are there: put it back from a backup that was made while nothing ran, and since when nothing was written; tpcfs export writes out what another one holds", f.dir, dir)
		}
	}
	return nil
}

// house is everything that up runs.
type house struct {
	app   *app
	flags upFlags

	parts  map[string]*participant.Participant
	coord  *coordinator.Coordinator
	server *server
	client *client.Client
	mount  *fusefs.Mounted
	wg     sync.WaitGroup // of the goroutines that watch the participants
	quit   chan struct{}  // tells them to end

	mu   sync.Mutex // guards said
	said error      // why participants have ended, as it was printed
}

func (a *app) up(ctx context.Context, f upFlags, mountpoint string) (err error) {
	if err := f.check(mountpoint); err != nil {
		return err
	}
	h := &house{app: a, flags: f, parts: map[string]*participant.Participant{}, quit: make(chan struct{})}
	force := forceOnSecondSignal(mountpoint)
	defer force()
	defer func() { err = h.close(err) }()
	if err := h.open(); err != nil {
		return err
	}
	select {
	case <-h.coord.Ready():
	case <-ctx.Done():
		return nil
	case <-h.coord.Done():
		return fmt.Errorf("the coordinator ended: %w", h.coord.Err())
	}
	if mountpoint != "" {
		if err := h.openMount(ctx, mountpoint); err != nil {
			return stopped(ctx, err)
		}
	}
	defer a.notify(notifyStopping)
	if err := a.sayReady(ready{Listen: h.server.addr, Dir: f.dir, Mountpoint: mountpoint}); err != nil {
		return err
	}
	return h.wait(ctx, mountpoint)
}

// participantName is "a" for the first.
func participantName(i int) string { return string(rune('a' + i)) }

// open starts the participants, at once, then the coordinator and its server.
func (h *house) open() error {
	id, err := h.app.identityOf(h.flags.tls, wire.RoleCoordinator)
	if err != nil {
		return err
	}
	var g errgroup.Group
	opened := make([]*participant.Participant, h.flags.participants)
	var peers []coordinator.Peer
	for i := range opened {
		name := participantName(i)
		peers = append(peers, coordinator.Peer{Name: name, Addr: "in-process"})
		g.Go(func() (err error) {
			dir := filepath.Join(h.flags.dir, "participant-"+name)
			opened[i], err = participant.Open(participant.Options{
				Dir: dir, SegmentSize: h.flags.segmentSize, Logger: h.app.logger().With("participant", name),
			})
			return err
		})
	}
	err = g.Wait()
	for i, p := range opened {
		if p != nil {
			h.parts[participantName(i)] = p
			h.wg.Go(func() { h.watch(participantName(i), p) })
		}
	}
	if err != nil {
		return err
	}
	h.coord, err = coordinator.Open(coordinator.Options{
		Dir: filepath.Join(h.flags.dir, "coordinator"), SegmentSize: h.flags.segmentSize,
		Participants: peers, Dial: h.dial, Local: true, Logger: h.app.logger(),
	})
	if wire.CodeOf(err) == wire.CodeInvalid {
		return fmt.Errorf("%s has directories for %d participants, and its coordinator was made with others: put back from a backup what is missing (%v)", h.flags.dir, len(peers), err)
	}
	if err != nil {
		return err
	}
	h.server, err = serve(h.flags.serveFlags, rpc.ServerOptions{Service: h.coord, Identity: id, Logger: h.app.logger()})
	return err
}

// dial gives the coordinator a participant of this process, without a socket.
func (h *house) dial(_ context.Context, peer coordinator.Peer) (wire.Replica, error) {
	p := h.parts[peer.Name]
	if p == nil {
		return nil, wire.NewError(wire.CodeUnavailable, "no participant "+peer.Name+" in this process")
	}
	select {
	case <-p.Done():
		return nil, &wire.Error{Code: wire.CodeUnavailable, Text: "participant " + peer.Name + " has ended; start tpcfs up again", Refused: true}
	default:
		return p.Replica(), nil
	}
}

// watch reports a participant that ends by itself; the others go on (P12).
func (h *house) watch(name string, p *participant.Participant) {
	select {
	case <-p.Done():
	case <-h.quit:
		return
	}
	select {
	case <-h.quit:
	default:
		h.mu.Lock()
		defer h.mu.Unlock()
		h.said = errors.Join(h.said, p.Err())
		fmt.Fprintf(h.app.err, "tpcfs: up: participant %s ended: %v; reads go on without it, writes wait: "+
			"mend what is wrong and start tpcfs up again\n", name, p.Err())
	}
}

// direct is a client's connection to the coordinator of its own process.
type direct struct{ wire.Service }

// Close ends nothing: the service belongs to up.
func (direct) Close() error { return nil }

func (h *house) openMount(ctx context.Context, mountpoint string) error {
	log := h.app.logger()
	c, err := client.New(ctx, func(context.Context) (client.Conn, error) { return direct{h.coord}, nil }, client.Options{Logger: log})
	if err != nil {
		return err
	}
	h.client = c
	h.mount, err = fusefs.Mount(mountpoint, c, h.flags.mountFlags.options(log))
	return err
}

// wait returns when up is to stop, or the coordinator has ended.
func (h *house) wait(ctx context.Context, mountpoint string) error {
	var unmounted <-chan struct{}
	if h.mount != nil {
		unmounted = h.mount.Done()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.coord.Done():
			return fmt.Errorf("the coordinator ended: %w", h.coord.Err())
		case <-h.server.done:
			return fmt.Errorf("serving %s ended: %w", h.server.addr, h.server.err)
		case <-unmounted:
			unmounted = nil
			fmt.Fprintf(h.app.err, "tpcfs: up: %s was unmounted; clients are still served at %s\n", mountpoint, h.server.addr)
		}
	}
}

// close stops what runs, clients first, and adds to err what had not been said
// yet. Of participants that had ended the exit code alone tells then.
func (h *house) close(err error) error {
	if h.mount != nil {
		err = errors.Join(err, h.mount.Unmount(), h.mount.Close())
	}
	if h.client != nil {
		err = errors.Join(err, h.client.Close())
	}
	if h.server != nil {
		err = errors.Join(err, h.server.close())
	}
	if h.coord != nil {
		err = closed(err, h.coord.Close())
	}
	close(h.quit)
	h.wg.Wait()
	for _, p := range h.parts {
		if ended := p.Close(); ended != nil && !errors.Is(h.said, ended) {
			err = closed(err, ended)
		}
	}
	if err == nil && h.said != nil {
		return &exitError{code: exitFailed, err: h.said, silent: true}
	}
	return err
}

// forceOnSecondSignal detaches the mount and ends the process at the second
// signal to stop. The returned function ends the watching.
func forceOnSecondSignal(mountpoint string) func() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; n < 2; n++ {
			select {
			case <-signals:
			case <-done:
				return
			}
		}
		if mountpoint != "" {
			_ = fusefs.Unmount(mountpoint, true) // this process ends in any case
		}
		os.Exit(exitInterrupted)
	})
	return func() {
		signal.Stop(signals)
		close(done)
		wg.Wait()
	}
}
