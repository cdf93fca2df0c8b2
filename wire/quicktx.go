package wire

import "math"

// A commit is encoded and decoded at the client, at the coordinator and at each
// participant, so the codec of what it consists of is written out too. Rare
// fields, but those of mutations, are left to the general codec with all around them.

// message encodes v behind e; false: it is something else, or has rare
// fields.
func (e *quickEncoder) message(v any) bool {
	switch v := v.(type) {
	case Down:
		return e.down(&v)
	case Up:
		return e.up(&v)
	case Transact:
		return e.transact(&v)
	case TransactReply:
		return e.transactReply(&v)
	case Mutation:
		e.mutation(&v)
		return true
	case Outcome:
		e.outcome(&v)
		return true
	default:
		return false
	}
}

// yes encodes a field that is true.
func (e *quickEncoder) yes(key uint64) {
	e.head(cborUint, key)
	*e = append(*e, cborTrue)
}

// What is true, and false, in CBOR.
const (
	cborFalse = 0xf4
	cborTrue  = 0xf5
)

// array begins a field with so many items.
func (e *quickEncoder) array(key uint64, items int) {
	e.head(cborUint, key)
	e.head(cborArray, uint64(items))
}

func (e *quickEncoder) pair(key, first, second uint64) {
	e.head(cborUint, key)
	e.head(cborMap, 2)
	e.uint(1, first)
	e.uint(2, second)
}

func (e *quickEncoder) op(key uint64, o *OpID) {
	e.head(cborUint, key)
	e.head(cborMap, 2)
	e.bytes(1, o.Session[:])
	e.uint(2, o.Seq)
}

func (e *quickEncoder) at(a *At) {
	e.head(cborMap, count(a.Dir != 0, a.Path != ""))
	if a.Dir != 0 {
		e.uint(1, uint64(a.Dir))
	}
	if a.Path != "" {
		e.text(2, a.Path)
	}
}

func (e *quickEncoder) down(d *Down) bool {
	e.head(cborMap, 2+count(d.Entry != nil))
	if d.Entry != nil {
		e.head(cborUint, 1)
		if !e.entry(d.Entry) {
			return false
		}
	}
	e.pair(2, d.W.Epoch, d.W.Index)
	e.int(3, d.ServiceTime)
	return true
}

func (e *quickEncoder) entry(n *Entry) bool {
	if n.Config != nil || n.Root != nil {
		return false
	}
	e.head(cborMap, 2+count(n.Prepare != nil, n.Tx != 0))
	e.uint(1, n.Index)
	e.uint(2, uint64(n.Kind))
	if n.Prepare != nil {
		e.head(cborUint, 3)
		if !e.prepare(n.Prepare) {
			return false
		}
	}
	if n.Tx != 0 {
		e.uint(4, uint64(n.Tx))
	}
	return true
}

func (e *quickEncoder) prepare(p *Prepare) bool {
	if p.Pack != nil || len(p.Mutations) == 0 {
		return false
	}
	e.head(cborMap, 9+count(p.Keep))
	e.uint(1, uint64(p.Tx))
	e.pair(2, p.Config.Epoch, p.Config.Counter)
	e.op(3, &p.Op)
	e.uint(4, p.Lowest)
	e.int(5, p.Sent)
	e.int(6, p.Time)
	e.int(7, p.ServiceTime)
	e.pair(8, p.W.Epoch, p.W.Index)
	e.mutations(9, p.Mutations)
	if p.Keep {
		e.yes(11)
	}
	return true
}

func (e *quickEncoder) mutations(key uint64, list []Mutation) {
	e.array(key, len(list))
	for i := range list {
		e.mutation(&list[i])
	}
}

// some encodes a field unless it is zero, and is how many that are.
func (e *quickEncoder) some(key, v uint64) uint64 {
	if v == 0 {
		return 0
	}
	e.uint(key, v)
	return 1
}

func (e *quickEncoder) someInt(key uint64, v int64) uint64 {
	if v == 0 {
		return 0
	}
	e.int(key, v)
	return 1
}

func (e *quickEncoder) someText(key uint64, s string) uint64 {
	if s == "" {
		return 0
	}
	e.text(key, s)
	return 1
}

func (e *quickEncoder) someYes(key uint64, is bool) uint64 {
	if !is {
		return 0
	}
	e.yes(key)
	return 1
}

func (e *quickEncoder) mutation(m *Mutation) {
	begin := len(*e)
	*e = append(*e, 0) // the map's head, in case it is short
	n := 2 + e.mutationNames(m) + e.mutationAttrs(m) + e.mutationContents(m)
	if n < 24 {
		(*e)[begin] = cborMap<<5 | byte(n)
		return
	}
	*e = append(*e, 0)
	copy((*e)[begin+2:], (*e)[begin+1:])
	(*e)[begin], (*e)[begin+1] = cborMap<<5|24, byte(n)
}

