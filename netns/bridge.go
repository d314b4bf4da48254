package netns

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Bridge is a network as the kernel of this machine is to have it.
type Bridge struct {
	Link     string         // name of the bridge, at most 15 bytes, begins with "ctrfs"
	Alias    string         // whose it is: "ctrfs INSTANCE NETWORK". A link of that name with another alias is not ours
	Gateways []netip.Prefix // addresses of the bridge, with the lengths of the subnets, IPv4 and IPv6
	MTU      int            // 0 is 1500
	Internal bool           // what comes in by it is not forwarded. What comes in elsewhere is the firewall's, and IPv6 on a router
}

const mtuDefault = 1500

// aliasMax is the kernel's, without the final zero.
const aliasMax = 255

// Apply makes the bridge, or changes what differs from what it should be: addresses, MTU, state, sysctls. It returns the link's index
// and can be called again at any time, also by several at once.
//
// Errors: EINVAL (the Bridge), EEXIST (a link of that name which is not ours), and the kernel's; then what could be done is done.
func (h *Host) Apply(b Bridge) (index int, err error) {
	if b.MTU == 0 {
		b.MTU = mtuDefault
	}
	if err := b.check(); err != nil {
		return 0, fmt.Errorf("bridge %q: %w", b.Link, err)
	}
	err = h.with(func(s *socket) error {
		l, err := s.link(b.Link, 0)
		if errors.Is(err, unix.ENODEV) {
			// One of several at once is the first.
			if err = s.do(b.create()); errors.Is(err, unix.EEXIST) {
				err = nil
			}
			if err == nil {
				l, err = s.link(b.Link, 0)
			}
		}
		if err == nil {
			err = b.ours(l)
		}
		if err != nil {
			return err
		}
		index = l.index
		// Before it is up, so that no router is ever believed; and its addresses, which the kernel drops together with IPv6.
		if err := h.visit(func() error { return settle(b.Link, b.settings()) }); err != nil {
			return err
		}
		have, err := s.addresses(l.index)
		if err != nil {
			return err
		}
		if err := s.do(append(b.mend(l), readdress(l.index, have, b.Gateways)...)...); err != nil {
			return err
		}
		return s.usable(b.Gateways)
	})
	if err != nil {
		return 0, fmt.Errorf("bridge %s: %w", b.Link, err)
	}
	return index, nil
}

// check refuses what the kernel would cut short or misunderstand.
func (b Bridge) check() error {
	switch {
	case len(b.Link) >= unix.IFNAMSIZ || !strings.HasPrefix(b.Link, Prefix) || strings.ContainsAny(b.Link, "/: \t\n\x00"):
		return fmt.Errorf("a name has at most 15 bytes and begins with %s: %w", Prefix, unix.EINVAL)
	case b.Alias == "" || len(b.Alias) > aliasMax || strings.ContainsAny(b.Alias, "\n\x00"):
		return fmt.Errorf("alias %q: %w", b.Alias, unix.EINVAL)
	case b.MTU < 68 || b.MTU > 65535:
		return fmt.Errorf("mtu %d: %w", b.MTU, unix.EINVAL)
	}
	if b.MTU < 1280 && hasIPv6(b.Gateways) {
		return fmt.Errorf("mtu %d is less than the 1280 of IPv6: %w", b.MTU, unix.EINVAL)
	}
	return checkAddresses(b.Gateways)
}

// ours refuses a link that somebody else made. The kernel takes no alias when it makes a link, so one that we made a moment ago, or
// before a crash, is known by its address.
func (b Bridge) ours(l link) error {
	if l.kind != "bridge" || l.alias != b.Alias && (l.alias != "" || string(l.mac) != string(b.mac())) {
		return fmt.Errorf("there is a link of that name that is not ours (kind %q, alias %q): %w", l.kind, l.alias, unix.EEXIST)
	}
	return nil
}

// create makes the bridge, down. No spanning tree and no delay before a port forwards: containers do not form loops. Snooping would keep
// multicast from ports that did not ask, at the price of a querier that is not there. It filters no VLANs, which is the default; to say
// so is an error to a kernel that cannot.
func (b Bridge) create() *nl.NetlinkRequest {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(0))
	data.AddRtAttr(nl.IFLA_BR_FORWARD_DELAY, nl.Uint32Attr(0))
	data.AddRtAttr(nl.IFLA_BR_MCAST_SNOOPING, nl.Uint8Attr(0))
	return request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(b.Link)), nl.NewRtAttr(unix.IFLA_ADDRESS, b.mac()),
		nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(b.MTU))), info)
}

// mend is what makes the link itself as it should be; nothing if it is.
func (b Bridge) mend(l link) []*nl.NetlinkRequest {
	header := nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index = int32(l.index)
	r := request(unix.RTM_NEWLINK, 0, header)
	if l.mtu != b.MTU {
		r.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(b.MTU))))
	}
	if l.alias != b.Alias {
		r.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(b.Alias)))
	}
	if string(l.mac) != string(b.mac()) {
		r.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, b.mac()))
	}
	if l.flags&unix.IFF_UP == 0 {
		header.Flags, header.Change = unix.IFF_UP, unix.IFF_UP
	}
	if len(r.Data) == 1 && header.Change == 0 {
		return nil
	}
	return []*nl.NetlinkRequest{r}
}

// settings are the sysctls of the bridge.
func (b Bridge) settings() []setting {
	forward, off := "1", "1"
	if b.Internal {
		forward = "0"
	}
	if hasIPv6(b.Gateways) {
		off = "0"
	}
	return []setting{
		{"ipv6", "disable_ipv6", off},
		{"ipv6", "accept_ra", "0"},
		{"ipv6", "autoconf", "0"},
		{"ipv6", "accept_dad", "0"},
		{"ipv6", "accept_redirects", "0"},
		{"ipv6", "force_forwarding", forward},
		{"ipv4", "forwarding", forward},
		{"ipv4", "accept_redirects", "0"},
		{"ipv4", "route_localnet", "1"},
	}
}

// mac is the bridge's address for good; otherwise it would be the lowest of its ports'.
func (b Bridge) mac() []byte {
	hash := fnv.New32a()
	hash.Write([]byte(b.Link + "\n" + b.Alias))
	return append([]byte{macLocal, macBridge}, hash.Sum(nil)...)
}

// Remove deletes a bridge if it is ours by its alias; none of that name is fine. Its ports stay, without a bridge. It is slow.
//
// Error: EEXIST, if the link is not ours.
func (h *Host) Remove(link, alias string) error {
	err := h.with(func(s *socket) error {
		l, err := s.link(link, 0)
		if errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err == nil {
			err = Bridge{Link: link, Alias: alias}.ours(l)
		}
		if err == nil {
			err = s.remove(l.index)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("remove bridge %s: %w", link, err)
	}
	return nil
}

// remove deletes a link; one that is gone is fine.
func (s *socket) remove(index int) error {
	header := nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index = int32(index)
	return s.do(request(unix.RTM_DELLINK, 0, header))
}
