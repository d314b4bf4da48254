package local

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ctrfs/ctrfs/engine"
)

// zone is the names in one network, as its resolver asks for them: package names. It is made anew when it is asked for after a container
// has come or gone.
type zone struct {
	n     *network
	stale atomic.Bool

	mu   sync.Mutex
	book *book // guarded by mu
}

// book is the names of one moment. It never changes.
type book struct {
	names  map[string][]*resident // what is asked for, without a dot in the end
	owners map[netip.Addr]*resident
}

// resident is a container in a network.
type resident struct {
	addresses []netip.Addr
	names     []string // the first is what its address is called
	around    string   // the id of the container around it
	networks  []*network
	servers   []netip.AddrPort
}

// page returns the names as they are now.
func (z *zone) page() *book {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.book == nil || z.stale.Swap(false) {
		z.book = z.n.enrol()
	}
	return z.book
}

// enrol writes the book. A container is known by its name, which siblings use, by its path from the inside out, by its hostname and
// by its aliases.
func (n *network) enrol() *book {
	b := &book{names: map[string][]*resident{}, owners: map[netip.Addr]*resident{}}
	e := n.in.e
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, c := range e.byID {
		c.mu.Lock()
		wires, config, path, within := c.wires, c.rec.Config, c.path, c.within
		c.mu.Unlock()
		i := slices.IndexFunc(wires, func(w wire) bool { return w.n == n })
		if i < 0 {
			continue
		}
		r := &resident{addresses: wires[i].addresses}
		if len(within) > 0 {
			r.around = within[0]
		}
		for _, w := range wires {
			r.networks = append(r.networks, w.n)
		}
		for _, s := range config.DNS() {
			r.servers = append(r.servers, netip.AddrPortFrom(s, 53))
		}
		r.names = namesOf(path, config)
		for _, name := range r.names {
			b.names[name] = append(b.names[name], r)
		}
		for _, a := range r.addresses {
			b.owners[a] = r
		}
	}
	return b
}

// namesOf are the names of a container.
func namesOf(path string, config *engine.Config) []string {
	parts := strings.Split(strings.ToLower(path), "/")
	slices.Reverse(parts)
	all := []string{strings.Join(parts, "."), parts[0]}
	if h := config.Spec.Hostname; h != "" {
		all = append(all, strings.ToLower(h))
	}
	all = append(all, config.Aliases()...)
	var out []string
	for _, name := range all {
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// Lookup finds a name in every network that the asker is in. Of several containers of a name, those beside the asker count before others.
func (z *zone) Lookup(asker netip.Addr, name string) (out []netip.Addr, ok bool) {
	who := z.page().owners[asker]
	networks := []*network{z.n}
	if who != nil {
		networks = who.networks
	}
	for _, n := range networks {
		found := n.zone.page().names[name]
		if who != nil {
			if near := slices.DeleteFunc(slices.Clone(found), func(r *resident) bool { return r.around != who.around }); len(near) > 0 {
				found = near
			}
		}
		for _, r := range found {
			out, ok = append(out, r.addresses...), true
		}
	}
	return out, ok
}

// Reverse finds whose an address is.
func (z *zone) Reverse(asker, addr netip.Addr) (names []string, ok bool) {
	networks := []*network{z.n}
	if who := z.page().owners[asker]; who != nil {
		networks = who.networks
	}
	for _, n := range networks {
		config := n.View().Config
		if _, ok := config.Subnet(addr); !ok {
			continue
		}
		if r := n.zone.page().owners[addr]; r != nil {
			return r.names[:1], true
		}
		return nil, true
	}
	return nil, false
}

// servers are those that an asker's other questions go to; none for those of this machine.
func (z *zone) servers(asker netip.Addr) []netip.AddrPort {
	if who := z.page().owners[asker]; who != nil {
		return who.servers
	}
	return nil
}
