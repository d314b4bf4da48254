package firewall

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ctrfs/ctrfs/netns"
	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("network namespaces and nftables need root, and CI has to have it")
	}
	t.Skip("network namespaces and nftables need root")
}

func requireProgram(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("no %s, and CI has to have it", name)
	}
	t.Skipf("no %s", name)
}

// place is a network namespace: the host of the tests, a container, or somebody outside.
type place struct {
	t    testing.TB
	name string
	ns   *os.File
	h    *netlink.Handle
}

func newPlace(t testing.TB, name string) *place {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	h, err := netlink.NewHandleAt(vnetns.NsHandle(ns.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	p := &place{t, name, ns, h}
	p.sysctl("ipv6/conf/default/accept_dad", "0") // addresses that can be used at once
	return p
}

// do runs a function in a namespace, on a thread of its own.
func (p *place) do(f func()) {
	p.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never back: the thread ends here
		if err := unix.Setns(int(p.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		p.t.Fatal(err)
	}
}

// run runs a program in a namespace and returns what it printed.
func (p *place) run(stdin string, argv ...string) string {
	p.t.Helper()
	var out []byte
	var err error
	p.do(func() {
		c := exec.Command(argv[0], argv[1:]...)
		c.Stdin = strings.NewReader(stdin)
		out, err = c.CombinedOutput()
	})
	if err != nil {
		p.t.Fatalf("%s: %v: %v\n%s", p.name, argv, err, out)
	}
	return string(out)
}

// sysctl writes to the namespace's own part of /proc/sys/net.
func (p *place) sysctl(name, value string) {
	p.t.Helper()
	var err error
	p.do(func() { err = os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0) })
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

// address gives a link addresses, without waiting for somebody who has them already, and brings it up.
func (p *place) address(link string, addresses ...string) {
	p.t.Helper()
	l, err := p.h.LinkByName(link)
	p.must(err)
	p.must(p.h.LinkSetUp(l))
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		p.must(err)
		addr.Flags = unix.IFA_F_NODAD
		p.must(p.h.AddrAdd(l, addr))
	}
}

// route adds routes by way of gateways.
func (p *place) route(to string, via ...string) {
	p.t.Helper()
	for _, v := range via {
		r := &netlink.Route{Gw: net.ParseIP(v)}
		if to != "" {
			_, dst, err := net.ParseCIDR(to)
			p.must(err)
			r.Dst = dst
		}
		p.must(p.h.RouteAdd(r))
	}
}

// wire joins a link of one place and one of another.
func wireUp(a *place, linkA string, b *place, linkB string) {
	a.t.Helper()
	a.must(a.h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: linkA}, PeerName: linkB, PeerNamespace: netlink.NsFd(b.ns.Fd())}))
	for _, p := range []struct {
		*place
		link string
	}{{a, linkA}, {b, linkB}} {
		l, err := p.h.LinkByName(p.link)
		p.must(err)
		p.must(p.h.LinkSetUp(l))
	}
}

// bridge makes a bridge on the host with its addresses.
func (p *place) bridge(link string, addresses ...string) {
	p.t.Helper()
	p.must(p.h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: link}}))
	p.address(link, addresses...)
	p.sysctl("ipv4/conf/"+link+"/route_localnet", "1")
}

// plug puts a container on a bridge.
func (p *place) plug(bridge, container string, addresses, gateways []string) *place {
	p.t.Helper()
	c := newPlace(p.t, container)
	wireUp(p, "v"+container, c, "eth0")
	l, err := p.h.LinkByName("v" + container)
	p.must(err)
	b, err := p.h.LinkByName(bridge)
	p.must(err)
	p.must(p.h.LinkSetMaster(l, b))
	p.must(p.h.LinkSetHairpin(l, true))
	c.address("eth0", addresses...)
	c.route("", gateways...)
	return c
}

// world is a host with its networks: a and b are NATed, n is routed, i is internal, and f and g are bridges of somebody else.
type world struct {
	*place
	at map[string]*place
}

func newWorld(t testing.TB) world {
	t.Helper()
	requireRoot(t)
	host := newPlace(t, "host")
	w := world{host, map[string]*place{"host": host}}
	host.sysctl("ipv4/ip_forward", "1")
	host.sysctl("ipv6/conf/all/forwarding", "1")
	for i, out := range []string{"out1", "out2"} {
		o := newPlace(t, out)
		w.at[out] = o
		v4, v6, up := []string{"192.0.2.", "198.51.100."}[i], fmt.Sprintf("2001:db8:%d::", i+1), fmt.Sprintf("up%d", i)
		wireUp(host, up, o, "eth0")
		host.address(up, v4+"1/24", v6+"1/64")
		o.address("eth0", v4+"2/24", v6+"2/64")
		o.route("", v4+"1", v6+"1")
	}
	for i, n := range []string{"a", "b", "i", "n", "f", "g"} {
		v4, v6 := fmt.Sprintf("10.%d.0.", i+1), fmt.Sprintf("fd0%d::", i+1)
		host.bridge("br"+n, v4+"1/24", v6+"1/64")
		for j := range 2 {
			name := fmt.Sprintf("%s%d", n, j+1)
			w.at[name] = host.plug("br"+n, name, []string{fmt.Sprintf("%s%d/24", v4, j+2), fmt.Sprintf("%s%d/64", v6, j+2)},
				[]string{v4 + "1", v6 + "1"})
		}
	}
	for _, p := range w.at {
		p.serve(":80")
	}
	return w
}

