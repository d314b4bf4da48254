package local

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/netns"
)

// wire is one link of a container's network namespace, and where it leads.
type wire struct {
	n         *network
	name      string // inside: eth0
	index     int    // of the host's end; 0 for a macvlan, which has none
	bridge    int    // the index of the bridge that it was plugged into; 0 is not known
	addresses []netip.Addr
	bounded   bool // there may be a device of a rate, which does not go with the link
}

// connect makes a wire. The first one of each family that leads out is the way out.
func (n *network) connect(ns *os.File, name string, addresses []netip.Addr, first bool) (wire, error) {
	w := netns.Wire{Name: name}
	n.mu.Lock()
	config, link, bridge := n.rec.Config, n.link, n.index
	n.mu.Unlock()
	if link == "" {
		return wire{}, fmt.Errorf("the network %s is just being taken down: %w", n.name, syscall.EAGAIN)
	}
	if w.MTU = config.MTU; config.Driver == engine.DriverMacvlan {
		w.Parent = link
	} else {
		w.Bridge, w.Host = link, "ctrfsv"+strings.ToLower(rand.Text()[:9])
	}
	for _, a := range addresses {
		p, ok := config.Subnet(a)
		if !ok {
			continue
		}
		w.Addresses = append(w.Addresses, netip.PrefixFrom(a, p.Bits()))
		if first && !config.Internal {
			w.Gateways = append(w.Gateways, config.Gateway(p))
		}
	}
	index, err := n.in.host.Connect(ns, w)
	if err != nil {
		return wire{}, &engine.Error{Op: "start", File: "net", Value: n.name, Errno: engine.Errno(err), Err: err}
	}
	return wire{n: n, name: name, index: index, bridge: bridge, addresses: addresses}, nil
}

