package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Network is a bridge and who is on it.
type Network struct {
	Link     string         // its bridge
	Subnets  []netip.Prefix // v4, v6
	Gateways []netip.Addr   // the bridge's own addresses
	NAT      bool           // what leaves for elsewhere does so with the address of the link it leaves by
	Internal bool           // nothing goes in or out but on the bridge, and to a gateway address itself; NAT means nothing then
}

// Port is a published port. A network that is internal publishes none: those of its containers are left out.
type Port struct {
	Proto string         // "tcp", "udp"
	Host  netip.Addr     // of this machine; 0.0.0.0 and :: are all of a family, 127.x is for this machine only, ::1 cannot be
	Port  uint16         // there
	To    netip.AddrPort // the container, of the same family
	Link  string         // the container's bridge
}

// Wanted is all that a table does.
type Wanted struct {
	Networks []Network
	Ports    []Port
	// Links that forward only because a network needs it, for IPv4 and for IPv6: nobody else's packets of a family are forwarded while
	// there are any.
	Guarded4, Guarded6 []string
}

// element is an element of a set, without its key: the last key when it is a range of them, and what a map gives for it.
type element struct{ end, data string }

// content is what is in the sets, by their names and the elements' keys.
type content map[string]map[string]element

func (c content) add(set, key string, e element) {
	if c[set] == nil {
		c[set] = map[string]element{}
	}
	c[set][key] = e
}

// compile says what has to be in the sets. Errors are EINVAL, or EEXIST for a port that is published twice.
func compile(w Wanted) (content, error) {
	c := content{}
	closed := map[string]bool{}
	for _, n := range w.Networks {
		if err := c.network(n); err != nil {
			return nil, err
		}
		closed[n.Link] = n.Internal
	}
	for family, links := range map[byte][]string{unix.NFPROTO_IPV4: w.Guarded4, unix.NFPROTO_IPV6: w.Guarded6} {
		for _, l := range links {
			if err := checkLink(l); err != nil {
				return nil, err
			}
			c.add(guarded, string([]byte{family, 0, 0, 0})+name(l), element{})
			c.add(uplinks, name(l)+name(l), element{})
			c.add(guard, string([]byte{family}), element{})
		}
	}
	for _, p := range w.Ports {
		set, key, e, err := p.element()
		if err != nil {
			return nil, err
		}
		if closed[p.Link] {
			continue
		}
		if other, ok := c[set][key]; ok && other != e {
			return nil, fmt.Errorf("%s is published for another than %v already: %w", p, p.To, unix.EEXIST)
		}
		c.add(set, key, e)
	}
	return c, nil
}

func (c content) network(n Network) error {
	if err := checkLink(n.Link); err != nil {
		return err
	}
	link := name(n.Link)
	c.add(bridges, link, element{})
	c.add(same, link+link, element{})
	switch {
	case n.Internal:
		c.add(internal, link, element{})
	case n.NAT:
		c.add(nat, link, element{})
	}
	for _, p := range n.Subnets {
		if !p.IsValid() {
			return fmt.Errorf("a subnet of %s is not one: %w", n.Link, unix.EINVAL)
		}
		p = p.Masked()
		// Ranges of a set must not overlap.
		if slices.ContainsFunc(n.Subnets, func(o netip.Prefix) bool { return o.Bits() < p.Bits() && o.Contains(p.Addr()) }) {
			continue
		}
		set := sources4
		if p.Addr().Is6() {
			set = sources6
		}
		c.add(set, link+string(p.Addr().AsSlice()), element{end: link + string(last(p))})
	}
	for _, a := range n.Gateways {
		if !a.IsValid() {
			return fmt.Errorf("a gateway of %s is not an address: %w", n.Link, unix.EINVAL)
		}
		own, everybodys := gateways4, addresses4
		if a = a.Unmap(); a.Is6() {
			own, everybodys = gateways6, addresses6
		}
		c.add(own, link+string(a.AsSlice()), element{})
		c.add(everybodys, string(a.AsSlice()), element{})
	}
	return nil
}

// element says in which map a port is, and as what.
func (p Port) element() (set, key string, e element, err error) {
	host, to := p.Host.Unmap(), p.To.Addr().Unmap()
	var number byte
	switch p.Proto {
	case "tcp":
		number = unix.IPPROTO_TCP
	case "udp":
		number = unix.IPPROTO_UDP
	default:
		return "", "", e, fmt.Errorf("%q is neither tcp nor udp: %w", p.Proto, unix.EINVAL)
	}
	if !host.IsValid() || !to.IsValid() || host.Is4() != to.Is4() || host == netip.IPv6Loopback() || p.Port == 0 || p.To.Port() == 0 {
		return "", "", e, fmt.Errorf("%s cannot be sent to %v: %w", p, p.To, unix.EINVAL)
	}
	b := make([]byte, 0, 24)
	switch {
	case host.IsUnspecified() && host.Is4():
		set = any4
	case host.IsUnspecified():
		set = any6
	case host.Is4():
		set, b = ports4, append(b, host.AsSlice()...)
	default:
		set, b = ports6, append(b, host.AsSlice()...)
	}
	key = string(service(append(b, number, 0, 0, 0), p.Port)) // each part fills whole words
	e.data = string(service(append(b[:0], to.AsSlice()...), p.To.Port()))
	return set, key, e, nil
}

// String is a port as it is published: "tcp 127.0.0.1:8080".
func (p Port) String() string { return p.Proto + " " + netip.AddrPortFrom(p.Host, p.Port).String() }

func checkLink(l string) error {
	if l == "" || len(l) >= unix.IFNAMSIZ {
		return fmt.Errorf("%q is not the name of a link: %w", l, unix.EINVAL)
	}
	return nil
}

// name is a link's name in a key.
func name(link string) string {
	var b [unix.IFNAMSIZ]byte
	copy(b[:], link)
	return string(b[:])
}

func service(b []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(b, port), 0, 0)
}

// last is the last address of a subnet.
func last(p netip.Prefix) []byte {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b
}

// without returns the elements of a set that another content lacks, in an order that is always the same.
func (c content) without(other content, set string) []nftables.SetElement {
	var out []nftables.SetElement
	theirs := other[set]
	for key, e := range c[set] {
		if o, ok := theirs[key]; !ok || o != e {
			out = append(out, nftables.SetElement{Key: []byte(key), KeyEnd: []byte(e.end), Val: []byte(e.data)})
		}
	}
	slices.SortFunc(out, func(a, b nftables.SetElement) int { return slices.Compare(a.Key, b.Key) })
	return out
}
