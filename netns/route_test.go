package netns

import (
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// TestFree: the arithmetic, with pools of either family up to the last address.
func TestFree(t *testing.T) {
	for _, c := range []struct {
		used, pool string
		bits       int
		want       string
	}{
		{"", "10.0.0.0/8", 24, "10.0.0.0/24"},
		{"10.0.0.0/24", "10.0.0.0/8", 24, "10.0.1.0/24"},
		{"10.0.0.7/32", "10.0.0.0/8", 24, "10.0.1.0/24"},
		{"10.0.0.0/16", "10.0.0.0/8", 24, "10.1.0.0/24"},
		{"10.0.0.0/8", "10.0.0.0/8", 24, "none"},
		{"0.0.0.0/0", "10.0.0.0/8", 24, "none"},
		{"10.1.0.0/16 10.0.0.0/16 10.2.0.0/24", "10.0.0.0/8", 16, "10.3.0.0/16"},
		{"10.2.0.0/24 10.0.0.0/15", "10.0.0.0/8", 24, "10.2.1.0/24"},
		{"255.255.254.0/24", "255.255.254.0/23", 24, "255.255.255.0/24"},
		{"255.255.255.0/24 255.255.254.0/24", "255.255.254.0/23", 24, "none"},
		{"10.0.0.0/30", "10.0.0.0/30", 30, "none"},
		{"192.168.0.0/16", "10.0.0.0/30", 30, "10.0.0.0/30"},
		{"10.0.0.0/8", "fd00::/8", 64, "fd00::/64"},
		{"fd00::/16", "fd00::/8", 64, "fd01::/64"},
		{"fd00::1/128", "fd00::/8", 64, "fd00:0:0:1::/64"},
		{"ffff:ffff:ffff:ffff::/64", "ffff:ffff:ffff:ffff::/64", 64, "none"},
	} {
		got := "none"
		if p, ok := free(prefixes(c.used), netip.MustParsePrefix(c.pool), c.bits); ok {
			got = p.String()
		}
		if got != c.want {
			t.Errorf("/%d of %s without %s: %s, not %s", c.bits, c.pool, c.used, got, c.want)
		}
	}
}

// TestFreeSubnet: routes of any table and kind, addresses without routes, and what is to be avoided are stepped over.
func TestFreeSubnet(t *testing.T) {
	w := newWorld(t)
	w.uplink("uplink0") // with default routes
	index := w.find("uplink0").index
	pool4, pool6 := netip.MustParsePrefix("10.88.0.0/14"), netip.MustParsePrefix("fd00:88::/32")
	want := func(four, six string, avoid ...netip.Prefix) {
		t.Helper()
		for pool, want := range map[netip.Prefix]string{pool4: four, pool6: six} {
			bits := 16
			if pool.Addr().Is6() {
				bits = 64
			}
			if got, err := w.FreeSubnet(avoid, pool, bits); err != nil || got.String() != want {
				t.Errorf("got %s (%v), not %s", got, err, want)
			}
		}
	}
	want("10.88.0.0/16", "fd00:88::/64")
	want("10.89.0.0/16", "fd00:88:0:1::/64", prefixes("10.88.3.0/24 fd00:88::8/127")...)
	for _, to := range []string{"10.88.1.0/24", "fd00:88::/112"} {
		p := netip.MustParsePrefix(to)
		r := routeTo(p, index)
		r.Table = 77
		w.must(w.traffic.RouteAdd(r))
	}
	want("10.89.0.0/16", "fd00:88:0:1::/64")
	for _, to := range []string{"10.89.0.0/16", "fd00:88:0:1::/64"} {
		r := routeTo(netip.MustParsePrefix(to), 0)
		r.Type, r.LinkIndex = unix.RTN_BLACKHOLE, 0
		w.must(w.traffic.RouteAdd(r))
	}
	want("10.90.0.0/16", "fd00:88:0:2::/64")
	w.must(w.traffic.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "down0"}}))
	w.must(w.do(address(unix.RTM_NEWADDR, unix.NLM_F_CREATE, w.find("down0").index, prefixes("10.90.9.9/32")[0])))
	want("10.91.0.0/16", "fd00:88:0:2::/64")
	_, err := w.FreeSubnet(prefixes("10.91.0.0/17"), pool4, 16)
	w.refused(err, unix.ENOSPC)
	for _, bits := range []int{13, 33, -1} {
		_, err = w.FreeSubnet(nil, pool4, bits)
		w.refused(err, unix.EINVAL)
	}
	_, err = w.FreeSubnet(nil, netip.Prefix{}, 16)
	w.refused(err, unix.EINVAL)
}

func routeTo(p netip.Prefix, index int) *netlink.Route {
	p = p.Masked()
	return &netlink.Route{LinkIndex: index, Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
}

// TestUplinksOfMultipath: each link of a route with several is one.
func TestUplinksOfMultipath(t *testing.T) {
	w := newWorld(t)
	w.lan("uplink0", "192.0.2.1/24")
	w.lan("uplink1", "192.0.2.1/24")
	var hops []*netlink.NexthopInfo
	for _, name := range []string{"uplink0", "uplink1"} {
		hops = append(hops, &netlink.NexthopInfo{LinkIndex: w.find(name).index})
	}
	w.must(w.traffic.RouteAdd(&netlink.Route{Dst: netlink.NewIPNet([]byte{203, 0, 113, 7}), MultiPath: hops, Scope: netlink.SCOPE_LINK}))
	_, guarded, err := w.Uplinks(Flags{})
	if err != nil || len(guarded) != 2 {
		t.Errorf("%v (%v)", guarded, err)
	}
}

// FuzzMessages: whatever is in a message, it is an error or a value.
func FuzzMessages(f *testing.F) {
	r := route(unix.RTM_NEWROUTE, 0, 1, unix.AF_INET, netip.MustParseAddr("10.0.0.1"))
	f.Add(uint16(unix.RTM_NEWROUTE), r.Serialize()[unix.SizeofNlMsghdr:])
	f.Add(uint16(unix.RTM_NEWADDR), address(unix.RTM_NEWADDR, 0, 1, prefixes("fd00::1/64")[0]).Serialize()[unix.SizeofNlMsghdr:])
	f.Add(uint16(unix.RTM_NEWLINK), blue().create().Serialize()[unix.SizeofNlMsghdr:])
	f.Add(uint16(unix.NLMSG_ERROR), append(make([]byte, 20), nl.NewRtAttr(nl.NLMSGERR_ATTR_MSG, nl.ZeroTerminated("no")).Serialize()...))
	f.Fuzz(func(t *testing.T, kind uint16, b []byte) {
		m := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind, Flags: unix.NLM_F_ACK_TLVS}, Data: b}
		switch kind {
		case unix.RTM_NEWROUTE:
			if e, err := parseRoute(m); err == nil && len(e.links) > len(b) {
				t.Errorf("%d links in %d bytes", len(e.links), len(b))
			}
		case unix.RTM_NEWADDR:
			parseAddress(m)
		case unix.RTM_NEWLINK:
			view{}.matters(m)
		default:
			view{}.matters(m)
			failure(m)
		}
	})
}
