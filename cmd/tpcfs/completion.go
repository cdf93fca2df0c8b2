package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tpcfs/wire"
	"tpcfs/wire/client"
	"tpcfs/wire/rpc"
	"tpcfs/wire/rpc/identity"
)

// completeTime is how long a shell waits for names of the service.
const completeTime = time.Second

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print the completions of a shell",
		Long: `Prints a script that makes a shell complete the commands, flags, local files and
names of the service (those of the coordinator that --coordinator or
TPCFS_COORDINATOR names; nothing, if it does not answer within a second).`,
		Example: `  source <(tpcfs completion bash)     # this shell (needs the package bash-completion)
  source <(tpcfs completion zsh)
  tpcfs completion fish > ~/.config/fish/completions/tpcfs.fish`,
		Args:      cobra.MatchAll(takes(1, 1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(a.out, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(a.out)
			default:
				return cmd.Root().GenFishCompletion(a.out, true)
			}
		},
	}
}

// What the arguments of a command are, for completion.
const (
	ofService    = 'n' // a name of the service
	ofDirectory  = 'd' // a directory here
	ofLocal      = 'l' // a file here
	ofMember     = 'p' // a participant
	ofElse       = '-' // anything else
	ofTheService = 'N' // names of the service, as many as there are
	participants = 'P' // participants, likewise
)

// arguments are those of each command that has any, one letter each.
var arguments = map[string]string{
	"put": "ln", "get": "nl", "rm": "N", "ls": "n", "stat": "n", "mkdir": "n", "rmdir": "n", "mv": "nn", "ln": "nn",
	"run": "l", "scrub": "P", "up": "d", "mount": "d", "umount": "d", "export": "dd", "journal verify": "d", "journal dump": "d",
	"members remove": "p", "members replace": "p",
}

// completions tells the shells what each command's arguments are.
func (a *app) completions(root *cobra.Command) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			visit(sub)
		}
		if c.HasSubCommands() || len(c.ValidArgs) > 0 {
			return
		}
		kinds := arguments[commandName(c)]
		c.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			return a.complete(cmd, kinds, len(args), begun)
		}
	}
	visit(root)
	fixed := func(words ...string) cobra.CompletionFunc {
		return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return words, cobra.ShellCompDirectiveNoFileComp
		}
	}
	for flag, words := range map[string]cobra.CompletionFunc{
		"output": fixed(outputText, outputJSON), "log-level": fixed("debug", "info", "warn", "error"),
	} {
		if err := root.RegisterFlagCompletionFunc(flag, words); err != nil {
			panic(err) // the flag is there
		}
	}
}

