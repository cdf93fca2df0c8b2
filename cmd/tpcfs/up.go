package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"tpcfs/coordinator"
	"tpcfs/fusefs"
	"tpcfs/journal/disk"
	"tpcfs/participant"
	"tpcfs/wire"
	"tpcfs/wire/client"
	"tpcfs/wire/rpc"
)

// participantDirs matches the directories of up's participants.
const participantDirs = "participant-*"

const maxParticipants = 16

// inProcess begins the address of a participant of up's own; its name follows.
const inProcess = "in-process:"

type upFlags struct {
	serveFlags
	evictFlags
	scrubFlags
	rebuildFlags
	mountFlags
	participants int
	chosen       bool                 // --participants was given
	takes        coordinator.Standing // who takes part
	known        bool                 // ... as the coordinator's journal says
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
kill -9. Each participant's copy is in a directory of its own below --dir. One whose
disk fails, or that does not start, is left behind: the others go on, while a
majority (--min-in-sync) is there. Emptied, its directory gets everything from the
others at the next start. tpcfs members replaces it without a start by a participant
that runs by itself (tpcfs participant), adds one, or removes one; the directory of
one that is out may be emptied.`,
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
	f.addOperators(cmd)
	f.evictFlags.add(cmd)
	f.scrubFlags.add(cmd)
	f.rebuildFlags.add(cmd)
	f.mountFlags.add(cmd)
	cmd.Flags().IntVar(&f.participants, "participants", 3, "how many participants of its own; fixed at the first start (tpcfs members adds others)")
	return cmd
}

func (f *upFlags) check(mountpoint string) error {
	if err := f.serveFlags.check("up"); err != nil {
		return err
	}
	if err := f.evictFlags.check("up"); err != nil {
		return err
	}
	if err := f.scrubFlags.check("up"); err != nil {
		return err
	}
	if err := f.rebuildFlags.check("up"); err != nil {
		return err
	}
	if err := f.checkDir(); err != nil {
		return err
	}
	have, err := filepath.Glob(filepath.Join(f.dir, participantDirs))
	if err != nil {
		return usage("up", "--dir %q: %v", f.dir, err)
	}
	made := 0 // with so many participants
	for i := range maxParticipants {
		if slices.Contains(have, f.participantDir(i)) || slices.Contains(f.lost, participantName(i)) {
			made = i + 1
		}
	}
	if made > 0 && !f.chosen {
		f.participants = made
	}
	if made > 0 && made != f.participants {
		return usage("up", "%s was made with %d participants, not %d", f.dir, made, f.participants)
	}
	if f.participants < 1 || f.participants > maxParticipants {
		return usage("up", "--participants %d: 1 to %d", f.participants, maxParticipants)
	}
	if err := f.members(made); err != nil {
		return err
	}
	if err := f.complete(have); err != nil {
		return err
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

// checkDir refuses a --dir that cannot hold the directories of all. Other files may lie beside them.
func (f *upFlags) checkDir() error {
	entries, err := os.ReadDir(f.dir)
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return usage("up", "--dir %s: %s", printable(f.dir), disk.Advice(err))
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("--dir %s", disk.Advice(err))
	}
	for _, e := range entries {
		if e.Name() == formatName {
			return usage("up", "--dir %s: it is the data directory of one participant, or of a coordinator (FORMAT is in it): give the one above it if tpcfs up has made that, or a new one", printable(f.dir))
		}
	}
	return nil
}

func (f *upFlags) coordinatorDir() string { return filepath.Join(f.dir, "coordinator") }

func (f *upFlags) participantDir(i int) string {
	return filepath.Join(f.dir, "participant-"+participantName(i))
}

// members finds out who takes part: as the coordinator's journal says, which knows what
// operators have changed, or, at the first start, all of its own.
func (f *upFlags) members(made int) error {
	f.takes, f.known = coordinator.ReadStanding(f.coordinatorDir(), f.minInSync, f.peers())
	if !f.known {
		for i := range f.participants {
			f.takes.Members = append(f.takes.Members, coordinator.StandingMember{Name: participantName(i), Addr: inProcess + participantName(i), InSync: true})
		}
		if f.takes.Least = f.minInSync; f.minInSync == 0 {
			f.takes.Least = f.participants/2 + 1
		}
	}
	if err := f.enough("up", len(f.takes.Members)); err != nil {
		return err
	}
	var more []string
	for _, m := range f.takes.Members {
		name, own := strings.CutPrefix(m.Addr, inProcess)
		if own && !slices.ContainsFunc(f.peers(), func(p coordinator.Peer) bool { return p.Name == name }) {
			more = append(more, name)
		}
	}
	if len(more) > 0 {
		return fmt.Errorf("%s has directories for %d participants, and its coordinator was made with %s, too: put back from a backup what is missing, or make an empty directory in its place, which gets everything from the others", f.dir, made, strings.Join(more, ", "))
	}
	return nil
}

// peers are the participants of its own, whether they still take part or not.
func (f *upFlags) peers() []coordinator.Peer {
	var peers []coordinator.Peer
	for i := range f.participants {
		peers = append(peers, coordinator.Peer{Name: participantName(i), Addr: inProcess + participantName(i)})
	}
	return peers
}

// complete refuses a directory in which more participants are missing than the
// others can go on without. One that is made anew gets everything from them.
func (f *upFlags) complete(have []string) error {
	if f.rebuild && len(have) == 0 {
		return fmt.Errorf("%s holds no participant's directory: there is nothing that the coordinator's can be rebuilt from. Nothing was changed", f.dir)
	}
	gone := map[string]bool{}
	var missing []string
	for i, p := range f.peers() {
		dir := f.participantDir(i)
		if slices.Contains(f.lost, p.Name) {
			continue // by an operator's word, of which --rebuild judges
		}
		if (f.known || len(have) > 0) && f.takes.Has(p.Addr) && !slices.Contains(have, dir) {
			missing, gone[p.Addr] = append(missing, dir), true
		}
	}
	if f.takes.GoesOn(func(addr string) bool { return gone[addr] }) {
		return nil
	}
	return fmt.Errorf("%s: %s missing, and %d of %d participants have to be there: put back from a backup that was made while nothing ran, and since when nothing was written. If they are lost for good, run tpcfs participant and tpcfs coordinator on the directories in it, on empty ones for those that are lost, and see tpcfs resolve --help, and tpcfs coordinator --help for --rebuild. tpcfs export writes out what another one holds",
		f.dir, strings.Join(missing, ", "), f.takes.Least, len(f.takes.Members))
}

// house is everything that up runs.
type house struct {
	app   *app
	flags upFlags

	parts  map[string]*participant.Participant
	remote func(ctx context.Context, p coordinator.Peer) (wire.Replica, error) // dials one that tpcfs members has brought
	coord  *coordinator.Coordinator
	server *server
	client *mountClient
	mount  *fusefs.Mounted
	wg     sync.WaitGroup // of the goroutines that watch the participants
	quit   chan struct{}  // tells them to end

	mu   sync.Mutex      // guards what follows
	said error           // why participants have ended that take part, as it was printed
	left error           // ... and why others have: that is nobody's trouble
	gone map[string]bool // the addresses of those that have
}

func (a *app) up(ctx context.Context, f upFlags, mountpoint string) (err error) {
	if err := f.check(mountpoint); err != nil {
		return err
	}
	h := &house{app: a, flags: f, parts: map[string]*participant.Participant{}, quit: make(chan struct{}), gone: map[string]bool{}}
	force := forceOnSecondSignal(mountpoint)
	defer force()
	defer func() { err = h.close(err) }()
	if err := h.open(ctx); err != nil {
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
	if err := a.sayReady("clients", ready{Listen: h.server.addr, Dir: f.dir, Mountpoint: mountpoint}); err != nil {
		return err
	}
	return h.wait(ctx, mountpoint)
}

// participantName is "a" for the first.
func participantName(i int) string { return string(rune('a' + i)) }

// open starts the participants, at once, then the coordinator and its server.
func (h *house) open(ctx context.Context) error {
	id, err := h.app.identityOf(h.flags.tls, wire.RoleCoordinator)
	if err != nil {
		return err
	}
	h.remote = func(ctx context.Context, p coordinator.Peer) (wire.Replica, error) {
		return rpc.DialReplica(ctx, p.Addr, rpc.DialOptions{Identity: id, PeerName: p.Name, Logger: h.app.logger()})
	}
	if err := coordinator.CheckDir(h.flags.coordinatorDir()); err != nil { // before the participants' are made
		return badDir("up", h.flags.coordinatorDir(), err)
	}
	absent, err := h.openParticipants()
	if err != nil {
		return err
	}
	o := coordinator.Options{
		Dir: h.flags.coordinatorDir(), SegmentSize: int64(h.flags.segmentSize),
		Participants: h.flags.peers(), Dial: h.dial, Local: true, Logger: h.app.logger(),
	}
	h.flags.evictFlags.fill(&o)
	h.flags.scrubFlags.fill(&o)
	if err := h.app.rebuild(ctx, h.flags.rebuildFlags, o); err != nil {
		return err
	}
	h.coord, err = coordinator.Open(o)
	if err != nil {
		return err
	}
	for _, p := range absent {
		h.lost(p.name, "does not start", p.err)
	}
	for name, p := range h.parts {
		h.wg.Go(func() { h.watch(name, p) })
	}
	h.server, err = serve(h.flags.serveFlags, rpc.ServerOptions{Service: h.coord, Identity: id, Logger: h.app.logger()})
	return err
}

// absentee is a participant that does not start.
type absentee struct {
	name string
	err  error
}

// openParticipants starts the participants, at once. It returns those that take part and do
// not start, as long as the others can go on; who was removed is nobody's trouble.
func (h *house) openParticipants() ([]absentee, error) {
	var wg sync.WaitGroup
	peers := h.flags.peers()
	opened := make([]*participant.Participant, len(peers))
	errs := make([]error, len(peers))
	for i, p := range peers {
		dir := h.flags.participantDir(i)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && !h.flags.takes.Has(p.Addr) {
			continue // nobody's
		}
		wg.Go(func() {
			opened[i], errs[i] = participant.Open(participant.Options{
				Dir: dir, SegmentSize: int64(h.flags.segmentSize), Logger: h.app.logger().With("participant", p.Name),
			})
		})
	}
	wg.Wait()
	var absent []absentee
	failed := map[string]bool{}
	for i, p := range peers {
		switch {
		case opened[i] != nil:
			h.parts[p.Name] = opened[i]
		case errs[i] == nil:
		case h.flags.takes.Has(p.Addr):
			failed[p.Addr] = true
			absent = append(absent, absentee{p.Name, errs[i]})
		default:
			h.app.logger().Info("a participant that was removed does not start", "name", p.Name, "err", errs[i])
			errs[i] = nil
		}
	}
	if !h.flags.takes.GoesOn(func(addr string) bool { return failed[addr] }) {
		return nil, errors.Join(errs...)
	}
	return absent, nil
}

// lost says that a participant that takes part is not there any more, and what that means.
func (h *house) lost(name, what string, err error) {
	takes, ok := h.coord.Standing()
	if !ok { // it has ended
		takes = h.flags.takes
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !takes.Has(inProcess + name) {
		h.left = errors.Join(h.left, err)
		h.app.logger().Info("a participant that was removed "+what, "name", name, "err", err)
		return
	}
	h.gone[inProcess+name] = true
	h.said = errors.Join(h.said, err)
	means := "changes go on without it:"
	if !takes.GoesOn(func(addr string) bool { return h.gone[addr] }) {
		means = "reads go on without it, changes wait:"
	}
	select {
	case <-h.coord.Ready():
	default:
		if !takes.Starts(func(addr string) bool { return h.gone[addr] }) {
			means = fmt.Sprintf("the start waits for it, since with --min-in-sync %d it may have what no other has; if its data are lost for good: tpcfs resolve --lost %s --force; else", takes.Least, name)
		}
	}
	fmt.Fprintf(h.app.err, "tpcfs: up: participant %s %s: %v; %s mend what is wrong and start tpcfs up again\n", name, what, err, means)
}

// dial gives the coordinator a participant of this process, without a socket, or one
// that an operator has added.
func (h *house) dial(ctx context.Context, peer coordinator.Peer) (wire.Replica, error) {
	name, own := strings.CutPrefix(peer.Addr, inProcess)
	if !own {
		return h.remote(ctx, peer)
	}
	p := h.parts[name]
	if p == nil {
		return nil, &wire.Error{Code: wire.CodeUnavailable, Text: "participant " + peer.Name + " has not started", Refused: true}
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
		h.lost(name, "ended", p.Err())
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
	h.client = &mountClient{c, register(ctx, log, c, mountpoint)}
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
		_ = h.mount.Unmount() // what it could not commit Close tries once more, and tells
		err = errors.Join(err, h.mount.Close())
	}
	if h.client != nil {
		h.client.close()
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
		if ended := p.Close(); ended != nil && !errors.Is(h.said, ended) && !errors.Is(h.left, ended) {
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
