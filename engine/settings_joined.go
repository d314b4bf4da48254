package engine

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// unmountable is what a container without a mount namespace of its own cannot have: it runs on files that are there already,
// and each of these would be made in somebody else's tree. They are refused rather than ignored: a configuration of another
// tool that names a root, and no mount namespace, expects to be confined to that root.
var unmountable = []ruledOut{
	notMounted("rootfs", func(c *Config) string { return unless(RootHost, c.Rootfs()) }),
	notMounted("image", (*Config).Image),
	notMounted("rootfs.mode", func(c *Config) string { return unless(string(RootOverlay), string(c.RootMode())) }),
	notMounted("rootfs.size", func(c *Config) string { return unless("max", c.rootSizeText()) }),
	notMounted("mounts", func(c *Config) string { return strings.Join(c.Mounts(), ", ") }),
	notMounted("masked", func(c *Config) string { return others(c.Masked(), defaultMasked) }),
	notMounted("readonly", func(c *Config) string { return others(c.Readonly(), defaultReadonly) }),
	notMounted("devices", func(c *Config) string { return strings.Join(c.additionalNodes(), ", ") }),
	notMounted("tty", func(c *Config) string { return unless("0", c.TTY()) }), // a terminal is made in a devpts of its own
	notMounted("linux.rootfsPropagation", func(c *Config) string {
		return unless("private", unless("rprivate", c.Spec.Linux.RootfsPropagation))
	}),
}

// OwnMounts reports whether the container has a root and mounts of its own. Else it runs on files as they are mounted for
// others: this machine's, or those of whom it joins.
func (c *Config) OwnMounts() bool { return c.Namespace(specs.MountNamespace).New() }

func notMounted(file string, set func(*Config) string) ruledOut {
	cure := "empty " + file + " first"
	if file == "devices" {
		cure = "leave the paths of nodes out of devices"
	}
	return ruledOut{specs.MountNamespace, true, file, set, "without a mount namespace of its own, the container runs on files as they are mounted already",
		cure + ", or write 'mnt new' into namespaces"}
}

// unless returns a value that is not the usual one, else "".
func unless(usual, value string) string {
	if value == usual {
		return ""
	}
	return value
}

// others renders a list that is neither empty nor the usual one.
func others(list, usual []string) string {
	if slices.Equal(list, usual) {
		return ""
	}
	return strings.Join(list, ", ")
}

// additionalNodes are the paths of the device nodes beyond the customary ones.
func (c *Config) additionalNodes() (paths []string) {
	usual := NewConfig().Spec.Linux.Devices
	for _, d := range c.Spec.Linux.Devices {
		if !slices.ContainsFunc(usual, func(u specs.LinuxDevice) bool { return u.Path == d.Path && u.Major == d.Major && u.Minor == d.Minor }) {
			paths = append(paths, d.Path)
		}
	}
	return paths
}
