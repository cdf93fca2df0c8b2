package rpc

import (
	"context"
	"log/slog"
	"time"

	"github.com/hashicorp/yamux"

	"tpcfs/wire"
	"tpcfs/wire/rpc/identity"
)

// Timeouts bound every wait on a link. Zero fields get the defaults.
type Timeouts struct {
	// Handshake bounds preface and pairing. Default 10 s.
	Handshake time.Duration
	// KeepAlive is how often each side of a session pings the other. Default 5 s.
	KeepAlive time.Duration
	// Write is how long a write to the socket, or the answer to a ping, may
	// take before the session ends. Default 10 s.
	Write time.Duration
	// Stall is how long a peer may take to go on with a message that it has
	// begun, to make room for an answer, or to take in a stream: that ends the
	// session with all its calls, so a busy machine gets more time than Write.
	// Default 60 s.
	Stall time.Duration
	// StageIdle is how long a stage may wait for its next piece. Default 5 min.
	StageIdle time.Duration
}

func (t *Timeouts) fill() {
	for _, f := range []struct {
		d     *time.Duration
		value time.Duration
	}{
		{&t.Handshake, 10 * time.Second}, {&t.KeepAlive, 5 * time.Second}, {&t.Write, 10 * time.Second},
		{&t.Stall, time.Minute}, {&t.StageIdle, 5 * time.Minute},
	} {
		if *f.d <= 0 {
			*f.d = f.value
		}
	}
}

// ServerOptions say what a Server serves, and its limits. Zero fields get the
// defaults.
type ServerOptions struct {
	// Service is served to clients, Replica to coordinators; either may be nil.
	Service wire.Service
	Replica wire.Replica
	// Cluster, if set, tells the cluster that peers must belong to; zero: any.
	Cluster func() wire.UUID
	// Versions spoken. Default wire.Versions.
	Versions wire.VersionRange
	// Identity, if set, is this side's: every link is encrypted, and of a peer
	// whose certificate says that it has the role that it claims (W4).
	Identity *identity.Identity
	// Operators, if there are any, are the clients by whose certificates alone
	// participants are changed and scrubs begun and stopped (W4).
	Operators []string

	MaxLinks       int           // peers at a time. Default 1024
	LinkIdle       time.Duration // after which a link without calls makes room for a new one beyond MaxLinks. Default 10 s
	MaxHalfOpen    int           // connections before their link is complete; the oldest makes room. Default 256
	ControlStreams int           // calls at a time on a link's control connection. Default 512
	BulkStreams    int           // ... on its bulk connection. Default 64 with a Service, else 256
	MaxPending     int64         // bytes of requests that a link may have in memory. Default 64 MiB
	Timeouts       Timeouts
	// CloseTimeout is how long Close lets calls in flight go on. Default 2 s.
	CloseTimeout time.Duration
	Logger       *slog.Logger // nil: discard
}

func (o *ServerOptions) validate() {
	if o.Service == nil && o.Replica == nil {
		panic("rpc: a server with nothing to serve")
	}
	if o.Versions == (wire.VersionRange{}) {
		o.Versions = wire.Versions
	}
	if o.Cluster == nil {
		o.Cluster = func() wire.UUID { return wire.UUID{} }
	}
	fill(&o.MaxLinks, 1024)
	fill(&o.LinkIdle, 10*time.Second)
	fill(&o.MaxHalfOpen, 256)
	fill(&o.ControlStreams, 512)
	if o.Service != nil {
		fill(&o.BulkStreams, 64)
	}
	fill(&o.BulkStreams, 256)
	fill(&o.MaxPending, 64<<20)
	fill(&o.CloseTimeout, 2*time.Second)
	o.Timeouts.fill()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// DialOptions are one link's. Zero fields get the defaults.
type DialOptions struct {
	Cluster  wire.UUID         // that the peer must belong to; zero: any
	Peer     wire.UUID         // names this side in the peer's log
	Versions wire.VersionRange // spoken. Default wire.Versions
	// Identity, if set, is this side's: the link is encrypted, and the other
	// side has to show that it is what it is taken for. PeerName: which
	// participant that has to be; "" for any.
	Identity *identity.Identity
	PeerName string

	// Calls at a time; further ones wait. They must stay below the server's
	// limits. Defaults: control 384, bulk 48; to a participant 208: a coordinator's
	// 64 stages and 128 reads, and what newcomers need.
	ControlCalls int
	BulkCalls    int
	Timeouts     Timeouts
	Logger       *slog.Logger // nil: discard
}

func (o *DialOptions) validate(bulkCalls int) {
	if o.Versions == (wire.VersionRange{}) {
		o.Versions = wire.Versions
	}
	fill(&o.ControlCalls, 384)
	fill(&o.BulkCalls, bulkCalls)
	o.Timeouts.fill()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

func fill[T int | int64 | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Windows, in bytes: 256 KiB is the least that yamux has; 16 MiB was no faster
// than 1 MiB on loopback and took seven times the memory (W1a).
const (
	controlWindow = 256 << 10
	bulkWindow    = 1 << 20
)

// muxBacklog bounds streams that are being opened. It must be the same on both
// sides, and more than a link's calls.
const muxBacklog = 1024

func muxConfig(channel wire.Channel, t Timeouts, log *slog.Logger) *yamux.Config {
	window := uint32(controlWindow)
	if channel == wire.ChannelBulk {
		window = bulkWindow
	}
	return &yamux.Config{
		AcceptBacklog: muxBacklog, EnableKeepAlive: true, KeepAliveInterval: t.KeepAlive,
		ConnectionWriteTimeout: t.Write, MaxStreamWindowSize: window,
		StreamOpenTimeout: t.Stall, StreamCloseTimeout: time.Second,
		Logger: muxLogger{log},
	}
}

// readTimeout: a session that is alive hears a ping or an answer to one within
// each KeepAlive.
func (t Timeouts) readTimeout() time.Duration { return 2*t.KeepAlive + t.Write }

// muxLogger passes yamux's own words on, for debugging: what matters of them
// ends the session and is reported there.
type muxLogger struct{ log *slog.Logger }

func (l muxLogger) Print(v ...any)                 { l.print("", v) }
func (l muxLogger) Println(v ...any)               { l.print("", v) }
func (l muxLogger) Printf(format string, v ...any) { l.print(format, v) }

func (l muxLogger) print(format string, v []any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("yamux", "format", format, "args", v)
	}
}
