package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// app is one invocation of the command.
type app struct {
	in        io.Reader
	out, err  io.Writer
	lookupEnv func(string) (string, bool)
	catch     func()                                      // has signals end the command's context
	exec      func(path string, args, env []string) error // syscall.Exec; nil: not from here

	output   string // --output: "text" or "json"
	logLevel string // --log-level
	asked    string // address of the coordinator that was asked
	chatty   bool   // --log-level was given: clients log too
	unknown  error  // what help was asked about
	running  bool   // flags and arguments were understood: an error is no usage error
}

const (
	outputText = "text"
	outputJSON = "json"
)

// run executes one command line and returns the exit code. Every error is
// printed here and nowhere else.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		err = a.unknown
	}
	if err == nil {
		return exitDone
	}
	if !a.running {
		if !isOutput(a.output) || !root.PersistentFlags().Changed("output") {
			a.output = outputOf(args, a.lookupEnv)
		}
		err = &usageError{err: err, help: cmd.CommandPath()}
	}
	return a.report(commandName(cmd), err)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "tpcfs",
		Short: "A file service kept identical on several machines by two-phase commit",
		Long: `tpcfs keeps files identical on several participants. Every change is on all
of them or on none, and is on stable storage of all when a command returns.

Start here:
  mkdir mnt && tpcfs up ./mnt      everything on this machine, mounted on ./mnt
  tpcfs put notes.txt docs/notes   from another terminal
  tpcfs ls -l docs

Exit codes: 0 done, 1 failed, 2 usage, 3 no such file, 4 unreachable or
unavailable, 5 aborted by a conflict, 6 outcome unknown, 8 degraded (status),
9 found and repaired, 10 found and not repaired (scrub), 130 interrupted. Every
flag can be set by a variable: --some-flag by TPCFS_SOME_FLAG.`,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			a.running = false
			return fmt.Errorf("which command?")
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.begin(cmd) },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetVersionTemplate("tpcfs {{.Version}}\n")
	p := root.PersistentFlags()
	p.StringVarP(&a.output, "output", "o", outputText, "how results and errors are printed: text or json")
	p.StringVar(&a.logLevel, "log-level", "warn", "what is logged on standard error: debug, info, warn or error")
	root.AddCommand(
		a.upCommand(), a.coordinatorCommand(), a.participantCommand(), a.mountCommand(), a.umountCommand(),
		a.putCommand(), a.getCommand(), a.rmCommand(), a.lsCommand(), a.statCommand(), a.mkdirCommand(), a.lnCommand(),
		a.rmdirCommand(), a.mvCommand(), a.runCommand(), a.loadCommand(), a.statusCommand(), a.membersCommand(), a.resolveCommand(), a.scrubCommand(), a.exportCommand(), a.journalCommand(),
		a.certCommand(), a.completionCommand(),
	)
	nameVariables(root)
	describeExits(root)
	a.completions(root)
	a.refuseUnknownHelp(root)
	return root
}

// refuseUnknownHelp makes help about a command that there is not an error, in both ways
// to ask for it; cobra answers with the root's help.
func (a *app) refuseUnknownHelp(root *cobra.Command) {
	unknown := func(name string) error {
		a.running = false
		return fmt.Errorf("unknown command %q for %q", name, root.Name())
	}
	help := root.HelpFunc()
	root.SetHelpFunc(func(c *cobra.Command, args []string) {
		if c == root && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
			a.unknown = unknown(args[0])
			return
		}
		help(c, args)
	})
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		if about := c.Run; c.Name() == "help" {
			c.Run = nil
			c.RunE = func(c *cobra.Command, args []string) error {
				if cmd, rest, err := root.Find(args); err != nil || cmd == root && len(rest) > 0 {
					return unknown(args[0])
				}
				about(c, args)
				return nil
			}
		}
	}
}

// begin runs before every command: the environment fills in the flags that
// the command line left out.
func (a *app) begin(cmd *cobra.Command) error {
	if err := applyEnv(cmd.Flags(), a.lookupEnv); err != nil {
		return err
	}
	if !isOutput(a.output) {
		return fmt.Errorf("--output %q is neither text nor json", a.output)
	}
	if _, err := parseLevel(a.logLevel); err != nil {
		return err
	}
	if cmd.Name() != "participant" && cmd.Name() != "mount" {
		a.settle()
	}
	a.chatty = cmd.Flags().Changed("log-level")
	a.running = true
	return nil
}

func isOutput(s string) bool { return s == outputText || s == outputJSON }

func (a *app) json() bool { return a.output == outputJSON }

func parseLevel(s string) (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(s)); err != nil {
		return 0, fmt.Errorf("--log-level %q is none of debug, info, warn, error", s)
	}
	return l, nil
}

// logger logs to standard error.
func (a *app) logger() *slog.Logger {
	level, err := parseLevel(a.logLevel)
	if err != nil {
		panic(err) // begin has seen it
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
}

// clientLogger is for the commands whose errors say all that most users want.
func (a *app) clientLogger() *slog.Logger {
	if !a.chatty {
		return nil
	}
	return a.logger()
}

// commandName is the command's path without the binary: "journal verify".
func commandName(cmd *cobra.Command) string {
	if !cmd.HasParent() {
		return ""
	}
	if above := commandName(cmd.Parent()); above != "" {
		return above + " " + cmd.Name()
	}
	return cmd.Name()
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// takes refuses a wrong number of arguments in the words of the command's use.
func takes(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= most {
			return nil
		}
		return fmt.Errorf("got %d arguments, the use is: %s", len(args), cmd.UseLine())
	}
}
