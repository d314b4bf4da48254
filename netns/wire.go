package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Wire is one link of a container: a veth to a bridge, or a macvlan of a link of the host.
type Wire struct {
	Name      string           // inside: "eth0"
	Bridge    string           // link of the bridge that the host's end is a port of; or
	Parent    string           // link of which it is a macvlan, in mode bridge
	Host      string           // name of the host's end, begins with "ctrfs"; empty for a macvlan, which has none
	Alias     string           // of the host's end, for [Host.Owned]; may be empty
	MAC       net.HardwareAddr // inside; nil: follows from the first address, or is the kernel's choice if there is none
	MTU       int              // 0 is 1500, or the parent's
	Addresses []netip.Prefix
	Gateways  []netip.Addr // default routes, at most one of IPv4 and one of IPv6

	// NoWait is for a caller who has more to do before the container runs: Connect and Readdress return before the kernel has finished
	// in the background, and packets may be lost for about a millisecond. Otherwise they wait for it.
	NoWait bool
}

// check refuses what the kernel would cut short or misunderstand.
func (w Wire) check() error {
	switch {
	case !linkName(w.Name):
		return fmt.Errorf("link %q: %w", w.Name, unix.EINVAL)
	case len(w.Alias) > aliasMax || strings.ContainsAny(w.Alias, "\n\x00"):
		return fmt.Errorf("alias %q: %w", w.Alias, unix.EINVAL)
	case w.MAC != nil && (len(w.MAC) != 6 || w.MAC[0]&1 != 0):
		return fmt.Errorf("mac %s: %w", w.MAC, unix.EINVAL)
	case w.MTU != 0 && (w.MTU < 68 || w.MTU > 65535 || w.MTU < 1280 && hasIPv6(w.Addresses)):
		return fmt.Errorf("mtu %d: %w", w.MTU, unix.EINVAL)
	}
	seen := map[bool]bool{}
	for _, g := range w.Gateways {
		if !g.IsValid() || g.Is4In6() || seen[g.Is4()] {
			return fmt.Errorf("gateway %s: %w", g, unix.EINVAL)
		}
		seen[g.Is4()] = true
	}
	return checkAddresses(w.Addresses)
}

func linkName(name string) bool {
	return name != "" && len(name) < unix.IFNAMSIZ && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n\x00")
}

// mac is the hardware address inside; nil leaves it to the kernel.
func (w Wire) mac() []byte {
	if w.MAC == nil && len(w.Addresses) > 0 {
		return macOf(w.Addresses[0].Addr())
	}
	return w.MAC
}

// Connect makes a link in a namespace, with its addresses and routes, and returns the index of the host's end (0 for a macvlan). It is
// all or nothing: after an error there is neither end.
//
// Errors: EINVAL (the Wire), ENODEV (bridge or parent), EEXIST (a name on either side), EXFULL (a bridge has at most 1023 ports),
// ENETUNREACH or EHOSTUNREACH (a gateway outside of the subnets), and the kernel's.
func (h *Host) Connect(ns *os.File, w Wire) (index int, err error) {
	if err := w.check(); err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	if w.Parent != "" {
		err = h.macvlan(ns, w)
	} else {
		index, err = h.veth(ns, w)
	}
	if err != nil {
		return 0, fmt.Errorf("connect %s: %w", w.Name, err)
	}
	return index, nil
}

// veth is Connect to a bridge.
func (h *Host) veth(ns *os.File, w Wire) (index int, err error) {
	if !linkName(w.Host) || !strings.HasPrefix(w.Host, Prefix) {
		return 0, fmt.Errorf("link %q on the host: %w", w.Host, unix.EINVAL)
	}
	if w.MTU == 0 {
		w.MTU = mtuDefault
	}
	bridge, err := indexOf(h.queries, w.Bridge)
	if err != nil {
		return 0, fmt.Errorf("bridge: %w", err)
	}
	err = h.with(func(s *socket) error {
		if err := s.do(w.pair(bridge, int(ns.Fd()))); err != nil {
			return fmt.Errorf("make a veth: %w", err)
		}
		index, err = indexOf(h.queries, w.Host)
		if err == nil {
			err = s.do(w.port(index))
		}
		if err == nil {
			err = in(ns, func() error { return w.furnish(false) })
		}
		if err != nil && index > 0 {
			err = errors.Join(err, s.remove(index))
		}
		if err != nil {
			return err
		}
		if !w.NoWait {
			h.settled(w.Host)
		}
		return nil
	})
	return index, err
}

