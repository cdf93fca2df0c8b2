package wire

import "slices"

// Lease is how long a mount may answer from what it has read, in
// milliseconds, counted from when it sent the Watch that was answered last (F9).
const Lease = 5000

// WatchEvery is how often a mount asks, in milliseconds, when nothing changes.
const WatchEvery = 1000

// MaxTouched bounds the inodes and names of a Touched; more is Wide.
const MaxTouched = 1024

// Touched is what transactions have changed.
type Touched struct {
	Wide bool  `cbor:"1,keyasint,omitempty"` // more than can be told: everything
	Inos []Ino `cbor:"2,keyasint,omitempty"` // contents or attributes of these
	// Names came, went or name another inode: each is one component.
	Names []At `cbor:"3,keyasint,omitempty"`
	// Left, in a vote, are the inodes that Prepare.Keep leaves without a name;
	// MoreLeft: they are more than can be told. Add joins neither.
	Left     []Ino `cbor:"4,keyasint,omitempty"`
	MoreLeft bool  `cbor:"5,keyasint,omitempty"`
}

// Add joins what others have touched to it, without doubles.
func (t *Touched) Add(o *Touched) {
	if t.Wide = t.Wide || o == nil || o.Wide; t.Wide {
		t.Inos, t.Names = nil, nil
		return
	}
	for _, ino := range o.Inos {
		t.AddIno(ino)
	}
	for _, at := range o.Names {
		t.AddName(at)
	}
}

// AddIno adds an inode; 0 is none.
func (t *Touched) AddIno(ino Ino) {
	if ino == 0 || t.Wide {
		return
	}
	for _, i := range t.Inos {
		if i == ino {
			return
		}
	}
	t.Inos = append(t.Inos, ino)
	t.bound()
}

// AddName adds a name, if it is one.
func (t *Touched) AddName(at At) {
	if at.Dir == 0 || at.Path == "" || t.Wide {
		return
	}
	for _, n := range t.Names {
		if n == at {
			return
		}
	}
	t.Names = append(t.Names, at)
	t.bound()
}

// Meets: have both touched the same thing, as far as is told?
func (t *Touched) Meets(o *Touched) bool {
	if o == nil || t.Wide || o.Wide {
		return true
	}
	return slices.ContainsFunc(o.Inos, func(ino Ino) bool { return slices.Contains(t.Inos, ino) }) ||
		slices.ContainsFunc(o.Names, func(at At) bool { return slices.Contains(t.Names, at) })
}

func (t *Touched) bound() {
	if len(t.Inos)+len(t.Names) > MaxTouched {
		*t = Touched{Wide: true}
	}
}

// Watch asks for a lease, or for more of it, and tells how much of what was
// told the session has forgotten. One at a time is under way for a session.
type Watch struct {
	Session SessionID `cbor:"1,keyasint"`
	Link    uint64    `cbor:"2,keyasint"`
	// Epoch and Number are those of the last Watched. Zero: the session has
	// forgotten all that it had read.
	Epoch  uint64 `cbor:"3,keyasint,omitempty"`
	Number uint64 `cbor:"4,keyasint,omitempty"`
	// Wait is how long the answer may take while there is nothing to tell, in
	// milliseconds.
	Wait int64 `cbor:"5,keyasint,omitempty"`
	// Holds are those of the last Watched's Unnamed that the session has open.
	Holds []Ino `cbor:"6,keyasint,omitempty"`
	// Lowest is the lowest sequence number of the session's requests that has no
	// answer: of the changes below it, but those of Lost, the session knows. 0: it is
	// told of all its changes.
	Lowest uint64 `cbor:"7,keyasint,omitempty"`
	// Lost are requests whose answer it will not hear. It is told of them as of others'.
	Lost []uint64 `cbor:"8,keyasint,omitempty"`
}

// MaxLost bounds the requests of a Watch's Lost.
const MaxLost = 64

// MaxUnnamed bounds the inodes of a Watched's Unnamed and a Watch's Holds.
const MaxUnnamed = 1024

// Watched answers Watch. From when the Watch was sent, for Lease milliseconds,
// nobody hears that a change is done before the session has forgotten what it
// has read of that, and said so in its next Watch. What it has asked for
// before this answer came, and is touched by it, it does not keep.
type Watched struct {
	Epoch   uint64  `cbor:"1,keyasint"`
	Number  uint64  `cbor:"2,keyasint"`
	Touched Touched `cbor:"3,keyasint"`
	// Unnamed are inodes without a name, of which the session says in its next
	// Watch which it has open: it holds them from then on (F7). The others it
	// opens no more.
	Unnamed []Ino `cbor:"4,keyasint,omitempty"`
	// Alone: no other session has a lease, or may have. When one comes, the
	// session is told soon, and not asked before.
	Alone bool `cbor:"5,keyasint,omitempty"`
	// Time is the coordinator's, in nanoseconds since 1970: no change has a later
	// one yet.
	Time int64 `cbor:"6,keyasint,omitempty"`
}
