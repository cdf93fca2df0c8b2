package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tpcfs/coordinator"
	"tpcfs/wire"
	"tpcfs/wire/rpc"
)

type coordinatorFlags struct {
	serveFlags
	evictFlags
	scrubFlags
	rebuildFlags
	participants []string
	sessionIdle  time.Duration
	mountIdle    time.Duration
}

func (a *app) coordinatorCommand() *cobra.Command {
	var f coordinatorFlags
	cmd := &cobra.Command{
		Use:   "coordinator",
		Short: "Run the coordinator: what clients talk to",
		Long: `Runs the coordinator, which commits every change to all participants that are in
sync. Its own journal in --dir is small. Prints one line "ready ..." when it serves,
which is once every participant has answered, or so many that the others may be
left behind; tpcfs status says who is missing before that. The participants of a
cluster are set at its first start, and changed by tpcfs members; later --participant
only tells addresses that have changed, and may be left out.

A participant that dies, hangs or cannot be reached is evicted: changes pause for
a moment and go on with the others, of which --min-in-sync have to be there. When it
is back it catches up by itself, in the background; one whose disk was lost may
come back with an empty --dir. Until it has everything it answers nobody.

Where --dir is lost for good, --rebuild takes what was in it from the participants.

Of two processors it uses one, which is quicker; GOMAXPROCS sets another number.`,
		Example: `  tpcfs coordinator --dir /srv/tpcfs-coordinator \
      --participant a=127.0.0.1:7421 --participant b=127.0.0.1:7422 --participant c=unix:/run/tpcfs-c.sock
  tpcfs coordinator --dir /srv/tpcfs-coordinator --listen 0.0.0.0:7420 --tls /etc/tpcfs/main.pem \
      --participant a=a.example:7421 --participant b=b.example:7421 --participant c=c.example:7421`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.coordinator(cmd.Context(), f) },
	}
	f.serveFlags.add(cmd, "", defaultAddr, "clients")
	f.addOperators(cmd)
	f.evictFlags.add(cmd)
	f.scrubFlags.add(cmd)
	f.rebuildFlags.add(cmd)
	cmd.Flags().StringSliceVar(&f.participants, "participant", nil, "a participant and its address, `NAME=ADDR`; once for each")
	cmd.Flags().DurationVar(&f.sessionIdle, "session-idle", 10*time.Minute, "how long a client is remembered that says nothing")
	cmd.Flags().DurationVar(&f.mountIdle, "mount-idle", time.Minute, "how long a mount is, with the deleted files that it has open")
	for _, name := range []string{"session-idle", "mount-idle"} { // for tests: nobody gains by others
		if err := cmd.Flags().MarkHidden(name); err != nil {
			panic(err) // the flag is defined above
		}
	}
	return cmd
}

// parsePeers reads NAME=ADDR items.
func parsePeers(items []string) ([]coordinator.Peer, error) {
	var peers []coordinator.Peer
	seen := map[string]bool{}
	for _, item := range items {
		name, addr, ok := strings.Cut(item, "=")
		if !ok || name == "" {
			return nil, usage("coordinator", "--participant %q is not NAME=ADDR", item)
		}
		if err := checkAddr(addr); err != nil {
			return nil, usage("coordinator", "--participant %q: %v", item, err)
		}
		if seen[name] {
			return nil, usage("coordinator", "participant %s is named twice", name)
		}
		seen[name] = true
		peers = append(peers, coordinator.Peer{Name: name, Addr: addr})
	}
	return peers, nil
}

// check returns what --participant says; nothing is made before all of it is found right.
func (f *coordinatorFlags) check() ([]coordinator.Peer, error) {
	if err := f.serveFlags.check("coordinator"); err != nil {
		return nil, err
	}
	if err := f.evictFlags.check("coordinator"); err != nil {
		return nil, err
	}
	if err := f.scrubFlags.check("coordinator"); err != nil {
		return nil, err
	}
	if err := f.rebuildFlags.check("coordinator"); err != nil {
		return nil, err
	}
	if least := wire.Lease * time.Millisecond; f.mountIdle < least || f.sessionIdle < f.mountIdle {
		return nil, usage("coordinator", "--session-idle %s, --mount-idle %s: the first is the longer one, the other %s at least", f.sessionIdle, f.mountIdle, least)
	}
	peers, err := parsePeers(f.participants)
	if err != nil {
		return nil, err
	}
	if err := coordinator.CheckDir(f.dir); err != nil {
		return nil, badDir("coordinator", f.dir, err)
	}
	_, err = os.Stat(filepath.Join(f.dir, formatName))
	first := errors.Is(err, fs.ErrNotExist)
	if first && len(peers) == 0 {
		return nil, usage("coordinator", "--participant is missing: the first start needs NAME=ADDR of each")
	}
	if f.rebuild {
		return peers, nil // the participants tell how many there are
	}
	if first {
		return peers, f.enough("coordinator", len(peers))
	}
	if has, known := coordinator.ReadStanding(f.dir, f.minInSync, peers); known {
		return peers, f.enough("coordinator", len(has.Members))
	}
	return peers, nil // Open will tell what is wrong with the journal
}

func (a *app) coordinator(ctx context.Context, f coordinatorFlags) (err error) {
	peers, err := f.check()
	if err != nil {
		return err
	}
	id, err := a.identityOf(f.tls, wire.RoleCoordinator)
	if err != nil {
		return err
	}
	log := a.logger()
	dial := func(ctx context.Context, p coordinator.Peer) (wire.Replica, error) {
		return rpc.DialReplica(ctx, p.Addr, rpc.DialOptions{Identity: id, PeerName: p.Name, Logger: log})
	}
	o := coordinator.Options{Dir: f.dir, SegmentSize: int64(f.segmentSize), Participants: peers, Dial: dial, Logger: log,
		SessionIdle: f.sessionIdle, WatcherIdle: f.mountIdle}
	f.evictFlags.fill(&o)
	f.scrubFlags.fill(&o)
	defer useProcessors(a.lookupEnv)()
	if err := a.rebuild(ctx, f.rebuildFlags, o); err != nil {
		return err
	}
	c, err := coordinator.Open(o)
	if err != nil {
		return err
	}
	defer func() { err = closed(err, c.Close()) }()
	s, err := serve(f.serveFlags, rpc.ServerOptions{Service: c, Identity: id, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	defer a.notify(notifyStopping)
	readyCh := c.Ready()
	for {
		select {
		case <-readyCh:
			readyCh = nil
			if err := a.sayReady("clients", ready{Listen: s.addr, Dir: f.dir}); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		case <-c.Done():
			return fmt.Errorf("the coordinator in %s ended: %w", f.dir, c.Err())
		case <-s.done:
			return fmt.Errorf("serving %s ended: %w", s.addr, s.err)
		}
	}
}
