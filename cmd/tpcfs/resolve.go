package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tpcfs/wire"
)

func (a *app) resolveCommand() *cobra.Command {
	var f editFlags
	var lost []string
	cmd := &cobra.Command{
		Use:   "resolve",
		Short: "Show what is in doubt; go on without participants that are lost for good",
		Long: `Without --lost, shows each change that is in doubt: its age, its files, who has voted
what, for whom it waits, and what will resolve it. A participant that is away for a while
needs nothing: when it is back, or was evicted, its changes are decided.

With --lost, declares that the data of these participants are lost for good: the others
decide without them, and what those that are in sync hold is the truth. This is the way
on when so many disks are lost that fewer than --min-in-sync are left, also when the
coordinator does not begin to serve because of that: name all that are lost at once.
They stay participants: started on an empty directory they get everything; put another
in the place of one with tpcfs members replace.

Every change that was acknowledged is on each participant in sync, so none is lost. What
it may break: a change that nobody was told the outcome of may happen or not. Until others
have caught up, everything is on fewer disks. And if a lost disk turns up again, do not
start the coordinator on a backup of its directory from before this: together they would
not know of what came after. Who did it, when and why is kept (tpcfs members).`,
		Example: `  tpcfs resolve
  tpcfs resolve --lost b,c --force --reason "flood in rack 2"`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(lost) == 0 {
				if f.force || f.reason != "" {
					return usage("resolve", "--force and --reason are for --lost")
				}
				return a.resolveList(cmd.Context(), f.clientFlags)
			}
			return a.editMembers(cmd.Context(), "resolve", f, wire.MembersRequest{Kind: wire.MembersLost, Names: lost})
		},
	}
	f.add(cmd)
	cmd.Flags().StringSliceVar(&lost, "lost", nil, "participants `NAME,...` whose data are lost for good")
	err := cmd.RegisterFlagCompletionFunc("lost", func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		before := begun[:strings.LastIndexByte(begun, ',')+1]
		names, directive := a.completeMember(cmd, begun[len(before):])
		for i := range names {
			names[i] = before + names[i]
		}
		return names, directive
	})
	if err != nil {
		panic(err) // the flag is there
	}
	return cmd
}

func (a *app) resolveList(ctx context.Context, f clientFlags) error {
	st, err := a.statusOf(ctx, "resolve", f, wire.StatusRequest{})
	if err != nil {
		return err
	}
	if st.InDoubt == nil {
		st.InDoubt = []wire.InDoubtStatus{}
	}
	var lines []string
	for _, d := range st.InDoubt {
		lines = append(lines, a.doubtText(d))
	}
	for _, w := range st.Warnings {
		lines = append(lines, "WARNING: "+w)
	}
	if len(lines) == 0 {
		lines = append(lines, "nothing is in doubt")
	}
	return a.print(st.InDoubt, strings.Join(lines, "\n"))
}

// doubtText tells of a transaction that is in doubt.
func (a *app) doubtText(d wire.InDoubtStatus) string {
	open := "in doubt"
	if d.Decision != "" {
		open = "settling"
	}
	text := fmt.Sprintf("%s: transaction %s at %s for %s", open, d.Tx, d.Position, time.Duration(d.AgeMS)*time.Millisecond)
	if len(d.Names) > 0 {
		text += ": " + a.show(strings.Join(d.Names, " "))
	}
	if d.Decision != "" {
		text += ", decided " + d.Decision
	}
	for _, v := range []struct {
		who  []string
		what string
	}{{d.Yes, "could be done at"}, {d.No, "refused by"}, {d.Missing, "waits for"}} {
		if len(v.who) > 0 {
			text += fmt.Sprintf(", %s %s", v.what, strings.Join(v.who, ", "))
		}
	}
	if d.Resolves != "" {
		text += ": " + d.Resolves
	}
	return text
}
