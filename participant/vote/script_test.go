package vote

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"tpcfs/wire"
)

var update = flag.Bool("update", false, "write what the scripts print into testdata")

// TestScripts runs testdata/scripts/*.txt: each line that is not indented is a
// command, the indented ones after it are what it has to print.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/scripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
			for i := range max(len(g), len(w)) {
				if i >= len(g) || i >= len(w) || g[i] != w[i] {
					t.Fatalf("%s:%d\n got %q\nwant %q", file, i+1, g[min(i, len(g)-1)], w[min(i, len(w)-1)])
				}
			}
		})
	}
}

func runScript(t *testing.T, script string) string {
	s := newScripted(t)
	var out strings.Builder
	for _, line := range strings.Split(strings.TrimRight(script, "\n"), "\n") {
		if strings.HasPrefix(line, "  ") {
			continue
		}
		out.WriteString(line + "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		for _, l := range s.run(line) {
			out.WriteString("  " + l + "\n")
		}
	}
	return out.String()
}

// scripted is a machine with its store and journal, driven by words.
type scripted struct {
	t       testing.TB
	view    *fakeView
	m       *Machine
	journal [][]byte
	now     int64 // service time, ms
	seq     uint64
}

func newScripted(t testing.TB) *scripted {
	v := newFakeView()
	return &scripted{t: t, view: v, m: New(v), now: 1000}
}

func (s *scripted) run(line string) []string {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "begin": // an epoch, bootstrapped and open
		s.must(s.greet(rest))
		s.entry(&wire.Entry{Kind: wire.EntryConfig, Config: s.config(), Root: &wire.Root{Mode: 0o755}})
		s.entry(&wire.Entry{Kind: wire.EntryOpen})
		return nil
	case "greet":
		return s.greet(rest)
	case "config":
		e := &wire.Entry{Kind: wire.EntryConfig, Config: s.config()}
		if rest == "root" {
			e.Root = &wire.Root{Mode: 0o755}
		}
		return s.entry(e)
	case "open":
		return s.entry(&wire.Entry{Kind: wire.EntryOpen})
	case "void":
		return s.entry(&wire.Entry{Kind: wire.EntryVoid})
	case "commit":
		return s.entry(&wire.Entry{Kind: wire.EntryCommit, Tx: s.id(rest)})
	case "abort":
		return s.entry(&wire.Entry{Kind: wire.EntryAbort, Tx: s.id(rest)})
	case "skip": // an entry that is not the next one
		return s.step(s.m.Handle(&wire.Entry{Index: s.m.position.Index + 2, Kind: wire.EntryVoid}))
	case "prepare":
		return s.prepare(rest)
	case "do": // prepare and commit
		lines := s.prepare(rest)
		id, _, _ := strings.Cut(rest, " ")
		return append(lines, s.entry(&wire.Entry{Kind: wire.EntryCommit, Tx: s.id(id)})...)
	case "beat":
		w, ms, _ := strings.Cut(rest, " ")
		return s.step(s.m.Heartbeat(s.position(w), s.number(ms)))
	case "stage":
		id, size, _ := strings.Cut(rest, " ")
		s.view.stages[s.id(id)] = wire.Content{Size: s.number(size), Sum: 7}
		return nil
	case "time":
		s.now = s.number(rest)
		return nil
	case "full", "space":
		s.view.full = word == "full"
		return nil
	case "broken":
		s.view.broken = wire.NewError(wire.CodeCorrupt, "rotten row")
		return nil
	case "restart":
		s.restart()
		return nil
	case "known":
		return s.known()
	case "revotes":
		return votes("again", s.m.Revotes())
	case "state":
		return []string{fmt.Sprintf("fence %d, position %v, w %v, time %d, config %v, open %v, in doubt %d, locks %d, last id %v",
			s.m.fence.Number, s.m.position, s.m.w, s.m.serviceTime, s.m.config.ID, s.m.opened, s.m.prepared, len(s.m.locks), s.m.lastID)}
	}
	s.t.Fatalf("unknown command %q", line)
	return nil
}

func (s *scripted) must(lines []string) {
	for _, l := range lines {
		if strings.Contains(l, "refused") {
			s.t.Fatal(l)
		}
	}
}

func (s *scripted) number(v string) int64 {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *scripted) position(v string) wire.Position {
	epoch, index, _ := strings.Cut(v, ".")
	return wire.Position{Epoch: uint64(s.number(epoch)), Index: uint64(s.number(index))}
}

