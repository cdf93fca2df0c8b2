package wire

// EntryKind says what an entry of a transaction stream is. Numbers are on
// disk: append only.
type EntryKind uint8

// The entries (section 5).
const (
	EntryPrepare EntryKind = iota + 1
	EntryCommit
	EntryAbort
	EntryConfig
	EntryOpen
	EntryVoid
)

// Entry is one entry of the transaction streams. All members' streams carry
// the same entries in the same order; only a re-sent one may be VOID instead.
type Entry struct {
	Index   uint64    `cbor:"1,keyasint"` // from 1 in each epoch
	Kind    EntryKind `cbor:"2,keyasint"`
	Prepare *Prepare  `cbor:"3,keyasint,omitempty"`
	Tx      ID        `cbor:"4,keyasint,omitempty"` // COMMIT and ABORT
	Config  *Config   `cbor:"5,keyasint,omitempty"`
	Root    *Root     `cbor:"6,keyasint,omitempty"` // with the bootstrap's CONFIG only
	Payload []byte    `cbor:"-"`                    // PREPARE: inline contents, raw after the header
}

// Prepare asks for a vote on a transaction (P2). Its epoch and position are
// those of the stream and entry that carry it.
type Prepare struct {
	Tx          ID         `cbor:"1,keyasint"`
	Config      ConfigID   `cbor:"2,keyasint"`
	Op          OpID       `cbor:"3,keyasint"`
	Lowest      uint64     `cbor:"4,keyasint"`
	Sent        int64      `cbor:"5,keyasint"` // service time, ms, when the client first sent it
	Time        int64      `cbor:"6,keyasint"` // nanoseconds since 1970: the times that it gives to files
	ServiceTime int64      `cbor:"7,keyasint"` // ms
	W           Position   `cbor:"8,keyasint"`
	Mutations   []Mutation `cbor:"9,keyasint"`
	Pack        *Pack      `cbor:"10,keyasint,omitempty"` // in place of Mutations and payload
	// Keep: what loses its last name stays without one, as with Hold, but no
	// session's: other mounts may have it open (F7).
	Keep bool `cbor:"11,keyasint,omitempty"`
}

// Root describes the root directory that a bootstrap makes (P8).
type Root struct {
	Mode uint32 `cbor:"1,keyasint"`
	UID  uint32 `cbor:"2,keyasint"`
	GID  uint32 `cbor:"3,keyasint"`
	Time int64  `cbor:"4,keyasint"` // nanoseconds since 1970
}

// Down is what the coordinator sends on a transaction stream: entries, or a
// heartbeat when there are none.
type Down struct {
	Entry       *Entry   `cbor:"1,keyasint,omitempty"`
	W           Position `cbor:"2,keyasint"`
	ServiceTime int64    `cbor:"3,keyasint"` // ms
}

// Verdict is a participant's vote.
type Verdict uint8

// The verdicts (P2).
const (
	VoteYes Verdict = iota + 1
	VoteNo
	VoteDup // the op id is done here; Outcome is the first attempt's
)

// Vote answers the PREPARE at Index.
type Vote struct {
	Index   uint64  `cbor:"1,keyasint"`
	Tx      ID      `cbor:"2,keyasint"`
	Verdict Verdict `cbor:"3,keyasint"`
	// Err is why not, with VoteNo.
	Err *Error `cbor:"4,keyasint,omitempty"`
	// Outcome: with VoteYes what a commit will have done, with VoteDup what
	// the first attempt did.
	Outcome *Outcome `cbor:"5,keyasint,omitempty"`
	// Touched, with VoteYes, is what a commit will change (F9); nil: not told.
	Touched *Touched `cbor:"6,keyasint,omitempty"`
}

// Up is what a participant sends on its transaction stream, batched: one
// message a sync.
type Up struct {
	Votes   []Vote `cbor:"1,keyasint,omitempty"`
	Handled uint64 `cbor:"2,keyasint"` // index of the last entry handled
	Durable uint64 `cbor:"3,keyasint"` // ... of the last one whose records are synced, and all before it
	Free    uint64 `cbor:"4,keyasint"` // bytes of space left to files; counts in heartbeats
}

