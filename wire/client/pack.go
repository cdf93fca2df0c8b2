package client

import (
	"bytes"
	"io"

	"tpcfs/wire"
)

// A transaction of many changes or of many small contents is sent as a pack:
// one staged object in place of a long request and a stage for each content.
const (
	packContents = 64 << 10 // larger contents are staged by themselves, bytes
	packStages   = 4        // from so many small contents on that would be staged
	packNames    = wire.MaxBindings / 2
)

// packed is a pack on its way.
type packed struct {
	name  string
	inner []byte     // contents that are in it
	pack  *wire.Pack // nil: not staged yet
}

// wantsPack tells whether a transaction is too much for a plain request. all is
// the mutations with contents, the smallest first, inline the number of those
// that travel inside a plain one.
func (t *transaction) wantsPack(all []int, inline int) bool {
	small := 0
	for _, i := range all[inline:] {
		if t.contents[i].Size() <= packContents {
			small++
		}
		if len(t.muts[i].Extents) > 1 {
			return true // one stage is one extent's
		}
	}
	names := 160 * len(t.muts)
	for i := range t.muts {
		m := &t.muts[i]
		names += len(m.At.Path) + len(m.To.Path) + len(m.Target) + len(m.Value) + 40*len(m.Extents)
	}
	return small >= packStages || names > packNames
}

// inPack is how many of the mutations with contents, those of several extents
// first, then the smallest, have theirs in the pack.
func (t *transaction) inPack(all []int) (int, error) {
	head, err := wire.PackHeader(t.muts, 0)
	if err != nil {
		return 0, err // before anything is staged
	}
	room := int64(wire.MaxPack - len(head) - 64*len(all)) // what sizes and stages add
	for n, i := range all {
		size := t.contents[i].Size()
		if room -= size; room < 0 || size > packContents {
			return n, nil
		}
	}
	return len(all), nil
}

// stagePack brings the pack to the participants, when all stages that it names
// are there.
func (t *transaction) stagePack() error {
	head, err := wire.PackHeader(t.muts, len(t.packed.inner))
	if err != nil {
		return err
	}
	content := &packContent{head, t.packed.inner}
	reply, err := t.o.c.stageOne(t.o.ctx, content, t.packed.name, func(int64) {})
	if err != nil {
		return err
	}
	p := &wire.Pack{Stage: reply.ID, Size: reply.Size, Sum: reply.Sum, Count: len(t.muts), Name: t.packed.name}
	for i := range t.muts {
		p.Stages = append(p.Stages, t.muts[i].Stages()...)
	}
	t.packed.pack = p
	return nil
}

// packContent is a pack as a Content.
type packContent struct{ head, inner []byte }

func (c *packContent) Size() int64 { return int64(len(c.head) + len(c.inner)) }

func (c *packContent) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(bytes.NewReader(c.head), bytes.NewReader(c.inner))), nil
}
