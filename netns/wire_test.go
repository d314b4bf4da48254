package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// inside of a namespace, as text: links with their addresses and gateways.
func (w world) inside(ns *os.File) string {
	w.t.Helper()
	all, err := Interfaces(ns)
	w.must(err)
	var out []string
	for _, i := range all {
		slices.SortFunc(i.Addresses, netip.Prefix.Compare)
		slices.SortFunc(i.Gateways, netip.Addr.Compare)
		out = append(out, fmt.Sprintf("%s %s mtu %d up %v %v via %v", i.Name, net.HardwareAddr(i.MAC), i.MTU, i.Up, i.Addresses, i.Gateways))
	}
	return strings.Join(out, "\n")
}

// TestPackets: two containers and the bridge reach each other, with either family, small and large; and at once.
func TestPackets(t *testing.T) {
	w := newWorld(t)
	_, err := w.Apply(blue())
	w.must(err)
	a, b := w.container(2), w.container(3)
	// The very first packet of a container arrives.
	w.must(w.datagram(w.container(4), w.ns, "10.88.0.1", 10))
	w.must(w.datagram(w.container(5), a, "fd00:88::2", 10))
	for _, p := range []struct {
		from, at *os.File
		to       string
	}{
		{a, b, "10.88.0.3"}, {b, a, "10.88.0.2"}, {a, b, "fd00:88::3"}, {b, a, "fd00:88::2"},
		{a, w.ns, "10.88.0.1"}, {a, w.ns, "fd00:88::1"}, {w.ns, b, "10.88.0.3"}, {w.ns, b, "fd00:88::3"},
	} {
		// In one packet, in one that is just full, and in many.
		for _, size := range []int{0, 1400, 1452, 1472, 20000, 60000} {
			if err := w.ping(p.from, p.to, size); err != nil {
				t.Error(err)
			}
			if err := w.datagram(p.from, p.at, p.to, size+1); err != nil {
				t.Error(err)
			}
		}
		if _, err := w.stream(p.from, p.at, p.to, 1<<20); err != nil {
			t.Error(err)
		}
	}
	if got, want := w.inside(a), "eth0 06:c4:0a:58:00:02 mtu 1500 up true [10.88.0.2/24 fd00:88::2/64] via [10.88.0.1 fd00:88::1]"; got != want {
		t.Errorf("inside: %s", got)
	}
}

// TestPort: the host's end is a port with hairpin, and speaks no IPv6; a container believes no router.
func TestPort(t *testing.T) {
	w := newWorld(t)
	index, err := w.Apply(blue())
	w.must(err)
	ns := w.namespace()
	wire := wire(2)
	wire.Alias, wire.MTU = "ctrfs test wire", 1400
	end, err := w.Connect(ns, wire)
	w.must(err)
	l := w.find("ctrfsw2")
	if l.index != end || l.master != index || l.alias != wire.Alias || l.mtu != 1400 || l.flags&unix.IFF_UP == 0 {
		t.Errorf("%+v with index %d, a port of %d", l, end, index)
	}
	found, err := w.traffic.LinkByIndex(end)
	w.must(err)
	protinfo, err := w.traffic.LinkGetProtinfo(found)
	if err != nil || !protinfo.Hairpin {
		t.Errorf("%+v (%v)", protinfo, err)
	}
	for name, want := range map[string]string{"accept_ra": "0", "disable_ipv6": "0"} {
		if got := w.value(ns, "ipv6/conf/eth0/"+name); got != want {
			t.Errorf("%s is %s inside", name, got)
		}
	}
	if got := w.linkLocal(w.ns, "ctrfsw2"); got != 0 {
		t.Errorf("%d link-local addresses on the host's end", got)
	}
	if got := w.linkLocal(ns, "eth0"); got != 1 {
		t.Errorf("%d link-local addresses inside", got)
	}
	plain := w.namespace()
	wire = Wire{Name: "eth0", Bridge: "ctrfs0", Host: "ctrfsw3", Addresses: prefixes("10.88.0.3/24")}
	_, err = w.Connect(plain, wire)
	w.must(err)
	if got := w.linkLocal(plain, "eth0"); got != 0 {
		t.Errorf("%d link-local addresses inside one without IPv6", got)
	}
	if got, want := w.inside(plain), "eth0 06:c4:0a:58:00:03 mtu 1500 up true [10.88.0.3/24] via []"; got != want {
		t.Errorf("inside: %s", got)
	}
}

