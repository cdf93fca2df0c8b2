package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"tpcfs/wire"
	"tpcfs/wire/rpc"
)

// editFlags are those of the commands that change who takes part.
type editFlags struct {
	clientFlags
	force  bool
	reason string
}

func (f *editFlags) add(cmd *cobra.Command) {
	f.clientFlags.add(cmd, defaultWait)
	cmd.Flags().BoolVar(&f.force, "force", false, "do it also where fewer participants stay in sync than should: read what is said without it first")
	cmd.Flags().StringVar(&f.reason, "reason", "", "why, for the record: `text` that tpcfs members shows")
}

func (a *app) membersCommand() *cobra.Command {
	var f clientFlags
	list := func(cmd *cobra.Command, _ []string) error { return a.membersList(cmd.Context(), f) }
	cmd := &cobra.Command{
		Use:   "members",
		Short: "Show the participants, add, remove or replace one: list, add, remove, replace",
		Long: `Without more words, shows the participants, those that were removed, and what operators
have changed: what, when, who and why. The others change who takes part while the
service goes on; the coordinator's journal knows it from then on, whatever --participant
says at its next start.`,
		Example: `  tpcfs members
  tpcfs members -o json
  tpcfs members add d=d.example:7421
  tpcfs members replace c d=d.example:7421`,
		Args: takes(0, 0),
		RunE: list,
	}
	f.add(cmd, 5*time.Second)
	var g clientFlags
	sub := &cobra.Command{
		Use:     "list",
		Short:   "Show the participants and what operators have changed of them",
		Long:    "Shows the participants, those that were removed, and what operators have changed:\nwhat, when, who and why.",
		Example: "  tpcfs members list\n  tpcfs members list -o json",
		Args:    takes(0, 0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.membersList(cmd.Context(), g) },
	}
	g.add(sub, 5*time.Second)
	cmd.AddCommand(sub, a.membersAddCommand(), a.membersRemoveCommand(), a.membersReplaceCommand())
	return cmd
}

func (a *app) membersAddCommand() *cobra.Command {
	var f editFlags
	cmd := &cobra.Command{
		Use:   "add NAME=ADDR",
		Short: "Add a participant to the running cluster",
		Long: `Adds a participant, which has to run at ADDR already, on an empty directory. It gets
everything in the background (tpcfs status shows how far it is) and is in sync then. With
it a majority may be one more: where as many are not in sync, changes would have to wait
for it, and --force is needed.`,
		Example: `  tpcfs participant --dir /srv/d --listen 127.0.0.1:7424 &
  tpcfs members add d=127.0.0.1:7424 --reason "a disk more"`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := parseMember("members add", args[0])
			if err != nil {
				return err
			}
			return a.editMembers(cmd.Context(), "members add", f, wire.MembersRequest{Kind: wire.MembersAdd, New: n})
		},
	}
	f.add(cmd)
	return cmd
}

func (a *app) membersRemoveCommand() *cobra.Command {
	var f editFlags
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Take a participant out of the running cluster for good",
		Long: `Takes a participant out. It is told so, writes that down, and serves nobody until its
directory is empty. Where fewer than --min-in-sync would be left in sync it is refused and
says what follows; --force does it all the same.`,
		Example: `  tpcfs members remove d
  tpcfs members remove c --force --reason "its disk is dead, no other is at hand"`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.editMembers(cmd.Context(), "members remove", f, wire.MembersRequest{Kind: wire.MembersRemove, Names: args})
		},
	}
	f.add(cmd)
	return cmd
}

func (a *app) membersReplaceCommand() *cobra.Command {
	var f editFlags
	cmd := &cobra.Command{
		Use:   "replace OLD NEW=ADDR",
		Short: "Put a participant in the place of another",
		Long: `Takes OLD out and puts NEW in its place, in one step: NEW has to run at ADDR already, on
an empty directory, gets everything in the background and is in sync then. NEW may have
OLD's name. OLD is told that it is out, writes that down, and serves nobody until its
directory is empty; it need not be there. Where fewer than --min-in-sync would be left
in sync meanwhile it is refused and says what follows; --force does it all the same.

Where several disks are lost at once, see tpcfs resolve first.`,
		Example: `  tpcfs members replace c d=d.example:7421
  tpcfs members replace c c=new.example:7421 --reason "disk swapped"`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := parseMember("members replace", args[1])
			if err != nil {
				return err
			}
			return a.editMembers(cmd.Context(), "members replace", f, wire.MembersRequest{Kind: wire.MembersReplace, Names: args[:1], New: n})
		},
	}
	f.add(cmd)
	return cmd
}

