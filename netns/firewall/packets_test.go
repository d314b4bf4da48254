package firewall

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// question is who asks whom, and what comes back: who answered, and who they saw; "nothing" and "refused".
type question struct{ from, to, want string }

// questions asks them all at once: for most one waits.
func (w world) questions(list []question) {
	w.t.Helper()
	var asked sync.WaitGroup
	for _, q := range list {
		asked.Go(func() { w.expect(q) })
	}
	asked.Wait()
}

// both runs a test with frames within a bridge going through the chains, as br_netfilter has them, and without.
func both(t *testing.T, test func(t *testing.T, w world)) {
	for _, nf := range []string{"1", "0"} {
		t.Run("bridge-nf="+nf, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.sysctl("bridge/bridge-nf-call-iptables", nf)
			w.sysctl("bridge/bridge-nf-call-ip6tables", nf)
			test(t, w)
		})
	}
}

// TestOut: who leaves a network does so with the host's address, that of the right link, where that is wanted; what belongs to no
// connection, for which there is no NAT, does not leave at all.
func TestOut(t *testing.T) {
	both(t, func(t *testing.T, w world) {
		w.wantedTable()
		seen := w.capture("up0", "up1")
		w.questions([]question{
			{"a1", "192.0.2.2:80", "out1 192.0.2.1"},
			{"a1", "[2001:db8:1::2]:80", "out1 2001:db8:1::1"},
			{"b1", "198.51.100.2:80", "out2 198.51.100.1"},
			{"b1", "[2001:db8:2::2]:80", "out2 2001:db8:2::1"},
			{"n1", "192.0.2.2:80", "out1 10.4.0.2"},
			{"n1", "[2001:db8:1::2]:80", "out1 fd04::2"},
			{"a1", "192.0.2.2:8080", "refused"}, // a port that is published here
			{"host", "[2001:db8:1::2]:8080", "refused"},
		})
		w.at["a1"].reset("192.0.2.2")
		w.at["a1"].reset("2001:db8:1::2")
		for _, f := range seen() {
			if f.from("10.1.0.0/24") || f.from("10.2.0.0/24") || f.from("fd01::/64") || f.from("fd02::/64") {
				t.Errorf("%s left on %s as it was", f, f.link)
			}
		}
	})
}

// TestPublished: a client reaches a published port by the addresses that it is published on, and is seen as who it is.
func TestPublished(t *testing.T) {
	both(t, func(t *testing.T, w world) {
		w.wantedTable()
		w.questions([]question{
			{"out1", "192.0.2.1:8080", "a1 192.0.2.2"},
			{"out1", "198.51.100.1:8080", "a1 192.0.2.2"},
			{"out1", "[2001:db8:1::1]:8080", "a1 2001:db8:1::2"},
			{"out2", "192.0.2.1:8081", "a2 198.51.100.2"},
			{"out1", "[2001:db8:1::1]:8081", "a2 2001:db8:1::2"},
			{"out1", "198.51.100.1:8081", "refused"},
			{"out1", "[2001:db8:2::1]:8081", "refused"},
			{"out1", "192.0.2.1:8085", "n1 192.0.2.2"},
			{"out1", "192.0.2.1:8082", "refused"},
			{"out1", "192.0.2.1:80", "host 192.0.2.2"},
		})
	})
}

// TestFromHost: the machine itself reaches published ports by its addresses, 127.0.0.1 among them, and every container directly.
func TestFromHost(t *testing.T) {
	both(t, func(t *testing.T, w world) {
		w.wantedTable()
		w.questions([]question{
			{"host", "127.0.0.1:8080", "a1 10.1.0.1"},
			{"host", "127.0.0.1:8082", "a1 10.1.0.1"},
			{"host", "127.0.0.1:8085", "n1 10.4.0.1"},
			{"host", "192.0.2.1:8080", "a1 192.0.2.1"},
			{"host", "192.0.2.1:8081", "a2 192.0.2.1"},
			{"host", "127.0.0.1:8081", "refused"},
			{"host", "[2001:db8:1::1]:8080", "a1 2001:db8:1::1"},
			{"host", "[::1]:8080", "refused"},
			{"host", "10.1.0.2:80", "a1 10.1.0.1"},
			{"host", "10.3.0.2:80", "i1 10.3.0.1"},
			{"host", "[fd03::2]:80", "i1 fd03::1"},
			{"host", "127.0.0.1:8084", "refused"},
			{"host", "10.1.0.1:80", "host 10.1.0.1"},
			{"host", "[fd02::1]:80", "host fd02::1"},
		})
	})
}

