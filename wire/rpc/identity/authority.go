package identity

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"tpcfs/wire"
)

// The files of an authority's directory. The key signs certificates and is
// needed for nothing else: it need not lie on any server.
const (
	AuthorityCert = "ca.crt"
	AuthorityKey  = "ca.key"
)

// The PEM blocks of the files.
const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
)

// backdate is how far a new certificate reaches back, for clocks that differ.
const backdate = time.Hour

// Authority signs a cluster's certificates.
type Authority struct {
	cert *x509.Certificate
	raw  []byte // cert as PEM
	key  crypto.Signer
}

// NewAuthority makes an authority in dir, which is made if it is missing. One
// that is there already is never replaced: that would shut everybody out.
func NewAuthority(dir string, valid time.Duration) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for _, name := range []string{AuthorityKey, AuthorityCert} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return nil, &wire.Error{Code: wire.CodeExist, Name: filepath.Join(dir, name),
				Text: "an authority is there already, and what it has signed depends on it: choose another directory"}
		}
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	serial := newSerial()
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "tpcfs authority " + hex.EncodeToString(serial.Bytes()[:4])},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(valid),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, public, key)
	if err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(dir, AuthorityKey), encodeKey(key), 0o600); err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(dir, AuthorityCert), encode(pemCertificate, der), 0o644); err != nil {
		return nil, err
	}
	return OpenAuthority(dir)
}

// OpenAuthority reads the authority in dir.
func OpenAuthority(dir string) (*Authority, error) {
	raw, err := os.ReadFile(filepath.Join(dir, AuthorityCert))
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, AuthorityKey))
	if err != nil {
		return nil, err
	}
	damaged := func(name string) error {
		return bad(filepath.Join(dir, name), errors.New("not what `tpcfs cert init` has made"))
	}
	cert := authorityCert(raw)
	if cert == nil {
		return nil, damaged(AuthorityCert)
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, damaged(AuthorityKey)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	signer, ok := key.(ed25519.PrivateKey)
	if err != nil || !ok || !signer.Public().(ed25519.PublicKey).Equal(cert.PublicKey) {
		return nil, damaged(AuthorityKey)
	}
	return &Authority{cert, raw, signer}, nil
}

// authorityCert is the authority's certificate with which a file begins; nil: it does not.
func authorityCert(b []byte) *x509.Certificate {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemCertificate {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !cert.IsCA {
		return nil
	}
	return cert
}

// ReadAuthority tells the name in an authority's certificate, and until when it is good;
// false if the file path is none.
func ReadAuthority(path string) (name string, expires time.Time, ok bool) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
		return "", time.Time{}, false
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", time.Time{}, false
	}
	cert := authorityCert(b)
	if cert == nil {
		return "", time.Time{}, false
	}
	return cert.Subject.CommonName, cert.NotAfter, true
}

// Name and Expires tell of the authority's own certificate.
func (a *Authority) Name() string       { return a.cert.Subject.CommonName }
func (a *Authority) Expires() time.Time { return a.cert.NotAfter }

// names that a certificate may have: of a participant they stand in flags and files.
var names = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// ValidName reports whether a certificate can have that name.
func ValidName(name string) bool { return names.MatchString(name) }

// Issue makes a new key with a certificate for it, and puts them with the
// authority's certificate into the file path, in place of an older one of the
// same holder. It is durable, and whole or not there. The certificate is good
// until the returned time: for valid, but not beyond the authority's own.
func (a *Authority) Issue(path string, who Who, valid time.Duration) (time.Time, error) {
	if !ValidName(who.Name) {
		return time.Time{}, wire.NewError(wire.CodeInvalid, fmt.Sprintf("%q: a name has 1 to 63 letters, digits, dots, - and _", who.Name))
	}
	if err := replaceable(path, who); err != nil {
		return time.Time{}, err
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return time.Time{}, err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: who.Name, OrganizationalUnit: []string{who.Role.String()}},
		NotBefore: now.Add(-backdate), NotAfter: earlier(now.Add(valid), a.cert.NotAfter),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: uses(who.Role), URIs: []*url.URL{who.url()},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, public, a.key)
	if err != nil {
		return time.Time{}, err
	}
	b := append(append(encodeKey(key), encode(pemCertificate, der)...), a.raw...)
	return t.NotAfter, writeFile(path, b, 0o600)
}

// uses: a participant is only called, a client only calls.
func uses(role wire.Role) []x509.ExtKeyUsage {
	switch role {
	case wire.RoleParticipant:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case wire.RoleCoordinator:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	default:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
}

// replaceable refuses to overwrite what is not an older file of the same holder.
func replaceable(path string, who Who) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if k, err := parse(b); err != nil || k.who != who {
		return &wire.Error{Code: wire.CodeExist, Name: path, Text: fmt.Sprintf("something else than an older identity of the %v is there: choose another file", who)}
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func newSerial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func encodeKey(key ed25519.PrivateKey) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic("identity: a key of its own kind cannot be encoded: " + err.Error())
	}
	return encode(pemKey, der)
}

// writeFile puts a file in its place, whole and durable.
func writeFile(path string, b []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the error says enough
		}
	}()
	_, err = bytes.NewReader(b).WriteTo(f)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
