package fs

import (
	"strconv"
	"strings"

	"github.com/ctrfs/ctrfs/engine"
)

// isolationRows are the boundaries of a container: what it sees of the machine, and what it may do.
var isolationRows = []row{
	{name: "namespaces", shape: keyed, def: "all new, time host", read: ofConfig(namespacesText), keys: (*engine.Config).SetNamespace,
		help: "KIND CHOICE for pid net mnt ipc uts user cgroup time: new, host, a container's name, .. (the parent's), or a path; without mnt new there is no root of its own: rootfs, mounts, masked, readonly, tty and nodes of devices are left as they are by default"},
	{name: "uid_map", shape: list, def: "a free range of 65536",
		read: ofItems((*engine.Config).UIDMap), list: &listing{(*engine.Config).UIDMap, (*engine.Config).SetUIDMap},
		help: "INSIDE OUTSIDE COUNT a line, as in user_namespaces(7): which of this machine's user ids the container's are"},
	{name: "gid_map", shape: list, def: "a free range of 65536",
		read: ofItems((*engine.Config).GIDMap), list: &listing{(*engine.Config).GIDMap, (*engine.Config).SetGIDMap},
		help: "the same for group ids"},
	{name: "ns", shape: linked, links: &linking{namespaceNames(), engine.Container.NamespaceLink},
		help: "a directory with a link for each namespace while there is one: nsenter --net=web/ns/net"},
	{name: "mounts", shape: list, live: true, def: "none",
		read: ofItems((*engine.Config).Mounts), list: &listing{(*engine.Config).Mounts, (*engine.Config).SetMounts},
		help: "SOURCE TARGET TYPE OPTIONS 0 0 a line, as in fstab(5), besides the customary: none with bind or rbind, tmpfs, proc, sysfs, mqueue, cgroup"},
	{name: "masked", shape: list, def: "the customary paths",
		read: ofItems((*engine.Config).Masked), list: &listing{(*engine.Config).Masked, (*engine.Config).SetMasked},
		help: "a path a line that the container shall not see"},
	{name: "readonly", shape: list, def: "the customary paths",
		read: ofItems((*engine.Config).Readonly), list: &listing{(*engine.Config).Readonly, (*engine.Config).SetReadonly},
		help: "a path a line that the container shall not write to"},
	{name: "caps", shape: list, def: "the customary fourteen",
		read: ofItems((*engine.Config).Caps), list: &listing{(*engine.Config).Caps, (*engine.Config).SetCaps},
		help: "a capability a line; CAP_X or X, all and none make a new set, +X and -X change the present one"},
	{name: "no_new_privs", shape: single,
		read: ofConfig(func(c *engine.Config) string { return strconv.Itoa(number(c.NoNewPrivileges())) }),
		set: asNumber(within(0, 1), func(c *engine.Config, n int64) error {
			c.SetNoNewPrivileges(n == 1)
			return nil
		}),
		help: "1: set-user-id and file capabilities give no program more rights"},
	{name: "seccomp", shape: single, lines: true,
		read: ofConfig((*engine.Config).Seccomp), set: asText((*engine.Config).SetSeccomp),
		help: "the filter of system calls: default, unconfined, or a seccomp object of the OCI runtime specification"},
	{name: "apparmor", shape: single, def: "none",
		read: ofConfig((*engine.Config).AppArmor), set: asText((*engine.Config).SetAppArmor),
		help: "the AppArmor profile that confines the program"},
	{name: "selinux", shape: single, def: "none",
		read: ofConfig((*engine.Config).SELinux), set: asText((*engine.Config).SetSELinux),
		help: "the SELinux label that the program runs with: user:role:type:level"},
	{name: "sysctl", shape: keyed, def: "none", read: ofConfig(sysctlText), keys: (*engine.Config).SetSysctl,
		help: "KEY VALUE of kernel parameters that belong to a namespace, such as net.ipv4.ip_forward 1; a key alone is taken out"},
	{name: "devices", shape: list, live: true, def: "the customary devices",
		read: ofItems((*engine.Config).Devices), list: &listing{(*engine.Config).Devices, (*engine.Config).SetDevices},
		help: "TYPE MAJOR:MINOR ACCESS [NODE] a line, such as c 1:3 rwm /dev/null: a node, made by start, and what may be done with the device, by whatever node; a allows all, - nothing"},
}

// namespaceNames are the names of the links in ns.
func namespaceNames() (names []string) {
	for _, n := range engine.Namespaces {
		names = append(names, n.Name)
	}
	return names
}

func namespacesText(c *engine.Config) string {
	var pairs []pair
	for _, n := range engine.Namespaces {
		pairs = append(pairs, pair{n.Name, c.Namespace(n.Type).String()})
	}
	return formatKeyed(pairs)
}

func sysctlText(c *engine.Config) string {
	var pairs []pair
	for _, p := range c.Sysctls() {
		pairs = append(pairs, pair{p[0], p[1]})
	}
	return formatKeyed(pairs)
}

func rlimitsText(c *engine.Config) string {
	var pairs []pair
	for _, r := range c.Rlimits() {
		pairs = append(pairs, pair{r.Name, r.Soft + " " + r.Hard})
	}
	return formatKeyed(pairs)
}

// ofItems reads a list, one item a line.
func ofItems(get func(*engine.Config) []string) reader {
	return ofConfig(func(c *engine.Config) string { return strings.Join(get(c), "\n") })
}

func number(yes bool) int {
	if yes {
		return 1
	}
	return 0
}
