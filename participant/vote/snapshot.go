package vote

import (
	"encoding/binary"

	"tpcfs/wire"
)

// A snapshot is the machine's state as a checkpoint keeps it (S3):
//
//	+---------+----------------+------+----------------+------+--
//	| version | n, 4 bytes, LE | item | n, 4 bytes, LE | item | ...
//	+---------+----------------+------+----------------+------+--
//
// Items have the form of records. The first is itemState; then, by id, a
// PREPARE record for each transaction in doubt and an itemTx for each outcome
// and NO above W.
const (
	snapshotVersion = 1
	itemState       = 0x80
	itemTx          = 0x81
)

type stateItem struct {
	Fence       wire.Epoch    `cbor:"1,keyasint"`
	Config      *wire.Config  `cbor:"2,keyasint,omitempty"`
	Position    wire.Position `cbor:"3,keyasint"`
	W           wire.Position `cbor:"4,keyasint"`
	ServiceTime int64         `cbor:"5,keyasint"` // milliseconds
	Opened      bool          `cbor:"6,keyasint"`
	LastID      wire.ID       `cbor:"7,keyasint"`
	Forgotten   wire.ID       `cbor:"8,keyasint"`
	Resync      string        `cbor:"9,keyasint,omitempty"`
	Since       wire.Position `cbor:"10,keyasint,omitzero"`
	Removed     bool          `cbor:"11,keyasint,omitempty"`
	Time        int64         `cbor:"12,keyasint,omitempty"` // nanoseconds since 1970
}

type txItem struct {
	ID       wire.ID       `cbor:"1,keyasint"`
	State    wire.TxState  `cbor:"2,keyasint"`
	Prepared wire.Position `cbor:"3,keyasint"`
	Seen     bool          `cbor:"4,keyasint"`
	Op       wire.OpID     `cbor:"5,keyasint,omitzero"`
	Outcome  *wire.Outcome `cbor:"6,keyasint,omitempty"`
	Err      *wire.Error   `cbor:"7,keyasint,omitempty"`
}

// Snapshot returns the state as bytes; equal states give equal bytes.
func (m *Machine) Snapshot() []byte {
	s := stateItem{Fence: m.fence, Position: m.position, W: m.w, ServiceTime: m.serviceTime, Opened: m.opened, LastID: m.lastID, Forgotten: m.forgotten, Resync: m.resync, Since: m.since, Removed: m.removed, Time: m.time}
	if m.config.ID != (wire.ConfigID{}) {
		s.Config = &m.config
	}
	b := appendItem([]byte{snapshotVersion}, encodeItem(itemState, wire.Marshal(s), nil))
	for _, t := range m.known() {
		if t.state == wire.TxPrepared {
			r := Record{Kind: KindPrepare, Position: t.prepared, Tx: t.body, Walked: t.walked}
			b = appendItem(b, r.Encode())
			continue
		}
		b = appendItem(b, encodeItem(itemTx, wire.Marshal(txItem{t.id, t.state, t.prepared, t.seen, t.op, t.outcome, t.err}), nil))
	}
	return b
}

func appendItem(b, item []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(item))), item...)
}

// Restore returns the machine of a snapshot; an empty one is that of New. It
// reserves the space of what is in doubt. state belongs to the machine
// afterwards. The error is an *wire.Error with CodeCorrupt, or a *ViewError.
func Restore(view View, state []byte) (*Machine, error) {
	m := New(view)
	if len(state) == 0 {
		return m, nil
	}
	if state[0] != snapshotVersion {
		return nil, corrupt("the checkpoint's state has version %d; this program reads %d", state[0], snapshotVersion)
	}
	for n, rest := 0, state[1:]; len(rest) > 0; n++ {
		if len(rest) < 4 || uint64(binary.LittleEndian.Uint32(rest)) > uint64(len(rest)-4) {
			return nil, corrupt("the checkpoint's state ends in the middle of item %d", n)
		}
		size := int(binary.LittleEndian.Uint32(rest))
		if err := m.restoreItem(rest[4:4+size:4+size], n == 0); err != nil {
			return nil, err
		}
		rest = rest[4+size:]
	}
	return m, nil
}

func (m *Machine) restoreItem(b []byte, first bool) error {
	kind, header, _, err := decodeItem(b)
	if err != nil {
		return err
	}
	if first != (kind == itemState) {
		return corrupt("the checkpoint's state has an item of kind %#x out of place", kind)
	}
	switch kind {
	case itemState:
		return m.restoreState(header)
	case itemTx:
		var i txItem
		if err := wire.Unmarshal(header, &i); err != nil {
			return corrupt("the checkpoint's state: %v", err)
		}
		if i.State == wire.TxPrepared || m.txs[i.ID] != nil {
			return corrupt("the checkpoint's state has transaction %v twice, or without its PREPARE", i.ID)
		}
		m.txs[i.ID] = &tx{id: i.ID, state: i.State, prepared: i.Prepared, seen: i.Seen, op: i.Op, outcome: i.Outcome, err: i.Err}
		return nil
	case uint8(KindPrepare):
		return m.restorePrepared(b)
	default:
		return corrupt("the checkpoint's state has an unknown item %#x", kind)
	}
}

func (m *Machine) restoreState(header []byte) error {
	var s stateItem
	if err := wire.Unmarshal(header, &s); err != nil {
		return corrupt("the checkpoint's state: %v", err)
	}
	m.fence, m.position, m.w, m.serviceTime = s.Fence, s.Position, s.W, s.ServiceTime
	m.time = s.Time
	m.opened, m.lastID, m.forgotten, m.resync = s.Opened, s.LastID, s.Forgotten, s.Resync
	m.since, m.removed = s.Since, s.Removed
	if s.Config != nil {
		m.config = *s.Config
	}
	return nil
}

func (m *Machine) restorePrepared(b []byte) error {
	r, err := DecodeRecord(b)
	if err != nil {
		return err
	}
	if err := m.unpack(r); err != nil {
		return err
	}
	if m.txs[r.Tx.ID] != nil {
		return corrupt("the checkpoint's state has transaction %v twice", r.Tx.ID)
	}
	for k, exclusive := range locksOf(r.Tx.Bounds, r.Walked) {
		if id := m.locks.blocker(r.Tx.ID, k, exclusive); id != 0 {
			return corrupt("the checkpoint's state has transaction %v lock what %v holds", r.Tx.ID, id)
		}
	}
	m.becomePrepared(r)
	if err := m.reserve(r.Tx); err != nil && wire.CodeOf(err) != wire.CodeNoSpace {
		return &ViewError{err}
	}
	return nil
}
