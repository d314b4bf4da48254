package firewall

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// forget deletes the flows of UDP ports that have been published or are not any more, and that do not go where they should now. Rules
// are asked for the first packet of a flow, and a flow lasts as long as packets come: a client that asks every ten seconds would
// never reach a container that has been published since, nor leave one that is not any more.
//
// The kernel looks through its whole table for this, once for each family: some 20 ms for 262144 buckets, however few flows
// there are.
//
// No flow is touched for TCP: a connection that was is one that may be.
func forget(ns int, before, after []Port) error {
	s := stale{gone: udpOf(before, after), come: udpOf(after, before)}
	if len(s.gone)+len(s.come) == 0 {
		return nil
	}
	var err error
	if s.local, err = locals(ns); err != nil {
		return err
	}
	conn, err := dial(ns)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		ports := s.ports(family)
		if len(ports) == 0 {
			continue
		}
		port := uint16(0)
		if len(ports) == 1 {
			port = ports[0]
		}
		flows, err := udpFlows(conn, family, port)
		if err != nil {
			return err
		}
		for _, f := range flows {
			if s.has(f) {
				if err := f.delete(conn); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// ports returns the ports of a family to look at.
func (s stale) ports(family uint8) []uint16 {
	var out []uint16
	for _, published := range []map[key]netip.AddrPort{s.gone, s.come} {
		for k := range published {
			if k.host.Is4() == (family == unix.AF_INET) {
				out = append(out, k.port)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
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

// locals returns this machine's addresses.
func locals(ns int) (out map[netip.Addr]bool, err error) {
	var h *netlink.Handle
	if ns == 0 {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	} else {
		h, err = netlink.NewHandleAt(netns.NsHandle(ns), unix.NETLINK_ROUTE)
	}
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var list []netlink.Addr
	for range 3 { // addresses come and go while they are listed
		if list, err = h.AddrList(nil, netlink.FAMILY_ALL); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	out = map[netip.Addr]bool{}
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			out[ip.Unmap()] = true
		}
	}
	return out, nil
}

// stale finds the flows to forget.
type stale struct {
	gone, come map[key]netip.AddrPort
	local      map[netip.Addr]bool
}

// has says whether a flow is to be forgotten: it goes to a published port, and not to its container, or to a container by a port that
// is published no more.
func (s stale) has(f udpFlow) bool {
	asked := f.asked.Addr()
	every := netip.IPv4Unspecified()
	if asked.Is6() {
		every = netip.IPv6Unspecified()
	}
	for _, host := range []netip.Addr{asked, every} {
		k := key{host, f.asked.Port()}
		if to, ok := s.gone[k]; ok && f.answers == to && asked != to.Addr() {
			return true
		}
		if to, ok := s.come[k]; ok && f.answers != to && (s.local[asked] || asked.IsLoopback()) {
			return true
		}
	}
	return false
}