// mutationNames encodes the first fields, and is how many there are beside the
// two that are never left out.
func (e *quickEncoder) mutationNames(m *Mutation) (n uint64) {
	e.uint(1, uint64(m.Kind))
	e.head(cborUint, 2)
	e.at(&m.At)
	if (m.To != At{}) {
		e.head(cborUint, 3)
		e.at(&m.To)
		n++
	}
	return n + e.some(4, uint64(m.IfVersion)) + e.some(5, uint64(m.Create))
}

func (e *quickEncoder) mutationAttrs(m *Mutation) (n uint64) {
	n = e.some(6, uint64(m.Mode)) + e.some(7, uint64(m.UID)) + e.some(8, uint64(m.GID)) + e.someText(9, m.Target)
	return n + e.some(10, uint64(m.Set)) + e.someInt(11, m.Size) + e.someInt(12, m.Atime) + e.someInt(13, m.Mtime)
}

// mutationContents encodes the rest.
func (e *quickEncoder) mutationContents(m *Mutation) (n uint64) {
	if c := &m.Content; *c != (Content{}) {
		e.head(cborUint, 14)
		e.head(cborMap, count(c.Size != 0, c.Stage != 0, c.Sum != 0))
		_ = e.someInt(1, c.Size) + e.some(2, uint64(c.Stage)) + e.some(3, uint64(c.Sum)) // as counted
		n++
	}
	n += e.some(15, uint64(m.Write))
	if len(m.Extents) > 0 {
		e.extents(16, m.Extents)
		n++
	}
	n += e.someYes(17, m.Hold) + e.some(18, uint64(m.Rename)) + e.some(19, uint64(m.Rdev)) + e.someText(20, m.Name)
	if len(m.Value) > 0 {
		e.bytes(21, m.Value)
		n++
	}
	n += e.some(22, uint64(m.Xattr)) + e.someInt(23, m.Offset) + e.someInt(24, m.Length) + e.someYes(25, m.KeepSize)
	return n + e.some(26, uint64(m.IfIno)) + e.someInt(27, m.Ctime)
}

func (e *quickEncoder) extents(key uint64, list []Extent) {
	e.array(key, len(list))
	for i := range list {
		x := &list[i]
		e.head(cborMap, 1+count(x.Offset != 0, x.Stage != 0, x.Sum != 0))
		if x.Offset != 0 {
			e.int(1, x.Offset)
		}
		e.int(2, x.Size)
		if x.Stage != 0 {
			e.uint(3, uint64(x.Stage))
		}
		if x.Sum != 0 {
			e.uint(4, uint64(x.Sum))
		}
	}
}

func (e *quickEncoder) up(u *Up) bool {
	e.head(cborMap, 3+count(len(u.Votes) > 0))
	if len(u.Votes) > 0 {
		e.array(1, len(u.Votes))
		for i := range u.Votes {
			if !e.vote(&u.Votes[i]) {
				return false
			}
		}
	}
	e.uint(2, u.Handled)
	e.uint(3, u.Durable)
	e.uint(4, u.Free)
	return true
}

func (e *quickEncoder) vote(v *Vote) bool {
	if v.Err != nil {
		return false
	}
	e.head(cborMap, 3+count(v.Outcome != nil, v.Touched != nil))
	e.uint(1, v.Index)
	e.uint(2, uint64(v.Tx))
	e.uint(3, uint64(v.Verdict))
	if v.Outcome != nil {
		e.head(cborUint, 5)
		e.outcome(v.Outcome)
	}
	if v.Touched != nil {
		e.head(cborUint, 6)
		e.touched(v.Touched)
	}
	return true
}

func (e *quickEncoder) inos(key uint64, list []Ino) {
	if len(list) == 0 {
		return
	}
	e.array(key, len(list))
	for _, ino := range list {
		e.head(cborUint, uint64(ino))
	}
}

func (e *quickEncoder) outcome(o *Outcome) {
	e.head(cborMap, 1+count(len(o.Results) > 0, len(o.Orphans) > 0))
	e.uint(1, uint64(o.Tx))
	if len(o.Results) > 0 {
		e.array(2, len(o.Results))
		for _, r := range o.Results {
			e.head(cborMap, 1+count(r.Created, r.Offset != 0))
			e.uint(1, uint64(r.Ino))
			if r.Created {
				e.yes(2)
			}
			if r.Offset != 0 {
				e.int(3, r.Offset)
			}
		}
	}
	e.inos(3, o.Orphans)
}

