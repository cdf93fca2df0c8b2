package wire

import (
	"fmt"
	"strings"
)

// CheckName checks one path component: 1 to MaxNameLen bytes without NUL and
// '/', not "." or "..". The error has CodeInvalid or CodeNameTooLong and Name.
func CheckName(name string) *Error {
	if text, code := nameFault(name); code != CodeNone {
		return &Error{Code: code, Name: name, Text: text}
	}
	return nil
}

// CheckPath checks At.Path: "" or components that CheckName allows with one
// '/' between them, at most MaxPathLen bytes. Both clients and participants
// use it. The error names the whole path.
func CheckPath(path string) *Error {
	if path == "" {
		return nil
	}
	if len(path) > MaxPathLen {
		return &Error{Code: CodeNameTooLong, Name: path[:64] + "...", Text: fmt.Sprintf("a path of %d bytes, at most %d are allowed", len(path), MaxPathLen)}
	}
	for rest, more := path, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		if text, code := nameFault(name); code != CodeNone {
			return &Error{Code: code, Name: path, Text: text}
		}
	}
	return nil
}

// SplitPath returns the components of a path that CheckPath allows; none for "".
func SplitPath(path string) []string {
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

func nameFault(name string) (string, Code) {
	switch {
	case name == "":
		return "a name must not be empty, nor a path begin or end with '/' or hold \"//\"", CodeInvalid
	case name == "." || name == "..":
		return fmt.Sprintf("%q is not a name that a file can have", name), CodeInvalid
	case len(name) > MaxNameLen:
		return fmt.Sprintf("a name of %d bytes, at most %d are allowed", len(name), MaxNameLen), CodeNameTooLong
	case strings.IndexByte(name, 0) >= 0:
		return "a name must not hold a NUL byte", CodeInvalid
	case strings.IndexByte(name, '/') >= 0:
		return "a name must not hold '/'", CodeInvalid
	}
	return "", CodeNone
}
