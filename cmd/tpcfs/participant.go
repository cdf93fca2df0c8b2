package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"tpcfs/participant"
	"tpcfs/wire"
	"tpcfs/wire/rpc"
)

func (a *app) participantCommand() *cobra.Command {
	var f serveFlags
	var slack time.Duration
	cmd := &cobra.Command{
		Use:   "participant",
		Short: "Run one participant: a full copy of all files",
		Long: `Runs a participant, which keeps a full copy of all files in --dir and serves
the coordinator. Prints one line "ready ..." when it is usable. Stops at Ctrl-C
or SIGTERM; killing it loses nothing that was acknowledged.`,
		Example: `  tpcfs participant --dir /srv/tpcfs-a --listen 127.0.0.1:7421
  tpcfs participant --dir /srv/tpcfs-a --listen unix:/run/tpcfs-a.sock
  tpcfs participant --dir /srv/tpcfs-a --listen 0.0.0.0:7421 --tls /etc/tpcfs/a.pem`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.participant(cmd.Context(), f, slack) },
	}
	f.add(cmd, "", "127.0.0.1:7421", "the coordinator")
	slackFlag(cmd, &slack)
	return cmd
}

func (a *app) participant(ctx context.Context, f serveFlags, slack time.Duration) (err error) {
	if err := errors.Join(f.check("participant"), checkSlack("participant", slack)); err != nil {
		return err
	}
	a.slacken(slack)
	a.settle()
	id, err := a.identityOf(f.tls, wire.RoleParticipant)
	if err != nil {
		return err
	}
	p, err := participant.Open(participant.Options{Dir: f.dir, SegmentSize: int64(f.segmentSize), Logger: a.logger()})
	if err != nil {
		return badDir("participant", f.dir, err)
	}
	defer func() { err = closed(err, p.Close()) }()
	defer shareProcessors(a.lookupEnv, p.Written)()
	s, err := serve(f, rpc.ServerOptions{Replica: p.Replica(), Identity: id, Logger: a.logger()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	defer a.notify(notifyStopping)
	if err := a.sayReady("the coordinator", ready{Listen: s.addr, Dir: f.dir}); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-p.Done():
		return fmt.Errorf("the participant in %s ended: %w", f.dir, p.Err())
	case <-s.done:
		return fmt.Errorf("serving %s ended: %w", s.addr, s.err)
	}
}
