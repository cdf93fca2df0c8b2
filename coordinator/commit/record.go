package commit

import (
	"bytes"
	"fmt"
	"slices"

	"tpcfs/wire"
)

// RecordKind says what a record of the coordinator's journal is. Numbers are
// on disk: append only.
type RecordKind uint8

// The records (P13).
const (
	RecEpoch    RecordKind = iota + 1 // forced: a reign begins
	RecConfig                         // forced: the configured and the in-sync set
	RecDecision                       // lazy: a transaction is decided
	RecW                              // lazy: the watermark has moved
	RecSnapshot                       // forced: all of these, at the head of a segment
	RecLease                          // forced: a session gets a lease, or it ends (F10)
)

func (k RecordKind) String() string {
	names := [...]string{"", "EPOCH", "CONFIG", "DECISION", "W", "SNAPSHOT", "LEASE"}
	if k == 0 || int(k) >= len(names) {
		return fmt.Sprintf("record kind %d", uint8(k))
	}
	return names[k]
}

// Forced reports whether a record must be durable before anything relies on it.
func (k RecordKind) Forced() bool {
	return k == RecEpoch || k == RecConfig || k == RecSnapshot || k == RecLease
}

// Record is a record of the coordinator's journal. Which fields count depends
// on Kind:
//
//	EPOCH     Epoch
//	CONFIG    Config; Root while the bootstrap is not over (P8)
//	DECISION  Decision, Time
//	W         W, ServiceTime, Time
//	SNAPSHOT  all but Decision and Lease
//	LEASE     Lease
//
// On disk:
//
//	 0        1
//	+--------+----------------------------+
//	| kind   | CBOR of the fields         |
//	| 1 byte | to the end, at most 1 MiB  |
//	+--------+----------------------------+
//
// The journal checks its integrity.
type Record struct {
	Kind        RecordKind    `cbor:"-"`
	Epoch       wire.Epoch    `cbor:"1,keyasint,omitzero"`
	Config      *wire.Config  `cbor:"2,keyasint,omitempty"`
	Root        *wire.Root    `cbor:"3,keyasint,omitempty"`
	Decision    *Decision     `cbor:"4,keyasint,omitempty"`
	W           wire.Position `cbor:"5,keyasint,omitzero"`
	ServiceTime int64         `cbor:"6,keyasint,omitempty"` // milliseconds
	// Time is the greatest time that a transaction was given, nanoseconds
	// since 1970: a later one gets no smaller one.
	Time      int64      `cbor:"7,keyasint,omitempty"`
	Decisions []Decision `cbor:"8,keyasint,omitempty"` // above W

	Lease  *LeaseRecord     `cbor:"9,keyasint,omitempty"`
	Leases []wire.SessionID `cbor:"10,keyasint,omitempty"` // that have not ended
	Lapsed []wire.SessionID `cbor:"11,keyasint,omitempty"`
}

// LeaseRecord says that a session gets a lease (F9), or that it ends.
type LeaseRecord struct {
	Session wire.SessionID `cbor:"1,keyasint"`
	Ended   bool           `cbor:"2,keyasint,omitempty"`
	// Lapsed: its lease is over; it may still have files open (F7).
	Lapsed bool `cbor:"3,keyasint,omitempty"`
}

// Decision is what was decided of a transaction.
type Decision struct {
	Tx       wire.ID       `cbor:"1,keyasint"`
	Prepared wire.Position `cbor:"2,keyasint"` // of its PREPARE
	Commit   bool          `cbor:"3,keyasint,omitempty"`
}

// Edited: is it a CONFIG that brings what an operator has changed (P14)?
func (r *Record) Edited() bool {
	return r.Config != nil && len(r.Config.Edits) > 0 && r.Config.Edits[len(r.Config.Edits)-1].Config == r.Config.ID
}

// Encode returns the record's bytes.
func (r *Record) Encode() []byte {
	return append([]byte{byte(r.Kind)}, wire.Marshal(r)...)
}

// DecodeRecord reads a record. The error is a *wire.Error with CodeCorrupt.
func DecodeRecord(b []byte) (*Record, error) {
	if len(b) < 2 || len(b) > wire.MaxRecord {
		return nil, corrupt("a record of %d bytes", len(b))
	}
	r := &Record{}
	if err := wire.Unmarshal(b[1:], r); err != nil {
		return nil, corrupt("%v: %v", RecordKind(b[0]), err)
	}
	r.Kind = RecordKind(b[0])
	switch r.Kind {
	case RecEpoch, RecW, RecSnapshot:
	case RecConfig:
		if r.Config == nil {
			return nil, corrupt("CONFIG without a config")
		}
	case RecDecision:
		if r.Decision == nil {
			return nil, corrupt("DECISION without a decision")
		}
	case RecLease:
		if r.Lease == nil {
			return nil, corrupt("LEASE without a session")
		}
	default:
		return nil, corrupt("unknown %v", r.Kind)
	}
	if (r.Kind == RecEpoch || r.Kind == RecSnapshot) && r.Epoch.Number == 0 {
		return nil, corrupt("%v without an epoch", r.Kind)
	}
	return r, nil
}

