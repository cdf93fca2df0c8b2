package harness

import (
	"net"
	"testing"
	"time"
)

// What the network does to packets: it passes them on, swallows those of one way, or
// some of all.
func TestNet(t *testing.T) {
	ctx := t.Context()
	n, err := NewNet(ctx, "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}()
	ends := map[string]*net.UDPConn{}
	for host, other := range map[string]string{"a": "b", "b": "a"} {
		err := inNamespace(n.hosts[host].proc.PID(), func() error {
			here, there := net.ParseIP(n.address(host)), net.ParseIP(n.address(other))
			c, err := net.DialUDP("udp", &net.UDPAddr{IP: here, Port: netPort}, &net.UDPAddr{IP: there, Port: netPort})
			ends[host] = c
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer ends[host].Close()
	}
	// arrive is how many of some packets arrive, all sent before the wait for them ends:
	// long for as many as have to, a moment for more.
	arrive := func(from, to string, count, least int) int {
		for range count {
			if _, err := ends[from].Write(make([]byte, 500)); err != nil {
				t.Fatal(err)
			}
		}
		got := 0
		for b := make([]byte, 1000); ; got++ {
			wait := 200 * time.Millisecond
			if got < least {
				wait = 10 * time.Second
			}
			if err := ends[to].SetReadDeadline(time.Now().Add(wait)); err != nil {
				t.Fatal(err)
			}
			if _, err := ends[to].Read(b); err != nil {
				return got
			}
		}
	}
	check := func(what, from, to string, least, most int) {
		t.Helper()
		if got := arrive(from, to, 160, least); got < least || got > most {
			t.Errorf("%s: %d of 160 packets from %s arrive at %s", what, got, from, to)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check("whole", "a", "b", 160, 160)
	check("whole", "b", "a", 160, 160)
	// All at once, the more particular first: the kernel knows them apart.
	for _, cut := range [][2]string{{"a", "b"}, {"b", "a"}, {"a", ""}, {"", "b"}, {"", ""}, {"", "b"}} {
		do(n.Cut(ctx, cut[0], cut[1]))
	}
	check("cut in all ways", "a", "b", 0, 0)
	do(n.Heal(ctx))
	check("whole again", "a", "b", 160, 160)
	do(n.Cut(ctx, "a", "b"))
	check("cut", "a", "b", 0, 0)
	check("the other way", "b", "a", 160, 160)
	do(n.Heal(ctx))
	do(n.Cut(ctx, "", "a"))
	check("healed", "a", "b", 160, 160)
	check("cut off", "b", "a", 0, 0)
	do(n.Heal(ctx))
	do(n.Worsen(ctx, "b", "", true))
	check("lossy", "a", "b", 130, 159)
	check("lossy", "b", "a", 130, 159)
	do(n.Heal(ctx))
	check("healed", "a", "b", 160, 160)
	do(n.Worsen(ctx, "b", "1mbit", false))
	began := time.Now()
	check("slow", "a", "b", 160, 160)
	if took := time.Since(began); took < 600*time.Millisecond {
		t.Errorf("at 1 Mbit/s 160 packets took %v", took)
	}
	do(n.Heal(ctx))
	check("healed", "a", "b", 160, 160)
}