func (s *scripted) id(v string) wire.ID {
	p := s.position(v)
	return wire.MakeID(p.Epoch, p.Index)
}

func (s *scripted) config() *wire.Config {
	return &wire.Config{ID: wire.ConfigID{Epoch: s.m.fence.Number, Counter: 1}, Cluster: wire.UUID{9}, InSync: []string{"a", "b", "c"}}
}

// greet N [run].
func (s *scripted) greet(rest string) []string {
	n, run, _ := strings.Cut(rest, " ")
	run, name, outside := strings.Cut(run, " outside ")
	g := wire.Greet{Epoch: wire.Epoch{Number: uint64(s.number(n))}, Outside: outside, Name: name}
	copy(g.Epoch.Run[:], run)
	greeting, r, err := s.m.Greet(g, wire.UUID{1})
	lines := s.step(r, err)
	if err == nil {
		lines = append(lines, fmt.Sprintf("held %d, position %v, known %d", greeting.Held.Number, greeting.Position, len(greeting.Known)))
		if greeting.Resync != "" {
			lines = append(lines, "out of sync: "+greeting.Resync)
		}
	}
	return lines
}

func (s *scripted) entry(e *wire.Entry) []string {
	e.Index = s.m.position.Index + 1
	return s.step(s.m.Handle(e))
}

func (s *scripted) step(r Ready, err error) []string {
	if err != nil {
		return []string{"refused: " + err.Error()}
	}
	var lines []string
	if r.Record != nil {
		rec, err := DecodeRecord(r.Record)
		if err != nil {
			s.t.Fatal(err)
		}
		if !bytes.Equal(rec.Encode(), r.Record) {
			s.t.Fatalf("%v is encoded in two ways", rec.Kind)
		}
		how := "lazy"
		if r.Force {
			how = "forced"
		}
		lines = append(lines, fmt.Sprintf("%v %s at %v", rec.Kind, how, r.Position))
		if rec.Tx != nil {
			for i := range rec.Tx.Bounds {
				lines = append(lines, boundText(&rec.Tx.Bounds[i]))
			}
		}
		s.journal = append(s.journal, r.Record)
	}
	lines = append(lines, votes("now", r.Send)...)
	lines = append(lines, votes("after sync", r.SendAfterSync)...)
	for _, tx := range r.Discard {
		lines = append(lines, fmt.Sprintf("give up %v", tx.ID))
	}
	switch {
	case r.Commit != nil:
		lines = append(lines, fmt.Sprintf("apply %v", r.Commit.ID))
	case r.Abort != nil:
		lines = append(lines, fmt.Sprintf("drop %v", r.Abort.ID))
	case r.Bootstrap != nil:
		lines = append(lines, "bootstrap")
	case r.Opened:
		lines = append(lines, "opened")
	}
	s.view.give(&r)
	return lines
}

func votes(when string, list []wire.Vote) []string {
	var lines []string
	for _, v := range list {
		l := fmt.Sprintf("%s: vote %v at %d: ", when, v.Tx, v.Index)
		switch v.Verdict {
		case wire.VoteYes:
			l += "YES"
		case wire.VoteDup:
			l += fmt.Sprintf("DUP of %v", v.Outcome.Tx)
		case wire.VoteNo:
			l += "NO, " + v.Err.Error()
			if v.Err.Code == wire.CodeSymlink {
				l += fmt.Sprintf(" [%q -> %q, rest %q]", v.Err.Prefix, v.Err.Target, v.Err.Rest)
			}
		}
		lines = append(lines, l)
	}
	return lines
}

func inoText(ino wire.Ino) string {
	if ino == wire.RootIno {
		return "root"
	}
	return wire.ID(ino).String()
}

