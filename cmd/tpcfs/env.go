package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// variable is the name of the environment variable of a flag.
func variable(flag string) string {
	return "TPCFS_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func hasVariable(f *pflag.Flag) bool { return !f.Hidden && f.Name != "help" && f.Name != "version" }

// nameVariables adds to the help of every flag of cmd and the commands below
// it the variable that sets it.
func nameVariables(cmd *cobra.Command) {
	note := func(f *pflag.Flag) {
		if hasVariable(f) {
			f.Usage += " [" + variable(f.Name) + "]"
		}
	}
	cmd.LocalNonPersistentFlags().VisitAll(note)
	cmd.PersistentFlags().VisitAll(note)
	for _, c := range cmd.Commands() {
		nameVariables(c)
	}
}

// applyEnv sets every flag that the command line does not from its variable.
// An empty variable counts as none, except --operator's, which is refused: without
// operators every client is one.
func applyEnv(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var first error
	flags.VisitAll(func(f *pflag.Flag) {
		if first != nil || f.Changed || !hasVariable(f) {
			return
		}
		value, ok := lookup(variable(f.Name))
		if _, strict := f.Value.(*operatorNames); !ok || value == "" && !strict {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			first = fmt.Errorf("%s=%q: %w", variable(f.Name), value, err)
		}
	})
	return first
}

// outputOf finds how errors are to be printed in a command line that could
// not be understood.
func outputOf(args []string, lookup func(string) (string, bool)) string {
	for i, arg := range args {
		switch {
		case arg == "--":
			return outputText
		case arg == "-ojson", arg == "-o=json", arg == "--output=json":
			return outputJSON
		case (arg == "-o" || arg == "--output") && i+1 < len(args) && args[i+1] == outputJSON:
			return outputJSON
		case strings.HasPrefix(arg, "-o"), strings.HasPrefix(arg, "--output"):
			return outputText
		}
	}
	if v, _ := lookup(variable("output")); v == outputJSON {
		return outputJSON
	}
	return outputText
}
