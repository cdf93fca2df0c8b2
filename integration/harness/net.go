package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Net is a network of hosts, each in a network namespace of its own, around a
// router that can swallow what they send to each other. Nobody is told so: a packet
// that is swallowed is answered by nothing. It takes root, ip and tc.
//
// The namespaces have no names: the kernel drops them with the processes in them.
type Net struct {
	router *Proc // keeps the router's namespace
	hosts  map[string]*netHost
	cuts   [][]string // rules of the router that swallow something
	shaped []string   // interfaces of the router that are slow or lossy
	relays []*relay
}

type netHost struct {
	n    int
	proc *Proc // keeps its namespace
}

const netPort = 7420 // of every server

// NewNet makes a network of the hosts of these names.
func NewNet(ctx context.Context, names ...string) (*Net, error) {
	n := &Net{hosts: map[string]*netHost{}}
	var err error
	if n.router, err = namespaceOf(ctx, "router"); err != nil {
		return nil, err
	}
	script := "link set lo up\nlink add void type veth peer name beyond\nlink set void up\n" +
		"rule add pref 1 iif lo lookup main\n" // what the router itself sends is never swallowed
	for i, name := range names {
		h := &netHost{n: i + 1}
		if h.proc, err = namespaceOf(ctx, name); err != nil {
			return nil, errors.Join(err, n.Close())
		}
		n.hosts[name] = h
		script += fmt.Sprintf("link add h%[1]d type veth peer name eth netns %[2]d\naddr add 10.77.%[1]d.1/24 dev h%[1]d\nlink set h%[1]d up\n", h.n, h.proc.PID())
	}
	if err := n.ip(ctx, n.router, script); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	if err := n.sh(ctx, "echo 1 > /proc/sys/net/ipv4/ip_forward"); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	for _, h := range n.hosts {
		if err := n.ip(ctx, h.proc, fmt.Sprintf("link set lo up\naddr add 10.77.%[1]d.2/24 dev eth\nlink set eth up\nroute add default via 10.77.%[1]d.1\n", h.n)); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	for _, h := range n.hosts { // a new interface passes nothing on for a moment
		if c, err := dialIn(h.proc.PID(), fmt.Sprintf("10.77.%d.1:1", h.n)); !errors.Is(err, unix.ECONNREFUSED) {
			return nil, errors.Join(fmt.Errorf("%s: connection %v, error %w", h.proc.Name, c, err), n.Close())
		}
	}
	return n, nil
}

// namespaceOf starts a process that does nothing in a network namespace of its own.
func namespaceOf(ctx context.Context, name string) (*Proc, error) {
	p, err := Start("the network of "+name, nil, "unshare", "--net", "sh", "-c", "echo there; exec sleep infinity")
	if err != nil {
		return nil, err
	}
	if _, err := p.WaitLine(ctx, "there"); err != nil {
		return nil, errors.Join(err, p.Kill())
	}
	return p, nil
}

// within are nsenter's arguments for a namespace.
func within(p *Proc) []string {
	return []string{fmt.Sprintf("--net=/proc/%d/ns/net", p.PID()), "--"}
}

// ip runs lines of ip(8) in a namespace.
func (n *Net) ip(ctx context.Context, in *Proc, lines string) error {
	if r := Run(ctx, nil, []byte(lines), "nsenter", append(within(in), "ip", "-batch", "-")...); r.Code != 0 {
		return fmt.Errorf("ip in %s: %s\n%s", in.Name, r.Err, lines)
	}
	return nil
}

// Command is the command line of a program on a host.
func (n *Net) Command(host string, command ...string) []string {
	return append(append([]string{"nsenter"}, within(n.hosts[host].proc)...), command...)
}

// Addr is where the server on a host is for other hosts.
func (n *Net) Addr(host string) string { return fmt.Sprintf("%s:%d", n.address(host), netPort) }

func (n *Net) address(host string) string { return fmt.Sprintf("10.77.%d.2", n.hosts[host].n) }

// netAll is all hosts.
const netAll = "10.77.0.0/16"

// Cut has all swallowed that one host sends to another; "" is every host.
func (n *Net) Cut(ctx context.Context, from, to string) error {
	// Both ends are always said: a rule without one is, to the kernel, there
	// already when any rule with that end is.
	rule := []string{"from", netAll, "to", netAll}
	if from != "" {
		rule[1] = n.address(from)
	}
	if to != "" {
		rule[3] = n.address(to)
	}
	rule = append(rule, "blackhole")
	if slices.ContainsFunc(n.cuts, func(r []string) bool { return slices.Equal(r, rule) }) {
		return nil
	}
	n.cuts = append(n.cuts, rule)
	return n.ip(ctx, n.router, "rule add "+strings.Join(rule, " ")+"\n")
}

// Worsen makes the way to and from a host slow (rate is tc's, as 2mbit; "": it is
// as fast as ever) and, if lossy, lose one packet in sixteen.
func (n *Net) Worsen(ctx context.Context, host, rate string, lossy bool) error {
	dev := fmt.Sprintf("h%d", n.hosts[host].n)
	n.shaped = append(n.shaped, dev)
	script := ""
	if rate != "" { // a short queue: who sends more loses some
		script += fmt.Sprintf("tc qdisc replace dev %s root tbf rate %s burst 20k limit 200k\n", dev, rate)
	}
	if lossy { // by a part of the packet's number: what is sent again has another
		script += fmt.Sprintf("tc qdisc replace dev %s clsact\n", dev)
		for _, way := range []string{"egress", "ingress"} {
			script += fmt.Sprintf("tc filter replace dev %s %s protocol ip prio 1 u32 match u16 0x0005 0x000f at 4 action mirred egress redirect dev void\n", dev, way)
		}
	}
	return n.sh(ctx, script)
}

func (n *Net) sh(ctx context.Context, script string) error {
	if r := Run(ctx, nil, nil, "nsenter", append(within(n.router), "sh", "-ec", script)...); r.Code != 0 {
		return fmt.Errorf("%s\n%s", r.Err, script)
	}
	return nil
}

// Heal makes the network whole.
func (n *Net) Heal(ctx context.Context) error {
	lines, script := "", ""
	for _, rule := range n.cuts {
		lines += "rule del " + strings.Join(rule, " ") + "\n"
	}
	for _, dev := range n.shaped {
		script += fmt.Sprintf("tc qdisc del dev %[1]s root 2>&1 || true; tc qdisc del dev %[1]s clsact 2>&1 || true\n", dev)
	}
	n.cuts, n.shaped = nil, nil
	return errors.Join(n.ip(ctx, n.router, lines), n.sh(ctx, script))
}

// Relay makes a unix socket of this process's file system lead to the server on a
// host, by way of the router: what is cut off from other hosts is not from here.
func (n *Net) Relay(socket, host string) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	r := &relay{from: l, conns: map[net.Conn]bool{}}
	n.relays = append(n.relays, r)
	router, to := n.router.PID(), n.Addr(host)
	r.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.pass(c, router, to) })
		}
	})
	return nil
}

