package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tpcfs/wire"
	"tpcfs/wire/client"
	"tpcfs/wire/rpc"
	"tpcfs/wire/rpc/identity"
)

const defaultAddr = "127.0.0.1:7420"

// defaultWait is how long the commands of a client wait for the service.
const defaultWait = 30 * time.Second

// clientFlags are the flags of every command that talks to a coordinator.
type clientFlags struct {
	coordinator string
	tls         string
	wait        time.Duration
}

func (f *clientFlags) add(cmd *cobra.Command, wait time.Duration) {
	cmd.Flags().StringVar(&f.coordinator, "coordinator", defaultAddr, "`address` of the coordinator: HOST:PORT or unix:PATH")
	cmd.Flags().StringVar(&f.tls, "tls", "", "encrypt: this client's identity `file`, made by tpcfs cert issue")
	cmd.Flags().DurationVar(&f.wait, "wait", wait, "how long an operation may wait for the service; 0 is for ever")
}

func (f *clientFlags) check(command string) error {
	if f.wait < 0 {
		return usage(command, "--wait %s is negative", f.wait)
	}
	if err := checkAddr(f.coordinator); err != nil {
		return usage(command, "--coordinator %q: %v", f.coordinator, err)
	}
	return nil
}

// checkAddr refuses what can be no address.
func checkAddr(addr string) error {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if path == "" {
			return fmt.Errorf("no path after unix")
		}
		return nil
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("an address is HOST:PORT or unix:PATH")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("%q is no port", port)
	}
	return nil
}

// connect opens the client of a command. A coordinator that is not there is
// waited for by the operations, as long as --wait says.
func (a *app) connect(ctx context.Context, command string, f clientFlags) (*client.Client, error) {
	if err := f.check(command); err != nil {
		return nil, err
	}
	id, err := a.identityOf(f.tls, wire.RoleClient)
	if err != nil {
		return nil, err
	}
	a.asked = f.coordinator
	if isTerminal(a.err) {
		time.AfterFunc(progressAfter, func() { a.sayWaiting(ctx, f.coordinator, id) })
	}
	return client.Dial(ctx, f.coordinator, client.Options{Wait: f.wait, Identity: id, Logger: a.clientLogger()})
}

// sayWaiting tells a user at a terminal what a command that takes long waits for.
func (a *app) sayWaiting(ctx context.Context, addr string, id *identity.Identity) {
	ctx, cancel := context.WithTimeout(ctx, progressAfter)
	defer cancel()
	st, err := askStatus(ctx, addr, rpc.DialOptions{Identity: id}, wire.StatusRequest{})
	switch {
	case ctx.Err() == nil && err != nil:
		fmt.Fprintf(a.err, "tpcfs: waiting for the coordinator (is `tpcfs up` running?): %v\n", err)
	case err == nil && !st.Serving && len(st.WaitsFor) > 0:
		fmt.Fprintf(a.err, "tpcfs: the coordinator waits for participants: %s\n", strings.Join(st.WaitsFor, ", "))
	}
}

// closeClient ends a client whose work is done.
func closeClient(c *client.Client) {
	_ = c.Close() // every answer is here already
}