// TestHairpin: a container reaches its own published port, and another's, by any address of the host.
func TestHairpin(t *testing.T) {
	both(t, func(t *testing.T, w world) {
		w.wantedTable()
		w.questions([]question{
			{"a1", "192.0.2.1:8080", "a1 10.1.0.1"},
			{"a1", "10.1.0.1:8080", "a1 10.1.0.1"},
			{"a2", "10.1.0.1:8080", "a1 10.1.0.1"},
			{"a2", "198.51.100.1:8080", "a1 10.1.0.1"},
			{"a1", "192.0.2.1:8081", "a2 10.1.0.1"},
			{"a1", "[2001:db8:1::1]:8080", "a1 fd01::1"},
			{"a2", "[fd01::1]:8080", "a1 fd01::1"},
			{"n1", "192.0.2.1:8085", "n1 10.4.0.1"},
			{"n2", "[2001:db8:1::1]:8085", "n1 fd04::1"},
			{"a1", "192.0.2.1:8083", "b1 10.2.0.1"},
			{"b1", "[2001:db8:1::1]:8080", "a1 fd01::1"},
			{"n1", "192.0.2.1:8080", "a1 10.4.0.2"},
		})
	})
}

// TestApart: networks do not reach each other, nor is anything reached from outside that is not published; within a network there is
// nothing between two containers.
func TestApart(t *testing.T) {
	both(t, func(t *testing.T, w world) {
		w.wantedTable()
		w.questions([]question{
			{"a1", "10.1.0.3:80", "a2 10.1.0.2"},
			{"a1", "[fd01::3]:80", "a2 fd01::2"},
			{"a1", "10.1.0.1:80", "host 10.1.0.2"},
			{"a1", "[fd01::1]:80", "host fd01::2"},
			{"a1", "10.2.0.2:80", "nothing"},
			{"a1", "[fd02::2]:80", "nothing"},
			{"b1", "10.4.0.2:80", "nothing"},
			{"n1", "10.1.0.2:80", "nothing"},
			{"a1", "10.2.0.1:80", "nothing"},
			{"a1", "[fd02::1]:80", "nothing"},
			{"out1", "10.1.0.2:80", "nothing"},
			{"out1", "[fd01::2]:80", "nothing"},
			{"out1", "10.4.0.2:80", "nothing"},
		})
		// The long way, by the gateway.
		w.at["a2"].route("10.1.0.2/32", "10.1.0.1")
		w.at["a2"].route("fd01::2/128", "fd01::1")
		w.questions([]question{{"a2", "10.1.0.2:80", "a1 10.1.0.3"}, {"a2", "[fd01::2]:80", "a1 fd01::3"}})
		// By TCP alone: a server of UDP on all addresses may answer with another.
		if got := w.at["a1"].ask("tcp", "192.0.2.1:80", soon); got != "host 10.1.0.2" {
			t.Errorf("a1 asked the machine itself: %s", got)
		}
		if w.at["a1"].ping("10.2.0.2", never) || w.at["out1"].ping("fd01::2", never) {
			t.Error("a ping went where nothing should")
		}
		for _, to := range []string{"10.1.0.3", "fd01::3", "10.1.0.1", "192.0.2.2", "2001:db8:1::2"} {
			if !w.at["a1"].ping(to, soon) {
				t.Errorf("a1 cannot ping %s", to)
			}
		}
	})
}

