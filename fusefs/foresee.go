package fusefs

import (
	"syscall"

	"tpcfs/wire"
)

// After its own change a mount would have to read again what that has changed:
// the attributes of what it has made, of the directory, of the file. It knows
// them: what they were when it asked for the change, under its lease, with the
// change applied as participants apply it (participant/store/apply.go) and the
// time that the reply tells. That holds if nothing has touched them meanwhile, as
// far as is heard: of what another mount has done nobody is told that it is done
// before this one has heard of it (F9), and then it forgets what it has foreseen.

// foresight is what was known before a change was asked for.
type foresight struct {
	asked uint64    // cache.number then
	was   wire.Attr // of the directory of the name that changes, or of the file; Ino 0: not known
}

// foresee is called before a mutation is sent.
func (c *cache) foresee(at wire.At) foresight {
	c.mu.Lock()
	defer c.mu.Unlock()
	if bootNow() >= c.until {
		return foresight{asked: c.number}
	}
	return foresight{c.number, c.attrs[at.Dir]}
}

// learn takes the outcome of a transaction of a file, or of a name: what it has
// touched is forgotten, what is foreseen of it is kept. The kernel has to forget
// attributes before the change is said to be done; the names it knows.
func (c *cache) learn(before foresight, at wire.At, now changes, out *wire.Outcome) recall {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.attrs[before.was.Ino] != before.was || !c.untouchedLocked(before.asked, before.was.Ino, now.made.Ino, at) {
		now = changes{}
	}
	alone := before.asked >= c.floor && before.asked >= c.inos[at.Dir]
	c.forgetTouchedLocked(out.Touched)
	r := c.recallLocked(out.Touched)
	if alone {
		r.heard = c.number
	}
	if bootNow() >= c.until || c.floor > before.asked {
		return r
	}
	for _, a := range []wire.Attr{now.was, now.made} {
		if a.Ino != 0 && len(c.attrs) < maxCached {
			c.attrs[a.Ino] = a
		}
	}
	if now.name && len(c.entries) < maxCached {
		c.entries[at] = now.made.Ino
	}
	return r
}

// untouchedLocked reports that nothing was heard, since it was asked at a number,
// of two inodes and a name.
func (c *cache) untouchedLocked(asked uint64, a, b wire.Ino, at wire.At) bool {
	return asked >= c.floor && asked >= c.inos[a] && asked >= c.inos[b] && asked >= c.names[at]
}

// changes is what a mutation has made of what was.
type changes struct {
	was  wire.Attr // what that is now; Ino 0: not known
	made wire.Attr // new; Ino 0: nothing
	name bool      // the name leads to made now, or nowhere
}

// foreseen applies a mutation; all zero: it cannot be told what it has done.
func foreseen(was wire.Attr, m *wire.Mutation, out *wire.Outcome) changes {
	if was.Ino == 0 || out.Time == 0 || len(out.Results) != 1 {
		return changes{}
	}
	if m.At.Path == "" {
		if m.Kind != wire.MutSetattr || m.Set&wire.SetSize != 0 {
			return changes{}
		}
		setForeseen(&was, m, was.Ctime, out.Time)
		return changes{was: was}
	}
	entries, dirs := -1, 0
	var made wire.Attr
	switch m.Kind {
	case wire.MutDeleteFile:
	case wire.MutRmdir:
		dirs = -1
	case wire.MutWriteFile, wire.MutMkdir, wire.MutSymlink, wire.MutMknod:
		if made = madeForeseen(was, m, out); made.Ino == 0 {
			return changes{}
		}
		if entries = 1; m.Kind == wire.MutMkdir {
			dirs = 1
		}
	default:
		return changes{}
	}
	was.Size += int64(entries)
	was.Nlink = uint32(int(was.Nlink) + dirs)
	changeForeseen(&was, out.Time, true)
	return changes{was, made, true}
}

// foreseenWrite applies the transaction that writes a file as a whole; all zero:
// it does more, or less.
func foreseenWrite(was wire.Attr, p *plan, out *wire.Outcome) changes {
	if was.Ino == 0 || out.Time == 0 || p.mutations[0].Kind != wire.MutWriteFile || p.mutations[0].Write != wire.WriteWhole {
		return changes{}
	}
	size, before := p.contents[0].Size(), was.Ctime
	was.Version, was.Size, was.Blocks = out.Tx, size, (size+511)/512
	changeForeseen(&was, p.mutations[0].ChangeTime(before, out.Time), true)
	for i := range p.mutations[1:] {
		m := &p.mutations[1+i]
		if m.Kind != wire.MutSetattr || m.Set&wire.SetSize != 0 {
			return changes{}
		}
		setForeseen(&was, m, before, out.Time)
	}
	return changes{was: was}
}

// madeForeseen is what a mutation has made in a directory; Ino 0: that is not
// known. A directory with the set-gid bit gives more than the mutation says.
func madeForeseen(dir wire.Attr, m *wire.Mutation, out *wire.Outcome) wire.Attr {
	r := out.Results[0]
	if !r.Created || dir.Mode&syscall.S_ISGID != 0 {
		return wire.Attr{}
	}
	a := wire.Attr{Ino: r.Ino, Mode: m.Mode & wire.ModePerm, Nlink: 1, UID: m.UID, GID: m.GID,
		Atime: out.Time, Mtime: out.Time, Ctime: out.Time, Version: out.Tx, NoXattrs: true}
	switch m.Kind {
	case wire.MutWriteFile:
		if m.Create != wire.MustNotExist || m.Write != wire.WriteWhole || m.Content.Size != 0 {
			return wire.Attr{}
		}
		a.Mode |= wire.ModeRegular
	case wire.MutMkdir:
		a.Mode, a.Nlink, a.Parent = a.Mode|wire.ModeDir, 2, dir.Ino
	case wire.MutSymlink:
		a.Mode, a.Size = wire.ModeSymlink|0o777, int64(len(m.Target))
	case wire.MutMknod:
		switch a.Mode |= m.Mode & wire.ModeType; m.Mode & wire.ModeType {
		case wire.ModeChar, wire.ModeBlock:
			a.Rdev = m.Rdev
		case wire.ModeRegular, wire.ModeFifo, wire.ModeSocket:
		default:
			return wire.Attr{}
		}
	default:
		return wire.Attr{}
	}
	return a
}

// setForeseen applies a setattr that leaves the size, by a transaction before
// which the ctime was before.
func setForeseen(a *wire.Attr, m *wire.Mutation, before, at int64) {
	if m.Set&wire.SetMode != 0 {
		a.Mode = a.Mode&wire.ModeType | m.Mode&wire.ModePerm
	}
	if m.Set&wire.SetUID != 0 {
		a.UID = m.UID
	}
	if m.Set&wire.SetGID != 0 {
		a.GID = m.GID
	}
	changeForeseen(a, m.ChangeTime(before, at), false)
	switch {
	case m.Set&wire.SetAtime != 0:
		a.Atime = m.Atime
	case m.Set&wire.SetAtimeNow != 0:
		a.Atime = at
	}
	switch {
	case m.Set&wire.SetMtime != 0:
		a.Mtime = m.Mtime
	case m.Set&wire.SetMtimeNow != 0:
		a.Mtime = at
	}
}

// changeForeseen gives a file that was there the times of a change. An mtime after
// the ctime is one that somebody has set.
func changeForeseen(a *wire.Attr, at int64, contents bool) {
	if contents && (a.Mtime < at || a.Mtime > a.Ctime) {
		a.Mtime = at
	}
	a.Ctime = max(a.Ctime, at)
}
