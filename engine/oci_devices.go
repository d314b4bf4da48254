package engine

import (
	"reflect"
	"slices"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The specification has every runtime supply the customary devices in addition to those that it lists. A [Config] lists them
// all, because the devices file does, and they can be taken away there. So config.json leaves them out, like every other
// tool's, unless the container has others: then it lists them all, and the annotation below says that there are no more.

// fresh is the configuration of a new container, to compare with: nobody changes it.
var fresh = sync.OnceValue(NewConfig)

// ociDevicesListed is the value of the annotation.
const ociDevicesListed = "listed"

// hasCustomaryDevices reports whether the devices begin with the customary ones, so that config.json can leave them out.
func (c *Config) hasCustomaryDevices() bool {
	fresh := fresh().Spec.Linux
	nodes, rules := c.Spec.Linux.Devices, c.Spec.Linux.Resources.Devices
	n, r := len(fresh.Devices), len(fresh.Resources.Devices)
	return len(nodes) >= n && len(rules) >= r && reflect.DeepEqual(nodes[:n], fresh.Devices) && reflect.DeepEqual(rules[:r], fresh.Resources.Devices) &&
		!repeatsDevices(nodes[n:], rules[r:])
}

// repeatsDevices reports whether a customary device is among others, too.
func repeatsDevices(nodes []specs.LinuxDevice, rules []specs.LinuxDeviceCgroup) bool {
	fresh := fresh().Spec.Linux
	return slices.ContainsFunc(nodes, func(n specs.LinuxDevice) bool { return hasNode(fresh.Devices, n.Path) }) ||
		slices.ContainsFunc(rules, func(r specs.LinuxDeviceCgroup) bool { return hasRule(fresh.Resources.Devices[1:], r) })
}

func hasNode(all []specs.LinuxDevice, path string) bool {
	return slices.ContainsFunc(all, func(n specs.LinuxDevice) bool { return n.Path == path })
}

func hasRule(all []specs.LinuxDeviceCgroup, rule specs.LinuxDeviceCgroup) bool {
	return slices.ContainsFunc(all, func(r specs.LinuxDeviceCgroup) bool { return reflect.DeepEqual(r, rule) })
}

// leaveOutDevices takes the customary devices out of a copy of the specification; the rule that nothing else is allowed stays.
func leaveOutDevices(spec *specs.Spec) {
	fresh := fresh().Spec.Linux
	linux, resources := *spec.Linux, *spec.Linux.Resources
	linux.Resources = &resources
	linux.Devices = linux.Devices[len(fresh.Devices):]
	resources.Devices = slices.Concat(fresh.Resources.Devices[:1], resources.Devices[len(fresh.Resources.Devices):])
	spec.Linux = &linux
}

// setOCIDevices supplies them, unless the specification lists all there are. A node or a rule of its own counts instead of
// a customary one that is the same.
func (c *Config) setOCIDevices(listed string) error {
	if listed != "" {
		// What is listed is all, also when that is nothing: without this rule, no rules would be no limit.
		if r := c.Spec.Linux.Resources; len(r.Devices) == 0 || !isDenyAll(r.Devices[0]) {
			r.Devices = slices.Concat(fresh().Spec.Linux.Resources.Devices[:1], r.Devices)
		}
		return oneOf(listed, ociDevicesListed)
	}
	fresh := NewConfig().Spec.Linux // a copy to change
	own := c.Spec.Linux
	given := deviceRules(own.Resources.Devices)
	nodes := slices.DeleteFunc(fresh.Devices, func(n specs.LinuxDevice) bool { return hasNode(own.Devices, n.Path) })
	customary := slices.DeleteFunc(fresh.Resources.Devices[1:], func(r specs.LinuxDeviceCgroup) bool { return hasRule(given, r) })
	own.Devices = append(nodes, own.Devices...)
	own.Resources.Devices = slices.Concat(fresh.Resources.Devices[:1], customary, given)
	return nil
}
