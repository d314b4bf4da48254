package engine

import (
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// DeviceRule is what the devices controller lets a group do with some devices: a line of the devices file without the node.
type DeviceRule struct {
	Kind         string // "a", "b" or "c"
	Major, Minor int64  // or AnyDevice
	Access       string // of "rwm", in this order
}

// AnyDevice is the number that means all.
const AnyDevice = -1

// AllDevices is the list of rules that allows everything, as devices.list of cgroup v1 shows it.
const AllDevices = "a *:* rwm"

func (r DeviceRule) String() string {
	return r.Kind + " " + formatDevice(r.Major) + ":" + formatDevice(r.Minor) + " " + r.Access
}

// DeviceList returns the rules of the container as a controller knows them: one a line, sorted, each device once with all that is
// allowed of it; [AllDevices] when one rule is that; empty when nothing is allowed.
func (c *Config) DeviceList() string {
	rules := c.Spec.Linux.Resources.Devices
	if standard := standardDevices(); slices.EqualFunc(rules, standard.rules, sameRule) {
		return standard.list // of nearly every container, at every write
	}
	return deviceList(rules)
}

// standardDevices are the rules of a new container.
var standardDevices = sync.OnceValue(func() (out struct {
	rules []specs.LinuxDeviceCgroup
	list  string
}) {
	out.rules = NewConfig().Spec.Linux.Resources.Devices
	out.list = deviceList(out.rules)
	return out
})

// sameRule reports whether two rules say the same in the same words.
func sameRule(a, b specs.LinuxDeviceCgroup) bool {
	same := func(a, b *int64) bool { return a == b || a != nil && b != nil && *a == *b }
	return a.Allow == b.Allow && a.Type == b.Type && same(a.Major, b.Major) && same(a.Minor, b.Minor) && a.Access == b.Access
}

func deviceList(list []specs.LinuxDeviceCgroup) string {
	var rules []DeviceRule
	for _, r := range deviceRules(list) {
		if line := ruleLine(r); r.Allow && line.access != noAccess {
			rules = append(rules, DeviceRule{line.kind, line.major, line.minor, line.access})
		}
	}
	return FormatDeviceList(rules)
}

// FormatDeviceList is the inverse of [ParseDeviceList], and puts rules into the order of [Config.DeviceList].
func FormatDeviceList(rules []DeviceRule) string {
	merged := map[DeviceRule]string{}
	for _, r := range rules {
		if r.Kind == "a" {
			return AllDevices
		}
		key := DeviceRule{Kind: r.Kind, Major: r.Major, Minor: r.Minor}
		merged[key] += r.Access
	}
	var lines []string
	for r, letters := range merged {
		for _, letter := range []string{"r", "w", "m"} {
			if strings.Contains(letters, letter) {
				r.Access += letter
			}
		}
		lines = append(lines, r.String())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// ParseDeviceList reads a list of rules, also the kernel's devices.list. What is no rule is left out.
func ParseDeviceList(list string) (rules []DeviceRule) {
	for line := range strings.Lines(list) {
		if d, err := parseDevice(line); err == nil {
			rules = append(rules, DeviceRule{d.kind, d.major, d.minor, d.access})
		}
	}
	return rules
}

// Covers reports whether everything that the rule allows is allowed by the other one.
func (r DeviceRule) Covers(other DeviceRule) bool {
	return (r.Kind == "a" || r.Kind == other.Kind) && (r.Major == AnyDevice || r.Major == other.Major) &&
		(r.Minor == AnyDevice || r.Minor == other.Minor) && strings.Trim(other.Access, r.Access) == ""
}

// CoveredBy reports whether one of the rules covers all that r allows, as the kernel asks.
func CoveredBy(rules []DeviceRule, r DeviceRule) bool {
	return slices.ContainsFunc(rules, func(have DeviceRule) bool { return have.Covers(r) })
}
