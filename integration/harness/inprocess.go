package harness

import (
	"context"
	"errors"
	"path/filepath"

	"tpcfs/coordinator"
	"tpcfs/journal/disk"
	"tpcfs/participant"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// InProcess is a coordinator and its participants in this process, without
// sockets, as `tpcfs up` runs them.
type InProcess struct {
	Coordinator  *coordinator.Coordinator
	Participants map[string]*participant.Participant
}

// OpenInProcess starts n participants and a coordinator below dir and waits
// until they serve. fs gives the file system of each by name; nil: the real one.
func OpenInProcess(ctx context.Context, dir string, n int, fs func(name string) disk.FS) (*InProcess, error) {
	if fs == nil {
		fs = func(string) disk.FS { return disk.New() }
	}
	p := &InProcess{Participants: map[string]*participant.Participant{}}
	var peers []coordinator.Peer
	for i := range n {
		name := string(rune('a' + i))
		one, err := participant.Open(participant.Options{Dir: filepath.Join(dir, name), FS: fs(name)})
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		p.Participants[name] = one
		peers = append(peers, coordinator.Peer{Name: name, Addr: "in-process"})
	}
	var err error
	p.Coordinator, err = coordinator.Open(coordinator.Options{
		Dir: filepath.Join(dir, Coordinator), FS: fs(Coordinator), Participants: peers, MinInSync: n,
		Dial: func(_ context.Context, peer coordinator.Peer) (wire.Replica, error) {
			return p.Participants[peer.Name].Replica(), nil
		},
	})
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	select {
	case <-p.Coordinator.Ready():
		return p, nil
	case <-p.Coordinator.Done():
		return nil, errors.Join(p.Coordinator.Err(), p.Close())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), p.Close())
	}
}

type direct struct{ wire.Service }

func (direct) Close() error { return nil }

// Client opens a client with a session of its own.
func (p *InProcess) Client(ctx context.Context) (*client.Client, error) {
	return client.New(ctx, func(context.Context) (client.Conn, error) { return direct{p.Coordinator}, nil }, client.Options{})
}

// Close stops everything, the coordinator first.
func (p *InProcess) Close() error {
	var errs []error
	if p.Coordinator != nil {
		errs = append(errs, p.Coordinator.Close())
	}
	for _, one := range p.Participants {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}
