package client

import (
	"bytes"
	"errors"
	"io"

	"tpcfs/wire"
)

// Content is what a file shall hold. It can be read again, for a retry. (An
// alias, so that who defines the same interface need not know this package.)
type Content = interface {
	// Size is its length in bytes.
	Size() int64
	// Open starts reading it from the beginning. What is read must be Size
	// bytes and the same every time; the reader is closed after use.
	Open() (io.ReadCloser, error)
}

// Bytes is the content b, which must not change until it is written.
func Bytes(b []byte) Content { return ReaderAt(bytes.NewReader(b), int64(len(b))) }

// ReaderAt is the first size bytes of r, which must not change until they are
// written. An *os.File is one; it is not closed.
func ReaderAt(r io.ReaderAt, size int64) Content { return readerAt{r, size} }

type readerAt struct {
	r    io.ReaderAt
	size int64
}

func (c readerAt) Size() int64 { return c.size }

func (c readerAt) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(c.r, 0, c.size)), nil
}

// contentError says that what should be written could not be read.
func contentError(err error) error {
	if e := (*wire.Error)(nil); errors.As(err, &e) {
		return e
	}
	return wire.NewError(wire.CodeIO, "cannot read the contents to write: "+err.Error())
}

// readInline reads a content of at most wire.MaxInline bytes behind dst.
func readInline(dst []byte, c Content) ([]byte, error) {
	r, err := c.Open()
	if err != nil {
		return nil, contentError(err)
	}
	defer r.Close() // only read
	at, n := len(dst), int(c.Size())
	dst = append(dst, make([]byte, n)...)
	if _, err := io.ReadFull(r, dst[at:]); err != nil {
		return nil, contentError(err)
	}
	return dst, checkEnd(r)
}

// checkEnd reports a content that is longer than its Size.
func checkEnd(r io.Reader) error {
	switch _, err := io.ReadFull(r, make([]byte, 1)); {
	case err == nil:
		return contentError(errors.New("they are longer than they were said to be"))
	case errors.Is(err, io.EOF):
		return nil
	default:
		return contentError(err)
	}
}

// pieceSource gives a content as pieces, and computes what the stage's sum
// must be.
type pieceSource struct {
	r        io.Reader
	size     int64 // -1: until r ends
	pack     bool  // it is a transaction's pack
	skew     int64 // StageRequest.Skew
	at       int64
	buf      []byte
	sum      wire.ObjectSum
	ended    bool
	failed   error // of the content itself
	progress func(at int64)
	patient  bool              // who writes what r gives may take his time
	waits    func(begins bool) // brackets reading r, if patient
}

// ReadPiece implements wire.PieceReader.
func (s *pieceSource) ReadPiece() (wire.Piece, error) {
	s.progress(s.at)
	switch {
	case s.at == s.size && s.failed == nil:
		s.failed, s.ended = checkEnd(s.r), true
	case !s.ended && s.failed == nil:
		if p, ok := s.read(); ok {
			return p, nil
		}
	}
	if s.failed != nil {
		return wire.Piece{}, s.failed
	}
	return wire.Piece{}, io.EOF
}

// read gives the next piece; false: there is none.
func (s *pieceSource) read() (wire.Piece, bool) {
	data := s.buf
	if s.size >= 0 {
		data = data[:min(int64(len(data)), s.size-s.at)]
	}
	if s.patient {
		s.waits(true)
	}
	n, err := io.ReadFull(s.r, data)
	if s.patient {
		s.waits(false)
	}
	if s.size < 0 && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		data, err, s.ended = data[:n], nil, true
	}
	switch {
	case err != nil:
		s.failed = contentError(err)
		return wire.Piece{}, false
	case len(data) == 0:
		return wire.Piece{}, false
	}
	_, _ = s.sum.Write(data) // never fails
	p := wire.Piece{Offset: s.at, Sum: wire.Sum(data), Data: data}
	s.at += int64(len(data))
	return p, true
}