func corrupt(format string, args ...any) *wire.Error {
	return &wire.Error{Code: wire.CodeCorrupt, Text: fmt.Sprintf(format, args...)}
}

// State is what the journal says: the sum of its records.
type State struct {
	Epoch       wire.Epoch
	Config      *wire.Config // nil: none was ever made
	Root        *wire.Root   // of a bootstrap that is not known to be over
	W           wire.Position
	ServiceTime int64 // milliseconds
	Time        int64 // nanoseconds since 1970
	Decisions   map[wire.ID]Decision
	Leases      map[wire.SessionID]bool // of sessions that have not ended; false: lapsed
}

// Apply adds the next record. An error (CodeCorrupt) is a record that cannot follow.
func (s *State) Apply(r *Record) error {
	switch r.Kind {
	case RecEpoch:
		if r.Epoch.Number <= s.Epoch.Number {
			return corrupt("EPOCH %d after epoch %d", r.Epoch.Number, s.Epoch.Number)
		}
		s.Epoch = r.Epoch
	case RecConfig:
		if s.Config != nil && r.Config.ID.Compare(s.Config.ID) <= 0 {
			return corrupt("CONFIG %v after %v", r.Config.ID, s.Config.ID)
		}
		s.Config, s.Root = r.Config, r.Root
	case RecDecision:
		s.decided(*r.Decision)
	case RecW:
		s.forget(r.W)
	case RecSnapshot:
		if r.Epoch.Number < s.Epoch.Number {
			return corrupt("SNAPSHOT of epoch %d after epoch %d", r.Epoch.Number, s.Epoch.Number)
		}
		*s = State{Epoch: r.Epoch, Config: r.Config, Root: r.Root, W: r.W}
		for _, d := range r.Decisions {
			s.decided(d)
		}
		for _, id := range r.Leases {
			s.leased(LeaseRecord{Session: id})
		}
		for _, id := range r.Lapsed {
			s.leased(LeaseRecord{Session: id, Lapsed: true})
		}
	case RecLease:
		s.leased(*r.Lease)
	}
	s.ServiceTime = max(s.ServiceTime, r.ServiceTime)
	s.Time = max(s.Time, r.Time)
	return nil
}

func (s *State) decided(d Decision) {
	if s.Decisions == nil {
		s.Decisions = map[wire.ID]Decision{}
	}
	s.Decisions[d.Tx] = d
}

func (s *State) leased(l LeaseRecord) {
	if l.Ended {
		delete(s.Leases, l.Session)
		return
	}
	if s.Leases == nil {
		s.Leases = map[wire.SessionID]bool{}
	}
	s.Leases[l.Session] = !l.Lapsed
}

// forget drops what is at or below W (P9). W in an epoch means that its OPEN
// is durable everywhere: the bootstrap is over.
func (s *State) forget(w wire.Position) {
	if s.W.Before(w) {
		s.W = w
	}
	s.Root = nil
	for id, d := range s.Decisions {
		if !s.W.Before(d.Prepared) {
			delete(s.Decisions, id)
		}
	}
}

// Snapshot is the record that stands for all before it.
func (s *State) Snapshot() *Record {
	r := &Record{
		Kind: RecSnapshot, Epoch: s.Epoch, Config: s.Config, Root: s.Root,
		W: s.W, ServiceTime: s.ServiceTime, Time: s.Time,
	}
	for _, d := range s.Decisions {
		r.Decisions = append(r.Decisions, d)
	}
	slices.SortFunc(r.Decisions, func(a, b Decision) int { return a.Prepared.Compare(b.Prepared) })
	for id, live := range s.Leases {
		if live {
			r.Leases = append(r.Leases, id)
		} else {
			r.Lapsed = append(r.Lapsed, id)
		}
	}
	for _, ids := range [][]wire.SessionID{r.Leases, r.Lapsed} {
		slices.SortFunc(ids, func(a, b wire.SessionID) int { return bytes.Compare(a[:], b[:]) })
	}
	return r
}
