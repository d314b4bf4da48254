package engine

import (
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// inits are the programs that bring up a whole system rather than doing one thing, by the names that they have in every
// distribution.
var inits = []string{"/sbin/init", "/usr/sbin/init", "/bin/init", "/usr/bin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"}

// Boots reports whether the program is one that brings up a whole system, and is to be PID 1 of processes and mounts of its own.
// It gets what such a program expects of whoever starts it: see [Config.Booted].
func (c *Config) Boots() bool {
	args := c.Spec.Process.Args
	return len(args) > 0 && slices.Contains(inits, path.Clean(args[0])) && !c.Init() &&
		c.Namespace(specs.PIDNamespace).New() && c.Namespace(specs.MountNamespace).New()
}

// systemMounts are what a system finds mounted, unless the configuration has something else in that place: what is fresh at each
// boot, and the part of the cgroup hierarchy that it may arrange itself.
var systemMounts = []specs.Mount{
	{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=755", "size=20%", mkdirOption}},
	{Destination: "/run/lock", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "noexec", "mode=1777", "size=5120k", mkdirOption}},
	{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", "size=50%", mkdirOption}},
	{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "nodev", "noexec", "rw", mkdirOption}},
}

// The variable of the environment by which a system knows that it is in a container, and in whose: systemd's
// CONTAINER_INTERFACE.md.
const (
	systemKind = "container="
	systemName = "ctrfs"
)

// Booted returns the configuration with what a start adds to it for a program that brings up a system; for any other, c itself.
// cgroups says whether a part of the cgroup hierarchy can be given to the container.
func (c *Config) Booted(cgroups bool) *Config {
	if !c.Boots() {
		return c
	}
	out := c.Clone()
	out.Spec.Mounts = c.withSystemMounts(cgroups)
	out.Spec.Process.Env = c.withSystemKind()
	return out
}

func (c *Config) withSystemKind() []string {
	env := slices.Clone(c.Spec.Process.Env)
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, systemKind) }) {
		env = append(env, systemKind+systemName)
	}
	return env
}

func (c *Config) withSystemMounts(cgroups bool) []specs.Mount {
	all := slices.Clone(c.Spec.Mounts)
	for _, m := range systemMounts {
		taken := slices.ContainsFunc(c.Spec.Mounts, func(n specs.Mount) bool { return path.Clean(n.Destination) == m.Destination })
		if taken || m.Type == "cgroup" && (!cgroups || !c.Namespace(specs.CgroupNamespace).New()) {
			continue
		}
		m.Options = slices.Clone(m.Options)
		all = append(all, m)
	}
	return all
}

// dropSystemMounts takes out what a start adds again.
func (c *Config) dropSystemMounts() {
	c.Spec.Mounts = slices.DeleteFunc(slices.Clone(c.Spec.Mounts), func(m specs.Mount) bool {
		return slices.ContainsFunc(systemMounts, func(s specs.Mount) bool {
			return reflect.DeepEqual(plainMounts([]specs.Mount{m}), plainMounts([]specs.Mount{s}))
		})
	})
}

// Delegates reports whether the container may arrange its own part of the cgroup hierarchy: it has it mounted for writing, and
// sees no other.
func (c *Config) Delegates() bool {
	return c.Namespace(specs.CgroupNamespace).New() &&
		slices.ContainsFunc(c.Spec.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" && slices.Contains(m.Options, "rw") })
}
