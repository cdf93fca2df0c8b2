package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	bin "encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// What an attack may cost everybody else, on a machine that does other things
// meanwhile: what is looked for are stalls and growth, not percents. The
// processes are as users have them: the race detector would take most of the
// memory that is measured.
const (
	hostileP99 = 2 * time.Second
	hostileRSS = 512 << 20 // bytes of RssAnon above what the process had before
	attackTime = 600 * time.Millisecond
)

// victim is a process that is attacked, where it listens and as whom it is
// talked to.
type victim struct {
	name string
	role wire.Role
}

// attacker is a process of its own, as it would be: this one, started with
// attackVariable. It is killed when its time is over.
type attacker struct {
	addr string
	role wire.Role

	mu    sync.Mutex // guards conns
	conns []any      // kept from the collector
}

const attackVariable = "TPCFS_TEST_ATTACK"

// attackIfAsked is for TestMain: false in a test.
func attackIfAsked() bool {
	var number int
	a := &attacker{}
	if n, err := fmt.Sscan(os.Getenv(attackVariable), &number, &a.role, &a.addr); n == 0 || err != nil {
		return false
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { attacks[number].do(a) })
	}
	wg.Wait()
	return true
}

func (a *attacker) keep(c any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns = append(a.conns, c)
}

// connect opens a bare connection; nil: it was refused.
func (a *attacker) connect() net.Conn {
	c, err := net.Dial("unix", strings.TrimPrefix(a.addr, "unix:"))
	if err != nil {
		return nil
	}
	a.keep(c)
	_ = c.SetDeadline(time.Now().Add(30 * time.Second)) // it is a new one
	return c
}

// greet exchanges prefaces; nil when the other side ends it.
func (a *attacker) greet(p wire.Preface) net.Conn {
	c := a.connect()
	if c == nil {
		return nil
	}
	prefix := make([]byte, wire.PrefacePrefix)
	if _, err := c.Write(wire.AppendPreface(nil, p)); err != nil {
		return nil
	}
	if _, err := io.ReadFull(c, prefix); err != nil {
		return nil
	}
	n, err := wire.PrefaceLength(prefix)
	if err != nil {
		return nil
	}
	if _, err := io.ReadFull(c, make([]byte, n)); err != nil {
		return nil
	}
	return c
}

// link opens a whole link and returns its sessions and raw connections.
func (a *attacker) link() (control, bulk *yamux.Session, raw [2]net.Conn) {
	p := wire.Preface{Versions: wire.Versions, Role: a.role, Channel: wire.ChannelControl}
	_, _ = rand.Read(p.Nonce[:]) // never fails
	var sessions [2]*yamux.Session
	for i, channel := range []wire.Channel{wire.ChannelControl, wire.ChannelBulk} {
		p.Channel = channel
		c := a.greet(p)
		if c == nil {
			return nil, nil, raw
		}
		config := yamux.DefaultConfig()
		config.LogOutput, config.EnableKeepAlive = io.Discard, false
		config.StreamOpenTimeout = 0
		s, err := yamux.Client(c, config)
		if err != nil {
			return nil, nil, raw
		}
		a.keep(s)
		sessions[i], raw[i] = s, c
	}
	return sessions[0], sessions[1], raw
}

// again attacks over and over until the process is killed.
func (a *attacker) again(f func()) {
	for {
		f()
	}
}

// say sends bytes on a new stream of a new link.
func (a *attacker) say(onBulk bool, b ...[]byte) *yamux.Stream {
	control, bulk, _ := a.link()
	if control == nil {
		return nil
	}
	if onBulk {
		control = bulk
	}
	st, err := control.OpenStream()
	if err != nil {
		return nil
	}
	_ = st.SetDeadline(time.Now().Add(10 * time.Second)) // only stores it
	for _, part := range b {
		if _, err := st.Write(part); err != nil {
			return nil
		}
	}
	return st
}

func frameOf(kind wire.FrameKind, flags wire.FrameFlags, header, body []byte) []byte {
	return wire.AppendFrame(nil, wire.Frame{Kind: kind, Flags: flags, Header: header, Body: body})
}

func request(kind wire.FrameKind, header any) []byte {
	return frameOf(kind, wire.FlagEnd, wire.Marshal(header), nil)
}

