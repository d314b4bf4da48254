package firewall

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// forget deletes the flows of UDP ports that have been published or are not any more, and that do not go where they should now. Rules
// are asked for the first packet of a flow, and a flow lasts as long as packets come: a client that asks every ten seconds would
// never reach a container that has been published since, nor leave one that is not any more.
//
// The kernel lists all flows of the family for this. No flow is touched for TCP: a connection that was is one that may be.
func forget(ns int, before, after []Port) error {
	gone, come := udpOf(before, after), udpOf(after, before)
	if len(gone)+len(come) == 0 {
		return nil
	}
	h, err := handle(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	var errs error
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		f := stale{gone: of(family, gone), come: of(family, come)}
		if len(f.gone)+len(f.come) == 0 {
			continue
		}
		if f.local, err = locals(h, int(family)); err != nil {
			return err
		}
		_, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, family, f)
		errs = errors.Join(errs, err)
	}
	return errs
}

// handle is for the flows and the addresses of a namespace.
func handle(ns int) (*netlink.Handle, error) {
	if ns == 0 {
		return netlink.NewHandle(unix.NETLINK_NETFILTER, unix.NETLINK_ROUTE)
	}
	return netlink.NewHandleAt(netns.NsHandle(ns), unix.NETLINK_NETFILTER, unix.NETLINK_ROUTE)
}

// key is how flows are looked for.
type key struct {
	host netip.Addr
	port uint16
}

// udpOf returns where UDP ports are published that others do not publish likewise.
func udpOf(ports, others []Port) map[key]netip.AddrPort {
	out := map[key]netip.AddrPort{}
	for _, p := range ports {
		if p.Proto == "udp" {
			out[key{p.Host.Unmap(), p.Port}] = netip.AddrPortFrom(p.To.Addr().Unmap(), p.To.Port())
		}
	}
	for _, p := range others {
		k := key{p.Host.Unmap(), p.Port}
		if to, ok := out[k]; ok && p.Proto == "udp" && to == netip.AddrPortFrom(p.To.Addr().Unmap(), p.To.Port()) {
			delete(out, k)
		}
	}
	return out
}

func of(family netlink.InetFamily, ports map[key]netip.AddrPort) map[key]netip.AddrPort {
	out := map[key]netip.AddrPort{}
	for k, to := range ports {
		if k.host.Is4() == (family == unix.AF_INET) {
			out[k] = to
		}
	}
	return out
}

// locals returns this machine's addresses.
func locals(h *netlink.Handle, family int) (map[netip.Addr]bool, error) {
	list, err := h.AddrList(nil, family)
	if err != nil {
		return nil, err
	}
	out := map[netip.Addr]bool{}
	for _, a := range list {
		out[addrOf(a.IP)] = true
	}
	return out, nil
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// stale finds the flows to forget.
type stale struct {
	gone, come map[key]netip.AddrPort
	local      map[netip.Addr]bool
}

// MatchConntrackFlow says whether a flow is to be forgotten: it goes to a published port, and not to its container, or to a
// container by a port that is published no more.
func (s stale) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	asked := addrOf(f.Forward.DstIP)
	answers := netip.AddrPortFrom(addrOf(f.Reverse.SrcIP), f.Reverse.SrcPort)
	every := netip.IPv4Unspecified()
	if asked.Is6() {
		every = netip.IPv6Unspecified()
	}
	for _, host := range []netip.Addr{asked, every} {
		k := key{host, f.Forward.DstPort}
		if to, ok := s.gone[k]; ok && answers == to && asked != to.Addr() {
			return true
		}
		if to, ok := s.come[k]; ok && answers != to && (s.local[asked] || asked.IsLoopback()) {
			return true
		}
	}
	return false
}