// operDormant is IF_OPER_DORMANT of RFC 2863.
const operDormant = 5

// pair makes both ends, down: ours a port of the bridge, the other one in the namespace. Ours is called dormant, which the kernel corrects
// when it has seen that both are up; otherwise that would be unknown, which counts as up.
func (w Wire) pair(bridge, ns int) *nl.NetlinkRequest {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(w.Name))
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(w.MTU)))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns)))
	if mac := w.mac(); mac != nil {
		peer.AddRtAttr(unix.IFLA_ADDRESS, mac)
	}
	return request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(w.Host)), nl.NewRtAttr(unix.IFLA_OPERSTATE, nl.Uint8Attr(operDormant)),
		nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(w.MTU))),
		nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))), info)
}

// port brings the host's end up. Hairpin: a container that uses a port which it published itself gets its packet back from where it
// came. The settings of a port are not taken when it becomes one. And the end has no IPv6 of its own, so it does not speak to the
// container: as long as the other end is down the kernel makes no address, and there is time to say that it is not to.
func (w Wire) port(index int) *nl.NetlinkRequest {
	header := nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index = int32(index)
	header.Flags, header.Change = unix.IFF_UP, unix.IFF_UP
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_SLAVE_KIND, nl.NonZeroTerminated("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_SLAVE_DATA, nil).AddRtAttr(nl.IFLA_BRPORT_MODE, nl.Uint8Attr(1))
	r := request(unix.RTM_NEWLINK, 0, header, info, noLinkLocal())
	if w.Alias != "" {
		r.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(w.Alias)))
	}
	return r
}

// noLinkLocal says that the kernel makes no IPv6 address by itself.
func noLinkLocal() *nl.RtAttr {
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, nl.Uint8Attr(nl.IN6_ADDR_GEN_MODE_NONE))
	return spec
}

// settled waits for a moment until packets go through a new link. The kernel finds out in the background that the other end is up, too;
// what is sent before is lost, and a TCP connection then takes a second. It is no error if it takes longer: RTNL is busy.
func (h *Host) settled(link string) {
	for range settleMost / settleStep {
		yes, err := running(h.queries, link)
		if err != nil {
			return
		}
		time.Sleep(settleStep) // also after it is: that is said a moment before it is done
		if yes {
			return
		}
	}
}

// How long is waited for what the kernel does in the background, and how often it is asked, which costs it nothing.
const (
	settleMost = 10 * time.Millisecond
	settleStep = 50 * time.Microsecond
)

// macvlan makes a link that shares a link of the host.
func (h *Host) macvlan(ns *os.File, w Wire) error {
	if w.Host != "" || w.Bridge != "" || w.Alias != "" {
		return fmt.Errorf("a macvlan has no end on the host: %w", unix.EINVAL)
	}
	parent, err := indexOf(h.queries, w.Parent)
	if err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("macvlan"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_MACVLAN_MODE, nl.Uint32Attr(nl.MACVLAN_MODE_BRIDGE))
	r := request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(w.Name)), nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(uint32(parent))),
		nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns.Fd()))), info)
	if w.MTU != 0 {
		r.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(w.MTU))))
	}
	if mac := w.mac(); mac != nil {
		r.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	}
	if err := h.do(r); err != nil {
		return fmt.Errorf("make a macvlan of %s: %w", w.Parent, err)
	}
	return in(ns, func() error { return w.furnish(true) })
}

// furnish gives a new link everything that it is to have, in this thread's namespace. One that is the namespace's alone (a macvlan)
// is removed here if anything fails.
func (w Wire) furnish(alone bool) error {
	queries, err := query()
	if err != nil {
		return err
	}
	defer queries.Close()
	index, err := indexOf(queries, w.Name)
	if err != nil {
		return err
	}
	s, err := dial()
	if err != nil {
		return err
	}
	defer s.close()
	err = settle(w.Name, w.settings())
	if err == nil {
		requests := raise(index, hasIPv6(w.Addresses))
		for _, p := range w.Addresses {
			requests = append(requests, address(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, index, p))
		}
		for _, g := range w.Gateways {
			requests = append(requests, route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, index, family(g), g))
		}
		if err = s.do(requests...); err == nil && !w.NoWait {
			err = s.usable(w.Addresses)
		}
	}
	if err != nil && alone {
		err = errors.Join(err, s.remove(index))
	}
	return err
}

