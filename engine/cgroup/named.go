package cgroup

import (
	"slices"
	"strconv"
	"strings"

	"github.com/ctrfs/ctrfs/engine"
)

// The controllers net_cls and net_prio exist in v1 only, also on hosts that have everything else in v2, and distributions mount
// neither. `ctrfs mount --cgroup-v1` does. What they mark packets for, nftables does on v2 by the path of the group.

// networkRows come last: few ever need them.
var networkRows = []row{
	{file: "net_cls.classid", controller: "net_cls", late: true, v1: []string{"net_cls.classid"}, initial: "0",
		limit: func(c *engine.Config) string { return strconv.FormatUint(uint64(c.NetClassID()), 10) },
		cure:  mountNetCls, formula: "the same number"},
	{file: "net_prio.ifpriomap", controller: "net_prio", late: true, v1: []string{"net_prio.ifpriomap"}, initial: "",
		get: prioritiesFromV1, set: prioritiesToV1, limit: func(c *engine.Config) string { return strings.Join(c.NetPriorities(), "\n") },
		cure: mountNetPrio, formula: "a write for each interface; those with 0 are left out"},
}

const (
	mountNetCls = "ctrfs mount --cgroup-v1 net_cls mounts it; without it, nftables knows the container by its group: " +
		"socket cgroupv2, see docs/packets.md"
	mountNetPrio = "ctrfs mount --cgroup-v1 net_prio mounts it; without it, nftables sets meta priority for the container's group: " +
		"socket cgroupv2, see docs/packets.md"
)

// prioritiesFromV1 leaves out the interfaces that have the default: the kernel lists all of the host.
func prioritiesFromV1(texts []string) (string, error) {
	var lines []string
	for line := range strings.Lines(texts[0]) {
		if line = strings.TrimSuffix(line, "\n"); !strings.HasSuffix(line, " 0") {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n", nil
}

// prioritiesToV1 gives the writes from one list to another.
func prioritiesToV1(old, value string) (out []change, err error) {
	have, want := strings.Split(old, "\n"), strings.Split(value, "\n")
	for _, line := range have {
		name, _, ok := strings.Cut(line, " ")
		if ok && !slices.ContainsFunc(want, func(w string) bool { return strings.HasPrefix(w, name+" ") }) {
			out = append(out, change{0, name + " 0"})
		}
	}
	for _, line := range want {
		if line != "" && !slices.Contains(have, line) {
			out = append(out, change{0, line})
		}
	}
	return out, nil
}
