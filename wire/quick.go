package wire

import "math"

// A small read is four messages and two pieces that are encoded and decoded;
// with reflection that took longer than all else that is done for it here, so
// the codec of these types is written out; that of commits is in quicktx.go.
// What it encodes is what the general one does. What it does not expect when
// decoding - an unknown field, another order, anything malformed - is left to that.

// The major types of CBOR (RFC 8949, section 3.1) that these types have.
const (
	cborUint  = 0
	cborNint  = 1
	cborBytes = 2
	cborText  = 3
	cborArray = 4
	cborMap   = 5
)

// quickMarshal encodes v; nil: it is something else.
func quickMarshal(v any) []byte {
	e := make(quickEncoder, 0, 160)
	switch v := v.(type) {
	case Piece:
		e.piece(&v)
	case Read:
		e.read(&v)
	case PositionedRead:
		e.head(cborMap, 3)
		e.head(cborUint, 1)
		e.head(cborMap, 2)
		e.uint(1, v.Epoch.Number)
		e.bytes(2, v.Epoch.Run[:])
		e.uint(2, v.Index)
		e.head(cborUint, 3)
		e.read(&v.Read)
	case ReadReply:
		if len(v.Entries)+len(v.Target)+len(v.Value)+len(v.Names)+len(v.Ranges)+len(v.Holders) > 0 || v.More || v.Outcome != nil {
			return nil
		}
		e.head(cborMap, 2)
		e.head(cborUint, 1)
		e.attr(&v.Attr)
		e.pair(6, v.Position.Epoch, v.Position.Index)
	default:
		if !e.message(v) {
			return nil
		}
	}
	return e
}

type quickEncoder []byte

