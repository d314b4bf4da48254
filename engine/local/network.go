package local

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/netns"
	"github.com/ctrfs/ctrfs/netns/firewall"
	"github.com/ctrfs/ctrfs/netns/names"
)

// pool4 is where subnets of IPv4 come from: a quarter of the private 10.0.0.0/8 (RFC 1918) that the common tools leave alone by
// themselves. Each has as many addresses as a bridge has ports, 1,023.
var (
	pool4 = netip.MustParsePrefix("10.192.0.0/10")
	bits4 = 22
)

// pool6 is the /56 of this instance below fd00::/8 that subnets of IPv6 come from: RFC 4193, section 3.2, with a digest in place of
// random bits, so that a network that is made again has the same addresses.
func (s *networks) pool6() netip.Prefix {
	sum := sha256.Sum256([]byte("ctrfs " + s.instance))
	b := [16]byte{0: 0xfd}
	copy(b[1:7], sum[:6])
	return netip.PrefixFrom(netip.AddrFrom16(b), 56)
}

const bits6 = 64

// taken are the subnets of the other networks.
func (s *networks) taken(but *network) (all []netip.Prefix) {
	for _, n := range s.list() {
		if n != but {
			n.mu.Lock()
			all = append(all, n.rec.Config.Subnets...)
			n.mu.Unlock()
		}
	}
	return all
}

// chooseSubnets gives a configuration subnets that neither this machine nor another network uses.
func (n *network) chooseSubnets(c *engine.NetworkConfig) error {
	avoid := n.in.taken(n)
	four, err := n.in.host.FreeSubnet(avoid, pool4, bits4)
	if err != nil {
		return err
	}
	words := []string{four.String()}
	if six, err := n.in.host.FreeSubnet(avoid, n.in.pool6(), bits6); err == nil {
		words = append(words, six.String())
	}
	c.Gateways = nil
	return c.SetSubnets(words)
}

// overlaps refuses subnets that another network has. What this machine routes elsewhere is its owner's to know.
func (s *networks) overlaps(n *network, subnets []netip.Prefix) error {
	for _, o := range s.list() {
		if o == n {
			continue
		}
		for _, p := range o.View().Config.Subnets {
			if i := slices.IndexFunc(subnets, p.Overlaps); i >= 0 {
				return &engine.Error{Op: "write", File: "subnet", Value: subnets[i].String(), Errno: syscall.EADDRINUSE, Why: "the network " + o.name + " has " + p.String(),
					Cure: "write another one, or an empty line to have one chosen"}
			}
		}
	}
	return nil
}

// alias is what marks the links of a network.
func (n *network) alias() string { return "ctrfs " + n.in.instance + " " + n.name }

// linkName is the name of its bridge: the same after a restart, and not that of another instance.
func (n *network) linkName() string {
	sum := sha256.Sum256([]byte(n.alias()))
	return fmt.Sprintf("ctrfs%x", sum[:4])
}

// up makes what the network is on this machine, unless it is there.
func (n *network) up() error {
	n.mu.Lock()
	is := n.link != ""
	n.mu.Unlock()
	if is {
		return nil
	}
	n.lift.Lock()
	defer n.lift.Unlock()
	return n.upHeld()
}

// upHeld is [network.up] for who holds n.lift.
func (n *network) upHeld() (err error) {
	n.mu.Lock()
	config, is, gone := n.rec.Config, n.link != "", n.removed
	n.mu.Unlock()
	if is {
		return nil
	}
	if gone {
		return &engine.Error{Op: "start", File: "net", Value: n.name, Errno: syscall.ENOENT, Why: "there is no such network", Cure: "mkdir networks/" + n.name}
	}
	if len(config.Subnets) == 0 {
		if err := n.chooseSubnets(&config); err != nil {
			return err
		}
		if err := n.amend(func(rec *netRecord) { rec.Config = config }); err != nil {
			return err
		}
	}
	if config.Driver == engine.DriverMacvlan {
		if config.Parent == "" {
			return &engine.Error{Op: "start", File: "networks/" + n.name + "/parent", Errno: syscall.EINVAL, Why: "a macvlan needs a link to lie on",
				Cure: "write the name of one that ip link shows"}
		}
		n.begin(config.Parent, 0)
		return nil
	}
	link := n.linkName()
	index, err := n.in.host.Apply(n.bridge(config))
	if err != nil {
		return n.upError(err)
	}
	if err := n.listen(config); err != nil {
		return errors.Join(n.upError(err), n.in.host.Remove(link, n.alias()))
	}
	n.begin(link, index)
	if err := n.in.refire(); err != nil {
		return errors.Join(n.upError(err), n.downHeld())
	}
	return nil
}