// parseMember reads NAME=ADDR.
func parseMember(command, item string) (wire.Member, error) {
	name, addr, ok := strings.Cut(item, "=")
	if !ok {
		return wire.Member{}, usage(command, "%q is not NAME=ADDR", item)
	}
	if why := wire.CheckMemberName(name); why != "" {
		return wire.Member{}, usage(command, "%q: %s", item, why)
	}
	if err := checkAddr(addr); err != nil {
		return wire.Member{}, usage(command, "%q: %v", item, err)
	}
	if len(addr) > wire.MaxMemberAddr {
		return wire.Member{}, usage(command, "the address has %d bytes, at most %d", len(addr), wire.MaxMemberAddr)
	}
	return wire.Member{Name: name, Addr: addr}, nil
}

// whoAmI is user@host, for the record.
func whoAmI() string {
	name := fmt.Sprint("uid ", os.Getuid())
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	who := strings.ToValidUTF8(name+"@"+host, "?")
	return who[:min(len(who), wire.MaxEditText)]
}

// editMembers asks for a change of the participants. It is asked for again, by the
// same number, where the coordinator was lost before it had answered.
func (a *app) editMembers(ctx context.Context, command string, f editFlags, req wire.MembersRequest) error {
	if err := f.clientFlags.check(command); err != nil {
		return err
	}
	id, err := a.identityOf(f.tls, wire.RoleClient)
	if err != nil {
		return err
	}
	a.asked = f.coordinator
	req.Force, req.Reason, req.By = f.force, f.reason, whoAmI()
	if _, err := rand.Read(req.ID[:]); err != nil {
		return err
	}
	if err := req.Check(); err != nil {
		return usage(command, "%s", err.Text)
	}
	var end time.Time
	if f.wait > 0 {
		end = time.Now().Add(f.wait)
	}
	o := rpc.DialOptions{Identity: id, Logger: a.clientLogger()}
	for {
		reply, err := askMembers(ctx, f.coordinator, o, req, end)
		if err == nil {
			return a.sayEdited(reply)
		}
		var e *wire.Error
		if !errors.As(err, &e) || !e.Lost || ctx.Err() != nil || !end.IsZero() && time.Now().Add(askAgain).After(end) {
			return err
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return err
		}
	}
}

const (
	askAgain  = 200 * time.Millisecond
	answersIn = 500 * time.Millisecond // the coordinator's own word comes so long before the wait is over
)

func askMembers(ctx context.Context, addr string, o rpc.DialOptions, req wire.MembersRequest, end time.Time) (wire.MembersReply, error) {
	if !end.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end)
		defer cancel()
	}
	conn, err := rpc.DialService(ctx, addr, o)
	if err != nil {
		return wire.MembersReply{}, err
	}
	if !end.IsZero() {
		req.Wait = max(time.Until(end)-answersIn, time.Millisecond).Milliseconds()
	}
	reply, err := conn.Members(ctx, req)
	return reply, errors.Join(err, conn.Close())
}

func (a *app) sayEdited(r wire.MembersReply) error {
	text := r.What
	if r.Note != "" {
		text += "\nNow: " + r.Note
	}
	return a.print(r, text)
}

// membersShown is what tpcfs members prints.
type membersShown struct {
	Config    string              `json:"config"`
	MinInSync int                 `json:"min_in_sync"`
	Members   []wire.MemberStatus `json:"members"`
	Removed   []wire.Removed      `json:"removed"`
	Edits     []wire.Edit         `json:"edits"`
}

func (a *app) membersList(ctx context.Context, f clientFlags) error {
	st, err := a.statusOf(ctx, "members", f, wire.StatusRequest{})
	if err != nil {
		return err
	}
	shown := membersShown{Config: st.Config.String(), MinInSync: st.MinInSync, Members: st.Members, Removed: st.Removed, Edits: st.Edits}
	return a.print(shown, a.membersText(st))
}

func (a *app) membersText(st wire.Status) string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PARTICIPANT\tSTATE\tADDRESS")
	for _, m := range st.Members {
		fmt.Fprintf(w, "%s\t%s\t%s\n", m.Name, stateText(m), m.Addr)
	}
	for _, r := range st.Removed {
		state := "removed"
		if !r.Told {
			state = "removed, and has not heard of it yet"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.Member.Name, state, r.Member.Addr)
	}
	_ = w.Flush() // into memory
	fmt.Fprintf(&b, "changes need %d in sync", st.MinInSync)
	for _, warning := range st.Warnings {
		fmt.Fprintf(&b, "\nWARNING: %s", warning)
	}
	for _, e := range st.Edits {
		fmt.Fprintf(&b, "\n%s", editText(e))
	}
	return b.String()
}

// editText tells what an operator has changed, when, who it was, and why.
func editText(e wire.Edit) string {
	forced := ""
	if e.Forced {
		forced = ", by force"
	}
	text := fmt.Sprintf("%s config %s: %s (%s%s)", time.UnixMilli(e.Time).Format(time.DateTime), e.Config, e.What, e.By, forced)
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}
