package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tpcfs/cmd/tpcfs/load"
	"tpcfs/integration/harness"
	"tpcfs/integration/powerloss"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// powerCuts is how often the power fails: TPCFS_TEST_POWERCUTS.
func powerCuts(t *testing.T) int {
	s := os.Getenv("TPCFS_TEST_POWERCUTS")
	if s == "" {
		return 8
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("TPCFS_TEST_POWERCUTS=%s: want a number of cuts", s)
	}
	return n
}

// image is what a keeper's directory holds. Names that share a number are one
// file; directories have the number 0.
type image struct {
	names map[string]int
	files map[int]contents
}

type contents struct {
	data []byte // never changed in place
	mode uint32
}

func (m image) clone() image { return image{maps.Clone(m.names), maps.Clone(m.files)} }

// pick picks a name at random; "" if there is none.
func (m image) pick(rnd *rand.Rand, ok func(name string) bool) string {
	var names []string
	for name := range m.names {
		if ok(name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return names[rnd.Intn(len(names))]
}

func (m image) isFile(name string) bool { return m.names[name] > 0 && !strings.Contains(name, "/") }

// keeper is a client that alone changes a directory, in every way, and knows
// what it holds: what was acknowledged is there and what was refused is not.
type keeper struct {
	n        int
	c        *client.Client
	reader   *client.Client // waits for ever
	patient  bool           // waits for ever: every answer must be definite
	rnd      *rand.Rand
	now      image
	doubt    *image // what it may hold as well: the last outcome is unknown
	what     string // the last change
	lastFile int
	done     int
	kinds    map[string]int
	failed   map[wire.Code]int
}

func (k *keeper) path(name string) string {
	return strings.TrimSuffix(fmt.Sprintf("keeper%d/%s", k.n, name), "/")
}

// random gives contents of any size: inline, of an object, staged.
func (k *keeper) random() []byte {
	return noise(k.rnd.Int63(), []int{0, 10, 3000, 20_000, 70_000, 150_000, 400_000}[k.rnd.Intn(7)])
}

// change is one transaction: what it is, how it is asked for, and what it makes of an image.
type change struct {
	what  string
	do    func(ctx context.Context) error
	apply func(m image)
}

// next draws a change that can be made.
func (k *keeper) next() change {
	for {
		var c change
		switch k.rnd.Intn(11) {
		case 0, 1:
			c = k.write()
		case 2, 3:
			c = k.extents()
		case 4:
			c = k.appendTo()
		case 5:
			c = k.delete()
		case 6, 7:
			c = k.moveOrLink()
		case 8:
			c = k.directory()
		case 9:
			c = k.attributes()
		default:
			c = k.pack()
		}
		if c.do != nil {
			return c
		}
	}
}

func (k *keeper) write() change {
	name, data := fmt.Sprintf("f%d", k.rnd.Intn(8)), k.random()
	k.lastFile++
	id := k.lastFile
	return change{fmt.Sprintf("write %s, %d bytes", name, len(data)), func(ctx context.Context) error {
		_, err := k.c.WriteFile(ctx, k.path(name), client.Bytes(data), client.WriteOptions{Mode: 0o644})
		return err
	}, func(m image) {
		if m.names[name] > 0 {
			id = m.names[name]
			m.files[id] = contents{data, m.files[id].mode}
			return
		}
		m.names[name], m.files[id] = id, contents{data, 0o644}
	}}
}

// edit changes the bytes of a file.
func edit(name string, fn func(b []byte) []byte) func(m image) {
	return func(m image) {
		f := m.files[m.names[name]]
		m.files[m.names[name]] = contents{fn(bytes.Clone(f.data)), f.mode}
	}
}

func (k *keeper) extents() change {
	name := k.now.pick(k.rnd, k.now.isFile)
	if name == "" {
		return change{}
	}
	had := len(k.now.files[k.now.names[name]].data)
	var list []client.Extent
	var bytesOf [][]byte
	at, end := 0, had
	var o client.ExtentOptions
	if k.rnd.Intn(3) == 0 {
		size := int64(k.rnd.Intn(had + 50_000))
		o.SetSize, end = &size, int(size)
	}
	for range 1 + k.rnd.Intn(3) {
		data := k.random()
		if len(data) == 0 {
			continue
		}
		at += k.rnd.Intn(100_000)
		list = append(list, client.Extent{Offset: int64(at), Content: client.Bytes(data)})
		bytesOf = append(bytesOf, data)
		at += len(data)
	}
	if len(list) == 0 {
		return change{}
	}
	what := fmt.Sprintf("extents of %s, which has %d bytes, then %d:", name, had, end)
	for i, e := range list {
		what += fmt.Sprintf(" [%d,%d)", e.Offset, e.Offset+int64(len(bytesOf[i])))
	}
	return change{what, func(ctx context.Context) error {
		_, err := k.c.WriteExtents(ctx, k.path(name), list, o)
		return err
	}, edit(name, func(b []byte) []byte {
		b = append(b, make([]byte, max(0, end-len(b)))...)[:end]
		for i, e := range list {
			last := int(e.Offset) + len(bytesOf[i])
			b = append(b, make([]byte, max(0, last-len(b)))...)
			copy(b[e.Offset:], bytesOf[i])
		}
		return b
	})}
}

func (k *keeper) appendTo() change {
	name, data := k.now.pick(k.rnd, k.now.isFile), k.random()
	if name == "" || len(data) == 0 {
		return change{}
	}
	return change{fmt.Sprintf("append %d bytes to %s", len(data), name), func(ctx context.Context) error {
		_, err := k.c.Append(ctx, k.path(name), client.Bytes(data), client.WriteOptions{})
		return err
	}, edit(name, func(b []byte) []byte { return append(b, data...) })}
}

func (k *keeper) delete() change {
	name := k.now.pick(k.rnd, k.now.isFile)
	if name == "" {
		return change{}
	}
	return change{"delete " + name, func(ctx context.Context) error { return k.c.DeleteFile(ctx, k.path(name)) },
		func(m image) { delete(m.names, name) }}
}

func (k *keeper) moveOrLink() change {
	from, to := k.now.pick(k.rnd, k.now.isFile), fmt.Sprintf("f%d", k.rnd.Intn(8))
	switch id := k.now.names[from]; {
	case from == "" || k.now.names[to] == id:
		return change{}
	case k.now.names[to] == 0 && k.rnd.Intn(2) == 0:
		return change{"link " + from + " as " + to, func(ctx context.Context) error { return k.c.Link(ctx, k.path(from), k.path(to)) },
			func(m image) { m.names[to] = id }}
	default:
		return change{"rename " + from + " to " + to, func(ctx context.Context) error { return k.c.Rename(ctx, k.path(from), k.path(to)) },
			func(m image) { delete(m.names, from); m.names[to] = id }}
	}
}

func (k *keeper) directory() change {
	name := fmt.Sprintf("d%d", k.rnd.Intn(3))
	if _, ok := k.now.names[name]; ok {
		return change{"rmdir " + name, func(ctx context.Context) error { return k.c.Rmdir(ctx, k.path(name)) },
			func(m image) { delete(m.names, name) }}
	}
	return change{"mkdir " + name, func(ctx context.Context) error { return k.c.Mkdir(ctx, k.path(name), 0o755) },
		func(m image) { m.names[name] = 0 }}
}

func (k *keeper) attributes() change {
	name, mode := k.now.pick(k.rnd, k.now.isFile), uint32(0o600+k.rnd.Intn(0o100))
	if name == "" {
		return change{}
	}
	return change{fmt.Sprintf("mode of %s: %o", name, mode), func(ctx context.Context) error {
		return k.c.SetAttr(ctx, k.path(name), wire.Mutation{Set: wire.SetMode, Mode: mode})
	}, func(m image) { m.files[m.names[name]] = contents{m.files[m.names[name]].data, mode} }}
}

// pack makes a directory with many files in one transaction, or removes it in one.
func (k *keeper) pack() change {
	tx := k.c.Tx()
	if _, ok := k.now.names["pack"]; ok {
		for _, name := range slices.Sorted(maps.Keys(k.now.names)) {
			if strings.HasPrefix(name, "pack/") {
				tx.DeleteFile(k.path(name))
			}
		}
		tx.Rmdir(k.path("pack"))
		return change{"remove the pack", func(ctx context.Context) error { _, err := tx.Commit(ctx); return err },
			func(m image) {
				maps.DeleteFunc(m.names, func(name string, _ int) bool { return strings.HasPrefix(name, "pack") })
			}}
	}
	tx.Mkdir(k.path("pack"), 0o755)
	files := map[string]contents{}
	for i := range 5 + k.rnd.Intn(30) {
		name, data := fmt.Sprintf("pack/%d", i), k.random()
		if i > 3 {
			data = data[:min(len(data), 3000)]
		}
		files[name] = contents{data, 0o640}
		tx.WriteFile(k.path(name), client.Bytes(data), client.WriteOptions{Mode: 0o640})
	}
	first := k.lastFile
	k.lastFile += len(files)
	return change{fmt.Sprintf("pack %d files", len(files)), func(ctx context.Context) error { _, err := tx.Commit(ctx); return err },
		func(m image) {
			m.names["pack"] = 0
			for i, name := range slices.Sorted(maps.Keys(files)) {
				m.names[name] = first + i + 1
				m.files[first+i+1] = files[name]
			}
		}}
}

// step makes one change and enters what came of it.
func (k *keeper) step(ctx context.Context) error {
	c := k.next()
	after := k.now.clone()
	c.apply(after)
	k.what = c.what
	err := c.do(ctx)
	switch code := wire.CodeOf(err); {
	case err == nil:
		k.now = after
		k.done++
		k.kinds[strings.Fields(c.what)[0]]++
	case code == wire.CodeUnknownOutcome && !k.patient:
		k.doubt = &after
		k.failed[code]++
	case code == wire.CodeConflict, code == wire.CodeUnavailable && !k.patient: // nothing has changed
		k.failed[code]++
	default:
		return fmt.Errorf("keeper %d (patient: %v): %s: %w", k.n, k.patient, c.what, err)
	}
	return nil
}

// work makes changes until stop, or until an outcome is unknown.
func (k *keeper) work(ctx context.Context, stop *atomic.Bool) error {
	for !stop.Load() && k.doubt == nil {
		if err := k.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// check reads everything and compares; what was in doubt is certain then.
func (k *keeper) check(ctx context.Context) error {
	got, err := k.read(ctx, "")
	if err != nil {
		return fmt.Errorf("keeper %d: %w", k.n, err)
	}
	diff := k.now.diff(got)
	if k.doubt != nil {
		if other := k.doubt.diff(got); other == "" {
			k.now, diff = *k.doubt, ""
		} else if diff != "" {
			diff += "\nand if the last change has happened:\n" + other
		}
		k.doubt = nil
	}
	if diff != "" {
		return fmt.Errorf("keeper %d, whose last change was %s:\n%s", k.n, k.what, diff)
	}
	for id := range k.now.files {
		if !slices.Contains(slices.Collect(maps.Values(k.now.names)), id) {
			delete(k.now.files, id)
		}
	}
	return nil
}

// read reads a directory; files that share an inode share a number.
func (k *keeper) read(ctx context.Context, dir string) (image, error) {
	got := image{map[string]int{}, map[int]contents{}}
	list, err := k.reader.List(ctx, k.path(dir))
	if err != nil {
		return got, err
	}
	for _, e := range list {
		name := strings.TrimPrefix(dir+"/"+e.Name, "/")
		attr, err := k.reader.Lstat(ctx, k.path(name))
		if err != nil {
			return got, err
		}
		if attr.Mode&wire.ModeType == wire.ModeDir {
			below, err := k.read(ctx, name)
			if err != nil {
				return got, err
			}
			got.names[name] = 0
			maps.Copy(got.names, below.names)
			maps.Copy(got.files, below.files)
			continue
		}
		data, err := k.reader.ReadFile(ctx, k.path(name))
		if err != nil {
			return got, fmt.Errorf("%s: %w", name, err)
		}
		got.names[name], got.files[int(attr.Ino)] = int(attr.Ino), contents{data, attr.Mode & wire.ModePerm}
	}
	return got, nil
}

// diff says how what was read differs from what is wanted.
func (m image) diff(got image) string {
	var out []string
	theirs := map[int]int{} // the inode of each file
	for _, name := range slices.Sorted(maps.Keys(m.names)) {
		id, ino := m.names[name], 0
		ino, ok := got.names[name]
		w, g := m.files[id], got.files[ino]
		switch {
		case !ok:
			out = append(out, name+" is missing")
		case (id == 0) != (ino == 0):
			out = append(out, name+" is a directory, or should be one")
		case id > 0 && theirs[id] != 0 && theirs[id] != ino:
			out = append(out, name+" is not the file that it should share with another name")
		case !bytes.Equal(w.data, g.data):
			at := 0
			for at < min(len(w.data), len(g.data)) && w.data[at] == g.data[at] {
				at++
			}
			out = append(out, fmt.Sprintf("%s: %d bytes, want %d; they differ at byte %d", name, len(g.data), len(w.data), at))
		case w.mode != g.mode:
			out = append(out, fmt.Sprintf("%s: mode %o, want %o", name, g.mode, w.mode))
		}
		theirs[id] = ino
	}
	for _, name := range slices.Sorted(maps.Keys(got.names)) {
		if _, ok := m.names[name]; !ok {
			out = append(out, name+" should not be there")
		}
	}
	return strings.Join(out, "\n")
}

// blackout is the test of power losses.
type blackout struct {
	c        *harness.Cluster
	machines *powerloss.Machines
	rnd      *rand.Rand
	keepers  []*keeper
	loaders  []load.Client
	admin    *client.Client

	cuts            map[string]int
	judged, unknown int64
	loadErrors      map[string]int64
}

// victims are the machines that lose their power.
func (b *blackout) victims() []string {
	all := b.c.All()
	switch b.rnd.Intn(6) {
	case 0:
		one := all[b.rnd.Intn(len(all))]
		b.cuts["one"]++
		return []string{one}
	case 1:
		b.rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		b.cuts["some"]++
		return all[:1+b.rnd.Intn(len(all))]
	default:
		b.cuts["all"]++
		return all
	}
}

// cut takes the power of machines away, and gives it back.
func (b *blackout) cut(ctx context.Context, names []string) error {
	if err := b.machines.Freeze(names...); err != nil {
		return err
	}
	for _, name := range names {
		if err := b.c.Proc(name).Signal(syscall.SIGKILL); err != nil {
			return err
		}
	}
	if err := b.machines.Drop(b.rnd.Uint64(), names...); err != nil {
		return err
	}
	if err := b.c.Kill(names...); err != nil { // waits for their ends
		return err
	}
	if err := b.machines.Mount(names...); err != nil {
		return err
	}
	for _, name := range b.c.All() {
		if !slices.Contains(names, name) {
			select {
			case <-b.c.Proc(name).Done():
				return fmt.Errorf("%s ended, though it has not lost its power:\n%s", name, b.c.Proc(name).Output())
			default:
			}
		}
	}
	return b.c.Start(ctx, names...)
}

// round lets all work, cuts, and compares what is there with what all were told.
func (b *blackout) round(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 3*patience)
	defer cancel()
	dir := fmt.Sprintf("load%d", n)
	if err := b.admin.Mkdir(ctx, dir, 0o755); err != nil {
		return err
	}
	names, delay := b.victims(), time.Duration(100+b.rnd.Intn(1400))*time.Millisecond
	o := load.Options{Clients: b.loaders, Duration: delay + time.Duration(b.rnd.Intn(800))*time.Millisecond, Mix: [3]int{4, 3, 2}, Names: 6,
		MinSize: 40, MaxSize: 100_000, Seed: b.rnd.Uint64(), Check: true, Dir: dir}
	if b.rnd.Intn(2) == 0 {
		o.MaxSize = 3000
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	errs := make([]error, len(b.keepers)+2)
	var report load.Report
	wg.Go(func() { report, errs[0] = load.Run(ctx, o) })
	for i, k := range b.keepers {
		wg.Go(func() { errs[i+1] = k.work(ctx, &stop) })
	}
	pause(ctx, delay)
	err := b.cut(ctx, names)
	if err != nil { // who waits for the service waits in vain
		cancel()
	}
	stop.Store(true)
	wg.Wait()
	errs[len(errs)-1] = b.note(report)
	for _, e := range append([]error{err}, errs...) {
		if e != nil {
			return fmt.Errorf("the power of %v: %w", names, e)
		}
	}
	st, err := b.c.WaitStatus(ctx, "settled", harness.Settled)
	if err == nil && !harness.SameDigest(st) {
		err = fmt.Errorf("the replicas differ: %+v", st.Members)
	}
	for _, k := range b.keepers {
		if err == nil {
			err = k.check(ctx)
		}
	}
	if err != nil {
		return fmt.Errorf("after the power of %v: %w", names, err)
	}
	return nil
}

// note judges what a load was told.
func (b *blackout) note(r load.Report) error {
	if r.Check == nil {
		return nil // its options were wrong: told already
	}
	b.judged, b.unknown = b.judged+r.Check.Ops, b.unknown+r.Check.Unknown
	for code, n := range r.Errors {
		b.loadErrors[code] += n
	}
	switch {
	case len(r.Check.Faults) > 0:
		return fmt.Errorf("not linearizable: %s", r.Check.Faults[0].Error())
	case r.Check.Undecided > 0:
		return fmt.Errorf("the load's history could not be judged: %s", r.Check)
	case r.Unexpected != nil:
		return fmt.Errorf("the load: %w", r.Unexpected)
	}
	return nil
}

func newBlackout(t *testing.T, ctx context.Context) *blackout {
	t.Helper()
	b := &blackout{c: newCluster(t, "--segment-size", "1048576"), // checkpoints are frequent
		rnd: rand.New(rand.NewSource(seed(t))), cuts: map[string]int{}, loadErrors: map[string]int64{}}
	var err error
	if b.machines, err = powerloss.Start(b.c.Dir, b.c.All()...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // before the cluster's own: first nobody uses the disks any more
		for _, name := range b.c.All() {
			if p := b.c.Proc(name); p != nil {
				if err := p.Signal(syscall.SIGKILL); err != nil {
					t.Error(err)
				}
			}
			_ = b.machines.Drop(0, name) // it may be frozen, or not
		}
		if err := errors.Join(b.c.Kill(b.c.All()...), b.machines.Close()); err != nil {
			t.Error(err)
		}
	})
	startAll(t, ctx, b.c)
	b.admin = dial(t, ctx, b.c, 0)
	for i := range 3 {
		k := &keeper{n: i, reader: b.admin, patient: i != 0, rnd: rand.New(rand.NewSource(b.rnd.Int63())), now: image{map[string]int{}, map[int]contents{}},
			kinds: map[string]int{}, failed: map[wire.Code]int{}}
		wait := 300 * time.Millisecond
		if k.patient {
			wait = 0
		}
		k.c = dial(t, ctx, b.c, wait)
		if err := b.admin.Mkdir(ctx, k.path(""), 0o755); err != nil {
			t.Fatal(err)
		}
		b.keepers = append(b.keepers, k)
		b.loaders = append(b.loaders, dial(t, ctx, b.c, []time.Duration{300 * time.Millisecond, 2 * time.Second, 0}[i]))
	}
	return b
}

// TestPowerLoss cuts the power of coordinator and participants, of all at once
// and of some, while clients change files in every way. Their disks lose what was
// not synced. What was acknowledged is there, what was refused is not, on all.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	cuts := powerCuts(t)
	start, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b := newBlackout(t, start)
	done := 0
	for ; done < cuts; done++ {
		if err := b.round(t.Context(), done); err != nil {
			t.Errorf("cut %d: %v", done+1, err)
			break
		}
	}
	for _, k := range b.keepers {
		t.Logf("keeper %d: %d changes acknowledged (%v), not done: %v", k.n, k.done, k.kinds, k.failed)
		if k.done == 0 {
			t.Errorf("keeper %d did nothing", k.n)
		}
	}
	t.Logf("%d cuts (%v); of the load %d operations judged, %d unknown, errors %v", done, b.cuts, b.judged, b.unknown, b.loadErrors)
	if b.judged == 0 {
		t.Error("the load did nothing")
	}
	if t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	trees := exports(t, ctx, b.c)
	for _, name := range b.c.Names {
		if diff := harness.Diff(trees[name], trees["a"]); diff != "" {
			t.Errorf("participants %s and a differ:\n%s", name, diff)
		}
	}
}