// linkLocal counts the IPv6 link-local addresses of a link.
func (w world) linkLocal(ns *os.File, name string) (n int) {
	w.t.Helper()
	w.in(ns, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/if_inet6")
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 6 && f[5] == name && strings.HasPrefix(f[0], "fe80") {
				n++
			}
		}
		return err
	})
	return n
}

// TestRouterIsNotBelieved: a container announces itself as a router, and nobody listens.
func TestRouterIsNotBelieved(t *testing.T) {
	w := newWorld(t)
	_, err := w.Apply(blue())
	w.must(err)
	a, b := w.container(2), w.container(3)
	believer := w.container(4)
	w.in(believer, func() error { _, err := sysctl("ipv6/conf/eth0/accept_ra", "2"); return err })
	var c net.PacketConn
	w.in(b, func() (err error) {
		c, err = net.ListenPacket("ip6:ipv6-icmp", "fe80::4c4:aff:fe58:3%eth0")
		return err
	})
	defer c.Close()
	raw, err := c.(*net.IPConn).SyscallConn()
	w.must(err)
	w.must(raw.Control(func(fd uintptr) {
		w.must(unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255))
	}))
	advertisement := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0,
		3, 4, 64, 0xc0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	w.in(b, func() error {
		_, err := c.WriteTo(advertisement, &net.IPAddr{IP: net.ParseIP("ff02::1"), Zone: "eth0"})
		return err
	})
	for end := time.Now().Add(patience); !strings.Contains(w.inside(believer), "2001:db8"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the advertisement did not even reach one who believes: %s", w.inside(believer))
		}
	}
	if got := w.inside(a); strings.Contains(got, "2001:db8") || strings.Contains(got, "fe80") {
		t.Errorf("inside: %s", got)
	}
	if got := w.state("ctrfs0"); strings.Contains(got, "2001:db8") {
		t.Errorf("the bridge: %s", got)
	}
}

