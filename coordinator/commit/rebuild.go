package commit

import (
	"fmt"
	"slices"
	"strings"

	"tpcfs/wire"
)

// Holding is what a participant holds that was asked without being greeted: what it
// would answer, without its testimony. It need not be durable.
type Holding struct {
	Name     string // as who asks knows it
	Greeting wire.Greeting
}

// Rebuilding is how a lost journal is made up for.
type Rebuilding struct {
	Held      []Holding // of those that have answered
	Silent    int       // that have not
	Lost      []string  // by an operator's word, for good
	Force     bool      // ... though one of them may know of a newer config
	MinInSync int       // as in Options
	Majority  bool
	StandIn   wire.SessionID // random
	Edit      wire.Edit      // who says so, and when
}

// rebuiltEpochs is how far a rebuilt journal's epoch is ahead of all that were heard of:
// who was not heard may have been greeted by starts that met nobody else.
const rebuiltEpochs = 1024

// Rebuild makes up for a coordinator's journal that is lost, or old (P13), from what
// participants hold: the record that takes its place. had is what is left of it. Where
// that is as new as what they hold it is a LEASE: sessions may have begun since. Where no
// cluster was ever made it is an EPOCH, from which one can be.
//
// The newest config that anybody holds was recorded. A later one that was in force is
// durable at each member of it that the one before had, too; only admissions are not,
// under which nothing was decided without the members before. So all members of the
// newest have to answer and be whole, and of the configured participants so many that
// any later one has a member among them. With some declared lost all the others have to
// answer; if those are fewer, what was acknowledged without them is lost, too, and that
// takes another word. Recovery then asks the same members as ever (P7), without the
// decisions that the journal had: whatever was answered can be told from theirs.
//
// Of sessions nothing is known: the stand-in counts for all that had a lease. It is
// waited for as those would be (F10), and does not come.
//
// Errors are *wire.Error: CodeUnavailable where participants are missing that may know
// more, CodeInvalid for a word that cannot be, CodeCorrupt where they are not of one
// cluster.
func Rebuild(had *State, r Rebuilding) (*Record, error) {
	newest, err := NewestConfig(r.Held)
	if err != nil {
		return nil, err
	}
	c := had.Config
	stale := c == nil && newest != nil
	switch {
	case c == nil:
	case newest != nil && newest.Cluster != c.Cluster:
		return nil, corrupt("the journal is of cluster %v, the participants are of cluster %v: give another directory", c.Cluster, newest.Cluster)
	case newest != nil && newest.ID.Compare(c.ID) > 0:
		stale = true
	case newest == nil || newest.ID != c.ID:
		newest = c
	}
	rec := &Record{Kind: RecSnapshot, Epoch: had.Epoch, Leases: []wire.SessionID{r.StandIn}}
	for i := range r.Held {
		g := &r.Held[i].Greeting
		if g.ServiceTime < 0 || g.ServiceTime > maxServiceTime || g.Time < 0 || g.Time > maxTime {
			return nil, corrupt("%s knows of a time that nobody can have reached", r.Held[i].Name)
		}
		stale = stale || newest != nil && (g.Held.Number > had.Epoch.Number || g.Held.Number == had.Epoch.Number && g.Held.Run != had.Epoch.Run)
		rec.Epoch.Number = max(rec.Epoch.Number, g.Held.Number, g.LastID.Epoch(), g.Config.ID.Epoch, g.W.Epoch)
		rec.ServiceTime, rec.Time = max(rec.ServiceTime, g.ServiceTime), max(rec.Time, g.Time)
		if rec.W.Before(g.W) {
			rec.W = g.W
		}
	}
	switch ahead := rec.Epoch.Number > had.Epoch.Number; {
	case newest == nil && r.Silent+len(r.Lost) > 0:
		return nil, wire.NewError(wire.CodeUnavailable, "nobody who has answered holds a config, and there are others. Nothing was changed")
	case newest == nil && (!ahead || slices.ContainsFunc(r.Held, func(h Holding) bool { return h.Greeting.Resync != "" })):
		return nil, wire.NewError(wire.CodeInvalid, "nobody who was asked holds what a journal can be rebuilt from: are these the right participants? Without --rebuild a new cluster is made. Nothing was changed")
	case newest == nil: // coordinators began, and none came as far as a config
		return &Record{Kind: RecEpoch, Epoch: wire.Epoch{Number: rec.Epoch.Number + rebuiltEpochs, Run: wire.UUID(r.StandIn)}}, nil
	case !stale:
		return &Record{Kind: RecLease, Lease: &LeaseRecord{Session: r.StandIn}}, nil
	}
	if err := r.heardEnough(newest); err != nil {
		return nil, err
	}
	if rec.Epoch.Number += rebuiltEpochs; rec.Epoch.Number >= 1<<23-1 {
		return nil, corrupt("epoch %d has been heard of, and nearly all that there can be are used up", rec.Epoch.Number-rebuiltEpochs)
	}
	rec.Epoch.Run = wire.UUID(r.StandIn)
	rec.Config = r.config(newest)
	return rec, nil
}

