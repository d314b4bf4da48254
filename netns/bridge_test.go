package netns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// state is a bridge as sorted text.
func (w world) state(name string) string {
	w.t.Helper()
	l := w.find(name)
	if l.index == 0 {
		return "none"
	}
	out := fmt.Sprintf("%s %q mtu %d up %v\n", l.kind, l.alias, l.mtu, l.flags&unix.IFF_UP != 0)
	w.must(w.with(func(s *socket) error {
		addresses, err := s.addresses(l.index)
		slices.SortFunc(addresses, netip.Prefix.Compare)
		out += fmt.Sprintln(addresses)
		return err
	}))
	for _, f := range []string{"ipv4/conf/%s/forwarding", "ipv4/conf/%s/route_localnet", "ipv6/conf/%s/accept_ra",
		"ipv6/conf/%s/disable_ipv6", "ipv6/conf/%s/force_forwarding"} {
		out += fmt.Sprintf("%s=%s\n", f, w.value(w.ns, fmt.Sprintf(f, name)))
	}
	return strings.ReplaceAll(out, "%s", name)
}

// TestApply makes bridges from nothing, twice, and one another way, and the kernel has them as wanted.
func TestApply(t *testing.T) {
	w := newWorld(t)
	force := func(on string) string {
		return strings.ReplaceAll(w.value(w.ns, "ipv6/conf/lo/force_forwarding"), "0", on)
	}
	for _, c := range []struct {
		name string
		b    Bridge
		want string
	}{
		{"both", blue(), "bridge \"ctrfs test blue\" mtu 1500 up true\n[10.88.0.1/24 fd00:88::1/64]\nipv4/conf/ctrfs0/forwarding=1\n" +
			"ipv4/conf/ctrfs0/route_localnet=1\nipv6/conf/ctrfs0/accept_ra=0\nipv6/conf/ctrfs0/disable_ipv6=0\nipv6/conf/ctrfs0/force_forwarding=" + force("1") + "\n"},
		{"ipv4, internal, other addresses", Bridge{Link: "ctrfs0", Alias: "ctrfs test blue", Gateways: prefixes("10.89.0.1/24 10.88.0.2/24"), MTU: 1400, Internal: true},
			"bridge \"ctrfs test blue\" mtu 1400 up true\n[10.88.0.2/24 10.89.0.1/24]\nipv4/conf/ctrfs0/forwarding=0\n" +
				"ipv4/conf/ctrfs0/route_localnet=1\nipv6/conf/ctrfs0/accept_ra=0\nipv6/conf/ctrfs0/disable_ipv6=1\nipv6/conf/ctrfs0/force_forwarding=" + force("0") + "\n"},
		{"no addresses", Bridge{Link: "ctrfs-long-name", Alias: "ctrfs test green", MTU: 9000},
			"bridge \"ctrfs test green\" mtu 9000 up true\n[]\nipv4/conf/ctrfs-long-name/forwarding=1\nipv4/conf/ctrfs-long-name/route_localnet=1\n" +
				"ipv6/conf/ctrfs-long-name/accept_ra=0\nipv6/conf/ctrfs-long-name/disable_ipv6=1\nipv6/conf/ctrfs-long-name/force_forwarding=" + force("1") + "\n"},
	} {
		first, err := w.Apply(c.b)
		w.must(err)
		again, err := w.Apply(c.b)
		w.must(err)
		if first != again || first != w.find(c.b.Link).index {
			t.Errorf("%s: indexes %d, %d", c.name, first, again)
		}
		if got := w.state(c.b.Link); got != c.want {
			t.Errorf("%s: got\n%swant\n%s", c.name, got, c.want)
		}
	}
}

