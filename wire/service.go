package wire

import "context"

// PieceReader gives an object's contents in order. A piece's Data is valid
// until the next call. io.EOF after the last.
type PieceReader interface {
	ReadPiece() (Piece, error)
}

// Interrupter is what a PieceReader or a PieceWriter may be besides, if it waits
// for a peer: Interrupt makes a call under way, and all later ones, fail soon.
// Any goroutine may call it, at any time, more than once.
type Interrupter interface {
	Interrupt()
}

// Linked is what a PieceWriter may be besides, if a peer takes the contents: Link
// tells by which link, for those who share something out among links.
type Linked interface{ Link() UUID }

// PieceWriter takes a file's contents in order. It may keep Data until it
// returns, no longer.
type PieceWriter interface {
	WritePiece(Piece) error
}

// Service is what a coordinator serves to its clients. Every error is an
// *Error. A cancelled context counts until the transaction's prepare is put;
// after that the transaction goes on without it and the answer is the outcome
// or CodeUnknownOutcome.
type Service interface {
	// Attach opens a session's new link, in place of its old one.
	Attach(ctx context.Context, req Attach) (Attached, error)
	// Detach ends a session: what it staged is dropped.
	Detach(ctx context.Context, session SessionID) error
	// Transact commits mutations by two-phase commit. payload holds the inline
	// contents; it belongs to the service until the call returns.
	Transact(ctx context.Context, req Transact, payload []byte) (TransactReply, error)
	// Stage brings contents too large for a prepare to all members. The id in
	// its reply is consumed by one Transact of the same session.
	Stage(ctx context.Context, session SessionID, req StageRequest, pieces PieceReader) (StageReply, error)
	// Read reads from an in-sync participant picked at random. A ReadFile's
	// pieces go to w before the reply; a restart from the beginning with a
	// newer version shows in Piece.Version and an Offset that is the read's own.
	Read(ctx context.Context, req Read, w PieceWriter) (ReadReply, error)
	// Lock gets and sets file locks (F10). What is refused is in the reply.
	Lock(ctx context.Context, req LockRequest) (LockReply, error)
	// Statfs tells the space left.
	Statfs(ctx context.Context) (Statfs, error)
	// Watch gives a session a lease on what it has read (F9). It answers when
	// there is something to tell, or after the wait.
	Watch(ctx context.Context, req Watch) (Watched, error)
	// Status tells how the cluster does; it answers also while nothing else is served.
	Status(ctx context.Context, req StatusRequest) (Status, error)
	// Members changes who takes part (P14). It answers when that is durable and
	// in force.
	Members(ctx context.Context, req MembersRequest) (MembersReply, error)
	// Scrub has the participants' copies verified, compared and repaired, and tells
	// how far that is. CodeBusy: one is under way.
	Scrub(ctx context.Context, req ScrubRequest) (ScrubReport, error)
}

// Replica is a participant's service, as its coordinator uses it. Every error
// is an *Error; CodeStaleEpoch when a newer coordinator has greeted it.
type Replica interface {
	// Greet fences the participant (P6) and opens its transaction stream, in
	// place of an older one.
	Greet(ctx context.Context, req Greet) (Greeting, TxStream, error)
	// Read answers once the stream is handled up to the read's position (P5).
	// A rotten block is CodeCorrupt.
	Read(ctx context.Context, req PositionedRead, w PieceWriter) (ReadReply, error)
	// Stage writes a staged object and makes it and its name durable.
	Stage(ctx context.Context, req StageRequest, pieces PieceReader) (StageReply, error)
	// Unstage drops staged objects that no prepare will consume.
	Unstage(ctx context.Context, epoch Epoch, stages []ID) error
	// Status tells of the participant itself.
	Status(ctx context.Context, req StatusRequest) (ReplicaStatus, error)
	// Donate gives rows, or blocks of an object, to a newcomer (P11), once the
	// stream is handled up to the request's position. A rotten block is
	// CodeCorrupt: another member may have it.
	Donate(ctx context.Context, req Donate) (Donated, []byte, error)
	// Resync brings a newcomer, which is marked as out of sync, one step on;
	// body is what a donor gave, and the newcomer's until the call returns.
	// CodeBusy: not now; a later attempt of the same may do.
	Resync(ctx context.Context, req Resync, body []byte) (Resynced, error)
	// Repair rewrites rotten blocks of an object, once the stream is handled up
	// to the request's position (S5); body is what another member donated, and the
	// participant's until the call returns.
	Repair(ctx context.Context, req Repair, body []byte) (Repaired, error)
	// Verify reads contents from the disk and verifies them, a part at a time.
	Verify(ctx context.Context, req Verify) (Verified, error)
	// Compare tells what rows there are in a range of keys.
	Compare(ctx context.Context, req Compare) (Compared, []byte, error)
	// Close ends the connection, not the participant.
	Close() error
}

