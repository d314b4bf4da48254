package fs

import (
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ctrfs/ctrfs/engine"
)

// memNetwork is a network that is nowhere but here.
type memNetwork struct {
	e      *memEngine // its mutex guards everything below
	view   engine.NetworkView
	owners map[string]engine.Owner
	gen    atomic.Uint64
	used   atomic.Bool
}

func (e *memEngine) Networks() (all []engine.Network) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(e.networks)) {
		all = append(all, e.networks[name])
	}
	return all
}

func (e *memEngine) Network(name string) (engine.Network, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, ok := e.networks[name]
	return n, ok
}

func (e *memEngine) CreateNetwork(by engine.Caller, name string, o engine.Owner) (engine.Network, error) {
	if err := engine.ValidateNetworkName(name); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.networks[name] = &memNetwork{e: e, view: engine.NetworkView{Serial: "network-" + name, Name: name, Config: engine.NewNetworkConfig(), Changed: time.Now()},
		owners: map[string]engine.Owner{"": o}}
	return e.networks[name], nil
}

func (e *memEngine) RemoveNetwork(by engine.Caller, n engine.Network) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := n.(*memNetwork)
	if m.used.Load() {
		return &engine.Error{Op: "rmdir", File: m.view.Name, Errno: syscall.EBUSY, Why: "c has it"}
	}
	delete(e.networks, m.view.Name)
	return nil
}

func (m *memNetwork) View() *engine.NetworkView {
	m.e.mu.Lock()
	defer m.e.mu.Unlock()
	v := m.view
	return &v
}

func (m *memNetwork) Generation() uint64 { return m.gen.Load() }

func (m *memNetwork) Owner(file string) (engine.Owner, bool) {
	m.e.mu.Lock()
	defer m.e.mu.Unlock()
	o, ok := m.owners[file]
	return o, ok
}

func (m *memNetwork) SetOwner(file string, o engine.Owner) error {
	m.e.mu.Lock()
	defer m.e.mu.Unlock()
	m.owners[file] = o
	return nil
}

func (m *memNetwork) change(do func(*engine.NetworkView)) {
	m.e.mu.Lock()
	defer m.e.mu.Unlock()
	do(&m.view)
	m.gen.Add(1)
}

func (m *memNetwork) Fail(err error) {
	m.change(func(v *engine.NetworkView) { v.Failure = err.Error() })
}

func (m *memNetwork) Members() []engine.Member {
	if !m.used.Load() {
		return nil
	}
	return []engine.Member{{Path: "c", Addresses: []netip.Addr{netip.MustParseAddr("10.1.2.3")}}, {Path: "pod/d"}}
}

func (m *memNetwork) Update(by engine.Caller, file string, live bool, change func(*engine.NetworkConfig) error) error {
	next := m.View().Config
	if m.used.Load() && !live {
		return &engine.Error{Op: "write", File: file, Errno: syscall.EBUSY, Why: "c runs in it"}
	}
	if err := change(&next); err != nil {
		return err
	}
	if err := next.Validate(); err != nil {
		return err
	}
	m.change(func(v *engine.NetworkView) { v.Config, v.Failure = next, "" })
	return nil
}

func (c *memContainer) Net() []engine.NetLink {
	if !c.View().State.Active() {
		return nil
	}
	return []engine.NetLink{{Name: "eth0", Network: "blue", MAC: "02:00:00:00:00:01", MTU: 1500, Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/24")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.1.2.1")}}}
}

func (c *memContainer) NetStats() []engine.Stat {
	if !c.View().State.Active() {
		return nil
	}
	return []engine.Stat{{Name: "eth0.rx_bytes", Value: 7}, {Name: "eth0.tx_bytes", Value: 8}}
}
