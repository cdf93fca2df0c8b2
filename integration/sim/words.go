package sim

import (
	"fmt"
	"strings"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// tracef writes a line of the trace, if somebody wants it.
func (w *world) tracef(format string, args ...any) {
	if w.trace != nil {
		w.trace(fmt.Sprintf("%4d  ", w.steps) + fmt.Sprintf(format, args...))
	}
}

var mutWords = map[wire.MutationKind]string{
	wire.MutWriteFile: "write", wire.MutDeleteFile: "delete", wire.MutMkdir: "mkdir", wire.MutRmdir: "rmdir",
	wire.MutRename: "rename", wire.MutSymlink: "symlink", wire.MutSetattr: "setattr",
	wire.MutLink: "link", wire.MutMknod: "mknod", wire.MutSetxattr: "setxattr", wire.MutRemovexattr: "removexattr",
	wire.MutCreateUnlinked: "createUnlinked", wire.MutReclaim: "reclaim",
	wire.MutAllocate: "allocate", wire.MutPunchHole: "punch", wire.MutZeroRange: "zero",
}

func mutationWords(m *wire.Mutation) string {
	s := mutWords[m.Kind] + " " + m.At.String()
	switch m.Kind {
	case wire.MutRename, wire.MutLink:
		s += [...]string{"", " without replacing", " in exchange"}[m.Rename] + " to " + m.To.String()
	case wire.MutSetxattr, wire.MutRemovexattr:
		s += fmt.Sprintf(" %s=%q%s", m.Name, m.Value, [...]string{"", ", create", ", replace"}[m.Xattr])
	case wire.MutWriteFile:
		s += " (" + partWords(m)
		if m.Content.Stage != 0 {
			s += fmt.Sprintf(", stage %v", m.Content.Stage)
		}
		s += [...]string{"", ", must exist", ", must not exist"}[m.Create] + ")"
	case wire.MutAllocate, wire.MutPunchHole, wire.MutZeroRange:
		s += fmt.Sprintf(" %d bytes at %d", m.Length, m.Offset)
		if m.KeepSize {
			s += ", keep size"
		}
	case wire.MutSetattr:
		if m.Set&wire.SetSize != 0 {
			s += fmt.Sprintf(" size %d", m.Size)
		}
		if m.Set&wire.SetMode != 0 {
			s += fmt.Sprintf(" mode %o", m.Mode)
		}
	default:
	}
	if m.Hold {
		s += ", hold"
	}
	if m.IfIno != 0 {
		s += fmt.Sprintf(" if inode %d", m.IfIno)
	}
	if m.IfVersion != 0 {
		s += fmt.Sprintf(" if version %v", m.IfVersion)
	}
	return s
}

func partWords(m *wire.Mutation) string {
	s := fmt.Sprintf("%d bytes", m.Content.Size)
	if m.Write != wire.WriteWhole {
		s = [...]string{wire.WriteExtents: "parts", wire.WriteAppend: "append"}[m.Write]
	}
	if m.Write != wire.WriteWhole && m.Set&wire.SetSize != 0 {
		s += fmt.Sprintf(" after a size of %d", m.Size)
	}
	for _, e := range m.Extents {
		s += fmt.Sprintf(", %d at %d", e.Size, e.Offset)
		if e.Stage != 0 {
			s += fmt.Sprintf(" of stage %v", e.Stage)
		}
	}
	return s
}

func (o *op) words() string {
	if o.id.Seq == 0 {
		return map[wire.ReadKind]string{wire.ReadFile: "read", wire.ReadList: "list", wire.ReadStat: "stat",
			wire.ReadGetxattr: "getxattr " + o.name, wire.ReadListxattr: "listxattr"}[o.kind] + " " + o.at.String()
	}
	var parts []string
	for i := range o.muts {
		parts = append(parts, mutationWords(&o.muts[i]))
	}
	return strings.Join(parts, "; ")
}

func (w *world) opWords(id wire.OpID) string {
	if o := w.byID[id]; o != nil {
		return fmt.Sprintf("%d (%s)", o.num, o.words())
	}
	return id.String()
}

func entryWords(epoch uint64, e *wire.Entry) string {
	s := fmt.Sprintf("%d.%d ", epoch, e.Index)
	switch e.Kind {
	case wire.EntryPrepare:
		return s + fmt.Sprintf("PREPARE %v", e.Prepare.Tx)
	case wire.EntryCommit:
		return s + fmt.Sprintf("COMMIT %v", e.Tx)
	case wire.EntryAbort:
		return s + fmt.Sprintf("ABORT %v", e.Tx)
	case wire.EntryConfig:
		return s + fmt.Sprintf("CONFIG %v", e.Config.ID)
	case wire.EntryOpen:
		return s + "OPEN"
	default:
		return s + "VOID"
	}
}

func readyWords(r *vote.Ready) string {
	switch {
	case len(r.SendAfterSync) > 0:
		return " -> record"
	case len(r.Send) > 0 && r.Send[0].Err != nil:
		return fmt.Sprintf(" -> NO: %v", r.Send[0].Err)
	case len(r.Send) > 0:
		return " -> DUP"
	}
	return ""
}

func votesWords(votes []wire.Vote) string {
	if len(votes) == 0 {
		return "nothing"
	}
	var parts []string
	for _, v := range votes {
		parts = append(parts, v.Tx.String())
	}
	return strings.Join(parts, ", ")
}

// votesUp says what votes a message carries.
func votesUp(votes []wire.Vote) string {
	var b strings.Builder
	for _, v := range votes {
		fmt.Fprintf(&b, "%s on %v, ", [...]string{"?", "YES", "NO", "DUP"}[v.Verdict], v.Tx)
	}
	return b.String()
}

func knownWords(known []wire.Testimony) string {
	if len(known) == 0 {
		return "nothing"
	}
	var parts []string
	for _, k := range known {
		parts = append(parts, fmt.Sprintf("%v %s", k.Tx, [...]string{"?", "prepared", "committed", "aborted", "refused"}[k.State]))
	}
	return strings.Join(parts, ", ")
}

func (g *readAnswer) words() string {
	var parts []string
	for _, e := range g.reply.Entries {
		parts = append(parts, fmt.Sprintf("%s=%d", e.Name, e.Attr.Ino))
	}
	return fmt.Sprintf("inode %d, version %v, %d bytes [%s]", g.reply.Attr.Ino, g.reply.Attr.Version, len(g.data), strings.Join(parts, " "))
}