func (e *quickEncoder) touched(t *Touched) {
	e.head(cborMap, count(t.Wide, len(t.Inos) > 0, len(t.Names) > 0, len(t.Left) > 0, t.MoreLeft))
	if t.Wide {
		e.yes(1)
	}
	e.inos(2, t.Inos)
	if len(t.Names) > 0 {
		e.array(3, len(t.Names))
		for i := range t.Names {
			e.at(&t.Names[i])
		}
	}
	e.inos(4, t.Left)
	if t.MoreLeft {
		e.yes(5)
	}
}

func (e *quickEncoder) transact(t *Transact) bool {
	if t.Pack != nil || t.Behind != nil || len(t.Mutations) == 0 {
		return false
	}
	e.head(cborMap, 5+count(t.Wait != 0))
	e.op(1, &t.Op)
	e.uint(2, t.Link)
	e.uint(3, t.Lowest)
	e.int(4, t.Sent)
	if t.Wait != 0 {
		e.int(5, t.Wait)
	}
	e.mutations(6, t.Mutations)
	return true
}

func (e *quickEncoder) transactReply(r *TransactReply) bool {
	e.head(cborMap, 2+count(r.Touched != nil, r.Alone, r.Time != 0))
	e.head(cborUint, 1)
	e.outcome(&r.Outcome)
	e.int(2, r.ServiceTime)
	if r.Touched != nil {
		e.head(cborUint, 3)
		e.touched(r.Touched)
	}
	if r.Alone {
		e.yes(4)
	}
	if r.Time != 0 {
		e.int(5, r.Time)
	}
	return true
}

// message decodes into v; false: it is something else, or unexpected, and v is
// as it was. What v holds already where something would be added to it is
// unexpected.
func (d *quickDecoder) message(v any) bool {
	switch v := v.(type) {
	case *Down:
		n := *v
		d.bad = n.Entry != nil
		d.down(&n)
		return d.take(func() { *v = n })
	case *Up:
		n := *v
		d.bad = n.Votes != nil
		d.up(&n)
		return d.take(func() { *v = n })
	case *Transact:
		n := *v
		d.bad = n.Mutations != nil
		d.transact(&n)
		return d.take(func() { *v = n })
	case *TransactReply:
		n := *v
		d.bad = n.Touched != nil || n.Outcome.Results != nil || n.Outcome.Orphans != nil
		d.transactReply(&n)
		return d.take(func() { *v = n })
	case *Mutation:
		n := *v
		d.bad = n.Extents != nil || n.Value != nil
		d.mutation(&n)
		return d.take(func() { *v = n })
	case *Outcome:
		n := *v
		d.bad = n.Results != nil || n.Orphans != nil
		d.outcome(&n)
		return d.take(func() { *v = n })
	default:
		return false
	}
}

// each decodes each item of an array, which has some. The list is made once: an item
// is a byte at least, so it is no longer than what is there.
func each[T any](d *quickDecoder, list *[]T, item func(*T)) {
	major, n := d.head()
	if d.bad = d.bad || major != cborArray || n == 0 || n > MaxMutations || n > uint64(len(d.b)); d.bad {
		return
	}
	*list = make([]T, n)
	for i := 0; i < len(*list) && !d.bad; i++ {
		item(&(*list)[i])
	}
}

func (d *quickDecoder) bool() bool {
	if len(d.b) == 0 || d.b[0] != cborFalse && d.b[0] != cborTrue {
		d.bad = true
		return false
	}
	is := d.b[0] == cborTrue
	d.b = d.b[1:]
	return is
}

func (d *quickDecoder) down(v *Down) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			v.Entry = new(Entry)
			d.entry(v.Entry)
		case 2:
			d.pair(&v.W.Epoch, &v.W.Index)
		case 3:
			v.ServiceTime = d.int()
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) entry(v *Entry) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			v.Index = d.uint(math.MaxUint64)
		case 2:
			v.Kind = EntryKind(d.uint(math.MaxUint8))
		case 3:
			v.Prepare = new(Prepare)
			d.prepare(v.Prepare)
		case 4:
			v.Tx = ID(d.uint(math.MaxUint64))
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) prepare(v *Prepare) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			v.Tx = ID(d.uint(math.MaxUint64))
		case 2:
			d.pair(&v.Config.Epoch, &v.Config.Counter)
		case 3:
			d.op(&v.Op)
		case 4:
			v.Lowest = d.uint(math.MaxUint64)
		case 5:
			v.Sent = d.int()
		case 6:
			v.Time = d.int()
		case 7:
			v.ServiceTime = d.int()
		case 8:
			d.pair(&v.W.Epoch, &v.W.Index)
		case 9:
			d.mutations(&v.Mutations)
		case 11:
			v.Keep = d.bool()
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) mutations(list *[]Mutation) {
	each(d, list, d.mutation)
}

