package netns

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The first two bytes of our hardware addresses: locally administered, and what follows.
const (
	macLocal  = 0x06
	macBridge = 0xc0
	macIPv4   = 0xc4
	macIPv6   = 0xc6
)

// macOf derives a hardware address: an IPv4 address is its end, an IPv6 address is hashed.
func macOf(a netip.Addr) []byte {
	if a.Is4() {
		b := a.As4()
		return append([]byte{macLocal, macIPv4}, b[:]...)
	}
	b := a.As16()
	hash := fnv.New32a()
	hash.Write(b[:])
	return append([]byte{macLocal, macIPv6}, hash.Sum(nil)...)
}

func hasIPv6(prefixes []netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

// checkAddresses refuses what no link can have.
func checkAddresses(prefixes []netip.Prefix) error {
	for _, p := range prefixes {
		a := p.Addr()
		if !p.IsValid() || a.Is4In6() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
			return fmt.Errorf("address %s: %w", p, unix.EINVAL)
		}
	}
	return nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// addresses lists those of a link, or of all if that is 0, without IPv6 link-local ones, which the kernel gives out.
func (s *socket) addresses(index int) ([]netip.Prefix, error) {
	header := nl.NewIfAddrmsg(unix.AF_UNSPEC)
	header.Index = uint32(index)
	messages, err := s.dump(request(unix.RTM_GETADDR, 0, header))
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []netip.Prefix
	for _, m := range messages {
		p, at, err := parseAddress(m)
		if err != nil {
			return nil, err
		}
		if (at == index || index == 0) && !(p.Addr().Is6() && p.Addr().IsLinkLocalUnicast()) {
			out = append(out, p)
		}
	}
	return out, nil
}

// parseAddress returns an address and the index of its link.
func parseAddress(m syscall.NetlinkMessage) (p netip.Prefix, index int, err error) {
	attributes, err := attributes(m, unix.SizeofIfAddrmsg)
	if err != nil {
		return p, 0, err
	}
	header := nl.DeserializeIfAddrmsg(m.Data)
	for _, a := range attributes {
		// IFA_ADDRESS of IPv4 is that of the other end, where there is one; IPv6 has no other.
		if a.kind == unix.IFA_LOCAL || a.kind == unix.IFA_ADDRESS && !p.IsValid() {
			if addr, ok := netip.AddrFromSlice(a.value); ok {
				p = netip.PrefixFrom(addr, int(header.Prefixlen))
			}
		}
	}
	return p, int(header.Index), nil
}

// readdress returns the requests that give a link addresses in place of those that it has; none if it has them.
//
// An IPv4 address in the subnet of another is secondary, and goes with it. So all that must go goes first, and if any does, all that
// stay are set again.
func readdress(index int, have, want []netip.Prefix) (out []*nl.NetlinkRequest) {
	for _, p := range have {
		if !slices.Contains(want, p) {
			out = append(out, address(unix.RTM_DELADDR, 0, index, p))
		}
	}
	removed := len(out) > 0
	for _, p := range want {
		if removed || !slices.Contains(have, p) {
			out = append(out, address(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, index, p))
		}
	}
	return out
}

// address is a request for one address.
func address(kind, flags, index int, p netip.Prefix) *nl.NetlinkRequest {
	header := nl.NewIfAddrmsg(family(p.Addr()))
	header.Index, header.Prefixlen = uint32(index), uint8(p.Bits())
	header.Scope = unix.RT_SCOPE_UNIVERSE
	b := p.Addr().AsSlice()
	r := request(kind, flags, header, nl.NewRtAttr(unix.IFA_LOCAL, b), nl.NewRtAttr(unix.IFA_ADDRESS, b))
	switch {
	case kind != unix.RTM_NEWADDR:
	case p.Addr().Is6():
		r.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(unix.IFA_F_NODAD)))
	case p.Bits() < 31:
		r.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, last(p).AsSlice()))
	}
	return r
}

// usable waits for a moment until packets to IPv6 addresses that were just given to a link of the socket's namespace arrive. Even without
// duplicate address detection the kernel finishes them in the background, and needs RTNL for it; a packet before that is sent on to the
// neighbours. It is no error if it takes longer.
func (s *socket) usable(addresses []netip.Prefix) error {
	left := settleMost
	for _, p := range addresses {
		if !p.Addr().Is6() {
			continue
		}
		for ; ; left -= settleStep {
			there, err := s.local(p.Addr())
			if err != nil {
				return err
			}
			if there || left <= 0 {
				break
			}
			time.Sleep(settleStep)
		}
	}
	return nil
}

// local says whether packets to an address end here.
func (s *socket) local(a netip.Addr) (bool, error) {
	header := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family(a)), Dst_len: uint8(a.BitLen())}}
	answers, err := s.ask(request(unix.RTM_GETROUTE, 0, header, nl.NewRtAttr(unix.RTA_DST, a.AsSlice())))
	if err != nil || answers[0].err != nil || len(answers[0].messages) == 0 {
		return false, err
	}
	r, err := parseRoute(answers[0].messages[0])
	return r.kind == unix.RTN_LOCAL, err
}

// route is a request for a default route.
func route(kind, flags, index int, family int, via netip.Addr) *nl.NetlinkRequest {
	header := nl.NewRtMsg()
	if kind == unix.RTM_DELROUTE {
		header = nl.NewRtDelMsg()
	}
	header.Family = uint8(family)
	r := request(kind, flags, header, nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	if via.IsValid() {
		r.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, via.AsSlice()))
	}
	return r
}

// Interface is a link of a namespace as programs in it see it.
type Interface struct {
	Name      string
	Index     int
	Peer      int // index of the other end of a veth, in the namespace where that is; of a macvlan, of what it lies on
	MAC       []byte
	MTU       int
	Up        bool
	Addresses []netip.Prefix // without IPv6 link-local ones
	Gateways  []netip.Addr   // of default routes by this link
}

// Interfaces lists the links of a namespace, without lo, in the order in which they were made.
func Interfaces(ns *os.File) ([]Interface, error) {
	var out []Interface
	err := in(ns, func() error {
		s, err := dial()
		if err != nil {
			return err
		}
		defer s.close()
		out, err = s.interfaces()
		return err
	})
	return out, err
}

func (s *socket) interfaces() ([]Interface, error) {
	links, err := s.links()
	if err != nil {
		return nil, err
	}
	var out []Interface
	for _, l := range links {
		if l.flags&unix.IFF_LOOPBACK != 0 {
			continue
		}
		i := Interface{Name: l.name, Index: l.index, Peer: l.peer, MAC: l.mac, MTU: l.mtu, Up: l.flags&unix.IFF_UP != 0}
		if i.Addresses, err = s.addresses(l.index); err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	routes, err := s.routes(unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		for i := range out {
			if r.to.Bits() == 0 && r.via.IsValid() && slices.Contains(r.links, out[i].Index) {
				out[i].Gateways = append(out[i].Gateways, r.via)
			}
		}
	}
	return out, nil
}