func boundText(b *Bound) string {
	l := fmt.Sprintf("- %s %s", opNames[b.Kind], inoText(b.Ino))
	if b.Created {
		l += " new"
	}
	if b.Dir != 0 {
		l += fmt.Sprintf(" in %s as %q", inoText(b.Dir), b.Name)
	}
	if b.ToDir != 0 {
		l += fmt.Sprintf(" to %s as %q", inoText(b.ToDir), b.ToName)
	}
	if b.Replaced != 0 {
		l += " replaces " + inoText(b.Replaced)
	}
	for _, f := range []struct {
		set  bool
		text string
	}{{b.Hold, " held"}, {b.Exchange, " exchanged"}, {b.Orphan, " orphan"}, {b.Rdev != 0, fmt.Sprintf(" rdev %d", b.Rdev)},
		{b.Xattr != "", fmt.Sprintf(" %s=%.20q", b.Xattr, b.Value)}, {b.Xattrs != 0, fmt.Sprintf(" with %d attributes", b.Xattrs)}} {
		if f.set {
			l += f.text
		}
	}
	if b.Mode != 0 {
		l += fmt.Sprintf(" mode %o", b.Mode)
	}
	if b.GID != 0 {
		l += fmt.Sprintf(" gid %d", b.GID)
	}
	if b.Set&wire.SetSize != 0 {
		l += fmt.Sprintf(" size %d tail %v", b.Size, b.Tail != nil)
	}
	if b.Content != (wire.Content{}) {
		l += fmt.Sprintf(" %d bytes", b.Content.Size)
	}
	return l
}

func (s *scripted) known() []string {
	var lines []string
	names := map[wire.TxState]string{wire.TxPrepared: "prepared", wire.TxCommitted: "committed", wire.TxAborted: "aborted", wire.TxRefused: "refused"}
	for _, k := range s.m.Testimony() {
		lines = append(lines, fmt.Sprintf("%v %s, prepared at %v, outcome %v, stages %v", k.Tx, names[k.State], k.Prepared, k.Outcome != nil, k.Stages))
	}
	return lines
}

// restart replaces the machine by one that was restored from the first half of
// what happened and replayed the rest: it must be the same.
func (s *scripted) restart() {
	half := len(s.journal) / 2
	v := newFakeView()
	m := New(v)
	replayAll(s.t, m, v, s.journal[:half])
	m2, err := Restore(v, m.Snapshot())
	if err != nil {
		s.t.Fatal(err)
	}
	replayAll(s.t, m2, v, s.journal[half:])
	if err := sameMachine(s.m, m2); err != nil {
		s.t.Fatal(err)
	}
	m2.view, s.m = s.view, m2
}

func replayAll(t interface{ Fatalf(string, ...any) }, m *Machine, v *fakeView, records [][]byte) {
	for i, rec := range records {
		r, err := m.Replay(bytes.Clone(rec))
		if err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		v.give(&r)
	}
}

// sameMachine compares all that a machine's later answers depend on.
func sameMachine(a, b *Machine) error {
	if x, y := a.Snapshot(), b.Snapshot(); !bytes.Equal(x, y) {
		return fmt.Errorf("snapshots differ: %d and %d bytes\n%+v\n%+v", len(x), len(y), a, b)
	}
	if !sameLocks(a.locks, b.locks) {
		return fmt.Errorf("locks differ: %v and %v", a.locks, b.locks)
	}
	if !reflect.DeepEqual(a.stages, b.stages) || !reflect.DeepEqual(a.ops, b.ops) || a.prepared != b.prepared {
		return fmt.Errorf("what is in doubt differs: %v %v, %v %v", a.stages, b.stages, a.ops, b.ops)
	}
	return nil
}

func sameLocks(a, b lockTable) bool {
	norm := func(t lockTable) map[lockKey]map[wire.ID]bool {
		n := map[lockKey]map[wire.ID]bool{}
		for k, h := range t {
			n[k] = map[wire.ID]bool{}
			for _, id := range h.shared {
				n[k][id] = true
			}
			if h.exclusive != 0 {
				n[k][h.exclusive|1<<63] = true
			}
		}
		return n
	}
	return reflect.DeepEqual(norm(a), norm(b))
}

// prepare TX [op=N] [sent=MS] [w=E.I] [cfg=E.C] MUTATION[; MUTATION]...
func (s *scripted) prepare(rest string) []string {
	id, rest, _ := strings.Cut(rest, " ")
	s.seq++
	p := &wire.Prepare{Tx: s.id(id), Config: s.m.config.ID, Op: wire.OpID{Session: wire.SessionID{1}, Seq: 1000 + s.seq}, Sent: s.now, ServiceTime: s.now, Time: 5}
	for {
		key, value, ok := strings.Cut(strings.SplitN(rest, " ", 2)[0], "=")
		if !ok || len(key) > 4 {
			break
		}
		switch key {
		case "op":
			p.Op.Seq = uint64(s.number(value))
		case "sent":
			p.Sent = s.number(value)
		case "w":
			p.W = s.position(value)
		case "cfg":
			c := s.position(value)
			p.Config = wire.ConfigID{Epoch: c.Epoch, Counter: c.Index}
		default:
			s.t.Fatalf("unknown %q", key)
		}
		_, rest, _ = strings.Cut(rest, " ")
	}
	e := &wire.Entry{Kind: wire.EntryPrepare, Prepare: p}
	for _, m := range strings.Split(rest, "; ") {
		if m != "" {
			e.Prepare.Mutations = append(e.Prepare.Mutations, s.mutation(m, e))
		}
	}
	return s.entry(e)
}