// attacks are what a peer does that means no good; each goes on until its time
// is over.
var attacks = []struct {
	name string
	do   func(a *attacker)
}{
	{"garbage", func(a *attacker) {
		b := make([]byte, 64<<10)
		_, _ = rand.Read(b) // never fails
		a.again(func() {
			if c := a.connect(); c != nil {
				_, _ = c.Write(b)
				_ = c.Close()
			}
		})
	}},
	{"half a preface, a byte now and then", func(a *attacker) {
		p := wire.AppendPreface(nil, wire.Preface{Versions: wire.Versions, Role: a.role, Channel: wire.ChannelControl})
		for range 300 {
			if c := a.connect(); c != nil {
				_, _ = c.Write(p[:5])
			}
		}
		select {}
	}},
	{"a thousand idle connections", func(a *attacker) {
		for range 500 {
			a.link()
		}
		select {}
	}},
	{"frames that lie about their lengths", func(a *attacker) {
		whole := request(wire.FrameStatfs, wire.Nothing{})
		for i := 0; ; i++ {
			b := bytes.Clone(whole)
			switch i % 4 {
			case 0:
				bin.LittleEndian.PutUint32(b, 1<<32-1)
			case 1:
				bin.LittleEndian.PutUint32(b[8:], 1<<31)
			case 2:
				bin.LittleEndian.PutUint32(b, wire.MaxFrame) // and nothing follows
			case 3:
				b[len(b)-1] ^= 1
			}
			a.say(i%8 > 3, b)
		}
	}},
	{"CBOR bombs", func(a *attacker) {
		deep := bytes.Repeat([]byte{0x81}, 60_000)
		wide := append([]byte{0xa1, 6, 0x9a, 0, 15, 0, 0}, bytes.Repeat([]byte{0xa0}, 983_040)...)
		some := append([]byte{0xa1, 6, 0x99, 0xff, 0xff}, bytes.Repeat([]byte{0xa0}, 0xffff)...)
		long := []byte{0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		text := append([]byte{0xa1, 1}, long...)
		for i := 0; ; i++ {
			kinds := []wire.FrameKind{wire.FrameTransact, wire.FrameAttach, wire.FrameGreet, wire.FrameRead, wire.FrameStage, wire.FrameUnstage}
			bomb := [][]byte{deep, wide, some, long, text}[i%5]
			a.say(i%2 == 0, frameOf(kinds[i%len(kinds)], wire.FlagEnd, bomb, nil))
		}
	}},
	{"streams for ever", func(a *attacker) {
		a.again(func() {
			control, bulk, _ := a.link()
			if control == nil {
				return
			}
			for i := range 10_000 {
				s := control
				if i%2 == 1 {
					s = bulk
				}
				if s.IsClosed() {
					return
				}
				if _, err := s.OpenStream(); err != nil {
					return
				}
			}
		})
	}},
	{"pings and windows without measure", func(a *attacker) {
		a.again(func() {
			control, _, raw := a.link()
			if control == nil {
				return
			}
			// Frames of yamux: window updates on streams that are not there, data
			// beyond the window, then pings.
			update := []byte{0, 1, 0, 0, 0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff}
			data := append([]byte{0, 0, 0, 1, 0, 0, 0, 11, 0, 16, 0, 0}, make([]byte, 1<<20)...)
			ping := []byte{0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7}
			_, _ = raw[0].Write(bytes.Repeat(update, 1000))
			_, _ = raw[1].Write(data)
			_, _ = raw[0].Write(bytes.Repeat(ping, 1000))
		})
	}},
	{"slow loris", func(a *attacker) {
		frame := request(wire.FrameStatfs, wire.Nothing{})
		var streams []*yamux.Stream
		for range 50 {
			if st := a.say(false, frame[:7]); st != nil {
				streams = append(streams, st)
			}
		}
		for i := 7; ; i++ {
			for _, st := range streams {
				_, _ = st.Write(frame[i%len(frame) : i%len(frame)+1])
			}
			<-time.After(50 * time.Millisecond)
		}
	}},
	{"everybody's part but its own", func(a *attacker) {
		for i := 0; ; i++ {
			p := wire.Preface{Versions: wire.Versions, Role: wire.Role(i % 5), Channel: wire.Channel(i / 5 % 4)}
			p.Nonce[0] = byte(i)
			if i%3 == 0 {
				p.Cluster = wire.UUID{1, 2, 3}
			}
			if c := a.greet(p); c != nil && p.Role != a.role {
				_, _ = c.Read(make([]byte, 1))
			}
		}
	}},
	{"requests without measure that nobody reads the answers of", func(a *attacker) {
		read := wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: wire.RootIno, Path: "large"}, Length: -1}
		b := request(wire.FrameRead, read)
		if a.role == wire.RoleCoordinator {
			b = request(wire.FrameReplicaStatus, wire.StatusRequest{Digest: true})
		}
		control, bulk, _ := a.link()
		for i := 0; control != nil && i < 60; i++ {
			for _, s := range []*yamux.Session{control, bulk} {
				if st, err := s.OpenStream(); err == nil {
					_ = st.SetDeadline(time.Now().Add(time.Second)) // only stores it
					_, _ = st.Write(b)
				}
			}
		}
		select {}
	}},
	{"stages that are not what they said", func(a *attacker) {
		piece := func(offset int64, n int) []byte {
			data := make([]byte, n)
			return frameOf(wire.FramePiece, 0, wire.Marshal(wire.Piece{Offset: offset, Sum: wire.Sum(data)}), data)
		}
		end := frameOf(wire.FrameEnd, wire.FlagEnd, nil, nil)
		for i := byte(0); ; i++ {
			session := wire.SessionID{0xee, i}
			link := a.attach(session)
			open := func(size int64, pack bool) []byte {
				req := wire.StageRequest{Size: size, Link: link, Wait: 1000, Pack: pack}
				if a.role == wire.RoleCoordinator {
					req.Epoch, req.ID = wire.Epoch{Number: 1}, wire.MakeID(1, 1<<30)
					return frameOf(wire.FrameReplicaStage, 0, wire.Marshal(req), nil)
				}
				return frameOf(wire.FrameStage, 0, wire.Marshal(wire.SessionStage{Session: session, Request: req}), nil)
			}
			a.say(true, open(100, false), piece(0, 200), end)
			a.say(true, open(1000, false), piece(0, 200), end)
			a.say(true, open(1<<40, false), piece(0, wire.PieceSize), piece(7, 1), end)
			a.say(true, open(wire.MaxPack+1, true), piece(0, wire.PieceSize), end)
			a.say(true, open(-1, false), piece(0, wire.PieceSize)) // and nothing more
			a.say(true, open(200, true), piece(0, 200), end)
			a.say(true, open(-1<<60, false), end)
		}
	}},
	{"sessions without measure", func(a *attacker) {
		for i := 0; ; i++ {
			control, _, _ := a.link()
			if control == nil {
				return
			}
			st, err := control.OpenStream()
			for k := 0; err == nil && k < 2000; k++ {
				_ = st.SetDeadline(time.Now().Add(5 * time.Second)) // only stores it
				_, err = st.Write(request(wire.FrameAttach, wire.Attach{Session: wire.SessionID{0xdd, byte(i), byte(k), byte(k >> 8)}}))
				if err == nil {
					_, err = io.ReadAtLeast(st, make([]byte, 4096), wire.FramePrefix)
				}
			}
		}
	}},
	{"reads from nowhere", func(a *attacker) {
		for i := 0; ; i++ {
			read := wire.Read{Kind: wire.ReadKind(i % 12), At: wire.At{Dir: wire.Ino(i % 3), Path: strings.Repeat("../", i%9)},
				Offset: -1 << 62, Length: 1<<63 - 1}
			if i%2 == 0 {
				read.Offset, read.At = 1<<63-1, wire.At{Dir: 1, Path: "large"}
			}
			if a.role == wire.RoleCoordinator {
				a.say(i%4 > 1, request(wire.FrameReplicaRead, wire.PositionedRead{Epoch: wire.Epoch{Number: uint64(i % 3)}, Index: 1 << 60, Read: read}))
				a.say(false, request(wire.FrameUnstage, wire.Unstage{Epoch: wire.Epoch{Number: 1 << 50}, Stages: []wire.ID{1, 1 << 62}}))
				a.say(false, request(wire.FrameGreet, wire.Greet{Epoch: wire.Epoch{Number: 1 << 60}}))
			} else {
				a.say(i%4 > 1, request(wire.FrameRead, read))
			}
		}
	}},
}