func (d *quickDecoder) mutation(v *Mutation) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			v.Kind = MutationKind(d.uint(math.MaxUint8))
		case 2:
			d.at(&v.At)
		case 3:
			d.at(&v.To)
		case 4:
			v.IfVersion = ID(d.uint(math.MaxUint64))
		case 5:
			v.Create = CreateMode(d.uint(math.MaxUint8))
		case 14:
			d.content(&v.Content)
		case 15:
			v.Write = WriteMode(d.uint(math.MaxUint8))
		case 16:
			each(d, &v.Extents, d.extent)
		case 17:
			v.Hold = d.bool()
		case 18:
			v.Rename = RenameMode(d.uint(math.MaxUint8))
		case 26:
			v.IfIno = Ino(d.uint(math.MaxUint64))
		case 27:
			v.Ctime = d.int()
		default:
			d.mutationAttr(key, v)
		}
	})
}

// mutationAttr takes the rarer fields.
func (d *quickDecoder) mutationAttr(key uint64, v *Mutation) {
	small := func() uint32 { return uint32(d.uint(math.MaxUint32)) }
	switch key {
	case 6:
		v.Mode = small()
	case 7:
		v.UID = small()
	case 8:
		v.GID = small()
	case 9:
		v.Target = string(d.string(cborText))
	case 10:
		v.Set = SetMask(d.uint(math.MaxUint16))
	case 11:
		v.Size = d.int()
	case 12:
		v.Atime = d.int()
	case 13:
		v.Mtime = d.int()
	case 19:
		v.Rdev = small()
	case 20:
		v.Name = string(d.string(cborText))
	case 21:
		v.Value = append([]byte(nil), d.string(cborBytes)...)
		d.bad = d.bad || len(v.Value) == 0
	case 22:
		v.Xattr = XattrMode(d.uint(math.MaxUint8))
	case 23:
		v.Offset = d.int()
	case 24:
		v.Length = d.int()
	case 25:
		v.KeepSize = d.bool()
	default:
		d.bad = true
	}
}

func (d *quickDecoder) content(v *Content) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			v.Size = d.int()
		case 2:
			v.Stage = ID(d.uint(math.MaxUint64))
		case 3:
			v.Sum = uint32(d.uint(math.MaxUint32))
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) extent(v *Extent) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			v.Offset = d.int()
		case 2:
			v.Size = d.int()
		case 3:
			v.Stage = ID(d.uint(math.MaxUint64))
		case 4:
			v.Sum = uint32(d.uint(math.MaxUint32))
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) up(v *Up) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			each(d, &v.Votes, d.vote)
		case 2:
			v.Handled = d.uint(math.MaxUint64)
		case 3:
			v.Durable = d.uint(math.MaxUint64)
		case 4:
			v.Free = d.uint(math.MaxUint64)
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) vote(v *Vote) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			v.Index = d.uint(math.MaxUint64)
		case 2:
			v.Tx = ID(d.uint(math.MaxUint64))
		case 3:
			v.Verdict = Verdict(d.uint(math.MaxUint8))
		case 5:
			v.Outcome = new(Outcome)
			d.outcome(v.Outcome)
		case 6:
			v.Touched = new(Touched)
			d.touched(v.Touched)
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) inos(list *[]Ino) {
	each(d, list, func(ino *Ino) { *ino = Ino(d.uint(math.MaxUint64)) })
}

func (d *quickDecoder) outcome(v *Outcome) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			v.Tx = ID(d.uint(math.MaxUint64))
		case 2:
			each(d, &v.Results, d.result)
		case 3:
			d.inos(&v.Orphans)
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) result(v *Result) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			v.Ino = Ino(d.uint(math.MaxUint64))
		case 2:
			v.Created = d.bool()
		case 3:
			v.Offset = d.int()
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) touched(v *Touched) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			v.Wide = d.bool()
		case 2:
			d.inos(&v.Inos)
		case 3:
			each(d, &v.Names, d.at)
		case 4:
			d.inos(&v.Left)
		case 5:
			v.MoreLeft = d.bool()
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) transact(v *Transact) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			d.op(&v.Op)
		case 2:
			v.Link = d.uint(math.MaxUint64)
		case 3:
			v.Lowest = d.uint(math.MaxUint64)
		case 4:
			v.Sent = d.int()
		case 5:
			v.Wait = d.int()
		case 6:
			d.mutations(&v.Mutations)
		default:
			d.bad = true
		}
	})
}

func (d *quickDecoder) transactReply(v *TransactReply) {
	d.fields(func(key uint64) {
		switch key {
		case 1:
			d.outcome(&v.Outcome)
		case 2:
			v.ServiceTime = d.int()
		case 3:
			v.Touched = new(Touched)
			d.touched(v.Touched)
		case 4:
			v.Alone = d.bool()
		case 5:
			v.Time = d.int()
		default:
			d.bad = true
		}
	})
}
