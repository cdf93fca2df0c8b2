package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"tpcfs/wire"
	"tpcfs/wire/rpc/identity"
)

// Encryption comes before the preface: nothing that is said in the clear
// decides anything. A side without it is told so in the clear, by a preface
// that refuses.

// tlsHandshake is the first byte of TLS (RFC 8446, 5.1); a preface begins with
// another.
const tlsHandshake = 0x16

// caller is what is known of who has connected; the zero value: nothing.
type caller struct {
	certified bool
	who       identity.Who
}

// claims refuses a role that is not the certificate's.
func (c caller) claims(role wire.Role) error {
	if c.certified && c.who.Role != role {
		return wire.NewError(wire.CodeAccess, fmt.Sprintf("the certificate is that of the %v, it does not admit a %v", c.who, role))
	}
	return nil
}

// operates refuses who is not one of the operators, where there are such.
func (c caller) operates(operators []string) error {
	if len(operators) == 0 || c.certified && slices.Contains(operators, c.who.Name) {
		return nil
	}
	who := "who shows no certificate"
	if c.certified {
		who = fmt.Sprintf("the %v", c.who)
	}
	return wire.NewError(wire.CodeAccess, fmt.Sprintf("that is for operators alone (%s), not for %s", strings.Join(operators, ", "), who))
}

// signs puts the certificate's name before who says of itself that it does a
// thing: the record has to tell what is known from what is said.
func (c caller) signs(by string) string {
	if !c.certified {
		return by
	}
	name := c.who.Name[:min(len(c.who.Name), wire.MaxEditText)]
	if rest := wire.MaxEditText - len(name) - len(" ()"); by != "" && rest > 0 {
		name += " (" + strings.ToValidUTF8(by[:min(len(by), rest)], "") + ")"
	}
	return name
}

// secure makes a new connection as safe as the server's options want it, and
// tells who has called. The peer has been told why, if it can be, when there
// is an error. It returns c where there is nothing better.
func (s *Server) secure(c net.Conn) (net.Conn, caller, error) {
	if err := sameUser(c); err != nil {
		s.refuse(c, err)
		return c, caller{}, err
	}
	if s.o.Identity == nil {
		return c, caller{}, nil
	}
	begun := &begunConn{Conn: c}
	if _, err := io.ReadFull(c, begun.first[:]); err != nil {
		return c, caller{}, noEOF(err)
	}
	if begun.first[0] != tlsHandshake {
		err := wire.NewError(wire.CodeAccess, "only encrypted connections are served here: name an identity file with --tls")
		s.refuse(begun, err)
		return c, caller{}, err
	}
	safe := safeConn{s.o.Identity.Server(begun)}
	if err := safe.HandshakeContext(s.ctx); err != nil {
		return c, caller{}, tlsError(err)
	}
	who, err := s.o.Identity.Peer(safe.ConnectionState())
	if err != nil {
		s.refuse(safe, err)
		return safe, caller{}, err
	}
	return safe, caller{true, who}, nil
}

// refuse tells the peer why, before its own preface has been read: of what it
// has sent nothing matters, but unread it would make the system withdraw the
// refusal together with the connection.
func (s *Server) refuse(c net.Conn, err error) {
	theirs, readErr := readPreface(c)
	_ = writePreface(c, s.preface(theirs, err)) // it is leaving anyway
	if readErr != nil {
		s.o.Logger.Debug("no preface of a peer that is refused", "err", readErr)
	}
}

// begunConn is a connection of which the first byte has been read.
type begunConn struct {
	net.Conn
	first [1]byte
	taken bool
}

func (c *begunConn) Read(b []byte) (int, error) {
	if c.taken || len(b) == 0 {
		return c.Conn.Read(b)
	}
	c.taken = true
	return copy(b, c.first[:]), nil
}

// encrypt runs the calling side's handshake.
func encrypt(ctx context.Context, c *tls.Conn) (net.Conn, error) {
	if err := c.HandshakeContext(ctx); err != nil {
		return c, tlsError(err)
	}
	return safeConn{c}, nil
}

// safeConn is an encrypted connection that closes at once. TLS's own Close
// says goodbye first and waits up to 5 s for a peer that does not listen;
// frames tell their own ends, so nothing is lost without it.
type safeConn struct{ *tls.Conn }

// Close closes the connection below.
func (c safeConn) Close() error { return c.NetConn().Close() }

// tlsError says what a handshake failed from, where the library's words would
// not help; errors of the network stay what they are.
func tlsError(err error) error {
	var own *wire.Error
	var record tls.RecordHeaderError
	var alert *net.OpError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &record):
		return wire.NewError(wire.CodeProtocol, "no encryption is spoken there: was it started without --tls?")
	case errors.As(err, &alert) && alert.Op == "remote error":
		return wire.NewError(wire.CodeAccess, fmt.Sprintf("the other side ended the encrypted handshake (%v): its log says why, most likely it takes this side's certificate for a foreign one", alert.Err))
	}
	return err
}

// sameUser refuses, on a unix socket, other users than this process's and root:
// the socket's mode keeps them out already, unless somebody has changed it.
func sameUser(c net.Conn) error {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil || err != nil {
		return errors.Join(e, err)
	}
	if own := uint32(os.Geteuid()); cred.Uid != own && cred.Uid != 0 {
		return wire.NewError(wire.CodeAccess, fmt.Sprintf("this socket is for user %d, not for user %d: for others, serve a TCP address with --tls", own, cred.Uid))
	}
	return nil
}
