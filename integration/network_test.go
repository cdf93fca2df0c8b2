package integration

import (
	"context"
	"math/rand"
	"strings"
	"testing"
	"time"

	"tpcfs/integration/harness"
)

// A network that swallows what some hosts send to others, tells nobody, and is whole
// again later; that is slow, or loses packets. It all looks like a pause to clients:
// no operation fails, histories are linearizable, and all hold the same in the end.

// Hosts of clients.
const (
	loadHost  = "load"
	mountHost = "mount"
)

// severed is a cluster whose processes, and clients, have hosts of their own.
type severed struct {
	*leaving
	net *harness.Net
}

// networked makes a cluster on hosts of its own, with hosts for clients.
func networked(t *testing.T, ctx context.Context, clients ...string) (*harness.Cluster, *harness.Net) {
	t.Helper()
	c := newCluster(t)
	n, err := harness.NewNet(ctx, append(c.All(), clients...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	c.Net = n
	for _, name := range c.All() {
		if err := n.Relay(strings.TrimPrefix(c.Addr(name), "unix:"), name); err != nil {
			t.Fatal(err)
		}
	}
	return c, n
}

// mountOn mounts the cluster by way of a host's network.
func mountOn(t *testing.T, ctx context.Context, n *harness.Net, host string) string {
	t.Helper()
	mnt := mountDir(t, tempDir(t))
	p := startedBy(t, "mount on "+host, nil, n.Command(host, binary, "mount", "--foreground", "--coordinator", n.Addr(harness.Coordinator), mnt)...)
	if _, err := p.WaitLine(ctx, "ready"); err != nil {
		t.Fatal(err)
	}
	return mnt
}

func newSevered(t *testing.T, limit time.Duration) *severed {
	t.Helper()
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience+2*limit)
	t.Cleanup(cancel)
	c, n := networked(t, ctx, loadHost, mountHost)
	c.Evicts = evictFast
	s := &severed{&leaving{T: t, ctx: ctx, c: c}, n}
	startAll(t, ctx, c)
	s.begin(n.Command(loadHost, plain), n.Addr(harness.Coordinator), time.Hour)
	return s
}

// chore is an ordinary job on the mount that is done again and again until it is told
// to end; it says what is wrong.
const chore = `cd "$0"
mkdir ../src; for i in $(seq 4); do head -c $((i * 9000)) /dev/urandom > ../src/$i; done
git init -q -b main repo; n=0
until [ -e ../enough ] && [ $n -gt 0 ]; do
  n=$((n + 1)); cp -a ../src copy; tar cf t.tar copy; mkdir out; tar xf t.tar -C out; diff -r ../src out/copy
  cp ../src/$((n % 4 + 1)) repo/f; echo $n > repo/n; git -C repo add .; git -C repo -c user.name=n -c user.email=e commit -qm $n; rm -r copy out t.tar
done
[ $(git -C repo rev-list --count main) = $n ]; [ -z "$(git -C repo status --porcelain)" ]; git -C repo fsck 2>&1 | { ! grep -v '^dangling\|^notice'; }
echo "$n rounds, fine"`

// works starts the chore; what it returns ends it.
func (s *severed) works() (ends func()) {
	s.Helper()
	mnt := mountOn(s.T, s.ctx, s.net, mountHost)
	job := make(chan string, 1)
	go func() {
		r := harness.Run(s.ctx, nil, nil, "bash", "-euo", "pipefail", "-c", chore, mnt)
		job <- r.Err + r.Out
	}()
	return func() {
		s.Helper()
		if r := harness.Run(s.ctx, nil, nil, "touch", mnt+"/../enough"); r.Code != 0 {
			s.Fatal(r.Err)
		}
		got := <-job
		if !strings.HasSuffix(got, "fine\n") {
			s.Errorf("the job on the mount: %s", got)
		}
		s.Log(strings.TrimSpace(got))
	}
}

// way is what is cut: from a host to the other, or back.
type way int

const (
	both way = iota
	there
	back
)

func (s *severed) cut(w way, from, to string) {
	s.Helper()
	if w != back {
		s.must(s.net.Cut(s.ctx, from, to))
	}
	if w != there {
		s.must(s.net.Cut(s.ctx, to, from))
	}
}

func (s *severed) heal() {
	s.Helper()
	s.must(s.net.Heal(s.ctx))
}

func (s *severed) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// sound ends all: what everybody has is clean, and the same.
func (s *severed) sound() {
	s.Helper()
	s.scrub(0)
	trees := exports(s.T, s.ctx, s.c)
	if len(trees["a"]) == 0 {
		s.Error("the exports are empty")
	}
	for _, name := range s.c.Names[1:] {
		if diff := harness.Diff(trees[name], trees["a"]); diff != "" {
			s.Errorf("participants %s and a differ:\n%s", name, diff)
		}
	}
}

// Each participant in turn cannot be reached, cannot answer, or both: changes go on
// without it, and it comes back. Then the way to one is bad only.
func TestNetworkCutsParticipants(t *testing.T) {
	s := newSevered(t, 0)
	ends := s.works()
	s.progress()
	for w, name := range s.c.Names {
		s.cut(way(w), harness.Coordinator, name)
		s.state(name, "evicted")
		s.progress()
		s.heal()
		s.state(name, "in sync")
	}
	s.must(s.net.Worsen(s.ctx, "b", "20mbit", true))
	s.progress()
	s.progress()
	s.heal()
	ends()
	s.ends()
	s.sound()
}

// The coordinator is cut off: from its clients, from its participants, from all.
func TestNetworkCutsTheCoordinator(t *testing.T) {
	s := newSevered(t, 0)
	ends := s.works()
	for _, w := range []way{there, back} {
		s.progress()
		s.cut(w, harness.Coordinator, loadHost)
		s.cut(w, harness.Coordinator, mountHost)
		s.lasts(2 * time.Second)
		s.heal()
	}
	for _, w := range []way{there, back, both} {
		s.progress()
		for _, name := range s.c.Names {
			s.cut(w, harness.Coordinator, name)
		}
		s.lasts(3 * time.Second)
		s.heal()
	}
	s.progress()
	s.cut(both, harness.Coordinator, "")
	s.lasts(3 * time.Second)
	s.heal()
	ends()
	s.ends()
	s.sound()
}

// lasts lets a fault last.
func (s *severed) lasts(d time.Duration) {
	s.Helper()
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
		s.Fatal(s.ctx.Err())
	}
}