// attach opens a session by a link of its own; 0: at a participant.
func (a *attacker) attach(session wire.SessionID) uint64 {
	if a.role != wire.RoleClient {
		return 0
	}
	st := a.say(false, request(wire.FrameAttach, wire.Attach{Session: session}))
	b := make([]byte, 4096)
	if st == nil {
		return 0
	}
	n, err := io.ReadAtLeast(st, b, wire.FramePrefix)
	if err != nil {
		return 0
	}
	f, err := wire.ParseFrame(b[:wire.FramePrefix], b[wire.FramePrefix:n])
	if err != nil {
		return 0
	}
	var attached wire.Attached
	_ = wire.Unmarshal(f.Header, &attached) // it is used or not
	return attached.Link
}

// procStat are figures of a process.
type procStat struct{ rss, descriptors int64 }

func statOf(p *harness.Proc) (procStat, error) {
	var s procStat
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return s, fmt.Errorf("%s is gone: %w", p.Name, err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "RssAnon:" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return s, err
			}
			s.rss = n << 10
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
	s.descriptors = int64(len(fds))
	return s, err
}

// latencies of a well-behaved client: commits and reads of 4 KiB.
func latencies(t *testing.T, ctx context.Context, cl *client.Client, until <-chan time.Time) (commits, reads []time.Duration) {
	t.Helper()
	data := noise(1, 4096)
	for i := 0; ; i++ {
		select {
		case <-until:
			slices.Sort(commits)
			slices.Sort(reads)
			return commits, reads
		default:
		}
		began := time.Now()
		if _, err := cl.WriteFile(ctx, "good", client.Bytes(data), client.WriteOptions{Mode: 0o644}); err != nil {
			t.Fatal("a good client suffers:", err)
		}
		wrote := time.Now()
		if b, err := cl.ReadFile(ctx, "good"); err != nil || !bytes.Equal(b, data) {
			t.Fatal("a good client suffers:", len(b), err)
		}
		commits, reads = append(commits, wrote.Sub(began)), append(reads, time.Since(wrote))
	}
}