// networks is what is wanted for the world's own networks.
func networks() []Network {
	var out []Network
	for i, n := range []string{"a", "b", "i", "n"} {
		out = append(out, Network{
			Link:     "br" + n,
			Subnets:  []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd0%d::/64", i+1))},
			Gateways: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.%d.0.1", i+1)), netip.MustParseAddr(fmt.Sprintf("fd0%d::1", i+1))},
			NAT:      n != "n",
			Internal: n == "i",
		})
	}
	return out
}

// publish is a port of both protocols: "0.0.0.0:8080", "10.1.0.2:80".
func publish(host, to, link string) []Port {
	h := netip.MustParseAddrPort(host)
	var out []Port
	for _, p := range []string{"tcp", "udp"} {
		out = append(out, Port{Proto: p, Host: h.Addr(), Port: h.Port(), To: netip.MustParseAddrPort(to), Link: link})
	}
	return out
}

func ports() []Port {
	var out []Port
	for _, p := range [][3]string{
		{"0.0.0.0:8080", "10.1.0.2:80", "bra"}, {"[::]:8080", "[fd01::2]:80", "bra"},
		{"192.0.2.1:8081", "10.1.0.3:80", "bra"}, {"[2001:db8:1::1]:8081", "[fd01::3]:80", "bra"},
		{"127.0.0.1:8082", "10.1.0.2:80", "bra"},
		{"0.0.0.0:8083", "10.2.0.2:80", "brb"}, {"[::]:8083", "[fd02::2]:80", "brb"},
		{"0.0.0.0:8084", "10.3.0.2:80", "bri"}, {"[::]:8084", "[fd03::2]:80", "bri"},
		{"0.0.0.0:8085", "10.4.0.2:80", "brn"}, {"[::]:8085", "[fd04::2]:80", "brn"},
	} {
		out = append(out, publish(p[0], p[1], p[2])...)
	}
	return out
}

// table opens a table of the world's host.
func (w world) table() *Table { return OpenIn(int(w.ns.Fd()), "ctrfs-test") }

// wantedTable applies what the tests of packets want.
func (w world) wantedTable() *Table {
	w.t.Helper()
	tab := w.table()
	w.must(tab.Apply(Wanted{Networks: networks(), Ports: ports()}))
	return tab
}

// serve answers whoever asks, by TCP and UDP, with who it is and who asked.
func (p *place) serve(at string) {
	p.t.Helper()
	p.do(func() {
		l, err := net.Listen("tcp", at)
		p.must(err)
		p.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%s %s", p.name, host(c.RemoteAddr()))
				c.Close()
			}
		}()
		u, err := net.ListenPacket("udp", at)
		p.must(err)
		p.t.Cleanup(func() { u.Close() })
		go func() {
			b := make([]byte, 100)
			for {
				_, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				u.WriteTo([]byte(p.name+" "+host(from)), from)
			}
		}()
	})
}

// host is an address without its port, as it is written for its own family.
func host(a net.Addr) string {
	return netip.MustParseAddrPort(a.String()).Addr().Unmap().String()
}

// ask asks a server and returns its answer, or what went wrong: "refused" or "nothing".
func (p *place) ask(network, to string, patience time.Duration) string {
	p.t.Helper()
	answer := "nothing"
	p.do(func() {
		c, err := net.DialTimeout(network, to, patience)
		if err != nil {
			if strings.Contains(err.Error(), "refused") {
				answer = "refused"
			}
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if network == "udp" {
			c.Write([]byte("who?"))
		}
		b := make([]byte, 100)
		n, err := c.Read(b)
		switch {
		case err == nil:
			answer = string(b[:n])
		case strings.Contains(err.Error(), "refused"):
			answer = "refused"
		}
	})
	return answer
}

const (
	soon  = 3 * time.Second        // for what has to come
	never = 150 * time.Millisecond // for what must not
)

// expect asks by TCP and UDP and compares the answers.
func (w world) expect(q question) {
	patience := soon
	if q.want == "nothing" {
		patience = never
	}
	for _, network := range []string{"tcp", "udp"} {
		if got := w.at[q.from].ask(network, q.to, patience); got != q.want {
			w.t.Errorf("%s asked %s by %s: got %q, wanted %q", q.from, q.to, network, got, q.want)
		}
	}
}
