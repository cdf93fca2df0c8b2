package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"tpcfs/wire/rpc/identity"
)

// day is what certificates are measured in.
const day = 24 * time.Hour

// maxDays is a hundred years.
const maxDays = 36500

type certFlags struct {
	ca, out string
	days    int
}

func (a *app) certCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cert",
		Short: "Make the certificates of encrypted clusters: init, issue, show",
		Long: `Makes what --tls needs. A cluster has one authority, which signs for each
coordinator, participant and client an identity: one file with its private key, its
certificate and the authority's. Whoever connects shows its own and wants to see one of
the same authority and of the right role; host names and addresses do not matter.`,
		Example: `  tpcfs cert init ./ca
  tpcfs cert issue coordinator main --ca ./ca
  tpcfs cert issue participant a --ca ./ca       # a: its name in --participant a=ADDR
  tpcfs cert issue client alice --ca ./ca
  tpcfs up --listen 0.0.0.0:7420 --tls main.pem &
  tpcfs ls --tls alice.pem`,
		Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			return usage("cert", "which one: init, issue or show?")
		},
	}
	cmd.AddCommand(a.certInitCommand(), a.certIssueCommand(), a.certShowCommand())
	return cmd
}

func (f *certFlags) valid(command string) (time.Duration, error) {
	if f.days < 1 || f.days > maxDays {
		return 0, usage(command, "--days %d: 1 to %d", f.days, maxDays)
	}
	return time.Duration(f.days) * day, nil
}

// certified is what the cert commands print.
type certified struct {
	File    string    `json:"file"`
	Role    string    `json:"role"`
	Name    string    `json:"name"`
	Expires time.Time `json:"expires"`
}

func (a *app) sayCertified(c certified) error {
	c.Expires = c.Expires.UTC().Truncate(time.Second)
	return a.print(c, fmt.Sprintf("%s: %s %s, good until %s", c.File, c.Role, c.Name, c.Expires.Format(time.RFC3339)))
}

func (a *app) certInitCommand() *cobra.Command {
	var f certFlags
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Make a cluster's authority",
		Long: `Makes an authority in DIR: ca.key, which signs, and ca.crt, its certificate. Whoever has
ca.key can let anybody in: keep it off the servers, and keep a copy. An authority that
is there already is not replaced.`,
		Example: "  tpcfs cert init ./ca\n  tpcfs cert init --days 7300 /root/tpcfs-ca",
		Args:    takes(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			valid, err := f.valid("cert init")
			if err != nil {
				return err
			}
			ca, err := identity.NewAuthority(args[0], valid)
			if err != nil {
				return err
			}
			return a.sayCertified(certified{filepath.Join(args[0], identity.AuthorityCert), "authority", ca.Name(), ca.Expires()})
		},
	}
	cmd.Flags().IntVar(&f.days, "days", 3650, "for how long it is good")
	return cmd
}

func (a *app) certIssueCommand() *cobra.Command {
	var f certFlags
	cmd := &cobra.Command{
		Use:   "issue ROLE NAME",
		Short: "Make an identity, or renew it",
		Long: `Makes the identity of the coordinator, participant or client NAME, signed by the
authority in --ca, in the file --out. An older one of the same holder is replaced, with
a new key: a running process picks the new file up by itself. Copy the file to where
it is used, for that process's user alone to read; the authority's key stays here.`,
		Example: `  tpcfs cert issue participant a --ca ./ca --out a.pem
  tpcfs cert issue client alice --ca ./ca --days 30`,
		Args: takes(2, 2),
		RunE: func(_ *cobra.Command, args []string) error { return a.certIssue(f, args[0], args[1]) },
	}
	cmd.Flags().StringVar(&f.ca, "ca", "./ca", "the authority's `directory`")
	cmd.Flags().StringVar(&f.out, "out", "", "the `file` to make (default: ./NAME.pem)")
	cmd.Flags().IntVar(&f.days, "days", 365, "for how long it is good; not longer than the authority")
	return cmd
}

func (a *app) certIssue(f certFlags, roleName, name string) error {
	role, ok := identity.ParseRole(roleName)
	if !ok {
		return usage("cert issue", "%q is no role: coordinator, participant or client", roleName)
	}
	valid, err := f.valid("cert issue")
	if err != nil {
		return err
	}
	ca, err := identity.OpenAuthority(f.ca)
	if err != nil {
		return fmt.Errorf("no authority in %s, make one with `tpcfs cert init %s`: %w", f.ca, f.ca, err)
	}
	if time.Now().After(ca.Expires()) {
		return errors.New("the authority in " + f.ca + " has expired: make a new one with `tpcfs cert init`, and new identities")
	}
	if f.out == "" {
		f.out = name + ".pem"
	}
	who := identity.Who{Role: role, Name: name}
	expires, err := ca.Issue(f.out, who, valid)
	if err != nil {
		return err
	}
	return a.sayCertified(certified{f.out, role.String(), name, expires})
}

func (a *app) certShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE",
		Short: "Tell whose identity a file is, and until when",
		Long: `Reads an identity's file, as the process that uses it would, and tells whose it is and until when.
Of an authority's certificate, ca.crt, it tells the same.`,
		Example: "  tpcfs cert show a.pem\n  tpcfs cert show ./ca/ca.crt\n  tpcfs cert show -o json a.pem",
		Args:    takes(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if _, err := os.Stat(args[0]); err != nil {
				return err
			}
			if name, expires, ok := identity.ReadAuthority(args[0]); ok {
				return a.sayCertified(certified{args[0], "authority", name, expires})
			}
			id, err := identity.Load(args[0])
			if err != nil {
				return err
			}
			who := id.Who()
			return a.sayCertified(certified{args[0], who.Role.String(), who.Name, id.Expires()})
		},
	}
}
