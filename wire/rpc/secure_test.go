package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tpcfs/wire"
	"tpcfs/wire/rpc/identity"
)

// cluster issues identities of one new authority.
func cluster(t *testing.T) func(role wire.Role, name string, valid time.Duration) *identity.Identity {
	t.Helper()
	a, err := identity.NewAuthority(filepath.Join(t.TempDir(), "ca"), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return func(role wire.Role, name string, valid time.Duration) *identity.Identity {
		t.Helper()
		path := filepath.Join(t.TempDir(), name)
		if _, err := a.Issue(path, identity.Who{Role: role, Name: name}, valid); err != nil {
			t.Fatal(err)
		}
		i, err := identity.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
}

// Where operators are named, nobody else changes participants or begins a
// scrub; what they do is signed with the certificate's name.
func TestOperators(t *testing.T) {
	issue := cluster(t)
	var by string
	addr, _ := serve(t, ServerOptions{Service: fakeService{&fake{}}, Identity: issue(wire.RoleCoordinator, "main", time.Hour), Operators: []string{"alice", "carol"}})
	for _, name := range []string{"alice", "bob"} {
		c := dialService(t, addr, DialOptions{Identity: issue(wire.RoleClient, name, time.Hour)})
		edited, members := c.Members(t.Context(), wire.MembersRequest{By: "root@host"})
		by += edited.Note
		_, begin := c.Scrub(t.Context(), wire.ScrubRequest{Start: true})
		_, stop := c.Scrub(t.Context(), wire.ScrubRequest{Stop: 3})
		_, ask := c.Scrub(t.Context(), wire.ScrubRequest{})
		if ask != nil {
			t.Errorf("%s asks about a scrub: %v", name, ask)
		}
		for what, err := range map[string]error{"members": members, "begin": begin, "stop": stop} {
			var e *wire.Error
			if refused := errors.As(err, &e) && e.Code == wire.CodeAccess; refused != (name == "bob") || !refused && err != nil {
				t.Errorf("%s by %s: %v", what, name, err)
			}
		}
	}
	if by != "alice (root@host)" {
		t.Errorf("it is by %q", by)
	}
	for _, tt := range []struct{ who, says, want string }{
		{"alice", "", "alice"}, {strings.Repeat("a", 300), "x", strings.Repeat("a", wire.MaxEditText)},
		{"alice", strings.Repeat("\u00e4", 200), "alice (" + strings.Repeat("\u00e4", 124) + ")"},
	} {
		if got := (caller{true, identity.Who{Name: tt.who}}).signs(tt.says); got != tt.want {
			t.Errorf("%s says %s: %s", tt.who, tt.says, got)
		}
	}
	if got := (caller{}).signs("root@host"); got != "root@host" {
		t.Error(got)
	}
}

// On encrypted links every call arrives, and contents come through whole in
// both directions.
func TestEncryptedCalls(t *testing.T) {
	issue := cluster(t)
	contents := random(5<<20 + 123)
	f := &fake{contents: contents, version: 3}
	var staged bytes.Buffer
	f.stage = func(_ context.Context, _ wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
		for {
			p, err := pieces.ReadPiece()
			if err == io.EOF {
				return wire.StageReply{ID: 9, Size: int64(staged.Len())}, nil
			}
			if err != nil {
				return wire.StageReply{}, err
			}
			staged.Write(p.Data)
		}
	}
	coordinator := issue(wire.RoleCoordinator, "main", time.Hour)
	addr, _ := serve(t, ServerOptions{Service: fakeService{f}, Identity: coordinator})
	replica, _ := serve(t, ServerOptions{Replica: fakeReplica{f}, Identity: issue(wire.RoleParticipant, "a", time.Hour)})
	c := dialService(t, addr, DialOptions{Identity: issue(wire.RoleClient, "alice", time.Hour)})
	r := dialReplica(t, replica, DialOptions{Identity: coordinator, PeerName: "a"})

	var got collect
	if _, err := c.Read(t.Context(), wire.Read{Kind: wire.ReadFile, Length: -1}, &got); err != nil || !bytes.Equal(got.Bytes(), contents) {
		t.Errorf("a client's read: %v, %d bytes, want %d", err, got.Len(), len(contents))
	}
	got.Reset()
	if _, err := r.Read(t.Context(), wire.PositionedRead{Read: wire.Read{Kind: wire.ReadFile, Length: -1}}, &got); err != nil || !bytes.Equal(got.Bytes(), contents) {
		t.Errorf("a coordinator's read: %v, %d bytes, want %d", err, got.Len(), len(contents))
	}
	if _, err := c.Stage(t.Context(), wire.SessionID{1}, wire.StageRequest{}, &pieces{n: 3<<20 + 5}); err != nil || staged.Len() != 3<<20+5 {
		t.Errorf("a stage: %v, %d bytes arrived", err, staged.Len())
	}
	if _, err := c.Attach(t.Context(), wire.Attach{}); err != nil {
		t.Error(err)
	}
}

// Who is not what it claims, or does not encrypt, is told so in words that name
// what is wrong, and nothing of the service is given to it.
func TestEncryptedRefusals(t *testing.T) {
	issue, foreign := cluster(t), cluster(t)
	f := &fake{contents: random(10)}
	coordinator := issue(wire.RoleCoordinator, "main", time.Hour)
	addr, _ := serve(t, ServerOptions{Service: fakeService{f}, Identity: coordinator})
	replica, _ := serve(t, ServerOptions{Replica: fakeReplica{f}, Identity: issue(wire.RoleParticipant, "a", time.Hour)})
	plain, _ := serve(t, ServerOptions{Service: fakeService{f}})
	service := func(addr string, id *identity.Identity) error {
		c, err := DialService(t.Context(), addr, DialOptions{Identity: id})
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	participant := func(id *identity.Identity, name string) error {
		c, err := DialReplica(t.Context(), replica, DialOptions{Identity: id, PeerName: name})
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	for _, tc := range []struct {
		what string
		err  error
		code wire.Code
		want string
	}{
		{"no encryption", service(addr, nil), wire.CodeAccess, "only encrypted connections are served here"},
		{"encryption where there is none", service(plain, issue(wire.RoleClient, "x", time.Hour)), wire.CodeProtocol, "was it started without --tls"},
		{"an expired client", service(addr, issue(wire.RoleClient, "old", -time.Minute)), wire.CodeAccess, "the certificate of the client old is refused: it has expired"},
		{"a coordinator as a client", service(addr, coordinator), wire.CodeAccess, "it does not admit a client"},
		{"a participant as a client", service(addr, issue(wire.RoleParticipant, "a", time.Hour)), wire.CodeAccess, "not for this side"},
		{"a foreign client", service(addr, foreign(wire.RoleClient, "x", time.Hour)), wire.CodeAccess, "another cluster's authority"},
		{"a client as a coordinator", participant(issue(wire.RoleClient, "x", time.Hour), ""), wire.CodeAccess, "it does not admit a coordinator"},
		{"the wrong participant", participant(coordinator, "b"), wire.CodeAccess, "that of the participant a: want the participant b"},
	} {
		if wire.CodeOf(tc.err) != tc.code || !strings.Contains(tc.err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.what, tc.err, tc.want)
		}
	}
}

// A bulk connection is its link's only with the same certificate.
func TestPairWithAnotherCertificate(t *testing.T) {
	issue := cluster(t)
	addr, _ := serve(t, ServerOptions{Service: fakeService{&fake{}}, Identity: issue(wire.RoleCoordinator, "main", time.Hour)})
	alice, mallory := DialOptions{Identity: issue(wire.RoleClient, "alice", time.Hour)}, DialOptions{Identity: issue(wire.RoleClient, "mallory", time.Hour)}
	p := wire.Preface{Versions: wire.Versions, Role: wire.RoleClient, Channel: wire.ChannelControl, Nonce: wire.UUID{7}}
	control, err := alice.connect(t.Context(), "tcp", addr, addr, p)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	p.Channel = wire.ChannelBulk
	if c, err := mallory.connect(t.Context(), "tcp", addr, addr, p); wire.CodeOf(err) != wire.CodeProtocol {
		t.Errorf("another client's bulk connection: %v, %v", c, err)
	}
	bulk, err := alice.connect(t.Context(), "tcp", addr, addr, p)
	if err != nil {
		t.Fatalf("the link's own bulk connection, after a foreign one was refused: %v", err)
	}
	_ = bulk.Close()
}

// Peers that begin to encrypt and stop, or send garbage, cost a connection and
// hold nobody up.
func TestEncryptedGarbage(t *testing.T) {
	issue := cluster(t)
	addr, _ := serve(t, ServerOptions{Service: fakeService{&fake{}}, Identity: issue(wire.RoleCoordinator, "main", time.Hour), Timeouts: Timeouts{Handshake: 500 * time.Millisecond}})
	for _, b := range [][]byte{{tlsHandshake}, {tlsHandshake, 3, 1, 0xff, 0xff}, bytes.Repeat([]byte{tlsHandshake}, 1<<16), {0}, {}} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = c.Write(b) // the server may have left already
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, c)
		if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Errorf("%d bytes of garbage: the connection stays open", len(b))
		}
	}
	dialService(t, addr, DialOptions{Identity: issue(wire.RoleClient, "alice", time.Hour)})
}

// A server closes at once although an encrypted peer has stopped listening.
func TestCloseEncryptedSilentPeer(t *testing.T) {
	issue := cluster(t)
	a, b := net.Pipe() // without buffers: whoever says goodbye here waits
	defer b.Close()
	go func() { _ = issue(wire.RoleClient, "x", time.Hour).Client(b, wire.RoleCoordinator, "").Handshake() }()
	c := safeConn{issue(wire.RoleCoordinator, "main", time.Hour).Server(a)}
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = c.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(4 * time.Second): // TLS's own takes 5
		t.Error("Close waits for the peer")
	}
	<-done
}