// networksOf finds the networks of a configuration and brings them up.
func (c *container) networksOf(config *engine.Config) (all []*network, err error) {
	for _, a := range config.Networks() {
		n := c.e.networks.find(a.Network)
		if n == nil {
			return nil, &engine.Error{Op: "start", File: "net", Value: a.Network, Errno: syscall.ENOENT, Why: "there is no such network",
				Cure: "mkdir networks/" + a.Network + ", or name another one"}
		}
		if err := n.up(); err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// pooled returns the network whose stock a start can be served from: the only one of a container that has neither ids nor an
// address yet, and wants none in particular.
func (c *container) pooled(config *engine.Config, networks []*network) *stock {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(networks) != 1 || len(config.Networks()[0].Addresses) > 0 || len(c.rec.Leases[networks[0].name]) > 0 {
		return nil
	}
	networks[0].mu.Lock()
	defer networks[0].mu.Unlock()
	return networks[0].stock
}

// wireUp gives a network namespace the container's links, but for those that it has.
func (c *container) wireUp(config *engine.Config, networks []*network, ns *os.File, have []wire) (wires []wire, err error) {
	c.mu.Lock()
	leases := c.rec.Leases
	c.mu.Unlock()
	outward := false
	for i, n := range networks {
		name := fmt.Sprintf("eth%d", i)
		first := !outward && !n.View().Config.Internal
		outward = outward || first
		if at := slices.IndexFunc(have, func(w wire) bool { return w.name == name }); at >= 0 {
			w := have[at]
			w.n = n
			n.assign(c.id, w.addresses)
			wires = append(wires, w)
			continue
		}
		had := leases[n.name]
		addresses, err := n.lease(c.id, config.Networks()[i].Addresses, had)
		if err != nil {
			c.unlease(wires)
			return nil, err
		}
		w, err := n.connect(ns, name, addresses, first)
		if err != nil {
			c.unlease(append(wires, wire{n: n, addresses: addresses}))
			return nil, err
		}
		wires = append(wires, w)
	}
	if err := c.bound(config, wires); err != nil {
		c.unlease(wires)
		return nil, err
	}
	return wires, nil
}

// unlease gives back the addresses of a start that failed, but for those that the container has anyway.
func (c *container) unlease(wires []wire) {
	c.mu.Lock()
	pinned := c.pins[specs.NetworkNamespace] != nil
	c.mu.Unlock()
	if !pinned {
		c.e.networks.unbound(wires)
	}
	for _, w := range wires {
		c.mu.Lock()
		had := c.rec.Leases[w.n.name]
		c.mu.Unlock()
		w.n.release(c.id, slices.DeleteFunc(slices.Clone(w.addresses), func(a netip.Addr) bool { return slices.Contains(had, a) }))
	}
}

// bound applies net.rate.
func (c *container) bound(config *engine.Config, wires []wire) error {
	egress, ingress := config.Rates()
	for i, w := range wires {
		if egress == 0 && ingress == 0 {
			continue
		}
		wires[i].bounded = true
		if err := w.n.in.host.SetRate(w.index, uint64(egress), uint64(ingress)); err != nil {
			return &engine.Error{Op: "bound", File: "net.rate", Errno: engine.Errno(err), Err: err}
		}
	}
	return nil
}

// rerate applies another net.rate to a container that runs.
func (c *container) rerate(old, next *engine.Config) error {
	before, after := [2]int64{}, [2]int64{}
	before[0], before[1] = old.Rates()
	if after[0], after[1] = next.Rates(); before == after {
		return nil
	}
	c.mu.Lock()
	wires := slices.Clone(c.wires) // others may be looking at them
	for i := range wires {
		wires[i].bounded = true
	}
	c.wires = wires
	c.mu.Unlock()
	for i, w := range wires {
		if err := w.n.in.host.SetRate(w.index, uint64(after[0]), uint64(after[1])); err != nil {
			for _, done := range wires[:i] {
				err = errors.Join(err, done.n.in.host.SetRate(done.index, uint64(before[0]), uint64(before[1])))
			}
			return &engine.Error{Op: "write", File: "net.rate", Errno: engine.Errno(err), Err: err}
		}
	}
	return nil
}

// rewire applies what is live of a changed configuration to the links of a container that has some. back undoes it.
func (c *container) rewire(old, next *engine.Config) (back func(), err error) {
	c.mu.Lock()
	wires := c.wires
	c.mu.Unlock()
	if len(wires) == 0 || old.Extension.Net == next.Extension.Net {
		return func() {}, nil
	}
	s := c.e.networks
	if err := s.publish(c.id, next, wires); err != nil {
		return nil, err
	}
	unpublish := func() {
		if err := s.publish(c.id, old, wires); err != nil {
			c.e.log.Error("ports are not what the configuration says", "container", c.id, "err", err)
		}
	}
	if err := c.rerate(old, next); err != nil {
		unpublish()
		return nil, err
	}
	return func() {
		unpublish()
		if err := c.rerate(next, old); err != nil {
			c.e.log.Error("rates are not what the configuration says", "container", c.id, "err", err)
		}
	}, nil
}

// expect makes a container known in its networks before it is launched: its program may ask for a name at once, and is answered by who
// asks.
func (c *container) expect(wires []wire) {
	if len(wires) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wires = wires
	for _, w := range wires {
		w.n.zone.stale.Store(true)
	}
}

// unexpect takes that back, after a start that failed.
func (c *container) unexpect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pins[specs.NetworkNamespace] != nil {
		return // it had them before
	}
	for _, w := range c.wires {
		w.n.zone.stale.Store(true)
	}
	c.wires = nil
}

// wired makes wires the container's, in memory: the record follows with the next change or the exit. c.mu is held.
func (c *container) wired(wires []wire) {
	c.wires = wires
	next := map[string][]netip.Addr{}
	for _, w := range wires {
		next[w.n.name] = w.addresses
		w.n.zone.stale.Store(true)
	}
	old := c.rec.Leases
	if c.rec.Leases = next; len(next) == 0 {
		c.rec.Leases = nil
	}
	for name, addresses := range old {
		if n := c.e.networks.find(name); n != nil {
			n.release(c.id, slices.DeleteFunc(slices.Clone(addresses), func(a netip.Addr) bool { return slices.Contains(next[name], a) }))
		}
	}
	for _, w := range wires {
		w.n.touch()
		w.n.mu.Lock()
		moved := w.index > 0 && w.bridge != w.n.index && w.n.index > 0
		w.n.mu.Unlock()
		if moved { // the bridge has been made anew meanwhile
			w.n.in.lifting.Go(w.plug)
		}
	}
}

// plug makes the wire a port of the bridge that the network is now, unless it is one.
func (w wire) plug() {
	if w.index == 0 {
		return
	}
	err := w.n.in.host.Plug(w.n.linkName(), w.index)
	if err != nil && !errors.Is(err, syscall.ENODEV) { // the container may have gone
		w.n.in.e.log.Error("a container is cut off from its network", "network", w.n.name, "err", err)
	}
}

// touch notes that the members have changed.
func (n *network) touch() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.touched()
}

