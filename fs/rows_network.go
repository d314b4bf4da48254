package fs

import (
	"math"
	"strconv"
	"strings"

	"github.com/ctrfs/ctrfs/engine"
)

// networkRows are the files of the two controllers that only cgroup v1 has.
var networkRows = []row{
	{name: "net_cls.classid", shape: single, live: true,
		read: ofConfig(func(c *engine.Config) string { return strconv.FormatUint(uint64(c.NetClassID()), 10) }),
		set:  asNumber(parseClass, (*engine.Config).SetNetClassID),
		help: "the class by which tc and netfilter of the host know its packets: major * 65536 + minor, or 0x and eight digits; needs mount --cgroup-v1 net_cls"},
	{name: "net_prio.ifpriomap", shape: keyed, live: true, def: "none",
		read: ofItems((*engine.Config).NetPriorities), keys: (*engine.Config).SetNetPriority,
		help: "IFNAME PRIORITY a line: the priority of its packets on an interface of the host; a name alone is taken out; needs mount --cgroup-v1 net_prio"},
}

// parseClass reads a class as the kernel does, which also takes the form that tc(8) uses without the colon.
func parseClass(file, value string) (int64, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(value), 0, 32)
	if err != nil || strings.ContainsAny(value, "_bBoO") {
		return 0, engine.Invalid(file, value, "not a class", "write major * 65536 + minor, such as 1048577 or 0x100001 for 10:1")
	}
	return int64(min(n, math.MaxUint32)), nil
}
