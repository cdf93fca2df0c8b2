package journal

import (
	"encoding/hex"
	"errors"
	"io/fs"

	"tpcfs/journal/disk"
)

// Report is what Verify finds (J7).
type Report struct {
	Dir          string          `json:"dir"`
	ID           string          `json:"id"` // hexadecimal
	SegmentBytes int64           `json:"segment_bytes"`
	First        LSN             `json:"first"`  // oldest record; 0 if there is none
	Last         LSN             `json:"last"`   // newest record
	Sealed       bool            `json:"sealed"` // closed with an empty block: the end is known to be the end
	Segments     []SegmentReport `json:"segments"`
	Torn         []TornReport    `json:"torn,omitempty"`      // the next Open cuts this; nothing synced is in it
	Leftovers    []string        `json:"leftovers,omitempty"` // temporary files, kept copies of torn tails
	Corrupt      *CorruptError   `json:"corrupt,omitempty"`   // why Open would refuse
}

// SegmentReport describes one segment.
type SegmentReport struct {
	File        string `json:"file"`
	Number      uint64 `json:"number"`
	First       LSN    `json:"first"` // 0: a spare
	Last        LSN    `json:"last"`
	Blocks      int    `json:"blocks"`
	RawBytes    int64  `json:"raw_bytes"`
	StoredBytes int64  `json:"stored_bytes"` // with headers and padding
}

// TornReport is a piece of a segment behind the last whole block.
type TornReport struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"`
	Bytes  int64  `json:"bytes"`
}

// BlockInfo is a block as Dump finds it.
type BlockInfo struct {
	File    string       `json:"file"`
	Segment uint64       `json:"segment"`
	Offset  int64        `json:"offset"`
	Length  int64        `json:"length"` // on disk, with padding
	First   LSN          `json:"first"`
	Synced  LSN          `json:"synced"` // what it promises to be durable
	Raw     int          `json:"raw"`    // bytes before compression
	Stored  int          `json:"stored"`
	Zstd    bool         `json:"zstd"`
	Records []RecordInfo `json:"records"` // none: an empty block (J3)
}

// RecordInfo is a record as Dump finds it.
type RecordInfo struct {
	LSN  LSN    `json:"lsn"`
	Data []byte `json:"data"`
}

// Verify reads all of a journal that nobody has open, decompresses every
// block, and changes nothing. Damage is in the report; the error is for a
// journal that could not be read at all: fs.ErrNotExist if there is none, or
// the file system's.
func Verify(fsys disk.FS, dir string) (Report, error) {
	return inspect(fsys, dir, func(BlockInfo) error { return nil })
}

// Dump calls fn for every block that counts, in order, up to the first damage,
// which is then its error: a *CorruptError. The block's bytes are fn's only
// until it returns. Other errors: as of Verify, and fn's own.
func Dump(fsys disk.FS, dir string, fn func(BlockInfo) error) error {
	report, err := inspect(fsys, dir, fn)
	if err == nil && report.Corrupt != nil {
		err = report.Corrupt
	}
	return err
}

func inspect(fsys disk.FS, dir string, fn func(BlockInfo) error) (Report, error) {
	report := Report{Dir: dir}
	m := files{fs: fsys, dir: dir}
	n, err := m.list()
	if err != nil {
		return report, err
	}
	report.Leftovers = append(n.tmp, n.torn...)
	if !n.ident && len(n.segments) == 0 {
		return report, &fs.PathError{Op: "open", Path: m.path(identName), Err: fs.ErrNotExist}
	}
	err = m.inspect(n, &report, fn)
	if errors.As(err, &report.Corrupt) {
		err = nil
	}
	return report, err
}

func (m *files) inspect(n names, report *Report, fn func(BlockInfo) error) error {
	if !n.ident {
		return &CorruptError{File: m.path(identName), Reason: "the identity file is missing"}
	}
	id, err := m.readIdent()
	if err != nil {
		return err
	}
	report.ID, report.SegmentBytes = hex.EncodeToString(id[:]), m.size
	if err := m.checkNames(n); err != nil {
		return err
	}
	segs, err := m.openForReading(n)
	defer func() {
		for _, s := range segs {
			_ = s.file.Close() // only read
		}
	}()
	if err != nil {
		return err
	}
	var buf []byte
	v, err := m.survey(id, segs, func(s *segment, offset int64, h *header, payload []byte) error {
		info, err := m.blockInfo(s, offset, h, payload, &buf)
		if err != nil {
			return err
		}
		return fn(info)
	})
	report.fill(m, segs, &v)
	return err
}

// fill describes what was read, which on corruption is not all.
func (r *Report) fill(m *files, segs []*segment, v *survey) {
	for i, c := range v.chains {
		r.Segments = append(r.Segments, SegmentReport{
			File: m.path(segmentName(segs[i].number)), Number: segs[i].number,
			First: c.first, Last: c.last, Blocks: c.blocks, RawBytes: c.raw, StoredBytes: c.written,
		})
		if r.First == 0 {
			r.First = c.first
		}
	}
	r.Last = v.last
	if len(v.chains) > 0 {
		r.Sealed = v.chains[v.active].seal != 0
	}
	for _, t := range v.torn {
		r.Torn = append(r.Torn, TornReport{File: m.path(segmentName(t.seg.number)), Offset: t.from, Bytes: t.to - t.from})
	}
}

// openForReading opens all segments without syncing them.
func (m *files) openForReading(n names) (segs []*segment, err error) {
	for _, number := range n.segments {
		f, err := m.fs.Open(m.path(segmentName(number)))
		if err != nil {
			return segs, err
		}
		segs = append(segs, &segment{number: number, file: f})
		// What only the page cache has would be lost at the next start.
		if err := f.DropCache(); err != nil {
			return segs, err
		}
	}
	return segs, nil
}

// blockInfo decompresses a block; it is corrupt if that fails.
func (m *files) blockInfo(s *segment, offset int64, h *header, payload []byte, buf *[]byte) (BlockInfo, error) {
	info := BlockInfo{
		File: m.path(segmentName(s.number)), Segment: s.number, Offset: offset, Length: h.length(),
		First: h.first, Synced: h.synced, Raw: int(h.raw), Stored: int(h.stored), Zstd: h.zstd,
	}
	raw, err := h.decode(payload, buf)
	if err == nil {
		err = h.eachRecord(raw, func(lsn LSN, record []byte) error {
			info.Records = append(info.Records, RecordInfo{LSN: lsn, Data: record})
			return nil
		})
	}
	if err != nil {
		return info, m.corrupt(s, offset, &badBlock{reason: err}, "though its checksum is right")
	}
	return info, nil
}
