package wire

import (
	"fmt"
	"strings"
	"unicode"
)

// Bounds of what an operator changes of who takes part (P14).
const (
	MaxMembers    = 64  // configured participants
	MaxRemoved    = 64  // remembered of those that were removed
	MaxEdits      = 16  // remembered
	MaxMemberName = 64  // bytes
	MaxMemberAddr = 256 // bytes
	MaxEditText   = 256 // bytes of who, and of why
)

// MembersKind says what an operator wants. Append only.
type MembersKind uint8

// The kinds.
const (
	MembersAdd     MembersKind = iota + 1 // New
	MembersRemove                         // Names[0]
	MembersReplace                        // Names[0] by New
	MembersLost                           // Names are lost for good: the others decide without them
)

func (k MembersKind) String() string {
	names := [...]string{"", "add", "remove", "replace", "lost"}
	if int(k) >= len(names) {
		return fmt.Sprintf("kind %d", uint8(k))
	}
	return names[k]
}

// MembersRequest changes who takes part.
type MembersRequest struct {
	Kind  MembersKind `cbor:"1,keyasint"`
	Names []string    `cbor:"2,keyasint,omitempty"`
	New   Member      `cbor:"3,keyasint,omitzero"`
	// Force: also where fewer stay in sync than should (P14).
	Force  bool   `cbor:"4,keyasint,omitempty"`
	By     string `cbor:"5,keyasint,omitempty"` // user@host, for the record
	Reason string `cbor:"6,keyasint,omitempty"`
	Wait   int64  `cbor:"7,keyasint,omitempty"` // milliseconds; 0 is forever
	// ID is the request's own: sent again after an answer that was lost, it is
	// known by that.
	ID UUID `cbor:"8,keyasint"`
}

// Check refuses what can be no request.
func (r *MembersRequest) Check() *Error {
	bad := func(format string, args ...any) *Error {
		return &Error{Code: CodeInvalid, Op: "members", Text: fmt.Sprintf(format, args...)}
	}
	names, news := 1, r.Kind == MembersAdd || r.Kind == MembersReplace
	switch r.Kind {
	case MembersAdd:
		names = 0
	case MembersRemove, MembersReplace:
	case MembersLost:
		names = len(r.Names)
	default:
		return bad("unknown %v", r.Kind)
	}
	switch {
	case len(r.Names) != names || r.Kind == MembersLost && (names == 0 || names > MaxMembers):
		return bad("%v of %d participants", r.Kind, len(r.Names))
	case len(r.By) > MaxEditText || len(r.Reason) > MaxEditText:
		return bad("who does it, and why, have at most %d bytes", MaxEditText)
	case !printableText(r.By) || !printableText(r.Reason):
		return bad("who does it, or why, has characters that are none")
	case r.Wait < 0 || r.ID.IsZero():
		return bad("a negative wait, or no number of its own")
	}
	if news {
		if why := CheckMemberName(r.New.Name); why != "" {
			return bad("participant %q: %s", r.New.Name, why)
		}
		if r.New.Addr == "" || len(r.New.Addr) > MaxMemberAddr || !printableText(r.New.Addr) {
			return bad("participant %s: no address, or one that cannot be", r.New.Name)
		}
	}
	return nil
}

// CheckMemberName says why that can be no participant's name; "": it can.
func CheckMemberName(name string) string {
	switch {
	case name == "" || len(name) > MaxMemberName:
		return fmt.Sprintf("a name has 1 to %d bytes", MaxMemberName)
	case strings.ContainsAny(name, "=,/ ") || !printableText(name):
		return "a name has no =, comma, slash or space, and can be printed"
	}
	return ""
}

func printableText(s string) bool {
	return strings.ToValidUTF8(s, "") == s && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// MembersReply says that it is done, durably.
type MembersReply struct {
	Config ConfigID `cbor:"1,keyasint" json:"config"`
	What   string   `cbor:"2,keyasint" json:"what"`                     // was done, in words
	Note   string   `cbor:"3,keyasint,omitempty" json:"note,omitempty"` // what is not as it should be yet
}

// Removed is a participant that was taken out.
type Removed struct {
	Member Member `cbor:"1,keyasint" json:"member"`
	Told   bool   `cbor:"2,keyasint,omitempty" json:"told,omitempty"` // it has made that durable
}

// Edit is what an operator has changed of who takes part.
type Edit struct {
	Config ConfigID `cbor:"1,keyasint" json:"config"` // that brought it
	What   string   `cbor:"2,keyasint" json:"what"`   // in words
	By     string   `cbor:"3,keyasint,omitempty" json:"by,omitempty"`
	Reason string   `cbor:"4,keyasint,omitempty" json:"reason,omitempty"`
	Time   int64    `cbor:"5,keyasint" json:"time_ms"` // ms since 1970
	Forced bool     `cbor:"6,keyasint,omitempty" json:"forced,omitempty"`
	ID     UUID     `cbor:"7,keyasint" json:"-"` // MembersRequest.ID
}