func p99(d []time.Duration) time.Duration { return d[len(d)*99/100] }

// Whatever a peer does on whichever port costs it its own session: a
// well-behaved client meets no error and no stall, memory stays bounded, and
// nothing is left when the peer has gone.
func TestHostilePeers(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	c := newCluster(t)
	c.Bin = plain
	startAll(t, ctx, c)
	cl := dial(t, ctx, c, patience)
	mustWrite(t, ctx, cl, "large", noise(2, 8<<20))
	commits, reads := latencies(t, ctx, cl, time.After(attackTime))
	t.Logf("alone: commit p50 %v p99 %v, read p50 %v p99 %v", commits[len(commits)/2], p99(commits), reads[len(reads)/2], p99(reads))
	for _, v := range []victim{{harness.Coordinator, wire.RoleClient}, {"b", wire.RoleCoordinator}} {
		before, err := statOf(c.Proc(v.name))
		if err != nil {
			t.Fatal(err)
		}
		for i, attack := range attacks {
			t.Run(v.name+"/"+attack.name, func(t *testing.T) { underAttack(t, ctx, c, cl, v, i, before) })
		}
		for {
			now, err := statOf(c.Proc(v.name))
			if err != nil {
				t.Fatal(err)
			}
			if now.descriptors <= before.descriptors+2 {
				t.Logf("%s: %+v before, %+v after", v.name, before, now)
				break
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("%s: %+v before, %+v after", v.name, before, now)
			}
		}
	}
	settle(t, ctx, c)
	if out := c.Output(); strings.Contains(out, "panic") || strings.Contains(out, "a bug in the server") {
		t.Errorf("a panic:\n%s", out)
	}
}

func underAttack(t *testing.T, ctx context.Context, c *harness.Cluster, cl *client.Client, v victim, number int, before procStat) {
	a, err := harness.Start("attacker", []string{fmt.Sprintf("%s=%d %d %s", attackVariable, number, v.role, c.Addr(v.name))}, "nice", "-n", "15", os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var most procStat
	wg.Go(func() {
		for {
			s, err := statOf(c.Proc(v.name))
			if err != nil {
				t.Error(err)
				return
			}
			most.rss, most.descriptors = max(most.rss, s.rss), max(most.descriptors, s.descriptors)
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	commits, reads := latencies(t, ctx, cl, time.After(attackTime))
	close(stop)
	wg.Wait()
	select {
	case <-a.Done():
		t.Errorf("the attacker has ended: %s", a.Output())
	default:
	}
	if err := a.Kill(); err != nil {
		t.Error(err)
	}
	t.Logf("%d commits, p50 %v p99 %v; reads p50 %v p99 %v; RssAnon at most %d MiB (%d before), %d descriptors", len(commits),
		commits[len(commits)/2], p99(commits), reads[len(reads)/2], p99(reads), most.rss>>20, before.rss>>20, most.descriptors)
	if p := max(p99(commits), p99(reads)); p > hostileP99 {
		t.Errorf("a good client waits for %v", p)
	}
	if most.rss > before.rss+hostileRSS {
		t.Errorf("RssAnon grows to %d MiB", most.rss>>20)
	}
}