// listen begins to answer for the names in the network, on its bridge.
func (n *network) listen(config engine.NetworkConfig) error {
	resolver, err := names.Serve(names.Config{Addresses: config.Gateways, Link: n.linkName(), Zone: &n.zone, Upstream: n.upstream(config), Servers: n.zone.servers, Log: n.in.e.log})
	if err != nil {
		return err // a nil resolver in an interface would not be nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.resolver = resolver
	return nil
}

// bridge is what its link has to be.
func (n *network) bridge(config engine.NetworkConfig) netns.Bridge {
	b := netns.Bridge{Link: n.linkName(), Alias: n.alias(), MTU: config.MTU, Internal: config.Internal}
	for _, g := range config.Gateways {
		if p, ok := config.Subnet(g); ok {
			b.Gateways = append(b.Gateways, netip.PrefixFrom(g, p.Bits()))
		}
	}
	return b
}

func (n *network) upError(err error) error {
	return &engine.Error{Op: "bring up", File: "networks/" + n.name, Errno: engine.Errno(err), Err: err, Cure: "see nftables and forwarding in the file host"}
}

// upstream is whom the resolver asks about names of others: nobody, for an internal network.
func (n *network) upstream(config engine.NetworkConfig) func() []netip.AddrPort {
	if config.Internal {
		return nil
	}
	return hostServers
}

// hostServers are those of this machine.
func hostServers() []netip.AddrPort {
	servers, err := names.HostServers("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	return servers
}

// begin notes that the network is up.
func (n *network) begin(link string, index int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link, n.index = link, index
	n.stock = newStock(stockMost, n.furnished, n.unfurnish)
	n.touched()
}

// down takes away what the network is on this machine, which nobody uses any more.
func (n *network) down() error {
	n.mu.Lock()
	up := n.link != ""
	n.mu.Unlock()
	if !up {
		return nil
	}
	return n.downHeld()
}

func (n *network) downHeld() error {
	n.mu.Lock()
	stock, resolver, link, driver := n.stock, n.resolver, n.link, n.rec.Config.Driver
	n.stock, n.resolver, n.link = nil, nil, ""
	n.touched()
	n.mu.Unlock()
	if stock != nil {
		stock.close()
	}
	var errs []error
	if resolver != nil {
		errs = append(errs, resolver.Close())
	}
	if link != n.linkName() || driver != engine.DriverBridge && resolver == nil {
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, n.in.refire(), n.in.host.Remove(link, n.alias()))...)
}

// rule is what the firewall is told of the network; ok is false while there is nothing to tell.
func (n *network) rule() (r firewall.Network, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := &n.rec.Config
	if n.link == "" || c.Driver != engine.DriverBridge {
		return r, false
	}
	return firewall.Network{Link: n.link, Subnets: c.Subnets, Gateways: c.Gateways, NAT: c.NAT, Internal: c.Internal}, true
}

// inStock is who has the addresses of quarters that nobody lives in yet.
const inStock = "in stock"

// leasePatience is how long a start waits for an address that something is just being made ready with, or was just taken from
// the stock with, which takes some milliseconds.
const leasePatience = 2 * time.Second

// lease gives somebody an address of each subnet: those that are wanted, else those that it has had, else the next free ones.
// Errors: EINVAL, EADDRINUSE, ENOSPC.
func (n *network) lease(holder string, wanted, had []netip.Addr) (out []netip.Addr, err error) {
	for end := time.Now().Add(leasePatience); ; time.Sleep(time.Millisecond) {
		for _, a := range wanted {
			if err := n.clear(holder, a); err != nil {
				return nil, err
			}
		}
		out, held, err := n.tryLease(holder, wanted, had)
		if !held.IsValid() || err != nil {
			return out, err
		}
		if time.Now().After(end) {
			return nil, &engine.Error{Op: "start", File: "net", Value: n.name + " " + held.String(), Errno: syscall.EADDRINUSE,
				Why: "something is being made ready with that address", Cure: "try again, or write another one"}
		}
	}
}

// tryLease is one attempt. held is an address that is wanted and that nobody can be made to give up at this moment: whoever makes
// it ready, or has just taken it from the stock, believes that it is his.
func (n *network) tryLease(holder string, wanted, had []netip.Addr) (out []netip.Addr, held netip.Addr, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range wanted {
		if who := n.leases[a]; who != "" && who != holder {
			return nil, a, nil
		}
	}
	c := &n.rec.Config
	for _, p := range c.Subnets {
		a, ok := ofSubnet(wanted, p)
		if !ok {
			if a, ok = ofSubnet(had, p); ok {
				who, taken := n.leases[a]
				ok = (!taken || who == holder) && n.usable(p, a)
			}
		}
		if !ok {
			a, ok = n.next(p)
		}
		if !ok {
			return nil, netip.Addr{}, &engine.Error{Op: "start", File: "net", Value: n.name, Errno: syscall.ENOSPC, Why: "no address of " + p.String() + " is free",
				Cure: "remove containers of that network, or give it a larger subnet"}
		}
		out = append(out, a)
	}
	for _, a := range out {
		n.leases[a] = holder
	}
	return out, netip.Addr{}, nil
}

func ofSubnet(all []netip.Addr, p netip.Prefix) (netip.Addr, bool) {
	if i := slices.IndexFunc(all, p.Contains); i >= 0 {
		return all[i], true
	}
	return netip.Addr{}, false
}

// clear says why an address cannot be had, and makes room when only something in stock has it.
func (n *network) clear(holder string, a netip.Addr) error {
	refuse := func(errno syscall.Errno, why, cure string) error {
		return &engine.Error{Op: "start", File: "net", Value: n.name + " " + a.String(), Errno: errno, Why: why, Cure: cure}
	}
	n.mu.Lock()
	p, in := n.rec.Config.Subnet(a)
	usable := in && n.usable(p, a)
	who, stock := n.leases[a], n.stock
	n.mu.Unlock()
	switch {
	case !in:
		return refuse(syscall.EINVAL, "the address is of none of the network's subnets", "write one of those in networks/"+n.name+"/subnet")
	case !usable:
		return refuse(syscall.EADDRINUSE, "it is the gateway's, or the first or the last address of the subnet", "write another one")
	case who == inStock && stock != nil:
		stock.evict(func(q *quarters) bool {
			return slices.ContainsFunc(q.wires, func(w wire) bool { return slices.Contains(w.addresses, a) })
		})
		return nil
	case who != "" && who != holder:
		return refuse(syscall.EADDRINUSE, "it is the address of "+n.in.e.pathOf(who), "write another one, or remove that container")
	}
	return nil
}

// usable reports whether a container may have an address. n.mu is held.
func (n *network) usable(p netip.Prefix, a netip.Addr) bool {
	return a != p.Addr() && a != engine.Last(p) && !slices.Contains(n.rec.Config.Gateways, a)
}

// next finds a free address, behind the last one that was given: one that has just been given back is not another's at once.
// n.mu is held.
func (n *network) next(p netip.Prefix) (netip.Addr, bool) {
	four := p.Addr().Is4()
	a := n.last[four]
	for range len(n.leases) + 8 {
		if a = a.Next(); !p.Contains(a) {
			a = p.Addr().Next()
		}
		if _, taken := n.leases[a]; !taken && n.usable(p, a) {
			n.last[four] = a
			return a, true
		}
	}
	return netip.Addr{}, false
}

// assign makes addresses another's.
func (n *network) assign(holder string, addresses []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addresses {
		n.leases[a] = holder
	}
}

// release gives addresses back that are the holder's.
func (n *network) release(holder string, addresses []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addresses {
		if n.leases[a] == holder {
			delete(n.leases, a)
		}
	}
}

// pathOf names a container by its id.
func (e *Engine) pathOf(id string) string {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if c := e.byID[id]; c != nil {
		return c.View().Path
	}
	return "a container that is gone"
}

// furnished makes quarters in the network, for whoever comes.
func (n *network) furnished(patient bool) (*quarters, error) {
	q, err := n.in.e.furnished(patient)
	if err != nil {
		return nil, err
	}
	addresses, err := n.lease(inStock, nil, nil)
	if err == nil {
		var w wire
		if w, err = n.connect(q.net, "eth0", addresses, true); err == nil {
			q.wires = []wire{w}
			return q, nil
		}
		n.release(inStock, addresses)
	}
	n.in.e.unfurnish(q)
	return nil, err
}

// unfurnish gives them up.
func (n *network) unfurnish(q *quarters) {
	for _, w := range q.wires {
		n.release(inStock, w.addresses)
	}
	n.in.e.unfurnish(q)
}
