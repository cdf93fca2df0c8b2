package main

import (
	"net"
	"strings"
)

// What a service manager is told (sd_notify(3)).
const (
	notifyReady    = "READY=1"
	notifyStopping = "STOPPING=1"
)

// notify tells the service manager that has started this process, if there is
// one that listens: one datagram to the socket that NOTIFY_SOCKET names. Who
// does not get it waits for its own timeout, and says so.
func (a *app) notify(state string) {
	name, ok := a.lookupEnv("NOTIFY_SOCKET")
	if !ok || name == "" {
		return
	}
	if rest, abstract := strings.CutPrefix(name, "@"); abstract {
		name = "\x00" + rest
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err == nil {
		_, err = c.Write([]byte(state))
		_ = c.Close() // a datagram is sent or it is not
	}
	if err != nil {
		a.logger().Warn("cannot tell the service manager how it goes", "state", state, "err", err)
	}
}
