package local

import (
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// above returns the configurations of the containers around this one, from the nearest on.
func (c *container) above() (all []*engine.Config) {
	c.e.mu.RLock()
	defer c.e.mu.RUnlock()
	for p := c.parent; p != nil; p = p.parent {
		p.mu.Lock()
		all = append(all, p.rec.Config)
		p.mu.Unlock()
	}
	return all
}

// controlled reports whether this host holds programs to their devices.
func (e *Engine) controlled() bool { return e.host.Offers("devices") }

// checkDevices refuses a list of devices that says more than the containers around this one allow. On cgroup v1 the kernel would
// refuse it too, on v2 it would allow less than the list says.
func (c *container) checkDevices(config *engine.Config) error {
	for _, around := range c.above() {
		want := engine.ParseDeviceList(config.DeviceList())
		have := engine.ParseDeviceList(around.DeviceList())
		for _, r := range want {
			if !engine.CoveredBy(have, r) {
				return &engine.Error{Op: "check", File: "devices", Value: r.String(), Errno: syscall.EPERM,
					Why: "a container around this one is not allowed that much", Cure: "leave it out, or allow it in devices there first"}
			}
		}
	}
	return nil
}

// checkLiveDevices is for a container that runs: rules change at once, but nodes come with a start.
func checkLiveDevices(old, next *engine.Config) error {
	if slices.EqualFunc(old.Spec.Linux.Devices, next.Spec.Linux.Devices, sameNode) {
		return nil
	}
	return &engine.Error{Op: "write", File: "devices", Value: strings.Join(next.Devices(), ", "), Errno: syscall.EBUSY,
		Why:  "nodes are made by a start; only what may be done with devices changes while it runs",
		Cure: "keep the paths of nodes and change the letters, with - for none, or stop it first: echo 1 > stop"}
}

func sameNode(a, b specs.LinuxDevice) bool {
	return a.Path == b.Path && a.Type == b.Type && a.Major == b.Major && a.Minor == b.Minor
}

// renewDevices gives the containers below this one back what cgroup v1 took from them, as far as it is allowed now.
func (c *container) renewDevices() {
	for _, m := range c.family()[1:] {
		m.mu.Lock()
		group, config := m.group, m.rec.Config
		m.mu.Unlock()
		if group == nil {
			continue
		}
		var above []*specs.LinuxResources
		for _, around := range m.above() {
			above = append(above, around.Spec.Linux.Resources)
		}
		if err := group.RenewDevices(config.Spec.Linux.Resources, above...); err != nil {
			c.e.log.Error("devices are not what the configuration says", "container", m.id, "err", err)
		}
	}
}