// TestReaddress: a link has what it is given instead of what it had, and packets go there.
func TestReaddress(t *testing.T) {
	w := newWorld(t)
	_, err := w.Apply(blue())
	w.must(err)
	a, b := w.container(2), w.container(3)
	w.must(w.ping(b, "10.88.0.2", 10))
	for _, c := range []struct{ name, addresses, gateways, want string }{
		{"same subnet", "10.88.0.9/24 fd00:88::9/64", vias, "06:c4:0a:58:00:09 mtu 1500 up true [10.88.0.9/24 fd00:88::9/64] via [10.88.0.1 fd00:88::1]"},
		{"again", "10.88.0.9/24 fd00:88::9/64", vias, "06:c4:0a:58:00:09 mtu 1500 up true [10.88.0.9/24 fd00:88::9/64] via [10.88.0.1 fd00:88::1]"},
		{"another one in front", "10.88.0.8/24 10.88.0.9/24", "10.88.0.1", "06:c4:0a:58:00:08 mtu 1500 up true [10.88.0.8/24 10.88.0.9/24] via [10.88.0.1]"},
		{"the secondary alone", "10.88.0.8/24", "10.88.0.1", "06:c4:0a:58:00:08 mtu 1500 up true [10.88.0.8/24] via [10.88.0.1]"},
		{"another length", "10.88.0.8/16", "10.88.7.7", "06:c4:0a:58:00:08 mtu 1500 up true [10.88.0.8/16] via [10.88.7.7]"},
		{"no gateway", "10.88.0.8/24 fd00:88::8/64", "", "06:c4:0a:58:00:08 mtu 1500 up true [10.88.0.8/24 fd00:88::8/64] via []"},
		{"IPv6 first", "fd00:88::2/64 10.88.0.2/24", "fd00:88::1", "06:c6:" + macText("fd00:88::2") + " mtu 1500 up true [10.88.0.2/24 fd00:88::2/64] via [fd00:88::1]"},
		{"no addresses", "", "", "06:c6:" + macText("fd00:88::2") + " mtu 1500 up true [] via []"},
		{"as at first", "10.88.0.2/24 fd00:88::2/64", vias, "06:c4:0a:58:00:02 mtu 1500 up true [10.88.0.2/24 fd00:88::2/64] via [10.88.0.1 fd00:88::1]"},
	} {
		wire := Wire{Name: "eth0", Addresses: prefixes(c.addresses), Gateways: addrs(c.gateways)}
		if err := w.Readdress(a, wire); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := w.inside(a); got != "eth0 "+c.want {
			t.Errorf("%s:\ngot  %s\nwant eth0 %s", c.name, got, c.want)
		}
		for _, p := range wire.Addresses {
			if err := w.ping(b, p.Addr().String(), 10); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
	w.refused(w.Readdress(a, Wire{Name: "eth1"}), unix.ENODEV)
	w.refused(w.Readdress(a, Wire{Name: "eth0", Addresses: prefixes("10.88.0.2/24"), Gateways: addrs("10.1.1.1")}), unix.ENETUNREACH)
}

func macText(addr string) string {
	return net.HardwareAddr(macOf(netip.MustParseAddr(addr))[2:]).String()
}

// TestAddressMovesOn: a container takes the address of another, and neighbours find it without waiting.
func TestAddressMovesOn(t *testing.T) {
	w := newWorld(t)
	_, err := w.Apply(blue())
	w.must(err)
	a, b, c := w.container(2), w.container(3), w.container(4)
	w.must(w.ping(b, "10.88.0.2", 10))
	w.must(w.ping(b, "fd00:88::2", 10))
	w.must(w.Readdress(a, Wire{Name: "eth0", Addresses: prefixes("10.88.0.5/24 fd00:88::5/64")}))
	w.must(w.Readdress(c, Wire{Name: "eth0", Addresses: prefixes("10.88.0.2/24 fd00:88::2/64")}))
	start := time.Now()
	for _, to := range []string{"10.88.0.2", "fd00:88::2"} {
		if err := w.datagram(b, c, to, 10); err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("it took %s", took)
	}
}

// TestConnectIsAllOrNothing: whatever fails, and wherever, there is no link on either side.
func TestConnectIsAllOrNothing(t *testing.T) {
	w := newWorld(t)
	_, err := w.Apply(blue())
	w.must(err)
	ns := w.namespace()
	change := func(f func(*Wire)) Wire {
		wire := wire(2)
		f(&wire)
		return wire
	}
	for name, c := range map[string]struct {
		wire  Wire
		errno unix.Errno
	}{
		"gateway elsewhere":  {change(func(w *Wire) { w.Gateways = addrs("10.99.0.1") }), unix.ENETUNREACH},
		"gateway elsewhere6": {change(func(w *Wire) { w.Gateways = addrs("fd00:99::1") }), unix.EHOSTUNREACH},
		"an address twice":   {change(func(w *Wire) { w.Addresses = append(w.Addresses, w.Addresses[0]) }), unix.EEXIST},
		"no bridge":          {change(func(w *Wire) { w.Bridge = "ctrfs9" }), unix.ENODEV},
		"lo is no bridge":    {change(func(w *Wire) { w.Bridge = "lo" }), unix.EOPNOTSUPP},
		"the name is taken":  {change(func(w *Wire) { w.Name = "lo" }), unix.EEXIST},
		"the host's too":     {change(func(w *Wire) { w.Host = "ctrfs0" }), unix.EEXIST},
		"not ours by name":   {change(func(w *Wire) { w.Host = "veth0" }), unix.EINVAL},
		"no name":            {change(func(w *Wire) { w.Name = "" }), unix.EINVAL},
		"a path":             {change(func(w *Wire) { w.Name = ".." }), unix.EINVAL},
		"another path":       {change(func(w *Wire) { w.Name = "a/b" }), unix.EINVAL},
		"a long name":        {change(func(w *Wire) { w.Name = "eth0123456789012" }), unix.EINVAL},
		"multicast mac":      {change(func(w *Wire) { w.MAC = []byte{1, 0, 0, 0, 0, 1} }), unix.EINVAL},
		"small mtu":          {change(func(w *Wire) { w.MTU = 1279 }), unix.EINVAL},
		"two gateways":       {change(func(w *Wire) { w.Gateways = addrs("10.88.0.1 10.88.0.2") }), unix.EINVAL},
		"a macvlan's end":    {change(func(w *Wire) { w.Parent = "lo" }), unix.EINVAL},
		"multicast address":  {change(func(w *Wire) { w.Addresses = prefixes("224.0.0.1/24") }), unix.EINVAL},
		"a gateway's zero":   {change(func(w *Wire) { w.Gateways = []netip.Addr{{}} }), unix.EINVAL},
		"a long alias":       {change(func(w *Wire) { w.Alias = strings.Repeat("a", 256) }), unix.EINVAL},
	} {
		_, err := w.Connect(ns, c.wire)
		if !errors.Is(err, c.errno) {
			t.Errorf("%s: got %v, not %v", name, err, c.errno)
		}
		if host, inside := w.names(), w.inside(ns); host != "ctrfs0" || inside != "" {
			t.Errorf("%s: left are %q on the host, %q inside", name, host, inside)
		}
	}
	_, err = w.Connect(ns, wire(2))
	w.must(err)
	w.must(w.ping(ns, "10.88.0.1", 10))
}

// TestTwoWires: a container on two networks.
func TestTwoWires(t *testing.T) {
	w := newWorld(t)
	_, err := w.Apply(blue())
	w.must(err)
	_, err = w.Apply(Bridge{Link: "ctrfs1", Alias: "ctrfs test red", Gateways: prefixes("10.89.0.1/24"), Internal: true})
	w.must(err)
	ns := w.container(2)
	_, err = w.Connect(ns, Wire{Name: "eth1", Bridge: "ctrfs1", Host: "ctrfsw9", Addresses: prefixes("10.89.0.2/24")})
	w.must(err)
	w.must(w.ping(ns, "10.88.0.1", 10))
	w.must(w.ping(ns, "10.89.0.1", 10))
	counters, err := CountersOf(os.Getpid()) // of the machine: no more than that it can be read
	if err != nil || counters["lo"] != (Counters{}) {
		t.Errorf("%v (%v)", counters, err)
	}
}

// TestDisconnect removes both ends, also of a wire that went with its namespace, and nothing that is no wire.
func TestDisconnect(t *testing.T) {
	w := newWorld(t)
	bridge, err := w.Apply(blue())
	w.must(err)
	ns := w.namespace()
	index, err := w.Connect(ns, wire(2))
	w.must(err)
	w.refused(w.Disconnect(bridge), unix.EINVAL)
	w.must(w.SetRate(index, 1e6, 1e6))
	w.must(w.Disconnect(index))
	w.must(w.Disconnect(index))
	w.must(w.Disconnect(0))
	if got := w.names() + w.inside(ns); got != "ctrfs0" {
		t.Errorf("links: %s", got)
	}
	gone, err := New()
	w.must(err)
	index, err = w.Connect(gone, wire(3))
	w.must(err)
	w.must(gone.Close())
	for end := time.Now().Add(patience); w.names() != "ctrfs0"; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("links: %s", w.names())
		}
	}
	w.must(w.Disconnect(index))
}