// TestApplyMends: whatever somebody does to a bridge is undone, and nothing else is.
func TestApplyMends(t *testing.T) {
	w := newWorld(t)
	index, err := w.Apply(blue())
	w.must(err)
	want := w.state("ctrfs0")
	change := func(attributes ...nl.NetlinkRequestData) error {
		header := nl.NewIfInfomsg(unix.AF_UNSPEC)
		header.Index, header.Change = int32(index), unix.IFF_UP // and down
		return w.do(request(unix.RTM_NEWLINK, 0, append([]nl.NetlinkRequestData{header}, attributes...)...))
	}
	set := func(name, value string) error {
		return in(w.ns, func() error { _, err := sysctl(name, value); return err })
	}
	for name, harm := range map[string]func() error{
		"an address is gone": func() error { return w.do(address(unix.RTM_DELADDR, 0, index, blue().Gateways[0])) },
		"the other is gone":  func() error { return w.do(address(unix.RTM_DELADDR, 0, index, blue().Gateways[1])) },
		"an address too many": func() error {
			return w.do(address(unix.RTM_NEWADDR, unix.NLM_F_CREATE, index, prefixes("10.9.0.1/16")[0]))
		},
		"a secondary address": func() error {
			return w.do(address(unix.RTM_NEWADDR, unix.NLM_F_CREATE, index, prefixes("10.88.0.9/24")[0]))
		},
		"down":                 func() error { return change() },
		"down and another mtu": func() error { return change(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1300))) },
		"another mac":          func() error { return change(nl.NewRtAttr(unix.IFLA_ADDRESS, []byte{2, 1, 1, 1, 1, 1})) },
		"forwarding is off":    func() error { return set("ipv4/conf/ctrfs0/forwarding", "0") },
		"forwarding off by all": func() error {
			return errorsOf(set("ipv4/conf/all/forwarding", "1"), set("ipv4/conf/all/forwarding", "0"))
		},
		"no ipv6":          func() error { return set("ipv6/conf/ctrfs0/disable_ipv6", "1") },
		"believes routers": func() error { return set("ipv6/conf/ctrfs0/accept_ra", "2") },
		"primary and secondary": func() error {
			return errorsOf(w.do(address(unix.RTM_DELADDR, 0, index, blue().Gateways[0])),
				w.do(address(unix.RTM_NEWADDR, unix.NLM_F_CREATE, index, prefixes("10.88.0.9/24")[0])),
				w.do(address(unix.RTM_NEWADDR, unix.NLM_F_CREATE, index, blue().Gateways[0])))
		},
		"gone": func() error { return w.Remove("ctrfs0", blue().Alias) },
	} {
		index = w.find("ctrfs0").index
		w.must(harm())
		if name != "another mac" && w.state("ctrfs0") == want {
			t.Errorf("%s: no harm done", name)
		}
		if _, err := w.Apply(blue()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := w.state("ctrfs0"); got != want {
			t.Errorf("%s: got\n%swant\n%s", name, got, want)
		}
		if got := w.find("ctrfs0"); string(got.mac) != string(blue().mac()) {
			t.Errorf("%s: mac %x", name, got.mac)
		}
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestApplyRefuses what is not ours, and what is no bridge; a bridge that a crash left without its alias is ours.
func TestApplyRefuses(t *testing.T) {
	w := newWorld(t)
	_, err := w.Apply(blue())
	w.must(err)
	foreign := blue()
	foreign.Alias, foreign.MTU = "ctrfs other blue", 1300
	before := w.state("ctrfs0")
	_, err = w.Apply(foreign)
	w.refused(err, unix.EEXIST)
	w.refused(w.Remove("ctrfs0", foreign.Alias), unix.EEXIST)
	if after := w.state("ctrfs0"); after != before {
		t.Errorf("it was changed to\n%s", after)
	}
	half := Bridge{Link: "ctrfs1", Alias: "ctrfs test half", MTU: 1500}
	w.must(w.do(half.create()))
	other := half
	other.Alias = "ctrfs other half"
	_, err = w.Apply(other)
	w.refused(err, unix.EEXIST)
	_, err = w.Apply(half)
	w.must(err)
	if l := w.find("ctrfs1"); l.alias != half.Alias {
		t.Errorf("alias %q", l.alias)
	}
	for _, b := range []Bridge{
		{Link: "br0", Alias: "a"}, {Link: "ctrfs0123456789a", Alias: "a"}, {Link: "ctrfs/..", Alias: "a"}, {Link: "ctrfs2"},
		{Link: "ctrfs2", Alias: strings.Repeat("a", 256)}, {Link: "ctrfs2", Alias: "a", MTU: 60}, {Link: "ctrfs2", Alias: "a", MTU: -1},
		{Link: "ctrfs2", Alias: "a", MTU: 1279, Gateways: prefixes("fd00::1/64")},
		{Link: "ctrfs2", Alias: "a", Gateways: prefixes("127.0.0.1/8")}, {Link: "ctrfs2", Alias: "a", Gateways: prefixes("ff02::1/64")},
		{Link: "ctrfs2", Alias: "a", Gateways: []netip.Prefix{{}}}, {Link: "ctrfs2", Alias: "a", Gateways: prefixes("::ffff:10.0.0.1/120")},
	} {
		_, err := w.Apply(b)
		w.refused(err, unix.EINVAL)
	}
	if got := w.names(); got != "ctrfs0 ctrfs1" {
		t.Errorf("links: %s", got)
	}
}

// TestApplyAtOnce: several make the same bridge, and one comes of it.
func TestApplyAtOnce(t *testing.T) {
	w := newWorld(t)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := w.Apply(blue()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if got := w.names(); got != "ctrfs0" {
		t.Errorf("links: %s", got)
	}
}

// TestOwned lists by alias, and Remove takes what is ours; what is gone is gone.
func TestOwned(t *testing.T) {
	w := newWorld(t)
	for _, b := range []Bridge{{Link: "ctrfs1", Alias: "ctrfs one a"}, {Link: "ctrfs2", Alias: "ctrfs one b"}, {Link: "ctrfs3", Alias: "ctrfs two a"}, {Link: "ctrfs4", Alias: "else"}} {
		_, err := w.Apply(b)
		w.must(err)
	}
	for prefix, want := range map[string]string{
		"ctrfs one ": "map[ctrfs1:ctrfs one a ctrfs2:ctrfs one b]",
		"ctrfs ":     "map[ctrfs1:ctrfs one a ctrfs2:ctrfs one b ctrfs3:ctrfs two a]",
		"no":         "map[]",
	} {
		got, err := w.Owned(prefix)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v (%v), not %s", prefix, got, err, want)
		}
	}
	w.must(w.Remove("ctrfs1", "ctrfs one a"))
	w.must(w.Remove("ctrfs1", "ctrfs one a"))
	if got := w.names(); got != "ctrfs2 ctrfs3 ctrfs4" {
		t.Errorf("links: %s", got)
	}
}

// TestBridgeAlone: without ports there is no carrier, and a server on the gateway's address works all the same, at once.
func TestBridgeAlone(t *testing.T) {
	w := newWorld(t)
	_, err := w.Apply(blue())
	w.must(err)
	for _, to := range addrs(vias) {
		if err := w.datagram(w.ns, w.ns, to.String(), 100); err != nil {
			t.Error(err)
		}
		if err := w.ping(w.ns, to.String(), 100); err != nil {
			t.Error(err)
		}
	}
}
