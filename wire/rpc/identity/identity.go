// Package identity is who a process is on encrypted links (W4): one file with a
// private key, its certificate, and the certificate of the cluster's authority.
//
// A certificate names a role and a name, in its one URI of the form
// tpcfs://ROLE/NAME. Both sides of a link present one, of the same authority;
// host names and addresses prove nothing and are not looked at. The file is
// read again when it changes, so a renewed one needs no restart.
package identity

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"tpcfs/wire"
)

// Who is what a certificate says of its holder.
type Who struct {
	Role wire.Role
	Name string // of a participant: the one in the cluster's configuration
}

func (w Who) String() string { return w.Role.String() + " " + w.Name }

// scheme of the URI in a certificate.
const scheme = "tpcfs"

func (w Who) url() *url.URL {
	return &url.URL{Scheme: scheme, Host: w.Role.String(), Path: "/" + w.Name}
}

// ParseRole reads "client", "coordinator" or "participant".
func ParseRole(s string) (wire.Role, bool) {
	for _, r := range []wire.Role{wire.RoleClient, wire.RoleCoordinator, wire.RoleParticipant} {
		if s == r.String() {
			return r, true
		}
	}
	return 0, false
}

// whoIs reads a certificate's URI. The error says what is wrong with it.
func whoIs(c *x509.Certificate) (Who, error) {
	var who Who
	for _, u := range c.URIs {
		role, ok := ParseRole(u.Host)
		if u.Scheme != scheme || !ok || len(u.Path) < 2 || who.Name != "" {
			return Who{}, errors.New("it is not one of tpcfs")
		}
		who = Who{role, u.Path[1:]}
	}
	if who.Name == "" {
		return Who{}, errors.New("it is not one of tpcfs")
	}
	return who, nil
}

// maxFile bounds an identity's file, in bytes.
const maxFile = 1 << 20

// keys is an identity's file, read and checked.
type keys struct {
	who  Who
	cert tls.Certificate
	ca   *x509.CertPool
}

// Identity is a process's own. It is safe for concurrent use.
type Identity struct {
	path string

	mu   sync.Mutex // guards what follows
	info fs.FileInfo
	keys *keys
}

// Load reads an identity's file. An error names the file and says what to do;
// a file that others than its owner may read is refused.
func Load(path string) (*Identity, error) {
	i := &Identity{path: path}
	if _, err := i.current(); err != nil {
		return nil, err
	}
	return i, nil
}

// Path is the identity's file.
func (i *Identity) Path() string { return i.path }

// Who is the identity's holder.
func (i *Identity) Who() Who {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys.who
}

// Expires is when the certificate that is in use does.
func (i *Identity) Expires() time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys.cert.Leaf.NotAfter
}

// current is the file's contents, read again when it has changed. A file that
// cannot be used any more leaves what was read before, if it was, beside the
// error.
func (i *Identity) current() (*keys, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	info, err := os.Stat(i.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.New("there is no such file of an identity: `tpcfs cert issue` makes one")
	}
	if err != nil {
		return i.keys, bad(i.path, err)
	}
	if i.info != nil && os.SameFile(info, i.info) && info.ModTime().Equal(i.info.ModTime()) && info.Size() == i.info.Size() {
		return i.keys, nil
	}
	k, err := read(i.path, info)
	if err != nil {
		return i.keys, err
	}
	if i.keys != nil && i.keys.who != k.who {
		return i.keys, bad(i.path, fmt.Errorf("it was renewed for the %v, this is the %v", k.who, i.keys.who))
	}
	i.info, i.keys = info, k
	return k, nil
}

func bad(path string, err error) *wire.Error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return &wire.Error{Code: wire.CodeInvalid, Op: "identity", Name: path, Text: err.Error()}
}

func read(path string, info fs.FileInfo) (*keys, error) {
	switch {
	case !info.Mode().IsRegular():
		return nil, bad(path, errors.New("no file: want one that `tpcfs cert issue` has made"))
	case info.Size() > maxFile:
		return nil, bad(path, fmt.Errorf("%d bytes, at most %d are allowed", info.Size(), maxFile))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, bad(path, err)
	}
	k, err := parse(b)
	if err != nil {
		return nil, bad(path, fmt.Errorf("%w: want a file that `tpcfs cert issue` has made", err))
	}
	if info.Mode().Perm()&0o077 != 0 { // last: what holds no key need not be hidden
		return nil, bad(path, fmt.Errorf("others may read the private key in it (mode %04o): chmod 600 it", info.Mode().Perm()))
	}
	return k, nil
}

