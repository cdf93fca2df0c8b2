package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
	"tpcfs/wire/rpc/identity"
)

// issued runs `tpcfs cert issue` and returns the identity's file.
func issued(t *testing.T, ctx context.Context, ca, role, name string) string {
	t.Helper()
	file := filepath.Join(filepath.Dir(ca), role+"-"+name+".pem")
	if r := run(t, ctx, nil, "", "cert", "issue", role, name, "--ca", ca, "--out", file); r.Code != 0 {
		t.Fatal(r.Err)
	}
	return file
}

// madeAuthority runs `tpcfs cert init`.
func madeAuthority(t *testing.T, ctx context.Context) string {
	t.Helper()
	ca := filepath.Join(tempDir(t), "ca")
	if r := run(t, ctx, nil, "", "cert", "init", ca); r.Code != 0 {
		t.Fatal(r.Err)
	}
	return ca
}

// A cluster whose every process has an identity serves who has one of the same
// authority, the mount too, and refuses everybody else in words.
func TestEncryptedCluster(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	ca := madeAuthority(t, ctx)
	c := newCluster(t)
	for _, name := range c.Names {
		if err := c.Launch(name, "TPCFS_TLS="+issued(t, ctx, ca, "participant", name)); err != nil {
			t.Fatal(err)
		}
	}
	main := issued(t, ctx, ca, "coordinator", "main")
	if err := c.Launch(harness.Coordinator, "TPCFS_TLS="+main, "TPCFS_OPERATOR=alice"); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx, c.All()...); err != nil {
		t.Fatal(err)
	}
	alice := issued(t, ctx, ca, "client", "alice")
	addr := c.Addr(harness.Coordinator)
	as := func(file string, args ...string) harness.Result {
		return run(t, ctx, nil, "hello\n", append(args, "--coordinator", addr, "--wait", "20s", "--tls", file)...)
	}
	if r := as(alice, "put", "-", "hello"); r.Code != 0 {
		t.Fatal(r.Err)
	}
	if r := as(alice, "status"); r.Code != 0 || strings.Count(r.Out, "in sync") < 3 {
		t.Errorf("status: exit %d, %s%s", r.Code, r.Out, r.Err)
	}

	mnt := tempDir(t)
	t.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) })
	if r := as(alice, "mount", mnt, "--log-file", mnt+".log"); r.Code != 0 {
		t.Fatal(r.Err)
	}
	t.Cleanup(func() { os.Remove(mnt + ".log") })
	if r := harness.Run(ctx, nil, nil, "sh", "-c", "cat "+mnt+"/hello && echo more >>"+mnt+"/hello"); r.Code != 0 || r.Out != "hello\n" {
		t.Errorf("on the mount: exit %d, %q %s", r.Code, r.Out, r.Err)
	}
	if r := as(alice, "get", "hello"); r.Out != "hello\nmore\n" {
		t.Errorf("what the mount wrote reads %q, %s", r.Out, r.Err)
	}
	if r := run(t, ctx, nil, "", "umount", mnt); r.Code != 0 {
		t.Error(r.Err)
	}

	bob := issued(t, ctx, ca, "client", "bob")
	for _, args := range [][]string{{"members", "remove", "c"}, {"resolve", "--lost", "c", "--force"}, {"scrub"}} {
		if r := as(bob, args...); r.Code != 1 || !strings.Contains(r.Err, "operators alone (alice), not for the client bob") {
			t.Errorf("%v by who is no operator: exit %d, %s", args, r.Code, r.Err)
		}
	}
	if r := as(bob, "put", "-", "bob"); r.Code != 0 {
		t.Error(r.Err)
	}
	if r := as(alice, "scrub"); r.Code != 0 {
		t.Errorf("scrub by the operator: exit %d, %s", r.Code, r.Err)
	}
	if r := as(alice, "members", "remove", "c", "--force"); r.Code != 0 {
		t.Error(r.Err)
	}
	if r := as(bob, "members"); r.Code != 0 || !strings.Contains(r.Out, "(alice (root@") {
		t.Errorf("what the operator did stands as %s%s", r.Out, r.Err)
	}

	open := issued(t, ctx, ca, "client", "open")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ file, want string }{
		{"", "only encrypted connections"},
		{issued(t, ctx, madeAuthority(t, ctx), "client", "alice"), "another cluster's authority"},
		{main, "identity is that of the coordinator main: a client is needed"},
		{ca + "/ca.crt", "an authority's certificate, and nobody's identity"},
		{open, "chmod 600"},
	} {
		if r := as(tc.file, "ls"); r.Code != 1 || !strings.Contains(r.Err, tc.want) || strings.Count(r.Err, "\n") != 1 {
			t.Errorf("--tls %s: exit %d, %q, want one line with %q", tc.file, r.Code, r.Err, tc.want)
		}
	}
}

// A participant with another's identity is not taken for the one that its
// address should be; status says why. With its own, the cluster serves.
func TestWrongParticipantIdentity(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	ca := madeAuthority(t, ctx)
	c := newCluster(t)
	files := map[string]string{}
	for _, name := range c.Names {
		files[name] = issued(t, ctx, ca, "participant", name)
	}
	for _, name := range c.Names {
		file := files[name]
		if name == "b" {
			file = files["a"]
		}
		if err := c.Launch(name, "TPCFS_TLS="+file); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Launch(harness.Coordinator, "TPCFS_TLS="+issued(t, ctx, ca, "coordinator", "main")); err != nil {
		t.Fatal(err)
	}
	alice := issued(t, ctx, ca, "client", "alice")
	want := "that of the participant a: want the participant b"
	for {
		r := run(t, ctx, nil, "", "status", "--coordinator", c.Addr(harness.Coordinator), "--tls", alice)
		if strings.Contains(r.Out, want) {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("status does not say %q: %s%s", want, r.Out, r.Err)
		}
	}
	if err := c.Kill("b"); err != nil {
		t.Fatal(err)
	}
	if err := c.Launch("b", "TPCFS_TLS="+files["b"]); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx, c.All()...); err != nil {
		t.Fatal(err)
	}
}

// A client whose certificate expires while the coordinator is away keeps what
// it has to say until the file is renewed, and needs no restart.
func TestRenewedIdentity(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	ca, err := identity.NewAuthority(dir+"/ca", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(role wire.Role, name string, valid time.Duration) string {
		t.Helper()
		path := filepath.Join(dir, name+".pem")
		if _, err := ca.Issue(path, identity.Who{Role: role, Name: name}, valid); err != nil {
			t.Fatal(err)
		}
		return path
	}
	main := issue(wire.RoleCoordinator, "main", time.Hour)
	p, addr := up(t, ctx, dir+"/data", "--tls", main)
	id, err := identity.Load(issue(wire.RoleClient, "alice", time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	cl, err := client.Dial(ctx, addr, client.Options{Identity: id})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	mustWrite(t, ctx, cl, "before", []byte("1"))
	issue(wire.RoleClient, "alice", -time.Minute)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	p = started(t, "up", nil, "up", "--dir", dir+"/data", "--listen", addr, "--tls", main)
	written := make(chan error, 1)
	go func() {
		_, err := cl.WriteFile(ctx, "after", client.Bytes([]byte("2")), client.WriteOptions{Mode: 0o644})
		written <- err
	}()
	if _, err := p.WaitText(ctx, "it has expired"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-written:
		t.Fatalf("the write did not wait for a new certificate: %v", err)
	default:
	}
	issue(wire.RoleClient, "alice", time.Hour)
	if err := <-written; err != nil {
		t.Errorf("with the renewed certificate: %v", err)
	}
}