// TxStream is one transaction stream. One goroutine may send while another
// receives. After an error the stream is dead.
type TxStream interface {
	// Send gives entries to the participant, in order; it may wait while the
	// participant is behind. The batch is the caller's again when it returns,
	// the entries are not.
	Send(batch ...Down) error
	// Recv waits for the participant's next message.
	Recv() (Up, error)
	// Close ends both directions; pending calls return.
	Close() error
}

// Attach opens a link.
type Attach struct {
	Session SessionID `cbor:"1,keyasint"`
	Host    string    `cbor:"2,keyasint,omitempty"` // for status
}

// Attached answers Attach.
type Attached struct {
	Link        uint64 `cbor:"1,keyasint"` // number of this link, from 1
	ServiceTime int64  `cbor:"2,keyasint"` // ms
	Cluster     UUID   `cbor:"3,keyasint"`
	// Epoch is the number of the coordinator's reign: what was staged in
	// another one is gone.
	Epoch uint64 `cbor:"4,keyasint,omitempty"`
}

// Statfs is the space of the fullest participant.
type Statfs struct {
	Total uint64 `cbor:"1,keyasint"` // bytes
	Free  uint64 `cbor:"2,keyasint"` // bytes
	Files uint64 `cbor:"3,keyasint"` // inodes in use
	// ServiceTime, in milliseconds: a client that was idle asks for it, so
	// that Transact.Sent is not too old (S1a).
	ServiceTime int64 `cbor:"4,keyasint,omitempty"`
	// FilesLeft is how many more files its file system can make for sure; nil: no bound is
	// known. Not every file of the service needs one.
	FilesLeft *uint64 `cbor:"5,keyasint,omitempty"`
}

// StatusRequest asks for a status.
type StatusRequest struct {
	// Digest asks for ReplicaStatus.Digest too, which reads all metadata and
	// holds checkpoints back meanwhile.
	Digest bool `cbor:"1,keyasint,omitempty"`
	// Standing asks a participant for ReplicaStatus.Standing, too.
	Standing bool `cbor:"2,keyasint,omitempty"`
}

// Status is how a cluster does.
type Status struct {
	Cluster     UUID            `cbor:"1,keyasint" json:"cluster"`
	Epoch       Epoch           `cbor:"2,keyasint" json:"epoch"`
	Config      ConfigID        `cbor:"3,keyasint" json:"config"`
	Serving     bool            `cbor:"4,keyasint" json:"serving"`
	WaitsFor    []string        `cbor:"5,keyasint,omitempty" json:"waits_for,omitempty"` // participants without whose answer nothing is served
	Problem     string          `cbor:"6,keyasint,omitempty" json:"problem,omitempty"`   // what an operator has to mend, in words
	W           Position        `cbor:"7,keyasint" json:"w"`
	Last        Position        `cbor:"8,keyasint" json:"last"` // last entry put
	ServiceTime int64           `cbor:"9,keyasint" json:"service_time_ms"`
	Members     []MemberStatus  `cbor:"10,keyasint" json:"members"`
	InDoubt     []InDoubtStatus `cbor:"11,keyasint,omitempty" json:"in_doubt,omitempty"`
	Queued      int             `cbor:"12,keyasint" json:"queued"` // requests that wait for their prepare
	Sessions    int             `cbor:"13,keyasint" json:"sessions"`
	Changes     OpStats         `cbor:"14,keyasint" json:"changes"` // transactions
	Reads       OpStats         `cbor:"15,keyasint" json:"reads"`
	Locks       int             `cbor:"16,keyasint,omitempty" json:"locks"`      // ranges of files that are locked
	LockWaits   int             `cbor:"17,keyasint,omitempty" json:"lock_waits"` // requests for locks that wait
	MinInSync   int             `cbor:"18,keyasint" json:"min_in_sync"`
	Warnings    []string        `cbor:"19,keyasint,omitempty" json:"warnings,omitempty"` // in plain words
	Removed     []Removed       `cbor:"20,keyasint,omitempty" json:"removed,omitempty"`
	Edits       []Edit          `cbor:"21,keyasint,omitempty" json:"edits,omitempty"` // what operators have changed of who takes part
}