// TestUserNamespace: the namespace of a container that is root in its own user namespace only.
func TestUserNamespace(t *testing.T) {
	w := newWorld(t)
	_, err := w.Apply(blue())
	w.must(err)
	sleep := exec.Command("sleep", "60")
	sleep.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{HostID: 100000, Size: 65536}}, GidMappings: []syscall.SysProcIDMap{{HostID: 100000, Size: 65536}}}
	w.must(sleep.Start())
	t.Cleanup(func() { sleep.Process.Kill(); sleep.Wait() })
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", sleep.Process.Pid))
	w.must(err)
	defer ns.Close()
	_, err = w.Connect(ns, wire(2))
	w.must(err)
	w.must(w.ping(ns, "10.88.0.1", 10))
	w.must(w.Readdress(ns, wire(3)))
	w.must(w.ping(ns, "fd00:88::1", 10))
	if got := w.value(ns, "ipv6/conf/eth0/accept_ra"); got != "0" {
		t.Errorf("accept_ra is %s", got)
	}
	counters, err := CountersOf(sleep.Process.Pid)
	eth0 := counters["eth0"]
	if err != nil || len(counters) != 1 || eth0.RxPackets == 0 || eth0.TxPackets == 0 || eth0.RxBytes < 10 || eth0.TxBytes < 10 {
		t.Errorf("%+v (%v)", counters, err)
	}
	if _, err := CountersOf(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no process: %v", err)
	}
}

