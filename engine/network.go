package engine

import (
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Driver is how a network joins its containers: the content of its driver file.
type Driver string

// The drivers, as abi.md defines them.
const (
	DriverBridge  Driver = "bridge"  // a bridge of this machine's, which routes for them
	DriverMacvlan Driver = "macvlan" // an address of their own on a link of this machine's, without this machine
)

// NetworkConfig is everything that can be configured about a network.
type NetworkConfig struct {
	Driver   Driver         `json:"driver"`
	Parent   string         `json:"parent,omitempty"` // the link of this machine's that a macvlan lies on
	Subnets  []netip.Prefix `json:"subnet,omitempty"` // at most one of each family; replaced, never changed
	Gateways []netip.Addr   `json:"gateway,omitempty"`
	MTU      int            `json:"mtu,omitempty"` // bytes; 0 for the default
	NAT      bool           `json:"nat"`
	Internal bool           `json:"internal,omitempty"`
}

// NewNetworkConfig is what a new network is, but for its subnets, which an engine chooses.
func NewNetworkConfig() NetworkConfig { return NetworkConfig{Driver: DriverBridge, NAT: true} }

// NetworkView is one consistent moment of a network. It is a copy: nobody changes it afterwards.
type NetworkView struct {
	Serial  string // identity of the network, which a later one of that name does not have
	Name    string
	Config  NetworkConfig
	Link    string // the link of this machine's that it is; empty while there is none
	Failure string // the content of the error file, without the newline
	Changed time.Time
}

// Member is a container that has a network, with the addresses that are its own there.
type Member struct {
	Path      string
	Addresses []netip.Addr // none before its first start
}

// Network is an entry of networks/. Its methods may be called concurrently, and none blocks for longer than the kernel takes.
type Network interface {
	View() *NetworkView
	// Generation changes whenever the view does.
	Generation() uint64
	// Owner and SetOwner are as those of a [Program].
	Owner(file string) (Owner, bool)
	SetOwner(file string, o Owner) error
	// Fail puts the sentence of a refused operation into the error file.
	Fail(err error)
	// Members lists the containers that have this network, by their paths.
	Members() []Member
	// Update changes the configuration, all or nothing, as [Program.Update] does. With live false the answer is EBUSY while a container
	// runs in it.
	Update(by Caller, file string, live bool, change func(*NetworkConfig) error) error
}

// Networks is what an engine knows about networks.
type Networks interface {
	// Networks lists them, sorted by name.
	Networks() []Network
	// Network finds one of them.
	Network(name string) (Network, bool)
	// CreateNetwork makes one. Errors: EINVAL (name), EEXIST, ENOSPC (no subnet is free), EPERM.
	CreateNetwork(by Caller, name string, owner Owner) (Network, error)
	// RemoveNetwork removes one. Errors: EBUSY while a container has it, or it is the one that is always there.
	RemoveNetwork(by Caller, n Network) error
}

// DefaultNetwork is the name of the network that exists from the start.
const DefaultNetwork = "bridge"

// netWords are the values of net that are no network's name.
var netWords = []string{"none", "host", "container", "new"}

// ValidateNetworkName checks the name of a network: that of a container, but for the words that net means otherwise.
func ValidateNetworkName(name string) error {
	if slices.Contains(netWords, name) {
		return &Error{Op: "mkdir", File: "networks/" + name, Errno: syscall.EINVAL, Why: "in the file net, that word means something else", Cure: "choose another name"}
	}
	return ValidateName(name)
}

const (
	minMTU = 1280  // RFC 8200, section 5: what IPv6 needs
	maxMTU = 65535 // include/uapi/linux/if_ether.h, ETH_MAX_MTU
)

// SetMTU sets the size of the largest packet in bytes; 0 is the default.
func (c *NetworkConfig) SetMTU(n int64) error {
	if n != 0 && (n < minMTU || n > maxMTU) {
		return Invalid("mtu", itoa(n), "out of range", "write 1280 to 65535 bytes, or 0 for the default")
	}
	c.MTU = int(n)
	return nil
}

// SetDriver chooses how containers are joined.
func (c *NetworkConfig) SetDriver(text string) error {
	switch d := Driver(text); d {
	case DriverBridge, DriverMacvlan:
		c.Driver = d
		return nil
	}
	return Invalid("driver", text, "no such driver", "write bridge or macvlan")
}

// SetParent names the link of this machine's that a macvlan lies on.
func (c *NetworkConfig) SetParent(text string) error {
	if text != "" && !validInterface(text) {
		return Invalid("parent", text, "not the name of a network interface", "write one that ip link shows, such as eth0")
	}
	c.Parent = text
	return nil
}

// The sizes of subnet that there is room in for a gateway and a container, and that an engine's table of addresses can hold.
const (
	minSubnet4, maxSubnet4 = 8, 30
	minSubnet6, maxSubnet6 = 32, 126
)

// SetSubnets sets the subnets, each as ADDRESS/LENGTH. Gateways that are in none of them any more are chosen anew.
func (c *NetworkConfig) SetSubnets(words []string) error {
	const cure = "write one of IPv4, such as 10.1.2.0/24, and one of IPv6, such as fd00:1::/64, or one of them"
	var subnets []netip.Prefix
	for _, w := range words {
		p, err := netip.ParsePrefix(w)
		switch {
		case err != nil:
			return Invalid("subnet", w, "not a subnet", cure)
		case p.Masked() != p:
			return Invalid("subnet", w, "there are bits behind its length", "write "+p.Masked().String())
		case !routable(p):
			return Invalid("subnet", w, "loopback, multicast, link-local and unspecified addresses are no container's", cure)
		case slices.ContainsFunc(subnets, func(o netip.Prefix) bool { return o.Addr().Is4() == p.Addr().Is4() }):
			return Invalid("subnet", w, "there is another one of that family", cure)
		}
		if lo, hi := bounds(p); p.Bits() < lo || p.Bits() > hi {
			return Invalid("subnet", w, "too large or too small", "write a length from /"+itoa(int64(lo))+" to /"+itoa(int64(hi)))
		}
		subnets = append(subnets, p)
	}
	c.Subnets = subnets
	c.Gateways = slices.DeleteFunc(slices.Clone(c.Gateways), func(g netip.Addr) bool { return c.subnetOf(g) < 0 })
	return c.completeGateways()
}

func bounds(p netip.Prefix) (lo, hi int) {
	if p.Addr().Is4() {
		return minSubnet4, maxSubnet4
	}
	return minSubnet6, maxSubnet6
}

func routable(p netip.Prefix) bool {
	a := p.Addr()
	return !a.Is4In6() && !a.IsLoopback() && !a.IsMulticast() && !a.IsUnspecified() && !a.IsLinkLocalUnicast()
}

// subnetOf is the index of the subnet that an address is of, or -1.
func (c *NetworkConfig) subnetOf(a netip.Addr) int {
	return slices.IndexFunc(c.Subnets, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Subnet returns the subnet that an address is of.
func (c *NetworkConfig) Subnet(a netip.Addr) (netip.Prefix, bool) {
	if i := c.subnetOf(a); i >= 0 {
		return c.Subnets[i], true
	}
	return netip.Prefix{}, false
}

// Gateway returns the gateway in a subnet.
func (c *NetworkConfig) Gateway(p netip.Prefix) netip.Addr {
	for _, g := range c.Gateways {
		if p.Contains(g) {
			return g
		}
	}
	return netip.Addr{}
}

// completeGateways gives each subnet without a gateway its first address as that.
func (c *NetworkConfig) completeGateways() error {
	var all []netip.Addr
	for _, p := range c.Subnets {
		g := c.Gateway(p)
		if !g.IsValid() {
			g = p.Addr().Next()
		}
		all = append(all, g)
	}
	c.Gateways = all
	return nil
}

// SetGateways sets the address that is the way out of each subnet; of a bridge, its own.
func (c *NetworkConfig) SetGateways(words []string) error {
	var all []netip.Addr
	for _, w := range words {
		a, err := netip.ParseAddr(w)
		if err != nil || a.Zone() != "" {
			return Invalid("gateway", w, "not an address", "write one of each subnet, such as 10.1.2.1")
		}
		i := c.subnetOf(a)
		switch {
		case i < 0:
			return Invalid("gateway", w, "in none of the subnets", "write one of each subnet, or set subnet first")
		case a == c.Subnets[i].Addr() || a == Last(c.Subnets[i]):
			return Invalid("gateway", w, "the first and the last address of a subnet are no host's", "write one in between")
		case slices.ContainsFunc(all, c.Subnets[i].Contains):
			return Invalid("gateway", w, "there is another one of that subnet", "write one of each")
		}
		all = append(all, a)
	}
	c.Gateways = all
	return c.completeGateways()
}

// Last is the last address of a subnet, which in IPv4 means all of them.
func Last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Validate checks what no single setting can.
func (c *NetworkConfig) Validate() error {
	if c.Driver == DriverBridge && c.Parent != "" {
		return clash("parent", c.Parent, "a bridge lies on no link", "write macvlan into driver first, or empty parent")
	}
	return nil
}

// String is a member as the members file has it.
func (m Member) String() string {
	words := []string{m.Path}
	for _, a := range m.Addresses {
		words = append(words, a.String())
	}
	return strings.Join(words, " ")
}

// NetLink is a link of a running container's, but for the loopback.
type NetLink struct {
	Name      string // inside: "eth0"
	Network   string // empty for one that is of no network here
	MAC       string
	MTU       int
	Addresses []netip.Prefix
	Gateways  []netip.Addr
}