// TestInternal: on an internal network there is the bridge, and its gateway; no packet of it is seen anywhere else.
func TestInternal(t *testing.T) {
	both(t, func(t *testing.T, w world) {
		w.wantedTable()
		seen := w.capture("up0", "up1", "bra", "bri")
		w.questions([]question{
			{"i1", "10.3.0.3:80", "i2 10.3.0.2"},
			{"i1", "[fd03::3]:80", "i2 fd03::2"},
			{"i1", "10.3.0.1:80", "host 10.3.0.2"},
			{"i1", "[fd03::1]:80", "host fd03::2"},
			{"i1", "192.0.2.1:80", "nothing"},
			{"i1", "[2001:db8:1::1]:80", "nothing"},
			{"i1", "10.1.0.1:80", "nothing"},
			{"i1", "192.0.2.2:80", "nothing"},
			{"i1", "[2001:db8:1::2]:80", "nothing"},
			{"i1", "192.0.2.1:8080", "nothing"},
			{"i1", "10.3.0.1:8080", "refused"},
			{"i1", "10.1.0.2:80", "nothing"},
			{"a1", "10.3.0.2:80", "nothing"},
			{"a1", "[fd03::2]:80", "nothing"},
			{"out1", "10.3.0.2:80", "nothing"},
			{"out1", "192.0.2.1:8084", "refused"},
			{"a1", "192.0.2.1:8084", "refused"},
		})
		// Whoever else publishes it.
		w.run("table ip theirs { chain c { type nat hook prerouting priority dstnat; tcp dport 8086 dnat to 10.3.0.2:80; }; }", "nft", "-f", "-")
		if got := w.at["out1"].ask("tcp", "192.0.2.1:8086", never); got != "nothing" {
			t.Errorf("published by somebody else: %s", got)
		}
		if w.at["i1"].ping("192.0.2.2", never) || w.at["out1"].ping("10.3.0.2", never) || !w.at["i1"].ping("10.3.0.1", soon) {
			t.Error("pings of the internal network")
		}
		for _, f := range seen() {
			inside := f.from("10.3.0.0/24") || f.from("fd03::/64")
			if f.link != "bri" && inside {
				t.Errorf("%s of the internal network was on %s", f, f.link)
			}
			if f.link == "bri" && !inside && f.source().IsValid() && !f.from("fe80::/10") && !f.from("::/128") {
				t.Errorf("%s was on the internal network", f)
			}
		}
	})
}

// TestLoopbackIsOurs: route_localnet is on for the bridges, and DNAT comes before the kernel refuses 127.0.0.0/8 from elsewhere: what
// is published on 127.0.0.1, and what the machine serves there, is for the machine alone.
func TestLoopbackIsOurs(t *testing.T) {
	w := newWorld(t)
	w.wantedTable()
	for name, gateway := range map[string]string{"a1": "10.1.0.1", "i1": "10.3.0.1", "out1": "192.0.2.1"} {
		p := w.at[name]
		lo, err := p.h.LinkByName("lo")
		p.must(err)
		addr, err := netlink.ParseAddr("127.0.0.1/8")
		p.must(err)
		p.must(p.h.AddrDel(lo, addr))
		p.sysctl("ipv4/conf/eth0/route_localnet", "1")
		p.route("127.0.0.0/8", gateway)
		w.questions([]question{{name, "127.0.0.1:80", "nothing"}, {name, "127.0.0.1:8082", "nothing"}, {name, "127.0.0.1:8080", "nothing"}})
	}
	// With it on for an uplink too, as a kube-proxy does, what the machine serves is not ours to protect; what we publish is.
	w.sysctl("ipv4/conf/up0/route_localnet", "1")
	for _, at := range []string{"127.0.0.1:8082", "127.0.0.1:8080"} {
		if got := w.at["out1"].ask("tcp", at, never); got == "a1 192.0.2.2" {
			t.Errorf("out1 reached %s: %s", at, got)
		}
	}
}

// TestSpoof: nothing comes out of a network with an address that is not one of its own.
func TestSpoof(t *testing.T) {
	both(t, func(t *testing.T, w world) {
		w.wantedTable()
		seen := w.capture("up0", "bra")
		for _, a := range [][2]string{{"10.77.0.1", "192.0.2.2"}, {"10.2.0.9", "10.1.0.1"}, {"fd77::1", "2001:db8:1::2"}, {"192.0.2.9", "192.0.2.2"}} {
			w.at["a1"].claim(a[0], a[1])
		}
		w.at["a1"].claim("10.1.0.55", "192.0.2.2") // one of them, for comparison
		honest := false
		for _, f := range seen() {
			if f.link == "up0" && f.holds("claim") {
				honest = honest || f.holds("claim 10.1.0.55")
				if !f.holds("claim 10.1.0.55") {
					t.Errorf("%s left", f)
				}
			}
		}
		if !honest {
			t.Error("what has its own address did not leave either")
		}
	})
}