// OpStats tells of the operations of one kind that the coordinator has answered.
type OpStats struct {
	Done      uint64  `cbor:"1,keyasint" json:"done"`      // since its start; "no such file" is an answer, too
	Conflicts uint64  `cbor:"2,keyasint" json:"conflicts"` // another came first
	Failed    uint64  `cbor:"3,keyasint" json:"failed"`    // unavailable, unknown, no space, corrupt
	PerSecond float64 `cbor:"4,keyasint" json:"per_second"`
	// Of the last minute, in microseconds: within which half of them, 99 % of
	// them and all of them were answered.
	P50 int64 `cbor:"5,keyasint" json:"p50_us"`
	P99 int64 `cbor:"6,keyasint" json:"p99_us"`
	Max int64 `cbor:"7,keyasint" json:"max_us"`
}

// MemberStatus is a participant as the coordinator sees it.
type MemberStatus struct {
	Name    string         `cbor:"1,keyasint" json:"name"`
	Addr    string         `cbor:"2,keyasint" json:"addr"`
	State   string         `cbor:"3,keyasint" json:"state"` // "in sync", "unreachable", "greeting", "refused"
	Error   string         `cbor:"4,keyasint,omitempty" json:"error,omitempty"`
	Handled Position       `cbor:"5,keyasint" json:"handled"`
	Durable Position       `cbor:"6,keyasint" json:"durable"`
	Lag     uint64         `cbor:"7,keyasint" json:"lag"` // entries put and not yet durable there
	Replica *ReplicaStatus `cbor:"8,keyasint,omitempty" json:"replica,omitempty"`
	InSync  bool           `cbor:"9,keyasint" json:"in_sync"`                    // it is in the config: changes need it
	Since   int64          `cbor:"10,keyasint,omitempty" json:"since,omitempty"` // when it was last there and in sync, ms since 1970; 0: it is, or has not been
	CatchUp *CatchUp       `cbor:"11,keyasint,omitempty" json:"catch_up,omitempty"`
	Scrub   *ScrubMember   `cbor:"12,keyasint,omitempty" json:"scrub,omitempty"` // the one under way, or the last; nil: none was
	Slow    *SlowStatus    `cbor:"13,keyasint,omitempty" json:"slow,omitempty"`  // nil: it is not, and was not lately
}

// SlowStatus is how slow a participant's disk, or the way to it, is or lately was
// (P15). All are milliseconds.
type SlowStatus struct {
	WaitMS   int64 `cbor:"1,keyasint" json:"wait_ms"`                       // the longest that it took to make something durable in the last minute; 0: not long
	HeldMS   int64 `cbor:"2,keyasint" json:"held_ms"`                       // for which it has kept the others waiting: time without that is taken off
	LimitMS  int64 `cbor:"3,keyasint" json:"limit_ms"`                      // at which it is evicted; 0: it is not
	Evicted  bool  `cbor:"4,keyasint,omitempty" json:"evicted,omitempty"`   // it was
	ReturnMS int64 `cbor:"5,keyasint,omitempty" json:"return_ms,omitempty"` // for which it has to be fast before it comes back
}

