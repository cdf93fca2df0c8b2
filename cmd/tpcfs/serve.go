package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"tpcfs/wire"
	"tpcfs/wire/rpc"
	"tpcfs/wire/rpc/identity"
)

// serveFlags are the flags of every command that listens.
type serveFlags struct {
	dir, listen string
	tls         string
	insecure    bool
	segmentSize sizeValue
	operators   operatorNames // of what serves clients
}

func (f *serveFlags) add(cmd *cobra.Command, dir, listen, whom string) {
	cmd.Flags().StringVar(&f.dir, "dir", dir, "data `directory`; made if it is missing")
	cmd.Flags().StringVar(&f.listen, "listen", listen, "`address` for "+whom+": HOST:PORT (port 0: any free one) or unix:PATH")
	cmd.Flags().StringVar(&f.tls, "tls", "", "encrypt: this server's identity `file`, made by tpcfs cert issue; who connects needs one of the same authority")
	cmd.Flags().BoolVar(&f.insecure, "insecure", false, "listen on a public address too, without encryption or authentication")
	cmd.Flags().Var(&f.segmentSize, "segment-size", "`bytes` (k, m, g) of a new journal's segments, a multiple of 4096, 1 MiB or more (default: participants 16 MiB, coordinator 4 MiB)")
}

// sizeValue is a flag of bytes; 0: not given.
type sizeValue int64

func (v *sizeValue) String() string {
	if *v == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*v), 10)
}

// Type implements pflag.Value.
func (v *sizeValue) Type() string { return "string" }

// Set takes bytes as other flags do.
func (v *sizeValue) Set(s string) error {
	n, err := parseSize(s)
	*v = sizeValue(n)
	return err
}

// addOperators is for what serves clients.
func (f *serveFlags) addOperators(cmd *cobra.Command) {
	cmd.Flags().Var(&f.operators, "operator", "with --tls: only the client whose certificate has this `name` may change the participants (members, resolve --lost) and begin or stop scrubs; once for each (default: every client may)")
}

// operatorNames are the names given by --operator. None at all lets every client do what
// operators do, so one that is empty by mistake is an error.
type operatorNames []string

func (o *operatorNames) String() string { return strings.Join(*o, ",") }

// Type implements pflag.Value.
func (o *operatorNames) Type() string { return "stringSlice" }

// Set adds names, with commas between them.
func (o *operatorNames) Set(list string) error {
	for _, name := range strings.Split(list, ",") {
		switch {
		case list == "":
			return errors.New("it is empty, and every client would be an operator: leave it out if that is meant")
		case !identity.ValidName(name):
			return fmt.Errorf("%q is no name that a certificate can have: 1 to 63 letters, digits, dots, - and _, without spaces around it", name)
		}
		*o = append(*o, name)
	}
	return nil
}

// minSegment is the least --segment-size, in bytes: a PREPARE that a journal
// cannot hold would end every participant.
const minSegment = 1 << 20

func (f *serveFlags) check(command string) error {
	if f.dir == "" {
		return usage(command, "--dir is missing: the directory for the data")
	}
	if f.segmentSize != 0 && f.segmentSize < minSegment {
		return usage(command, "--segment-size %d: a segment has at least %d bytes, to hold the largest record", f.segmentSize, minSegment)
	}
	if len(f.operators) > 0 && f.tls == "" {
		return usage(command, "--operator %s: only certificates tell who is who: it needs --tls", f.operators[0])
	}
	if err := checkAddr(f.listen); err != nil {
		return usage(command, "--listen %q: %v", f.listen, err)
	}
	return nil
}

// formatName is of the file that makes a directory one participant's, or a coordinator's.
const formatName = "FORMAT"

// badDir makes an error in the arguments of the refusal of a --dir that is not for such data.
func badDir(command, dir string, err error) error {
	var e *wire.Error
	if errors.As(err, &e) && e.Code == wire.CodeInvalid && e.Op == "open" && e.Name == dir {
		return usage(command, "--dir %s: %s", printable(dir), e.Text)
	}
	return err
}

// server is an rpc server on a listener, with the goroutine that serves.
type server struct {
	rpc  *rpc.Server
	addr string
	wg   sync.WaitGroup
	done chan struct{} // closed when it serves no more
	err  error         // why; readable after done
}

// identityOf loads the identity that --tls names, which has to be of the role;
// nil without one.
func (a *app) identityOf(path string, role wire.Role) (*identity.Identity, error) {
	if path == "" {
		return nil, nil
	}
	id, err := identity.Load(path)
	if err != nil {
		return nil, err
	}
	if who := id.Who(); who.Role != role {
		return nil, &wire.Error{Code: wire.CodeInvalid, Name: path, Text: fmt.Sprintf("the identity is that of the %v: a %v is needed (tpcfs cert issue %v NAME)", who, role, role)}
	}
	if left := time.Until(id.Expires()); left < soonExpired {
		a.logger().Warn("the certificate expires soon, or has: renew it with tpcfs cert issue; no restart is needed", "file", path, "expires", id.Expires().UTC().Format(time.RFC3339))
	}
	return id, nil
}

// soonExpired is how long before its end a certificate is worth a word.
const soonExpired = 14 * 24 * time.Hour

// serve listens and serves until close.
func serve(f serveFlags, o rpc.ServerOptions) (*server, error) {
	l, err := rpc.Listen(f.listen, f.insecure || o.Identity != nil)
	if err != nil {
		return nil, err
	}
	o.Operators = f.operators
	s := &server{rpc: rpc.NewServer(o), addr: addrOf(l, f.listen), done: make(chan struct{})}
	s.wg.Go(func() {
		defer close(s.done)
		s.err = s.rpc.Serve(l)
	})
	return s, nil
}

func (s *server) close() error {
	err := s.rpc.Close()
	s.wg.Wait()
	return err
}

// addrOf is where clients reach l: with the port that it got.
func addrOf(l net.Listener, asked string) string {
	if strings.HasPrefix(asked, "unix:") {
		return asked
	}
	return l.Addr().String()
}

// ready is what a server prints once it is usable.
type ready struct {
	Ready      bool   `json:"ready"`
	Listen     string `json:"listen"`
	Dir        string `json:"dir"`
	Mountpoint string `json:"mountpoint,omitempty"`
	PID        int    `json:"pid"`
}

// sayReady tells for whom it is ready: "clients", or "the coordinator".
func (a *app) sayReady(whom string, r ready) error {
	a.notify(notifyReady)
	r.Ready, r.PID = true, os.Getpid()
	text := fmt.Sprintf("ready: %s at %s, data in %s", whom, r.Listen, r.Dir)
	if r.Mountpoint != "" {
		text += ", mounted on " + r.Mountpoint
	}
	return a.print(r, text)
}

// clean makes a directory's path absolute.
func clean(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	return abs, nil
}

// stopped is the error of a server that was told to stop: none.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