// Greet is a coordinator's first word to a participant, on each new stream (P6).
type Greet struct {
	Epoch Epoch  `cbor:"1,keyasint"`
	Name  string `cbor:"2,keyasint"` // the participant's, as the coordinator knows it
	// Cluster that the participant must belong to, if it belongs to one; zero: any.
	// One of another is refused before it is fenced: its own coordinator goes on.
	Cluster UUID `cbor:"3,keyasint,omitempty"`
	// Outside: it is not in the config. It makes a needs-resync mark durable
	// before it answers, and testifies nothing until that is gone (P11).
	Outside bool `cbor:"4,keyasint,omitempty"`
	// Heartbeat is how often the participant has to say something, in
	// milliseconds; 0: as often as it likes.
	Heartbeat int64 `cbor:"5,keyasint,omitempty"`
	// Number grows with each greeting of an epoch: one that comes late, over a
	// link that was given up, is refused.
	Number uint64 `cbor:"6,keyasint,omitempty"`
	// Removed: the participant of that storage was removed from the cluster. It
	// makes that durable before it answers, and has nothing to do with any
	// coordinator from then on (P14).
	Removed UUID `cbor:"7,keyasint,omitzero"`
}

// Greeting answers Greet, from the participant's durable state (P6). Same-epoch
// greetings (P10) tell what is held now, synced or not; votes follow once synced.
type Greeting struct {
	Storage     UUID     `cbor:"1,keyasint"`
	Held        Epoch    `cbor:"2,keyasint"` // the epoch and run held before this greeting
	Config      Config   `cbor:"3,keyasint"` // ID zero: none yet
	Position    Position `cbor:"4,keyasint"` // the last entry handled: the stream goes on after it (P10)
	W           Position `cbor:"5,keyasint"`
	ServiceTime int64    `cbor:"6,keyasint"`
	// Resync: it may not testify (journal damaged, storage new, not a member), and why.
	Resync string      `cbor:"7,keyasint,omitempty"`
	Known  []Testimony `cbor:"8,keyasint,omitempty"` // transactions in doubt, outcomes and NOs above W
	// LastID is the greatest id that it knows of.
	LastID ID `cbor:"9,keyasint"`
	// Time is the greatest, in nanoseconds since 1970, of a transaction that was
	// prepared here.
	Time int64 `cbor:"10,keyasint,omitempty"`
}

// TxState is what a participant knows of a transaction.
type TxState uint8

// The states a participant can testify (P7). What it does not list is "never"
// above its W and "forgotten" up to it.
const (
	TxPrepared TxState = iota + 1
	TxCommitted
	TxAborted
	TxRefused // it voted NO or DUP
)

// Testimony is what a participant knows of one transaction.
type Testimony struct {
	Tx       ID       `cbor:"1,keyasint"`
	Prepared Position `cbor:"2,keyasint"` // of its PREPARE
	State    TxState  `cbor:"3,keyasint"`
	Op       OpID     `cbor:"4,keyasint"`
	Outcome  *Outcome `cbor:"5,keyasint,omitempty"` // prepared and committed: what it does or did; a DUP: what the first attempt did
	Err      *Error   `cbor:"6,keyasint,omitempty"` // why it voted NO
	Stages   []ID     `cbor:"7,keyasint,omitempty"` // staged objects that it consumes
}

// PositionedRead is a Read as the coordinator sends it on (P5): to be answered
// once the stream is handled up to Position.
type PositionedRead struct {
	Epoch Epoch  `cbor:"1,keyasint"`
	Index uint64 `cbor:"2,keyasint"`
	Read  Read   `cbor:"3,keyasint"`
}

// StageRequest opens a stage: the pieces of one object follow in order from
// offset 0, all but the last PieceSize bytes long. Clients leave Epoch and ID
// zero, the coordinator gives them.
type StageRequest struct {
	Epoch Epoch  `cbor:"1,keyasint,omitempty"`
	ID    ID     `cbor:"2,keyasint,omitempty"`
	Size  int64  `cbor:"3,keyasint"`           // bytes; -1: not known before the end
	Link  uint64 `cbor:"4,keyasint,omitempty"` // as in Transact
	Wait  int64  `cbor:"5,keyasint,omitempty"` // milliseconds; 0 is forever
	// Name of the file that is being written, for errors.
	Name string `cbor:"6,keyasint,omitempty"`
	// Skew is where in a block of the file the object will begin (an extent's
	// offset modulo BlockSize): its blocks are the file's, the first one
	// BlockSize-Skew bytes long. Participants keep it beside the checksums. An
	// append, whose offset nobody knows yet, guesses.
	Skew int64 `cbor:"7,keyasint,omitempty"`
	// Pack tells that the object is one: it will be asked for soon.
	Pack bool `cbor:"8,keyasint,omitempty"`
}

// StageReply says that an object is staged and durable, name and all.
type StageReply struct {
	ID   ID    `cbor:"1,keyasint"`
	Size int64 `cbor:"2,keyasint"`
	// Sum is the CRC32C of the little-endian CRC32Cs of the object's blocks,
	// each zero-padded to BlockSize.
	Sum uint32 `cbor:"3,keyasint"`
}
