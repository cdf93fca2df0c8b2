package wire

// The headers of frames that no contract names.

// Nothing is the header of requests without arguments and of answers without
// a result.
type Nothing struct{}

// Detach asks for the end of a session.
type Detach struct {
	Session SessionID `cbor:"1,keyasint"`
}

// SessionStage is a client's StageRequest with its session.
type SessionStage struct {
	Session SessionID    `cbor:"1,keyasint"`
	Request StageRequest `cbor:"2,keyasint"`
}

// Unstage asks a participant to drop staged objects.
type Unstage struct {
	Epoch  Epoch `cbor:"1,keyasint"`
	Stages []ID  `cbor:"2,keyasint"`
}

// Moved says that a read's contents, too many for the control connection,
// wait to be fetched with FrameAdopt and the same token.
type Moved struct {
	Token uint64 `cbor:"1,keyasint"`
}
