package identity

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tpcfs/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const day = 24 * time.Hour

var (
	coordinator = Who{wire.RoleCoordinator, "main"}
	partA       = Who{wire.RoleParticipant, "a"}
	alice       = Who{wire.RoleClient, "alice"}
)

func authority(t *testing.T) *Authority {
	t.Helper()
	a, err := NewAuthority(filepath.Join(t.TempDir(), "ca"), 10*day)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a *Authority, who Who, valid time.Duration) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), who.Name+".pem")
	if _, err := a.Issue(path, who, valid); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, path string) *Identity {
	t.Helper()
	i, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// pair is a connection on loopback, both ends.
func pair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}

// meet runs one handshake and a byte each way; it returns who the server sees
// and both sides' errors.
func meet(t *testing.T, server, client *Identity, role wire.Role, name string) (Who, error, error) {
	t.Helper()
	a, b := pair(t)
	for _, c := range []net.Conn{a, b} {
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	var who Who
	serverErr := make(chan error, 1)
	go func() {
		c := server.Server(a)
		err := c.Handshake()
		if err == nil {
			who, err = server.Peer(c.ConnectionState())
		}
		if err == nil {
			_, err = c.Write([]byte{1})
		}
		_ = a.Close()
		serverErr <- err
	}()
	c := client.Client(b, role, name)
	clientErr := c.Handshake()
	if clientErr == nil {
		_, clientErr = io.ReadFull(c, make([]byte, 1))
	}
	_ = b.Close()
	err := <-serverErr
	return who, err, clientErr
}

func TestTwoOfOneCluster(t *testing.T) {
	a := authority(t)
	for _, tc := range []struct{ server, client Who }{{coordinator, alice}, {partA, coordinator}} {
		server, client := load(t, issue(t, a, tc.server, day)), load(t, issue(t, a, tc.client, day))
		for _, name := range []string{"", tc.server.Name} {
			who, serverErr, clientErr := meet(t, server, client, tc.server.Role, name)
			if serverErr != nil || clientErr != nil || who != tc.client {
				t.Errorf("%v calls %v: saw %v, errors %v and %v", tc.client, tc.server, who, serverErr, clientErr)
			}
		}
	}
}

func TestWhoIsRefused(t *testing.T) {
	a, foreign := authority(t), authority(t)
	id := func(a *Authority, who Who, valid time.Duration) *Identity { return load(t, issue(t, a, who, valid)) }
	for _, tc := range []struct {
		what           string
		server, client *Identity
		role           wire.Role
		name           string
		atServer       string // in its error; "": none
		atClient       string
	}{
		{what: "a client that acts as a participant", server: id(a, alice, day), client: id(a, coordinator, day), role: wire.RoleParticipant,
			atServer: "bad certificate", atClient: "it is not for this side of a connection"},
		{what: "a coordinator that acts as a participant", server: id(a, coordinator, day), client: id(a, coordinator, day), role: wire.RoleParticipant,
			atServer: "bad certificate", atClient: "that of the coordinator main: want a participant"},
		{what: "another participant", server: id(a, Who{wire.RoleParticipant, "b"}, day), client: id(a, coordinator, day), role: wire.RoleParticipant, name: "a",
			atServer: "bad certificate", atClient: "that of the participant b: want the participant a"},
		{what: "a participant that calls", server: id(a, coordinator, day), client: id(a, partA, day), role: wire.RoleCoordinator,
			atServer: "it is not for this side of a connection", atClient: "EOF"},
		{what: "a foreign client", server: id(a, coordinator, day), client: id(foreign, alice, day), role: wire.RoleCoordinator,
			atServer: "bad certificate", atClient: "another cluster's authority has signed it"},
		{what: "an expired server", server: id(a, coordinator, -time.Minute), client: id(a, alice, day), role: wire.RoleCoordinator,
			atServer: "bad certificate", atClient: "it has expired at"},
		{what: "an expired client", server: id(a, coordinator, day), client: id(a, alice, -time.Minute), role: wire.RoleCoordinator,
			atServer: "the certificate of the client alice is refused: it has expired at", atClient: "EOF"},
	} {
		who, serverErr, clientErr := meet(t, tc.server, tc.client, tc.role, tc.name)
		if serverErr == nil || !strings.Contains(serverErr.Error(), tc.atServer) {
			t.Errorf("%s: the server saw %v, error %v, want %q", tc.what, who, serverErr, tc.atServer)
		}
		if clientErr == nil || !strings.Contains(clientErr.Error(), tc.atClient) {
			t.Errorf("%s: the client's error is %v, want %q", tc.what, clientErr, tc.atClient)
		}
	}
}

// A client that takes anybody's certificate, and an authority that trusts both,
// leave the server's judgement alone: it sees the foreign certificate itself.
func TestForeignClientAtServer(t *testing.T) {
	a, foreign := authority(t), authority(t)
	server, client := load(t, issue(t, a, coordinator, day)), load(t, issue(t, foreign, alice, day))
	client.keys.ca.AddCert(a.cert)
	_, serverErr, _ := meet(t, server, client, wire.RoleCoordinator, "")
	if want := "another cluster's authority has signed it"; serverErr == nil || !strings.Contains(serverErr.Error(), want) {
		t.Fatalf("the server's error is %v, want %q", serverErr, want)
	}
}

func TestRenewedFileIsPickedUp(t *testing.T) {
	a := authority(t)
	path := issue(t, a, alice, -time.Minute)
	server, client := load(t, issue(t, a, coordinator, day)), load(t, path)
	if _, err, _ := meet(t, server, client, wire.RoleCoordinator, ""); err == nil {
		t.Fatal("an expired certificate was taken")
	}
	if _, err := a.Issue(path, alice, day); err != nil {
		t.Fatal(err)
	}
	if _, err, clientErr := meet(t, server, client, wire.RoleCoordinator, ""); err != nil || clientErr != nil {
		t.Fatalf("the renewed certificate was refused: %v, %v", err, clientErr)
	}
	// What cannot be used leaves what there was.
	if err := os.WriteFile(path, []byte("no longer"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err, clientErr := meet(t, server, client, wire.RoleCoordinator, ""); err != nil || clientErr != nil {
		t.Fatalf("with a broken file the certificate that was read before was refused: %v, %v", err, clientErr)
	}
}

func TestBadFiles(t *testing.T) {
	a := authority(t)
	good := issue(t, a, alice, day)
	b, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, contents string, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(contents), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, rest, _ := strings.Cut(string(b), "-----END PRIVATE KEY-----\n")
	leaf, ca, _ := strings.Cut(rest, "-----END CERTIFICATE-----\n")
	key, leaf = key+"-----END PRIVATE KEY-----\n", leaf+"-----END CERTIFICATE-----\n"
	for _, tc := range []struct{ path, want string }{
		{filepath.Join(t.TempDir(), "none"), "no such file"},
		{t.TempDir(), "no file"},
		{write("open", string(b), 0o644), "others may read the private key"},
		{write("empty", "", 0o600), "no key and no certificate in it: want a file that `tpcfs cert issue`"},
		{write("text", "hello\n", 0o644), "no key and no certificate in it: want a file that `tpcfs cert issue`"},
		{write("ca.crt", ca, 0o644), "an authority's certificate, and nobody's identity: want a file that `tpcfs cert issue`"},
		{write("ca.both", key+ca, 0o600), "an authority's, and nobody's identity: want a file that `tpcfs cert issue`"},
		{write("key", key, 0o644), "a private key alone, without a certificate: want a file that `tpcfs cert issue`"},
		{write("nokey", rest, 0o644), "private key is missing: want a file that `tpcfs cert issue`"},
		{write("noca", key+leaf, 0o600), "authority's certificate is missing: want a file that `tpcfs cert issue`"},
		{write("torn", key+"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"+ca, 0o600), "damaged"},
		{write("long", strings.Repeat("x", maxFile+1), 0o600), "at most"},
	} {
		_, err := Load(tc.path)
		var e *wire.Error
		if !errors.As(err, &e) || e.Name != tc.path || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", filepath.Base(tc.path), err, tc.want)
		}
	}
}

func TestAuthorityKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	a, err := NewAuthority(dir, day)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewAuthority(dir, day); wire.CodeOf(err) != wire.CodeExist {
		t.Errorf("a second authority in one directory: %v", err)
	}
	path := filepath.Join(dir, "x.pem")
	until, err := a.Issue(path, alice, 100*day)
	if err != nil || !until.Equal(a.Expires()) {
		t.Errorf("a certificate that would outlive the authority's: until %v, %v; the authority's until %v", until, err, a.Expires())
	}
	if _, err := a.Issue(path, partA, day); wire.CodeOf(err) != wire.CodeExist {
		t.Errorf("another holder's file was replaced: %v", err)
	}
	if _, err := a.Issue(filepath.Join(dir, "y.pem"), Who{wire.RoleClient, "../y"}, day); wire.CodeOf(err) != wire.CodeInvalid {
		t.Errorf("a name with a slash: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, AuthorityKey)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the authority's key: %v, %v", info.Mode(), err)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	a := authority(t)
	server, client := load(t, issue(t, a, coordinator, day)), load(t, issue(t, a, alice, day))
	x, y := pair(t)
	done := make(chan error, 1)
	go func() {
		err := server.Server(x).Handshake()
		_ = x.Close()
		done <- err
	}()
	c := tls.Client(y, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{client.keys.cert}})
	if err := c.Handshake(); err == nil {
		t.Error("TLS 1.2 was spoken")
	}
	if err := <-done; err == nil {
		t.Error("the server spoke TLS 1.2")
	}
}