// NewestConfig is the newest config that anybody holds; nil: nobody holds one. The error
// is that of participants of different clusters.
func NewestConfig(held []Holding) (*wire.Config, error) {
	var newest *wire.Config
	for i := range held {
		c := &held[i].Greeting.Config
		switch {
		case c.ID == wire.ConfigID{}:
		case newest != nil && newest.Cluster != c.Cluster:
			return nil, corrupt("%s is of cluster %v, others are of cluster %v: name the participants of one cluster", held[i].Name, c.Cluster, newest.Cluster)
		case newest == nil || c.ID.Compare(newest.ID) > 0:
			newest = c
		}
	}
	return newest, nil
}

// config is that one without those that are lost, and with the word about it.
func (r *Rebuilding) config(newest *wire.Config) *wire.Config {
	c := *newest
	c.InSync = slices.DeleteFunc(slices.Clone(c.InSync), func(name string) bool { return slices.Contains(r.Lost, name) })
	e := r.Edit
	e.Config, e.What, e.Forced = c.ID, "the coordinator's journal was rebuilt from what the participants hold", len(r.Lost) > 0
	if e.Forced {
		e.What += "; " + strings.Join(r.Lost, ", ") + " declared lost"
	}
	if r.Force {
		e.What += ", with what was acknowledged without the others"
	}
	c.Edits = append(slices.Clone(c.Edits), e)
	c.Edits = c.Edits[max(0, len(c.Edits)-wire.MaxEdits):]
	return &c
}

// heardEnough: have all members of that config answered, and so many others that a later
// one would have shown itself?
func (r *Rebuilding) heardEnough(c *wire.Config) error {
	for _, name := range r.Lost {
		if !slices.ContainsFunc(c.Configured, func(mem wire.Member) bool { return mem.Name == name }) {
			return &wire.Error{Code: wire.CodeInvalid, Text: fmt.Sprintf("%s cannot be declared lost: the newest config that was found, %v, does not have it. Nothing was changed", name, c.ID)}
		}
	}
	var missing []string
	answered, stay := 0, 0
	for _, mem := range c.Configured {
		in := slices.Contains(c.InSync, mem.Name)
		there, why := r.standing(mem)
		if slices.Contains(r.Lost, mem.Name) {
			if there && why == "" {
				return &wire.Error{Code: wire.CodeInvalid, Text: fmt.Sprintf("%s (%s) is there and has its data: it is not lost. Nothing was changed", mem.Name, mem.Addr)}
			}
			continue
		}
		switch {
		case in && why != "", len(r.Lost) > 0 && !there:
			missing = append(missing, fmt.Sprintf("%s (%s) %s", mem.Name, mem.Addr, why))
		case in:
			stay++
		}
		if there {
			answered++
		}
	}
	least := LeastOf(len(c.Configured), r.MinInSync, r.Majority)
	need := StartsWith(len(c.Configured), least)
	switch {
	case len(missing) > 0:
		return &wire.Error{Code: wire.CodeUnavailable, Text: fmt.Sprintf(
			"the newest config that was found, %v, has %s in sync, and these have to be there and whole, or to be declared lost: %s. Nothing was changed",
			c.ID, strings.Join(c.InSync, ", "), strings.Join(missing, "; "))}
	case stay == 0:
		return &wire.Error{Code: wire.CodeInvalid, Text: fmt.Sprintf("all that are in sync (%s) are declared lost: nobody is left who has everything. Nothing was changed", strings.Join(c.InSync, ", "))}
	case len(r.Lost) == 0 && answered < need:
		return &wire.Error{Code: wire.CodeUnavailable, Text: fmt.Sprintf(
			"%d of %d participants have answered, and with --min-in-sync %d one of the others may know of a newer config: %d have to, or the others to be declared lost. Nothing was changed",
			answered, len(c.Configured), least, need)}
	case answered < need && !r.Force:
		return &wire.Error{Code: wire.CodeInvalid, Text: fmt.Sprintf(
			"with %s declared lost %d of %d participants are left, and with --min-in-sync %d the others may have gone on without them: what was acknowledged since is lost then. If it has to be: --force. Nothing was changed",
			strings.Join(r.Lost, ", "), answered, len(c.Configured), least)}
	}
	return nil
}

// standing tells whether a configured participant has answered, and why it may not
// testify; "": it may.
func (r *Rebuilding) standing(mem wire.Member) (there bool, why string) {
	why = "has not answered"
	for i := range r.Held {
		switch g := &r.Held[i].Greeting; {
		case mem.Storage.IsZero() && r.Held[i].Name == mem.Name:
			// An empty disk is no answer: it may have been let in, and lost, since.
			return g.Config.ID != wire.ConfigID{}, "has not caught up yet"
		case g.Storage != mem.Storage:
			if r.Held[i].Name == mem.Name {
				why = "has the data of another one, or none"
			}
		case g.Resync != "":
			return true, "may not testify: " + g.Resync
		case g.Config.ID == wire.ConfigID{}:
			return true, "holds no config (if the cluster has never served, begin anew on empty directories)"
		default:
			return true, ""
		}
	}
	return false, why
}
