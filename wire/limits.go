package wire

import (
	"fmt"
	"strings"
)

// CheckLimits refuses what no participant takes, by an error that is short, however long
// that is: one that names it would be as long, on the wire and in journals. The
// coordinator looks at requests, participants at what is in a pack, too.
func (m *Mutation) CheckLimits() *Error {
	long := func(code Code, what string, n, most int) *Error {
		name := m.At.Path[:min(len(m.At.Path), 64)]
		return &Error{Code: code, Name: name, Text: fmt.Sprintf("%s of %d, at most %d are allowed", what, n, most)}
	}
	switch {
	case max(len(m.At.Path), len(m.To.Path), len(m.Target)) > MaxPathLen:
		return long(CodeNameTooLong, "a path in bytes", max(len(m.At.Path), len(m.To.Path), len(m.Target)), MaxPathLen)
	case len(m.Name) > MaxNameLen:
		return long(CodeNameTooLong, "an attribute's name in bytes", len(m.Name), MaxNameLen)
	case len(m.Value) > MaxXattrValue:
		return long(CodeTooMany, "an attribute's value in bytes", len(m.Value), MaxXattrValue)
	case len(m.Extents) > MaxExtents:
		return long(CodeTooMany, "a number of extents", len(m.Extents), MaxExtents)
	}
	if n := longest(m.At.Path, m.To.Path); n > MaxNameLen {
		return long(CodeNameTooLong, "a name in bytes", n, MaxNameLen)
	}
	return checkEnds(m)
}

// longest is how long the longest component of some paths is, in bytes.
func longest(paths ...string) int {
	n := 0
	for _, p := range paths {
		for name := range strings.SplitSeq(p, "/") {
			n = max(n, len(name))
		}
	}
	return n
}

// checkEnds refuses what would be beyond the greatest size that a file has.
func checkEnds(m *Mutation) *Error {
	large := func() *Error { // a transaction has up to 65,536 mutations, most of them small enough
		return &Error{Code: CodeTooLarge, Name: m.At.Path, Text: fmt.Sprintf("a file has at most %d bytes", int64(MaxFileSize))}
	}
	end := func(offset, length int64) bool {
		return offset > MaxFileSize || offset >= 0 && length > MaxFileSize-offset
	}
	switch {
	case m.Content.Size > MaxFileSize, m.Set&SetSize != 0 && m.Size > MaxFileSize:
		return large()
	case m.Kind != MutAllocate && m.Kind != MutZeroRange:
	case end(m.Offset, m.Length):
		return large()
	case m.Length > MaxRange:
		return &Error{Code: CodeTooLarge, Name: m.At.Path, Text: fmt.Sprintf("a range of more than %s at once; do it in parts", SizeText(MaxRange))}
	}
	for i := range m.Extents {
		if m.Write == WriteExtents && end(m.Extents[i].Offset, m.Extents[i].Size) {
			return large()
		}
	}
	return nil
}