// complete answers a shell that asks for the argument after n others.
func (a *app) complete(cmd *cobra.Command, kinds string, n int, begun string) ([]string, cobra.ShellCompDirective) {
	kind := byte(ofElse)
	if n < len(kinds) {
		kind = kinds[n]
	} else if strings.HasSuffix(kinds, string(ofTheService)) || strings.HasSuffix(kinds, string(participants)) {
		kind = kinds[len(kinds)-1]
	}
	switch kind {
	case ofLocal:
		return nil, cobra.ShellCompDirectiveDefault
	case ofDirectory:
		return nil, cobra.ShellCompDirectiveFilterDirs
	case ofService, ofTheService:
		return a.completeName(cmd, begun)
	case ofMember, participants:
		return a.completeMember(cmd, begun)
	default:
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// completes is where a completion asks, and as whom. ok: it can.
func (a *app) completes(cmd *cobra.Command) (addr string, id *identity.Identity, ok bool) {
	if err := applyEnv(cmd.Flags(), a.lookupEnv); err != nil {
		return "", nil, false
	}
	addr, err := cmd.Flags().GetString("coordinator")
	if err != nil || checkAddr(addr) != nil {
		return "", nil, false
	}
	file, err := cmd.Flags().GetString("tls")
	if err != nil {
		return "", nil, false
	}
	id, err = a.identityOf(file, wire.RoleClient)
	return addr, id, err == nil
}

// completeMember lists the participants whose names begin so.
func (a *app) completeMember(cmd *cobra.Command, begun string) ([]string, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	addr, id, ok := a.completes(cmd)
	if !ok {
		return nil, none
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	st, err := askStatus(ctx, addr, rpc.DialOptions{Identity: id}, wire.StatusRequest{})
	if err != nil {
		return nil, none
	}
	var names []string
	for _, m := range st.Members {
		if strings.HasPrefix(m.Name, begun) && printable(m.Name) == m.Name {
			names = append(names, m.Name)
		}
	}
	return names, none
}

// completeName lists what begins so. Whatever goes wrong is no completion.
func (a *app) completeName(cmd *cobra.Command, begun string) ([]string, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	addr, id, ok := a.completes(cmd)
	if !ok {
		return nil, none
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	c, err := client.Dial(ctx, addr, client.Options{Wait: completeTime, Identity: id})
	if err != nil {
		return nil, none
	}
	defer closeClient(c)
	names, err := namesLike(ctx, c, begun)
	if err != nil {
		return nil, none
	}
	directive := none
	if len(names) == 1 && strings.HasSuffix(names[0], "/") {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	return names, directive
}

// namesLike are the names that begin so, at most a page of them; directories
// end in a slash.
func namesLike(ctx context.Context, c *client.Client, begun string) ([]string, error) {
	dir, prefix := "", begun
	if i := strings.LastIndexByte(begun, '/'); i >= 0 {
		dir, prefix = begun[:i+1], begun[i+1:]
	}
	above, err := c.Stat(ctx, strings.TrimRight(dir, "/"))
	if err != nil {
		return nil, err
	}
	var found []wire.DirEntry
	if prefix != "" { // a listing goes on after a name: this one itself is asked for
		at := wire.At{Dir: above.Ino, Path: prefix}
		if reply, err := c.Read(ctx, wire.Read{Kind: wire.ReadStat, At: at}, nil); err == nil {
			found = append(found, wire.DirEntry{Name: prefix, Attr: reply.Attr})
		}
	}
	reply, err := c.Read(ctx, wire.Read{Kind: wire.ReadList, At: wire.At{Dir: above.Ino}, After: prefix}, nil)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range append(found, reply.Entries...) {
		if !strings.HasPrefix(e.Name, prefix) || printable(e.Name) != e.Name {
			continue // a shell could not tell them from others
		}
		name := dir + e.Name
		if e.Attr.Mode&wire.ModeType == wire.ModeDir {
			name += "/"
		}
		names = append(names, name)
	}
	return names, nil
}

// exits are the exit codes that are listed in the help of every command that
// talks to the service.
const exits = `Exit codes: 0 done, 1 failed: nothing changed, 2 usage, 3 no such file,
4 unreachable or unavailable: nothing changed, 5 a conflict, or the file is
another by now: nothing changed, 6 outcome unknown, 130 interrupted.`

// exitsOfEdits are those of the commands that change who takes part.
const exitsOfEdits = `Exit codes: 0 done, and durable, 1 refused: nothing changed, 2 usage,
4 unreachable, or not done in time: nothing changed, 6 outcome unknown: tpcfs members
tells, 130 interrupted.`

// exitsOf are those of commands with others.
var exitsOf = map[string]string{
	"status": `Exit codes: 0 all is well, 1 failed, 2 usage, 4 unreachable, or nothing is
served, 8 a participant is not in sync, or something needs mending, 130 interrupted.`,
	"members add": exitsOfEdits, "members remove": exitsOfEdits, "members replace": exitsOfEdits, "resolve": exitsOfEdits,
	"scrub": `Exit codes: 0 all is clean, 1 failed, 2 usage, 3 no such participant,
4 unreachable, 8 a participant was not looked at to the end, 9 found and repaired,
10 found and not repaired, 130 interrupted.`,
	"load": `Exit codes: 0 done, 1 an error that a healthy service does not give, or with
--check a wrong answer, 2 usage, 4 nothing could be done: unreachable or
unavailable, 130 interrupted.`,
	"run": `Exit codes: that of the first request that failed: 1 failed, 3 no such file,
4 unreachable or unavailable, 5 a conflict, 6 outcome unknown; 0 all are done,
2 usage, or a line that cannot be understood, 130 interrupted.`,
	"export": `Exit codes: 0 done, 1 failed, 2 usage, 3 no such directory, 130 interrupted: OUT
has a part.`,
	"up": `Exit codes: 0 stopped by Ctrl-C or SIGTERM, 1 failed, or what was written through the
mount is lost, 2 usage, 130 interrupted while it started or stopped.`,
	"completion": "Exit codes: 0 done, 2 usage.",
	"umount":     "Exit codes: 0 done, 1 failed, 2 usage.",
	"mount": `Exit codes: 0 mounted (--foreground: unmounted), 1 failed, or (--foreground) what was
written is lost, 2 usage, 4 unreachable or unavailable, 130 interrupted.`,
}

// describeExits adds to the help of every command the codes that it ends with.
func describeExits(c *cobra.Command) {
	for _, sub := range c.Commands() {
		describeExits(sub)
	}
	if c.HasSubCommands() || c.Long == "" {
		return
	}
	words, ok := exitsOf[commandName(c)]
	switch {
	case ok:
	case c.Flags().Lookup("coordinator") != nil:
		words = exits
	default:
		words = "Exit codes: 0 done, or stopped by a signal, 1 failed, 2 usage, 3 no such file,\n130 interrupted."
	}
	c.Long = fmt.Sprintf("%s\n\n%s", c.Long, words)
}