// Close ends the network; nothing runs in it any more.
func (n *Net) Close() error {
	var errs []error
	for _, r := range n.relays {
		errs = append(errs, r.close())
	}
	for _, h := range n.hosts {
		errs = append(errs, h.proc.Kill())
	}
	return errors.Join(append(errs, n.router.Kill())...)
}

// relay passes connections on.
type relay struct {
	from net.Listener
	wg   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]bool
	closed bool
}

func (r *relay) close() error {
	err := r.from.Close()
	r.mu.Lock()
	r.closed = true
	for c := range r.conns {
		_ = c.Close() // its goroutines notice
	}
	r.mu.Unlock()
	r.wg.Wait()
	return err
}

// keep closes c with the relay, at once if that is closed.
func (r *relay) keep(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns[c] = true; r.closed {
		_ = c.Close()
	}
}

func (r *relay) drop(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	_ = c.Close() // it is over
}

func (r *relay) pass(c net.Conn, router int, to string) {
	r.keep(c)
	defer r.drop(c)
	d, err := dialIn(router, to)
	if err != nil {
		return // as a server that is not there
	}
	r.keep(d)
	defer r.drop(d)
	over := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{c, d}, {d, c}} {
		r.wg.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			over <- struct{}{}
		})
	}
	<-over
}

// dialIn connects in the network namespace of a process.
func dialIn(pid int, to string) (conn net.Conn, err error) {
	err = inNamespace(pid, func() error {
		conn, err = net.Dial("tcp", to) // one address: in this thread
		return err
	})
	return conn, err
}

// inNamespace calls fn in the network namespace of a process.
func inNamespace(pid int, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this
		ns, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns/net"))
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			err = fn()
		}
		done <- err
	}()
	return <-done
}