// settings are the sysctls of the link inside. They are there before it hears anything.
//
// When its hardware address changes, it tells everybody: the bridge, which learns where that is now, and neighbours that knew another one
// of its addresses. Each such packet goes out by every port, which is what costs most on a bridge with many.
func (w Wire) settings() []setting {
	out := []setting{{"ipv6", "accept_ra", "0"}, {"ipv6", "accept_dad", "0"}, {"ipv4", "arp_notify", "1"}}
	if hasIPv6(w.Addresses) {
		out = append(out, announceIPv6)
	}
	return out
}

var announceIPv6 = setting{"ipv6", "ndisc_notify", "1"}

// raise brings a new link up. Without an IPv6 address it is to have no link-local one, which has to be said before. There is a sysctl that
// turns IPv6 off, but then there could be none later.
func raise(index int, ipv6 bool) (out []*nl.NetlinkRequest) {
	header := nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index = int32(index)
	if !ipv6 {
		out = append(out, request(unix.RTM_NEWLINK, 0, header, noLinkLocal()))
	}
	header = nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index, header.Flags, header.Change = int32(index), unix.IFF_UP, unix.IFF_UP
	return append(out, request(unix.RTM_NEWLINK, 0, header))
}

// Readdress gives the link w.Name of a namespace, which is connected already, the addresses, the hardware address and the default routes
// of w in place of those that it has. Nothing else of w matters. It can be called again after an error.
//
// Errors: ENODEV (no such link), ENETUNREACH (a gateway outside of the subnets), and the kernel's.
func (h *Host) Readdress(ns *os.File, w Wire) error {
	if err := w.check(); err != nil {
		return fmt.Errorf("readdress: %w", err)
	}
	if err := in(ns, w.readdress); err != nil {
		return fmt.Errorf("readdress %s: %w", w.Name, err)
	}
	return nil
}

// readdress is Readdress in this thread's namespace. What is read is read without RTNL, and all changes are one batch: while links are
// removed elsewhere, each wait for the lock can be tens of milliseconds.
func (w Wire) readdress() error {
	queries, err := query()
	if err != nil {
		return err
	}
	defer queries.Close()
	index, err := indexOf(queries, w.Name)
	if err != nil {
		return err
	}
	s, err := dial()
	if err != nil {
		return err
	}
	defer s.close()
	have, err := s.addresses(index)
	if err != nil {
		return err
	}
	if hasIPv6(w.Addresses) { // it may have been connected without
		if err := settle(w.Name, []setting{announceIPv6}); err != nil {
			return err
		}
	}
	requests := readdress(index, have, w.Addresses)
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		if via := w.gateway(f); via.IsValid() {
			requests = append(requests, route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, index, f, via))
		} else {
			requests = append(requests, route(unix.RTM_DELROUTE, 0, index, f, via))
		}
	}
	if r := w.hardware(index); r != nil {
		requests = append(requests, r) // after the addresses, which the link then announces
	}
	if err := s.do(requests...); err != nil || w.NoWait {
		return err
	}
	return s.usable(w.Addresses)
}

// hardware gives the link its hardware address; nil leaves it. To ask for the present one would take RTNL as well.
func (w Wire) hardware(index int) *nl.NetlinkRequest {
	mac := w.mac()
	if mac == nil {
		return nil
	}
	header := nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index = int32(index)
	return request(unix.RTM_NEWLINK, 0, header, nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
}

// gateway is the one of a family; invalid is none.
func (w Wire) gateway(of int) netip.Addr {
	for _, g := range w.Gateways {
		if family(g) == of {
			return g
		}
	}
	return netip.Addr{}
}

// Disconnect removes the host's end of a wire, and with it the other one, and what SetRate made for it. A wire that went with its
// namespace is fine; its rate's device is removed then, too. It is slow: tens of milliseconds, in the background please. 0 is none.
func (h *Host) Disconnect(index int) error {
	if index <= 0 {
		return nil
	}
	err := h.with(func(s *socket) error {
		l, err := s.link("", index)
		if errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err == nil && (l.kind != "veth" || !strings.HasPrefix(l.name, Prefix)) {
			err = fmt.Errorf("%s is no end of a wire: %w", l.name, unix.EINVAL)
		}
		if err == nil {
			err = s.remove(index)
		}
		return err
	})
	if err = errors.Join(err, h.unshape(index)); err != nil {
		return fmt.Errorf("disconnect link %d: %w", index, err)
	}
	return nil
}