// unwired notes that the links have gone, with the namespace that they were in. c.mu is held.
func (c *container) unwired() {
	if c.pins[specs.NetworkNamespace] != nil {
		return // others are in it
	}
	c.e.networks.unbound(c.wires)
	for _, w := range c.wires {
		w.n.zone.stale.Store(true)
	}
	c.wires = nil
}

// unbound removes the devices of rates, behind everybody's back, as it is slow.
func (s *networks) unbound(wires []wire) {
	for _, w := range wires {
		if !w.bounded {
			continue
		}
		s.lifting.Go(func() {
			if err := s.host.Disconnect(w.index); err != nil {
				s.e.log.Warn("the device of a rate stays", "network", w.n.name, "err", err)
			}
		})
	}
}

// giveLeases gives back all addresses of a container that is removed. c.mu is held.
func (c *container) giveLeases() {
	for name, addresses := range c.rec.Leases {
		if n := c.e.networks.find(name); n != nil {
			n.release(c.id, addresses)
			n.zone.stale.Store(true)
		}
	}
}

// wiresOf finds the links of a namespace that exists, by their names.
func (c *container) wiresOf(config *engine.Config, ns *os.File) (wires []wire, err error) {
	links, err := netns.Interfaces(ns)
	if err != nil {
		return nil, err
	}
	for i, a := range config.Networks() {
		n := c.e.networks.find(a.Network)
		at := slices.IndexFunc(links, func(l netns.Interface) bool { return l.Name == fmt.Sprintf("eth%d", i) })
		if n == nil || at < 0 {
			continue
		}
		w := wire{n: n, name: links[at].Name, index: links[at].Peer, bounded: true} // by what was set before, as far as anybody knows
		for _, p := range links[at].Addresses {
			if _, ok := n.View().Config.Subnet(p.Addr()); ok {
				w.addresses = append(w.addresses, p.Addr())
			}
		}
		wires = append(wires, w)
	}
	return wires, nil
}

// seen is what the kernel said of the links of a run.
type seen struct {
	pid   int
	links []engine.NetLink
}

// Net implements [engine.Container]. The kernel is asked once in a run, unless the program may change what it says: whoever lists the
// files of many containers asks each of them for its size.
func (c *container) Net() []engine.NetLink {
	c.mu.Lock()
	pid, wires, last, config := c.pid, c.wires, c.seen, c.rec.Config
	c.mu.Unlock()
	if pid == 0 || len(wires) == 0 {
		return nil
	}
	if last != nil && last.pid == pid && !slices.Contains(config.Caps(), "CAP_NET_ADMIN") {
		return last.links
	}
	links, err := c.look(pid, wires)
	if err != nil || !c.still(pid) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = &seen{pid, links}
	return links
}

// look asks the kernel for the links of a process.
func (c *container) look(pid int, wires []wire) (out []engine.NetLink, err error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	links, err := netns.Interfaces(ns)
	for _, l := range links {
		x := engine.NetLink{Name: l.Name, MAC: net.HardwareAddr(l.MAC).String(), MTU: l.MTU, Addresses: l.Addresses, Gateways: l.Gateways}
		if i := slices.IndexFunc(wires, func(w wire) bool { return w.name == l.Name }); i >= 0 {
			x.Network = wires[i].n.name
		}
		out = append(out, x)
	}
	return out, err
}

// NetStats implements [engine.Container].
func (c *container) NetStats() (out []engine.Stat) {
	c.mu.Lock()
	pid, wires := c.pid, c.wires
	c.mu.Unlock()
	if pid == 0 || len(wires) == 0 {
		return nil
	}
	counters, err := netns.CountersOf(pid)
	if err != nil || !c.still(pid) {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(counters)) {
		k := counters[name]
		for _, s := range []engine.Stat{{Name: "rx_bytes", Value: k.RxBytes}, {Name: "rx_packets", Value: k.RxPackets}, {Name: "rx_errors", Value: k.RxErrors},
			{Name: "rx_dropped", Value: k.RxDropped}, {Name: "tx_bytes", Value: k.TxBytes}, {Name: "tx_packets", Value: k.TxPackets},
			{Name: "tx_errors", Value: k.TxErrors}, {Name: "tx_dropped", Value: k.TxDropped}} {
			out = append(out, engine.Stat{Name: name + "." + s.Name, Value: s.Value})
		}
	}
	return out
}