// TestGuard: a machine that forwards for our sake alone is no router for others, and other bridges on it work as before.
func TestGuard(t *testing.T) {
	both(t, func(t *testing.T, w world) {
		tab := w.table()
		for _, guarded := range [][]string{{"up0", "up1"}, nil} {
			w.must(tab.Apply(Wanted{Networks: networks(), Ports: ports(), Guarded4: guarded, Guarded6: guarded}))
			through, through6, foreign := "out2 192.0.2.2", "out2 2001:db8:1::2", "out1 10.5.0.2"
			if guarded != nil {
				through, through6, foreign = "nothing", "nothing", "nothing"
			}
			w.questions([]question{
				{"out1", "198.51.100.2:80", through},
				{"out1", "[2001:db8:2::2]:80", through6},
				{"f1", "192.0.2.2:80", foreign},
				{"a1", "192.0.2.2:80", "out1 192.0.2.1"},
				{"a1", "[2001:db8:2::2]:80", "out2 2001:db8:2::1"},
				{"out1", "192.0.2.1:8080", "a1 192.0.2.2"},
				{"f1", "10.5.0.3:80", "f2 10.5.0.2"},
				{"f1", "[fd05::3]:80", "f2 fd05::2"},
			})
		}
		// A machine may be a router for one family.
		w.must(tab.Apply(Wanted{Networks: networks(), Guarded6: []string{"up0", "up1"}}))
		w.questions([]question{{"out1", "198.51.100.2:80", "out2 192.0.2.2"}, {"out1", "[2001:db8:2::2]:80", "nothing"}})
		w.must(tab.Apply(Wanted{Networks: networks(), Guarded4: []string{"up0", "up1"}}))
		w.questions([]question{{"out1", "198.51.100.2:80", "nothing"}, {"out1", "[2001:db8:2::2]:80", "out2 2001:db8:1::2"}})
		// Neither of two links has to be guarded.
		w.must(tab.Apply(Wanted{Networks: networks(), Guarded4: []string{"up0"}, Guarded6: []string{"up0"}}))
		w.questions([]question{{"f1", "198.51.100.2:80", "nothing"}, {"out2", "10.5.0.2:80", "nothing"}})
		// The link that is guarded may be a bridge itself, with machines on it.
		w.must(tab.Apply(Wanted{Networks: networks(), Guarded4: []string{"brf"}, Guarded6: []string{"brf"}}))
		seen := w.capture("brf", "brg")
		w.questions([]question{
			{"f1", "10.5.0.3:80", "f2 10.5.0.2"},
			{"f1", "192.0.2.2:80", "nothing"},
			{"f1", "10.1.0.2:80", "nothing"},
			{"f1", "10.6.0.2:80", "nothing"},
			{"g1", "10.5.0.2:80", "nothing"},
			{"g1", "[fd05::2]:80", "nothing"},
			{"g1", "10.6.0.3:80", "g2 10.6.0.2"},
		})
		for _, f := range seen() {
			if f.link == "brg" && f.from("10.5.0.0/24") || f.link == "brf" && f.from("10.6.0.0/24") {
				t.Errorf("%s was on %s", f, f.link)
			}
		}
	})
}

// TestNeighbours: what IPv6 does between neighbours works, with addresses of the link, and with none as long as a container asks
// whether the one that it wants is taken.
func TestNeighbours(t *testing.T) {
	both(t, func(t *testing.T, w world) {
		w.wantedTable()
		for name, bridge := range map[string]string{"a1": "bra", "i1": "bri"} {
			p := w.at[name]
			l, err := w.h.LinkByName(bridge)
			w.must(err)
			list, err := w.h.AddrList(l, unix.AF_INET6)
			w.must(err)
			for _, a := range list {
				if !a.IP.IsLinkLocalUnicast() {
					continue
				}
				// By its number: the names of links that the net package remembers are of any namespace.
				eth0, err := p.h.LinkByName("eth0")
				p.must(err)
				at := fmt.Sprintf("[%s%%%d]:80", a.IP, eth0.Attrs().Index)
				if got := p.ask("tcp", at, soon); !strings.HasPrefix(got, "host fe80:") {
					t.Errorf("%s asked its bridge by its link-local address: %s", name, got)
				}
			}
			p.sysctl("ipv6/conf/eth0/accept_dad", "1")
			if !p.taken(map[string]string{"a1": "fd01::1/128", "i1": "fd03::1/128"}[name]) {
				t.Errorf("%s was not told that the address of its gateway is taken", name)
			}
		}
	})
}
