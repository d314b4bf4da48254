package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// entry is a route of the kernel's, of any table and type.
type entry struct {
	kind  uint8 // RTN_UNICAST and others
	table int
	to    netip.Prefix // without bits: a default route
	via   netip.Addr   // the first gateway; invalid: none
	links []int
}

// routes lists those of all tables; of both families if that is AF_UNSPEC.
func (s *socket) routes(family int) ([]entry, error) {
	if family == unix.AF_UNSPEC {
		out, err := s.routes(unix.AF_INET)
		if err != nil {
			return nil, err
		}
		more, err := s.routes(unix.AF_INET6)
		return append(out, more...), err
	}
	messages, err := s.dump(request(unix.RTM_GETROUTE, 0, &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family)}}))
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil // a kernel without IPv6
	}
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []entry
	for _, m := range messages {
		e, err := parseRoute(m)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

func parseRoute(m syscall.NetlinkMessage) (entry, error) {
	attributes, err := attributes(m, unix.SizeofRtMsg)
	if err != nil {
		return entry{}, err
	}
	header := nl.DeserializeRtMsg(m.Data)
	e := entry{kind: header.Type, table: int(header.Table)}
	to := netip.IPv4Unspecified()
	if header.Family == unix.AF_INET6 {
		to = netip.IPv6Unspecified()
	}
	for _, a := range attributes {
		switch a.kind {
		case unix.RTA_DST:
			if addr, ok := netip.AddrFromSlice(a.value); ok {
				to = addr
			}
		case unix.RTA_TABLE:
			e.table = number(a.value)
		case unix.RTA_MULTIPATH:
			e.hops(a.value)
		case unix.RTA_GATEWAY, unix.RTA_OIF:
			e.hop(a)
		}
	}
	e.to = netip.PrefixFrom(to, int(header.Dst_len))
	return e, nil
}

// hop adds a gateway or a link.
func (e *entry) hop(a attribute) {
	switch a.kind {
	case unix.RTA_OIF:
		e.links = append(e.links, number(a.value))
	case unix.RTA_GATEWAY:
		if via, ok := netip.AddrFromSlice(a.value); ok && !e.via.IsValid() {
			e.via = via
		}
	}
}

// hops adds those of a route with several.
func (e *entry) hops(b []byte) {
	for len(b) >= unix.SizeofRtNexthop {
		size := int(nl.NativeEndian().Uint16(b))
		if size < unix.SizeofRtNexthop || size > len(b) {
			return
		}
		e.links = append(e.links, number(b[4:]))
		for _, a := range split(b[unix.SizeofRtNexthop:size]) {
			e.hop(a)
		}
		b = b[min(len(b), (size+3)&^3):]
	}
}

// FreeSubnet returns the first subnet of the pool, of the given length, which overlaps neither with what the host has routes to or
// addresses in, of any table, nor with what is to be avoided.
//
// Errors: EINVAL (bits), ENOSPC.
func (h *Host) FreeSubnet(avoid []netip.Prefix, pool netip.Prefix, bits int) (netip.Prefix, error) {
	if !pool.IsValid() || bits < pool.Bits() || bits > pool.Addr().BitLen() {
		return netip.Prefix{}, fmt.Errorf("subnets with /%d of %s: %w", bits, pool, unix.EINVAL)
	}
	used := slices.Clone(avoid)
	err := h.with(func(s *socket) error {
		routes, err := s.routes(family(pool.Addr()))
		for _, r := range routes {
			if r.to.Bits() > 0 { // a default route goes everywhere
				used = append(used, r.to)
			}
		}
		if err != nil {
			return err
		}
		// An address on a link that is down has no route.
		addresses, err := s.addresses(0)
		used = append(used, addresses...)
		return err
	})
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("find a free subnet: %w", err)
	}
	if p, ok := free(used, pool.Masked(), bits); ok {
		return p, nil
	}
	return netip.Prefix{}, fmt.Errorf("no subnet with /%d of %s is free: %w", bits, pool, unix.ENOSPC)
}

// free returns the first subnet of the pool that overlaps with nothing used. It steps over what is used, of which there is little, and
// not over subnets, of which IPv6 has many.
func free(used []netip.Prefix, pool netip.Prefix, bits int) (netip.Prefix, bool) {
	at := netip.PrefixFrom(pool.Addr(), bits)
	for pool.Contains(at.Addr()) {
		i := slices.IndexFunc(used, func(u netip.Prefix) bool { return u.IsValid() && u.Overlaps(at) })
		if i < 0 {
			return at, true
		}
		// The end of the larger of the two.
		next := last(netip.PrefixFrom(at.Addr(), min(bits, used[i].Bits()))).Next()
		if !next.IsValid() {
			break
		}
		at = netip.PrefixFrom(next, bits)
	}
	return netip.Prefix{}, false
}

// last is the last address of a subnet.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
