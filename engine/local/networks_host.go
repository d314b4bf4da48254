package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
	"github.com/ctrfs/ctrfs/netns"
	"github.com/ctrfs/ctrfs/netns/firewall"
)

// forwardingName is the file in the run directory that says on which links forwarding was off before a network needed it: like the
// flags themselves, it lasts until the machine stops.
const forwardingName = "forwarding"

func (s *networks) forwardingFile() string { return filepath.Join(s.e.runDir, forwardingName) }

// forward tells the firewall what networks there are, and turns on forwarding on the links that packets of networks come and go by: it is noted before, and guarded by the time that it
// is on, so that nobody else's packets pass, and a server that dies in between leaves nothing. s.fire is held.
func (s *networks) forward() error {
	w := s.wanted()
	if len(w.Networks) == 0 {
		return s.leave()
	}
	before := s.forwarding()
	next, err := s.host.Intended(before)
	if err != nil {
		return err
	}
	router, err := s.host.Forwarding()
	if err != nil {
		return err
	}
	if text, err := json.Marshal(next); err != nil {
		return err
	} else if err := s.note(text); err != nil {
		return err
	}
	w.Guarded4, w.Guarded6 = next.Guarded(router)
	s.guarded4, s.guarded6 = w.Guarded4, w.Guarded6
	if err := s.table.Apply(w); err != nil {
		return err
	}
	s.applied = true
	_, _, err = s.host.Uplinks(before)
	return err
}

// note keeps what is to be given back, if it is not there already.
func (s *networks) note(text []byte) error {
	if was, err := os.ReadFile(s.forwardingFile()); err == nil && bytes.Equal(was, text) {
		return nil
	}
	err := os.WriteFile(s.forwardingFile()+fresh, text, 0o600)
	crash.Point("write what forwarding was")
	if err == nil {
		err = os.Rename(s.forwardingFile()+fresh, s.forwardingFile())
	}
	crash.Point("note what forwarding was")
	return err
}

// forwarding is what the file says.
func (s *networks) forwarding() (flags netns.Flags) {
	text, err := os.ReadFile(s.forwardingFile())
	if err == nil {
		err = json.Unmarshal(text, &flags)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.e.log.Warn("what forwarding was before is not known", "err", err)
	}
	return flags
}

// unforward puts forwarding back. s.fire is held.
func (s *networks) unforward() error {
	err := s.host.Restore(s.forwarding())
	if e := os.Remove(s.forwardingFile()); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	crash.Point("forget forwarding")
	return err
}

// recoverNetworks takes up the networks of containers that run, or whose namespaces are pinned, gives every container the addresses that
// it has, and removes links and tables that belong to no network in use.
func (e *Engine) recoverNetworks() {
	s := e.networks
	var wired []*container
	for _, c := range e.byID { // nobody else has them yet
		ns, err := c.netFile()
		if ns == nil {
			for name, addresses := range c.rec.Leases {
				if n := s.find(name); n != nil {
					n.adopt(c.id, addresses)
				}
			}
			continue
		}
		var wires []wire
		if err == nil {
			wires, err = c.wiresOf(c.rec.Config, ns)
			ns.Close()
		}
		if err != nil {
			e.log.Error("the links of a container cannot be found", "container", c.id, "err", err)
		}
		if len(wires) == 0 {
			continue
		}
		for _, w := range wires {
			w.n.adopt(c.id, w.addresses)
		}
		c.wired(wires)
		wired = append(wired, c)
	}
	s.sweep(wired)
	for _, c := range wired {
		for _, w := range c.wires {
			if err := w.n.up(); err != nil {
				e.log.Error("a network of a running container is not what it should be", "network", w.n.name, "err", err)
				w.n.Fail(err)
				continue
			}
			w.plug() // somebody may have deleted the bridge while there was no server
		}
		if err := s.publish(c.id, c.rec.Config, c.wires); err != nil {
			e.log.Error("ports of a running container are not open any more", "container", c.id, "err", err)
			c.failure = err.Error()
		}
	}
	s.watch()
}

// netFile opens the network namespace that is the container's own at this moment; nil when it has none.
func (c *container) netFile() (*os.File, error) {
	if len(c.rec.Config.Networks()) == 0 {
		return nil, nil
	}
	if f := c.pins[specs.NetworkNamespace]; f != nil {
		return dupFile(f)
	}
	if c.pid == 0 {
		return nil, nil
	}
	return os.Open(fmt.Sprintf("/proc/%d/ns/net", c.pid))
}

// adopt takes up a lease that is on record, unless another one has the address, or the network has it no more.
func (n *network) adopt(holder string, addresses []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addresses {
		p, ok := n.rec.Config.Subnet(a)
		if ok && n.leases[a] == "" && n.usable(p, a) {
			n.leases[a] = holder
		}
	}
}

// sweep removes what an earlier server has left behind of networks that nobody uses now. wired are the containers that use some.
func (s *networks) sweep(wired []*container) {
	used := map[string]bool{}
	for _, c := range wired {
		for _, w := range c.wires {
			used[w.n.linkName()] = true
		}
	}
	links, err := s.host.Owned("ctrfs " + s.instance + " ")
	if err != nil {
		s.e.log.Warn("links of earlier networks cannot be found", "err", err)
	}
	for link, alias := range links {
		if used[link] {
			continue
		}
		if err := s.host.Remove(link, alias); err != nil {
			s.e.log.Warn("the link of an earlier network stays", "link", link, "err", err)
		}
	}
	if err := s.host.Sweep(); err != nil {
		s.e.log.Warn("devices of earlier rates stay", "err", err)
	}
	if len(used) > 0 {
		return
	}
	tables, err := firewall.Tables("ctrfs-" + s.instance)
	if err == nil && len(tables) > 0 {
		err = s.table.Remove()
	}
	if _, there := os.Stat(s.forwardingFile()); there == nil {
		err = errors.Join(err, s.unforward())
	}
	if err != nil {
		s.e.log.Warn("the firewall is not as it was", "err", err)
	}
}