func (s *scripted) at(v string) wire.At {
	v = strings.NewReplacer("<nul>", "\x00", "<long>", strings.Repeat("x", 256), "<empty>", "").Replace(v)
	if dir, path, ok := strings.Cut(v, ":"); ok {
		if dir == "root" {
			return wire.At{Dir: wire.RootIno, Path: path}
		}
		return wire.At{Dir: wire.Ino(s.id(dir)), Path: path}
	}
	return wire.At{Dir: wire.RootIno, Path: v}
}

func (s *scripted) mutation(text string, e *wire.Entry) wire.Mutation {
	words := strings.Fields(text)
	m := wire.Mutation{At: s.at(words[1])}
	args := words[2:]
	switch words[0] {
	case "write":
		m.Kind, m.Mode = wire.MutWriteFile, 0o644
	case "delete":
		m.Kind = wire.MutDeleteFile
	case "mkdir":
		m.Kind, m.Mode = wire.MutMkdir, 0o755
	case "rmdir":
		m.Kind = wire.MutRmdir
	case "mv":
		m.Kind, m.To, args = wire.MutRename, s.at(args[0]), args[1:]
	case "symlink":
		m.Kind, m.Target, args = wire.MutSymlink, args[0], args[1:]
	case "set":
		m.Kind = wire.MutSetattr
	case "link":
		m.Kind, m.To, args = wire.MutLink, s.at(args[0]), args[1:]
	case "mknod":
		m.Kind = wire.MutMknod
	case "setx":
		m.Kind, m.Name, args = wire.MutSetxattr, s.at(args[0]).Path, args[1:]
	case "rmx":
		m.Kind, m.Name, args = wire.MutRemovexattr, s.at(args[0]).Path, args[1:]
	case "unlinked":
		m.Kind, m.Mode = wire.MutCreateUnlinked, 0o600
	case "reclaim":
		m.Kind = wire.MutReclaim
	case "kind":
		m.Kind = wire.MutationKind(s.number(args[0]))
		args = args[1:]
	default:
		s.t.Fatalf("unknown mutation %q", text)
	}
	for _, a := range args {
		s.argument(&m, e, a)
	}
	return m
}

func (s *scripted) argument(m *wire.Mutation, e *wire.Entry, a string) {
	key, value, _ := strings.Cut(a, "=")
	switch key {
	case "new":
		m.Create = wire.MustNotExist
	case "must":
		m.Create = wire.MustExist
	case "ifino":
		m.IfIno = wire.Ino(s.id(value))
	case "if":
		m.IfVersion = s.id(value)
	case "gid":
		m.GID = uint32(s.number(value))
		m.Set |= wire.SetGID
	case "mode":
		mode, err := strconv.ParseUint(value, 8, 32)
		if err != nil {
			s.t.Fatal(err)
		}
		m.Mode = uint32(mode)
		m.Set |= wire.SetMode
	case "size":
		m.Size = s.number(value)
		m.Set |= wire.SetSize
	case "bits":
		m.Set = wire.SetMask(s.number(value))
	case "stage":
		id, size, _ := strings.Cut(value, "/")
		m.Content = wire.Content{Stage: s.id(id), Size: s.number(size), Sum: 7}
	case "hold":
		m.Hold = true
	case "rename":
		m.Rename = wire.RenameMode(s.number(value))
	case "xattr":
		m.Xattr = wire.XattrMode(s.number(value))
	case "value":
		m.Value = []byte(value)
	case "bytes":
		m.Value = make([]byte, s.number(value))
	case "rdev":
		m.Rdev = uint32(s.number(value))
	case "rotten":
		m.Content = wire.Content{Size: 3, Sum: 1}
		e.Payload = append(e.Payload, "abc"...)
	case "short":
		m.Content = wire.Content{Size: 300}
	case "data":
		m.Content = wire.Content{Size: int64(len(value)), Sum: wire.Sum([]byte(value))}
		e.Payload = append(e.Payload, value...)
	default:
		s.t.Fatalf("unknown argument %q", a)
	}
}