// TestMacvlan: two of them reach each other and the world by the parent, at the other end of which is somebody else.
func TestMacvlan(t *testing.T) {
	w := newWorld(t)
	lan := w.lan("uplink0", "192.0.2.1/24 2001:db8::1/64")
	var inside []*os.File
	for n := 2; n <= 3; n++ {
		ns := w.namespace()
		index, err := w.Connect(ns, Wire{Name: "eth0", Parent: "uplink0", Gateways: addrs("192.0.2.1 2001:db8::1"),
			Addresses: prefixes(fmt.Sprintf("192.0.2.%d/24 2001:db8::%d/64", n, n))})
		if err != nil || index != 0 {
			t.Fatalf("index %d (%v)", index, err)
		}
		inside = append(inside, ns)
	}
	for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
		w.must(w.ping(inside[0], to, 1000))
		w.must(w.datagram(inside[1], lan, to, 5000))
	}
	w.must(w.ping(inside[0], "192.0.2.3", 10))
	w.must(w.ping(inside[1], "2001:db8::2", 10))
	w.must(w.Readdress(inside[0], Wire{Name: "eth0", Addresses: prefixes("192.0.2.9/24"), Gateways: addrs("192.0.2.1")}))
	w.must(w.ping(lan, "192.0.2.9", 10))
	if got, want := w.inside(inside[0]), "eth0 06:c4:c0:00:02:09 mtu 1500 up true [192.0.2.9/24] via [192.0.2.1]"; got != want {
		t.Errorf("inside: %s", got)
	}
	if got := w.value(inside[0], "ipv6/conf/eth0/accept_ra"); got != "0" {
		t.Errorf("accept_ra is %s", got)
	}
	empty := w.namespace()
	for errno, wire := range map[unix.Errno]Wire{
		unix.ENETUNREACH: {Name: "eth0", Parent: "uplink0", Addresses: prefixes("192.0.2.4/24"), Gateways: addrs("10.1.1.1")},
		unix.ENODEV:      {Name: "eth0", Parent: "uplink9"},
		unix.EINVAL:      {Name: "eth0", Parent: "uplink0", MTU: 9000},
	} {
		_, err := w.Connect(empty, wire)
		w.refused(err, errno)
		if got := w.inside(empty); got != "" {
			t.Errorf("left: %s", got)
		}
	}
	w.refused(w.SetRate(0, 1e6, 1e6), unix.EOPNOTSUPP)
}

// lan gives the host a link, with a namespace at its other end that has the addresses.
func (w world) lan(name, addresses string) *os.File {
	w.t.Helper()
	ns := w.namespace()
	w.must(w.traffic.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, Flags: net.FlagUp}, PeerName: "lan0",
		PeerNamespace: netlink.NsFd(ns.Fd())}))
	w.in(ns, func() error {
		if err := raiseByName("lan0"); err != nil {
			return err
		}
		s, err := dial()
		if err != nil {
			return err
		}
		defer s.close()
		l, err := s.link("lan0", 0)
		var requests []*nl.NetlinkRequest
		for _, p := range prefixes(addresses) {
			requests = append(requests, address(unix.RTM_NEWADDR, unix.NLM_F_CREATE, l.index, p))
		}
		return errors.Join(err, s.do(requests...))
	})
	w.in(w.ns, func() error { return raiseByName(name) })
	w.settled(name)
	return ns
}

// TestReadyWire: a wire that was connected without addresses is given some, IPv6 too.
func TestReadyWire(t *testing.T) {
	w := newWorld(t)
	_, err := w.Apply(blue())
	w.must(err)
	ns := w.namespace()
	_, err = w.Connect(ns, Wire{Name: "eth0", Bridge: "ctrfs0", Host: "ctrfsw2"})
	w.must(err)
	w.must(w.Readdress(ns, wire(7)))
	for _, to := range []string{"10.88.0.1", "fd00:88::1"} {
		w.must(w.datagram(ns, w.ns, to, 3000))
	}
}