// CatchUp is how far a participant has caught up.
type CatchUp struct {
	Began      int64 `cbor:"1,keyasint" json:"began"`              // ms since 1970
	Rows       int64 `cbor:"2,keyasint" json:"rows"`               // of metadata that have come
	Bytes      int64 `cbor:"3,keyasint" json:"bytes"`              // of contents looked at
	Copied     int64 `cbor:"4,keyasint" json:"copied"`             // bytes that were brought
	Files      int64 `cbor:"5,keyasint,omitempty" json:"files"`    // in all, where all is compared
	BytesTotal int64 `cbor:"6,keyasint,omitempty" json:"of_bytes"` // likewise
	FilesDone  int64 `cbor:"7,keyasint" json:"files_done"`         // that have come: what changed while it catches up counts again
	Lacking    int64 `cbor:"8,keyasint" json:"lacking"`            // bytes that are known to be needed yet
	Rate       int64 `cbor:"9,keyasint" json:"rate"`               // bytes brought in a second, lately
	LeftMS     int64 `cbor:"10,keyasint,omitempty" json:"left_ms"` // about so long yet; 0: nobody knows
}

// Work is how much of a full comparison is done, and how much it is in all, in
// bytes, of which those are done that it has; a file counts for some by itself. 0 of 0: only what has changed is brought.
func (c *CatchUp) Work() (done, all int64) {
	const file = 4096
	if c.Files == 0 && c.BytesTotal == 0 {
		return 0, 0
	}
	all = c.BytesTotal + file*c.Files
	return min(max(c.Bytes-c.Lacking, 0)+file*min(c.FilesDone, c.Files), all), all
}

// InDoubtStatus is a transaction that waits for votes or for its decision to be durable.
type InDoubtStatus struct {
	Tx       ID       `cbor:"1,keyasint" json:"tx"`
	Position Position `cbor:"2,keyasint" json:"position"`
	Names    []string `cbor:"3,keyasint" json:"names"`
	AgeMS    int64    `cbor:"4,keyasint" json:"age_ms"`
	Voted    []string `cbor:"5,keyasint,omitempty" json:"voted,omitempty"`
	Missing  []string `cbor:"6,keyasint,omitempty" json:"missing,omitempty"`
	Decision string   `cbor:"7,keyasint,omitempty" json:"decision,omitempty"`
	Yes      []string `cbor:"8,keyasint,omitempty" json:"yes,omitempty"` // of those that have voted: who could do it
	No       []string `cbor:"9,keyasint,omitempty" json:"no,omitempty"`  // ... who could not
	Resolves string   `cbor:"10,keyasint,omitempty" json:"resolves,omitempty"`
}

// ReplicaStatus is a participant as it sees itself.
type ReplicaStatus struct {
	Storage      UUID     `cbor:"1,keyasint" json:"storage"`
	Epoch        Epoch    `cbor:"2,keyasint" json:"epoch"`
	Handled      Position `cbor:"3,keyasint" json:"handled"`
	Durable      Position `cbor:"4,keyasint" json:"durable"`
	W            Position `cbor:"5,keyasint" json:"w"`
	InDoubt      int      `cbor:"6,keyasint" json:"in_doubt"`
	JournalBytes int64    `cbor:"7,keyasint" json:"journal_bytes"`
	Syncs        uint64   `cbor:"8,keyasint" json:"syncs"` // of the journal since the start
	Total        uint64   `cbor:"9,keyasint" json:"total"` // bytes of its file system
	Free         uint64   `cbor:"10,keyasint" json:"free"` // bytes left to files
	Files        uint64   `cbor:"11,keyasint" json:"files"`
	// Digest is the SHA-256 of all metadata rows and contents checksums, made
	// on request and only when nothing is in doubt; equal on replicas at one position.
	Digest string `cbor:"12,keyasint,omitempty" json:"digest,omitempty"`
	// Standing is what it would answer a greeting, but for Known; nobody is fenced.
	Standing *Greeting `cbor:"13,keyasint,omitempty" json:"-"`
	// FilesLeft is how many more files its file system can make (inodes); nil: it has no bound
	// of its own, or does not tell.
	FilesLeft *uint64 `cbor:"14,keyasint,omitempty" json:"files_left,omitempty"`
}
