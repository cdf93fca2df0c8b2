package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"unicode"

	"tpcfs/wire"
)

// The exit codes. They are part of the command line's interface.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotExist    = 3
	exitUnavailable = 4
	exitConflict    = 5
	exitUnknown     = 6
	exitDegraded    = 8
	exitRepaired    = 9
	exitNotRepaired = 10
	exitInterrupted = 130
)

// usageError says that the command line could not be understood.
type usageError struct {
	err  error
	help string // the command whose --help tells more
}

func (e *usageError) Error() string { return fmt.Sprintf("%v (see %s --help)", e.err, e.help) }
func (e *usageError) Unwrap() error { return e.err }

// usage is an error in the arguments that a command finds by itself.
func usage(command, format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...), help: "tpcfs " + command}
}

// exitError is an error whose exit code is not that of its cause. With silent
// set everything has been printed already.
type exitError struct {
	code   int
	err    error
	silent bool
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// fileError is an error about a file of the service, by the name that the
// user gave.
type fileError struct {
	name string
	err  error
}

func (e *fileError) Error() string { return e.name + ": " + e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

// about adds the user's name for the file to an error.
func about(name string, err error) error {
	if err == nil {
		return nil
	}
	return &fileError{name, err}
}

// closed adds what Close has said to an error; what had ended by itself says
// the same again.
func closed(err, closing error) error {
	if closing != nil && errors.Is(err, closing) {
		return err
	}
	return errors.Join(err, closing)
}

func exitCode(err error) int {
	var exit *exitError
	var use *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &use):
		return exitUsage
	}
	switch wire.CodeOf(err) {
	case wire.CodeNotExist:
		return exitNotExist
	case wire.CodeUnavailable:
		return exitUnavailable
	case wire.CodeConflict, wire.CodeVersion, wire.CodeChanged:
		return exitConflict
	case wire.CodeUnknownOutcome:
		return exitUnknown
	case wire.CodeCanceled:
		return exitInterrupted
	default:
	}
	switch {
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, context.DeadlineExceeded):
		return exitUnavailable
	case errors.Is(err, fs.ErrNotExist):
		return exitNotExist
	}
	return exitFailed
}

// retryable reports whether the same command may succeed when it is given again.
func retryable(err error) bool {
	switch wire.CodeOf(err) {
	case wire.CodeUnavailable, wire.CodeConflict, wire.CodeChanged, wire.CodeCanceled, wire.CodeStageLost, wire.CodeBusy:
		return true
	default:
		return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	}
}

// advice says what to do about an error, where its text does not.
func advice(code wire.Code) string {
	switch code {
	case wire.CodeConflict:
		return "another operation on the same file came first; nothing changed; try again"
	case wire.CodeUnavailable:
		return "nothing changed; try again, or see tpcfs status for what is missing"
	case wire.CodeUnknownOutcome:
		return "it may have happened or not; look before you try again"
	case wire.CodeVersion:
		return "the file was changed since; nothing changed now"
	case wire.CodeChanged:
		return "try again"
	case wire.CodeCanceled:
		return "interrupted; nothing changed"
	default:
		return ""
	}
}

// describe is an error as one line for people: what was done to which file,
// what happened, what to do.
func describe(command string, err error) string {
	var e *wire.Error
	var file *fileError
	errors.As(err, &file)
	var text string
	switch {
	case errors.As(err, &e):
		name := e.Name
		if file != nil && name == "" {
			name = file.name
		}
		text = join(" ", command, printable(name)) + ": " + e.Code.String()
		if e.Code == wire.CodeCanceled { // by whoever reads this
			words := advice(e.Code)
			if strings.HasPrefix(e.Text, "interrupted") {
				words = e.Text // it says more
			}
			text = join(" ", command, printable(name)) + ": " + words
		} else if words := e.Text; words != "" {
			text += ": " + words
		} else if words := advice(e.Code); words != "" {
			text += ": " + words
		}
		if e.Who != "" && !strings.Contains(e.Text, "participant "+e.Who) {
			text += " (participant " + e.Who + ")"
		}
	case errors.Is(err, context.Canceled):
		text = join(": ", command, "interrupted")
	case file != nil:
		text = join(" ", command, printable(file.name)) + ": " + file.err.Error()
	default:
		text = join(": ", command, err.Error())
	}
	return "tpcfs: " + strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

func join(separator string, parts ...string) string {
	var some []string
	for _, p := range parts {
		if p != "" {
			some = append(some, p)
		}
	}
	return strings.Join(some, separator)
}

// printable quotes a name that would upset a terminal or a line-based reader.
func printable(name string) string {
	for _, r := range name {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return strconv.Quote(name)
		}
	}
	return name
}

// problem is an error as -o json prints it.
type problem struct {
	Error string `json:"error"` // the line that text output shows
	Code  string `json:"code,omitempty"`
	Name  string `json:"name,omitempty"`
	Exit  int    `json:"exit"`
	Retry bool   `json:"retry"` // the same command may succeed later
}

// report prints an error on standard error and returns the exit code.
func (a *app) report(command string, err error) int {
	code := exitCode(err)
	var exit *exitError
	if errors.As(err, &exit) && exit.silent {
		return code
	}
	line := describe(command, err)
	if a.asked != "" && code == exitUnavailable {
		line += " (coordinator " + a.asked + ")"
	}
	if !a.json() {
		fmt.Fprintln(a.err, line)
		return code
	}
	p := problem{Error: line, Exit: code, Retry: retryable(err)}
	var e *wire.Error
	var file *fileError
	if errors.As(err, &e) {
		p.Code, p.Name = e.Code.String(), e.Name
	}
	if errors.As(err, &file) && p.Name == "" {
		p.Name = file.name
	}
	b, jsonErr := json.Marshal(p)
	if jsonErr != nil {
		panic(jsonErr) // strings, a number and a bool
	}
	fmt.Fprintln(a.err, string(b))
	return code
}