// Faults of the network at random, several at a time, for 8 s or TPCFS_TEST_NETTIME.
func TestNetworkRandom(t *testing.T) {
	limit, err := harness.Duration("TPCFS_TEST_NETTIME", 8*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewSource(seed(t)))
	s := newSevered(t, limit)
	ends := s.works()
	counts := map[string]int{}
	hosts := append(s.c.All(), loadHost, mountHost)
	for end := time.Now().Add(limit); time.Now().Before(end) && !t.Failed(); {
		for range 1 + rnd.Intn(3) {
			switch host := hosts[rnd.Intn(len(hosts))]; rnd.Intn(5) {
			case 0:
				s.cut(way(rnd.Intn(3)), host, "")
				counts["cut off"]++
			case 1:
				k := 1 + rnd.Intn(5) // 0 would be no fault
				s.must(s.net.Worsen(s.ctx, host, []string{"", "5mbit", "50mbit"}[k%3], k >= 3))
				counts["bad"]++
			default:
				if host == harness.Coordinator {
					host = "b"
				}
				s.cut(way(rnd.Intn(3)), harness.Coordinator, host)
				counts["cut from the coordinator"]++
			}
		}
		s.lasts(time.Duration(rnd.Intn(5000)) * time.Millisecond)
		s.heal()
		if rnd.Intn(2) == 0 {
			s.progress() // everything that waits goes on
		}
	}
	t.Logf("network: %v", counts)
	ends()
	s.ends()
	s.sound()
}