func parse(b []byte) (*keys, error) {
	if err := complete(b); err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(b, b)
	if err != nil {
		return nil, err
	}
	k := &keys{cert: cert, ca: x509.NewCertPool()}
	k.cert.Certificate = k.cert.Certificate[:1] // the authority's is not sent
	if k.who, err = whoIs(cert.Leaf); err != nil {
		return nil, fmt.Errorf("the certificate says nothing of a role: %w", err)
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemCertificate {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if c.IsCA {
			k.ca.AddCert(c)
		}
	}
	return k, nil
}

// complete tells what of an identity's three parts is missing, or what the file is instead.
func complete(b []byte) error {
	keys, holders, authorities := 0, 0, 0
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, pemKey) {
			keys++
		}
		if block.Type != pemCertificate {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			return fmt.Errorf("a certificate in it is damaged (%v)", err)
		case c.IsCA:
			authorities++
		default:
			holders++
		}
	}
	switch {
	case keys+holders+authorities == 0:
		return errors.New("there is no key and no certificate in it")
	case holders+authorities == 0:
		return errors.New("it is a private key alone, without a certificate")
	case keys+holders == 0:
		return errors.New("it is an authority's certificate, and nobody's identity")
	case holders == 0:
		return errors.New("it is an authority's, and nobody's identity")
	case keys == 0:
		return errors.New("the private key is missing")
	case authorities == 0:
		return errors.New("the authority's certificate is missing")
	}
	return nil
}

// Server begins an encrypted link as the side that was called. Any certificate
// gets through the handshake: Peer judges it, so that the refusal can say why.
func (i *Identity) Server(c net.Conn) *tls.Conn {
	return tls.Server(c, &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			k, _ := i.current() // what was read before is good enough
			return &k.cert, nil
		},
	})
}

// Client begins an encrypted link as the side that calls. The handshake fails,
// with an error that says why, unless the other side has the role and, if it
// is not empty, the name.
func (i *Identity) Client(c net.Conn, role wire.Role, name string) *tls.Conn {
	return tls.Client(c, &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			k, _ := i.current() // what was read before is good enough
			return &k.cert, nil
		},
		// Host names prove nothing here; VerifyConnection checks all that does.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			who, err := i.peer(s, x509.ExtKeyUsageServerAuth)
			switch {
			case err != nil:
				return err
			case who.Role != role:
				return refused("the certificate there is that of the %v: want a %v", who, role)
			case name != "" && who.Name != name:
				return refused("the certificate there is that of the %v: want the %v", who, Who{role, name})
			}
			return nil
		},
	})
}

// Peer is who has called, after a Server's handshake. The error says what is
// wrong with the certificate.
func (i *Identity) Peer(s tls.ConnectionState) (Who, error) {
	return i.peer(s, x509.ExtKeyUsageClientAuth)
}

func (i *Identity) peer(s tls.ConnectionState, use x509.ExtKeyUsage) (Who, error) {
	k, _ := i.current() // what was read before is good enough
	if len(s.PeerCertificates) == 0 {
		return Who{}, refused("no certificate was shown")
	}
	c := s.PeerCertificates[0]
	who, err := whoIs(c)
	if err != nil {
		return Who{}, refused("the certificate of %q is refused: %v", c.Subject.CommonName, err)
	}
	_, err = c.Verify(x509.VerifyOptions{Roots: k.ca, KeyUsages: []x509.ExtKeyUsage{use}})
	if err != nil {
		return Who{}, refused("the certificate of the %v is refused: %s", who, reason(c, err))
	}
	return who, nil
}

// reason says in words why a certificate does not hold.
func reason(c *x509.Certificate, err error) string {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return "another cluster's authority has signed it"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if now := time.Now(); now.Before(c.NotBefore) {
			return fmt.Sprintf("it is good from %s on (is a clock wrong?)", c.NotBefore.UTC().Format(time.RFC3339))
		}
		return fmt.Sprintf("it has expired at %s: renew it with `tpcfs cert issue`", c.NotAfter.UTC().Format(time.RFC3339))
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return "it is not for this side of a connection"
	}
	return err.Error()
}

func refused(format string, args ...any) *wire.Error {
	return wire.NewError(wire.CodeAccess, fmt.Sprintf(format, args...))
}