// watch keeps this machine as the networks need it while others change it.
func (s *networks) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	s.end = cancel
	s.watching.Go(func() {
		err := s.table.Watch(ctx, func(err error) {
			if err != nil {
				s.e.log.Error("somebody has changed the firewall's table, and it cannot be repaired", "err", err)
				return
			}
			s.e.log.Warn("somebody has changed the firewall's table; it is as it should be again")
		})
		if err != nil && ctx.Err() == nil {
			s.e.log.Warn("nobody looks after the firewall's table", "err", err)
		}
	})
	if err := s.host.Watch(ctx, s.mend); err != nil {
		s.e.log.Warn("nobody looks after the links of networks", "err", err)
	}
}

// mend makes what others have changed on this machine what it should be again.
func (s *networks) mend() {
	for _, n := range s.list() {
		if err := n.mend(); err != nil {
			s.e.log.Error("a network is not what it should be", "network", n.name, "err", err)
			n.Fail(err)
		}
	}
	s.fire.Lock()
	defer s.fire.Unlock()
	if !s.applied {
		return
	}
	if err := s.forward(); err != nil {
		s.e.log.Error("the firewall is not what it should be", "err", err)
	}
}

// mend applies the bridge again, if the network is up. One that somebody has deleted is another one then: the wires of its containers
// are plugged in again, and who listens on it listens anew.
func (n *network) mend() error {
	n.lift.Lock()
	defer n.lift.Unlock()
	v := n.View()
	if v.Link != n.linkName() {
		return nil
	}
	index, err := n.in.host.Apply(n.bridge(v.Config))
	if err != nil {
		return err
	}
	n.mu.Lock()
	was := n.index
	n.mu.Unlock()
	if index == was {
		return nil
	}
	n.in.e.log.Warn("somebody has deleted the bridge of a network; it is made anew", "network", n.name)
	n.rest()
	n.mu.Lock()
	n.index, n.stock = index, newStock(stockMost, n.furnished, n.unfurnish)
	n.mu.Unlock()
	for _, w := range n.wires() { // whoever comes later sees the index
		w.plug()
	}
	return n.listen(v.Config)
}

// close takes down the networks that nobody is in. The others stay as they are: their containers go on.
func (s *networks) close() {
	s.lifting.Wait()
	if s.end != nil {
		s.end()
		s.watching.Wait()
	}
	s.e.mu.RLock()
	alive := slices.ContainsFunc(slices.Collect(maps.Values(s.e.byID)), func(c *container) bool { return c.View().State.Alive() })
	s.e.mu.RUnlock()
	for _, n := range s.list() {
		n.lift.Lock()
		if !alive || n.wired() == "" { // pinned namespaces go with the keeper when nothing runs
			if err := n.down(); err != nil {
				s.e.log.Warn("a network stays behind", "network", n.name, "err", err)
			}
		} else {
			n.rest()
		}
		n.lift.Unlock()
	}
	s.fire.Lock()
	for _, all := range s.published {
		closePorts(all)
	}
	s.fire.Unlock()
	if err := s.host.Close(); err != nil {
		s.e.log.Warn("the network of this machine", "err", err)
	}
}

// rest ends what the server does for a network that stays.
func (n *network) rest() {
	n.mu.Lock()
	stock, resolver := n.stock, n.resolver
	n.stock, n.resolver = nil, nil
	n.mu.Unlock()
	if stock != nil {
		stock.close()
	}
	if resolver != nil {
		if err := resolver.Close(); err != nil {
			n.in.e.log.Warn("a resolver", "network", n.name, "err", err)
		}
	}
}

// networkFeatures are what this host offers to networks.
func networkFeatures(h *netns.Host) []engine.Feature {
	table := engine.Feature{Name: "nftables", Value: "yes"}
	if _, err := firewall.Tables("ctrfs-"); err != nil {
		table.Value, table.Reason = "no", err.Error()+"; without it no network but none, host and macvlan: modprobe nf_tables"
	}
	out := []engine.Feature{table}
	if table.Value == "no" {
		return out
	}
	way := engine.Feature{Name: "forwarding", Value: "yes"}
	if all, err := firewall.Obstacles(); err != nil {
		way.Value, way.Reason = "unknown", err.Error()
	} else if len(all) > 0 {
		way.Value = "unknown"
		way.Reason = "rules of others may drop what networks send elsewhere: " + strings.Join(all, ", ") + "; have them accept what comes from and goes to the interfaces in networks/*/interface"
	}
	six := engine.Feature{Name: "forwarding-ipv6", Value: "yes"}
	switch f, err := h.Forwarding(); {
	case err != nil:
		six.Value, six.Reason = "unknown", err.Error()
	case !f.IPv6 && !f.PerLink:
		six.Value, six.Reason = "no", "the kernel (before 6.17) forwards IPv6 for all links or for none: sysctl net.ipv6.conf.all.forwarding=1, which ends the use of router advertisements where accept_ra is not 2"
	}
	return append(out, way, six)
}