// head begins an item, in its shortest form.
func (e *quickEncoder) head(major byte, n uint64) {
	b := *e
	switch major <<= 5; {
	case n < 24:
		b = append(b, major|byte(n))
	case n <= math.MaxUint8:
		b = append(b, major|24, byte(n))
	case n <= math.MaxUint16:
		b = append(b, major|25, byte(n>>8), byte(n))
	case n <= math.MaxUint32:
		b = append(b, major|26, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	default:
		b = append(b, major|27, byte(n>>56), byte(n>>48), byte(n>>40), byte(n>>32), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	*e = b
}

func (e *quickEncoder) uint(key, v uint64) {
	e.head(cborUint, key)
	e.head(cborUint, v)
}

func (e *quickEncoder) int(key uint64, v int64) {
	e.head(cborUint, key)
	if v < 0 {
		e.head(cborNint, uint64(-1-v))
		return
	}
	e.head(cborUint, uint64(v))
}

func (e *quickEncoder) text(key uint64, s string) {
	e.head(cborUint, key)
	e.head(cborText, uint64(len(s)))
	*e = append(*e, s...)
}

func (e *quickEncoder) bytes(key uint64, b []byte) {
	e.head(cborUint, key)
	e.head(cborBytes, uint64(len(b)))
	*e = append(*e, b...)
}

// count is how many of some fields are not left out.
func count(there ...bool) (n uint64) {
	for _, t := range there {
		if t {
			n++
		}
	}
	return n
}

func (e *quickEncoder) piece(p *Piece) {
	e.head(cborMap, 2+count(p.Version != 0))
	if p.Version != 0 {
		e.uint(1, uint64(p.Version))
	}
	e.int(2, p.Offset)
	e.uint(3, uint64(p.Sum))
}

func (e *quickEncoder) read(r *Read) {
	e.head(cborMap, 3+count(r.Offset != 0, r.Length != 0, r.After != "", r.Limit != 0, r.IfVersion != 0, r.Name != "", r.Wait != 0))
	e.uint(1, uint64(r.Kind))
	e.head(cborUint, 2)
	e.at(&r.At)
	if r.Offset != 0 {
		e.int(3, r.Offset)
	}
	if r.Length != 0 {
		e.int(4, r.Length)
	}
	if r.After != "" {
		e.text(5, r.After)
	}
	if r.Limit != 0 {
		e.int(6, int64(r.Limit))
	}
	if r.IfVersion != 0 {
		e.uint(7, uint64(r.IfVersion))
	}
	if r.Name != "" {
		e.text(8, r.Name)
	}
	if r.Wait != 0 {
		e.int(9, r.Wait)
	}
	e.op(10, &r.Op)
}

func (e *quickEncoder) attr(a *Attr) {
	e.head(cborMap, 11+count(a.Rdev != 0, a.Parent != 0, a.NoXattrs))
	e.uint(1, uint64(a.Ino))
	e.uint(2, uint64(a.Mode))
	e.uint(3, uint64(a.Nlink))
	e.uint(4, uint64(a.UID))
	e.uint(5, uint64(a.GID))
	if a.Rdev != 0 {
		e.uint(6, uint64(a.Rdev))
	}
	e.int(7, a.Size)
	e.int(8, a.Blocks)
	e.int(9, a.Atime)
	e.int(10, a.Mtime)
	e.int(11, a.Ctime)
	e.uint(12, uint64(a.Version))
	if a.Parent != 0 {
		e.uint(13, uint64(a.Parent))
	}
	if a.NoXattrs {
		e.yes(14)
	}
}

// quickUnmarshal decodes b into v; false: it is something else, or unexpected,
// and v is as it was.
func quickUnmarshal(b []byte, v any) bool {
	d := quickDecoder{b: b}
	switch v := v.(type) {
	case *Piece:
		p := *v
		d.fields(func(key uint64) {
			switch key {
			case 1:
				p.Version = ID(d.uint(math.MaxUint64))
			case 2:
				p.Offset = d.int()
			case 3:
				p.Sum = uint32(d.uint(math.MaxUint32))
			default:
				d.bad = true
			}
		})
		return d.take(func() { *v = p })
	case *Read:
		r := *v
		d.read(&r)
		return d.take(func() { *v = r })
	case *PositionedRead:
		p := *v
		d.fields(func(key uint64) {
			switch key {
			case 1:
				d.epoch(&p.Epoch)
			case 2:
				p.Index = d.uint(math.MaxUint64)
			case 3:
				d.read(&p.Read)
			default:
				d.bad = true
			}
		})
		return d.take(func() { *v = p })
	case *ReadReply:
		r := *v
		d.fields(func(key uint64) {
			switch key {
			case 1:
				d.attr(&r.Attr)
			case 6:
				d.pair(&r.Position.Epoch, &r.Position.Index)
			default:
				d.bad = true
			}
		})
		return d.take(func() { *v = r })
	default:
		return d.message(v)
	}
}

// quickDecoder takes items from b until one is not as it should be.
type quickDecoder struct {
	b   []byte
	bad bool
}

// take takes what was decoded, if all of b was and as it should be.
func (d *quickDecoder) take(assign func()) bool {
	if d.bad || len(d.b) > 0 {
		return false
	}
	assign()
	return true
}

// head takes the beginning of an item.
func (d *quickDecoder) head() (major byte, n uint64) {
	if len(d.b) == 0 {
		d.bad = true
		return 0, 0
	}
	first := d.b[0]
	d.b = d.b[1:]
	major, n = first>>5, uint64(first&31)
	if n < 24 {
		return major, n
	}
	size := 1 << (n - 24)
	if n > 27 || len(d.b) < size {
		d.bad = true
		return 0, 0
	}
	n = 0
	for _, c := range d.b[:size] {
		n = n<<8 | uint64(c)
	}
	d.b = d.b[size:]
	return major, n
}

// fields calls field for each key of a map, if they are numbers in order.
func (d *quickDecoder) fields(field func(key uint64)) {
	major, n := d.head()
	d.bad = d.bad || major != cborMap
	for last := uint64(0); n > 0 && !d.bad; n-- {
		key := d.uint(math.MaxUint8)
		if d.bad = d.bad || key <= last; !d.bad {
			field(key)
		}
		last = key
	}
}

func (d *quickDecoder) uint(most uint64) uint64 {
	major, n := d.head()
	d.bad = d.bad || major != cborUint || n > most
	return n
}

func (d *quickDecoder) int() int64 {
	major, n := d.head()
	d.bad = d.bad || major != cborUint && major != cborNint || n > math.MaxInt64
	if major == cborNint {
		return -1 - int64(n)
	}
	return int64(n)
}

// string takes the bytes of a string of that type.
func (d *quickDecoder) string(want byte) []byte {
	major, n := d.head()
	if d.bad = d.bad || major != want || n > uint64(len(d.b)); d.bad {
		return nil
	}
	s := d.b[:n]
	d.b = d.b[n:]
	return s
}

// bits takes 128 of them.
func (d *quickDecoder) bits(to *[16]byte) {
	if s := d.string(cborBytes); len(s) == len(to) {
		copy(to[:], s)
	} else {
		d.bad = true
	}
}

// pair takes a map of two numbers.
func (d *quickDecoder) pair(first, second *uint64) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			*first = d.uint(math.MaxUint64)
		case 2:
			*second = d.uint(math.MaxUint64)
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) epoch(e *Epoch) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			e.Number = d.uint(math.MaxUint64)
		case 2:
			d.bits((*[16]byte)(&e.Run))
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) at(a *At) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			a.Dir = Ino(d.uint(math.MaxUint64))
		case 2:
			a.Path = string(d.string(cborText))
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) op(o *OpID) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			d.bits((*[16]byte)(&o.Session))
		case 2:
			o.Seq = d.uint(math.MaxUint64)
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) read(r *Read) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			r.Kind = ReadKind(d.uint(math.MaxUint8))
		case 2:
			d.at(&r.At)
		case 3:
			r.Offset = d.int()
		case 4:
			r.Length = d.int()
		case 5:
			r.After = string(d.string(cborText))
		case 6:
			r.Limit = int(d.int())
		case 7:
			r.IfVersion = ID(d.uint(math.MaxUint64))
		case 8:
			r.Name = string(d.string(cborText))
		case 9:
			r.Wait = d.int()
		case 10:
			d.op(&r.Op)
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) attr(a *Attr) {
	small := func() uint32 { return uint32(d.uint(math.MaxUint32)) }
	d.fields(func(key uint64) {
		switch key {
		case 1:
			a.Ino = Ino(d.uint(math.MaxUint64))
		case 2:
			a.Mode = small()
		case 3:
			a.Nlink = small()
		case 4:
			a.UID = small()
		case 5:
			a.GID = small()
		case 6:
			a.Rdev = small()
		case 7:
			a.Size = d.int()
		case 8:
			a.Blocks = d.int()
		case 9:
			a.Atime = d.int()
		case 10:
			a.Mtime = d.int()
		case 11:
			a.Ctime = d.int()
		case 12:
			a.Version = ID(d.uint(math.MaxUint64))
		case 13:
			a.Parent = Ino(d.uint(math.MaxUint64))
		case 14:
			a.NoXattrs = d.bool()
		default:
			d.bad = true
		}
	})
}
