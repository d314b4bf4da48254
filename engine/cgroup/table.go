package cgroup

//go:generate go test . -run TestResourcesDoc -update

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
)

// row is one file: its v2 name, and what stands for it in v1. The functions convert; a missing one means that both
// versions agree.
type row struct {
	file       string
	controller string // of v2; "" for a core file, which every v2 group has
	own        bool   // v2: tells about the group's own processes, so it is the leaf's file
	// late: a controller that a group gets only when something has to be limited by it, since few containers ever ask for it
	// and each hierarchy costs every start. Without that, a group reads as the nearest one around it that has it.
	late bool

	// v1 names the files of v1. The part before the first dot is the controller (kernel/cgroup/cgroup.c,
	// cgroup_file_name); "cgroup" and "tasks" are any hierarchy's, so the home's.
	v1 []string
	// beside takes the row's place where v2 is mounted beside v1: its first v1 file is a core file of v2, in the home. That spares
	// every start a hierarchy.
	beside *row
	// reads says that only the first so many are read; 0 is all.
	reads int
	// deep: these tell about the group alone, where v2's counts what is below it too. get then sees the texts of the
	// group and all below it, one after the other.
	deep bool
	get  func(texts []string) (string, error)
	// set turns a change from the v2 text old to value into writes, in order; put does so for v2, where one text takes
	// several writes.
	set, put func(old, value string) ([]change, error)

	limit   func(*engine.Config) string // a limit: the v2 text that a configuration wants
	initial string                      // a limit: what a new group has
	spare   string                      // a limit: what a host without the file may leave undone
	// joint: the first of the v1 files depends on more than this setting. This is what it is to hold, in bytes or max,
	// or why it cannot; limit speaks for v2 only.
	joint func(*engine.Config) (string, error)
	// folded: on v1 another row's joint sets it too.
	folded bool
	// leads: v1 wants this limit to be changed before the one in the row above.
	leads func(old, value string) bool
	pages string // the size of huge pages that the file is about: processors differ in which they have
	// inherit: v1 has no empty value for "as the group above", which is therefore copied from there.
	inherit bool
	// passed: a new group of v1 has what the group above has.
	passed bool
	// engine: on v1 the engine does what it says, and the kernel knows nothing of it.
	engine bool

	// empty and steady: a state that in a group in which nothing runs is no text, or no counter.
	empty, steady bool

	tell  func(g *Group) (string, error)     // state that the package makes, on every host
	act   func(g *Group, value string) error // an action: what writing the file does
	blind bool                               // cannot be read

	formula string // the conversion in words, for docs/resources.md; empty when both versions agree
	cure    string // what to do where the host lacks it
	lacks   string // why v1 has nothing that stands for it; empty where v1 is named
	never   string // why v2 has nothing that stands for it
}

// change is one write to a file: which of row.v1 (0 for v2's own), and the text.
type change struct {
	file int
	text string
}

// table has a row for every file, limits first, which are applied in this order, then state, then actions.
var table = slices.Concat(limitRows, hugepages(), networkRows, stateRows, actionRows)

// hugepages makes a row for each size of huge pages.
func hugepages() (rows []row) {
	for _, size := range engine.HugepageSizes {
		rows = append(rows, row{file: "hugetlb." + size + ".max", pages: size, controller: "hugetlb", late: true, initial: "max",
			v1: []string{"hugetlb." + size + ".limit_in_bytes"}, get: hugepageFromV1, set: memoryMaxToV1,
			limit:   func(c *engine.Config) string { return limitText(c.HugepageMax(size)) },
			formula: "bytes; max is the largest number"})
	}
	return rows
}

var limitRows = []row{
	{file: "memory.max", controller: "memory", v1: []string{"memory.limit_in_bytes"},
		get: memoryMaxFromV1, set: memoryMaxToV1, initial: "max",
		limit:   func(c *engine.Config) string { return limitText(c.MemoryMax()) },
		formula: "bytes; max is -1"},
	// Right behind memory.max: the order of the two on v1 depends on which way they go.
	{file: "memory.swap.max", controller: "memory", v1: []string{"memory.memsw.limit_in_bytes", "memory.limit_in_bytes"},
		get: swapMaxFromV1, set: memoryMaxToV1, initial: "max", joint: memswLimit, leads: rises,
		limit:   func(c *engine.Config) string { return limitText(c.MemorySwapMax()) },
		formula: "memsw = memory.max + memory.swap.max, so memory.max must be set; max is -1"},
	{file: "memory.high", controller: "memory", v1: []string{"memory.soft_limit_in_bytes"},
		get: memoryMaxFromV1, initial: "max", folded: true,
		limit:   func(c *engine.Config) string { return limitText(c.MemoryHigh()) },
		formula: "the soft limit: what is above it is reclaimed first when the machine runs short, but nobody is slowed down before"},
	{file: "memory.low", controller: "memory", v1: []string{"memory.soft_limit_in_bytes"},
		get: memoryLowFromV1, set: memoryMaxToV1, initial: "0", joint: softLimit,
		limit:   func(c *engine.Config) string { return limitText(c.MemoryLow()) },
		formula: "the soft limit: what is below it is reclaimed last; 0 and max are -1; v1 has one number for memory.low and memory.high"},
	{file: "memory.min", controller: "memory", initial: "0", lacks: "cgroup v1 protects no memory for certain",
		limit: func(c *engine.Config) string { return limitText(c.MemoryMin()) }},
	{file: "memory.oom.group", controller: "memory", v1: []string{oomControl}, initial: "0", engine: true, get: oomGroupFromV1,
		limit:   func(c *engine.Config) string { return map[bool]string{false: "0", true: "1"}[c.MemoryOOMGroup()] },
		formula: "when oom_kill has risen, ctrfs kills the rest"},
	// Held, the killer leaves tasks that find no memory waiting. What is done about them is up to the engine.
	{file: "memory.oom", controller: "memory", v1: []string{oomControl}, initial: "kill", passed: true,
		get: oomFromV1, set: oomToV1,
		limit: func(c *engine.Config) string {
			if c.OOM() == engine.OOMKill {
				return "kill"
			}
			return "hold"
		},
		formula: "oom_kill_disable is 0 for kill, else 1, and ctrfs freezes or stops the container once under_oom is 1",
		never:   "cgroup v2 always kills when memory.max is reached, and cannot be told to wait"},
	{file: "pids.max", controller: "pids", v1: []string{"pids.max"}, initial: "max",
		limit: func(c *engine.Config) string { return limitText(c.PidsMax()) }},
	{file: "cpu.max", controller: "cpu", v1: []string{"cpu.cfs_quota_us", "cpu.cfs_period_us"},
		get: cpuMaxFromV1, set: cpuMaxToV1, initial: "max 100000",
		limit: func(c *engine.Config) string {
			quota, period := c.CPUMax()
			return fmt.Sprintf("%s %d", limitText(quota), period)
		},
		formula: "quota and period; max is -1"},
	// Going through the weight gives one configuration the same split on every host; shares between two weights
	// are rounded.
	{file: "cpu.weight", controller: "cpu", v1: []string{"cpu.shares"},
		get: cpuWeightFromV1, set: cpuWeightToV1, initial: "100",
		limit:   func(c *engine.Config) string { return strconv.FormatInt(c.CPUWeight(), 10) },
		formula: "shares = weight × 1024 / 100, to the nearest"},
	{file: "io.max", controller: "io", initial: "", get: ioMaxFromV1, set: ioMaxToV1, put: ioMaxToV2, limit: ioMaxText,
		v1: []string{"blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device",
			"blkio.throttle.read_iops_device", "blkio.throttle.write_iops_device"},
		formula: "a file for each of rbps, wbps, riops, wiops; max is 0"},
	// The weight that BFQ schedules by. The kernel's default is 100 in both versions, so the numbers, and not the ends of
	// the two ranges, are what corresponds: two containers share as they would on v2, also when one of them has the default.
	{file: "io.weight", controller: "io", v1: []string{"blkio.bfq.weight"}, initial: "default 100",
		get: ioWeightFromV1, set: ioWeightToV1,
		limit:   func(c *engine.Config) string { return "default " + strconv.FormatInt(c.IOWeight(), 10) },
		formula: "the same number; v1 has none above 1000"},
	{file: "cpuset.cpus", controller: "cpuset", late: true, v1: []string{"cpuset.cpus"}, initial: "", inherit: true,
		limit: (*engine.Config).CPUs, formula: "the same list; empty is that of the group above"},
	{file: "cpuset.mems", controller: "cpuset", late: true, v1: []string{"cpuset.mems"}, initial: "", inherit: true,
		limit: (*engine.Config).MemoryNodes, formula: "the same list; empty is that of the group above"},
	// In v2 it is no file but a program: devices.go.
	{file: devicesFile, controller: "devices", v1: []string{"devices.list", "devices.deny", "devices.allow"}, reads: 1,
		get: devicesFromV1, set: devicesToV1, limit: deviceLimit, initial: engine.AllDevices, spare: defaultDevices,
		formula: "what is taken away to devices.deny, what is given to devices.allow, a rule each; on v2, a program of its own"},
}

var stateRows = []row{
	{file: "cgroup.controllers", steady: true, tell: (*Group).controllers, v1: []string{"cgroup.procs"},
		formula: "the controllers behind these files, under their names in v2"},
	{file: "cgroup.events", v1: []string{"freezer.state", "cgroup.procs"}, deep: true, get: eventsFromV1,
		formula: "populated: there are processes in it or below; frozen: FROZEN"},
	{file: "cgroup.stat", tell: (*Group).stat, v1: []string{"cgroup.procs"},
		formula: "nr_descendants: containers below; the rest is v2's own"},
	{file: "cgroup.threads", empty: true, own: true, v1: []string{"tasks"}},
	{file: "cpu.pressure", lacks: "only cgroup v2 measures pressure"},
	{file: "cpu.stat", controller: "cpu", get: cpuStatFromV1,
		v1:      []string{"cpuacct.usage", "cpuacct.usage_user", "cpuacct.usage_sys", "cpu.stat"},
		formula: "nanoseconds / 1000; usage is divided as user and sys are; where v2 is mounted too, its usage, and only cpu.stat of v1",
		beside:  &row{file: "cpu.stat", controller: "cpu", get: cpuStatFromBoth, v1: []string{"cpu.stat", "cpu.stat"}}},
	{file: "cpuset.cpus.effective", steady: true, controller: "cpuset", late: true, v1: []string{"cpuset.effective_cpus"}},
	{file: "io.pressure", lacks: "only cgroup v2 measures pressure"},
	{file: "io.stat", empty: true, controller: "io", get: ioStatFromV1,
		v1:      []string{"blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"},
		formula: "Read, Write and Discard, of bytes and of operations"},
	{file: "memory.current", controller: "memory", v1: []string{"memory.usage_in_bytes"}},
	// v1 counts neither low, high nor oom events; what it does not know is left out, not invented.
	{file: "memory.events", controller: "memory", deep: true, get: memoryEventsFromV1,
		v1: []string{"memory.failcnt", "memory.oom_control"}, formula: "max: failcnt; oom_kill; of the group and all below it"},
	{file: "memory.events.local", controller: "memory", get: memoryEventsFromV1,
		v1: []string{"memory.failcnt", "memory.oom_control"}, formula: "max: failcnt; oom_kill"},
	{file: "memory.peak", controller: "memory", v1: []string{"memory.max_usage_in_bytes"}},
	{file: "memory.pressure", lacks: "only cgroup v2 measures pressure"},
	{file: "memory.stat", controller: "memory", v1: []string{"memory.stat", "memory.kmem.usage_in_bytes"}, get: memoryStatFromV1,
		formula: "the total_ counters under v2's names; what v1 does not count is left out"},
	{file: "memory.swap.current", controller: "memory", v1: []string{"memory.stat"}, get: swapCurrentFromV1, formula: "total_swap"},
	{file: "pids.current", controller: "pids", v1: []string{"pids.current"}},
	{file: "pids.events", controller: "pids", v1: []string{"pids.events"}},
}

var actionRows = []row{
	{file: "cgroup.freeze", v1: []string{"freezer.self_freezing", "freezer.state"}, act: (*Group).writeFreeze,
		formula: "1 is FROZEN, 0 is THAWED"},
	{file: "cgroup.kill", v1: []string{"cgroup.procs"}, act: (*Group).writeKill, blind: true,
		formula: "freeze, SIGKILL to each, thaw, until nobody can have escaped"},
	{file: "cgroup.procs", empty: true, own: true, v1: []string{"cgroup.procs"}, act: (*Group).writeProcs},
}

const errUnsupported = syscall.EOPNOTSUPP

// place is where this host keeps a row's file.
type place struct {
	*row
	v2   bool
	in   []*hierarchy // the v2 hierarchy, or that of each v1 file
	lack string       // why the host cannot offer it; empty when it can
	// key names what a group has to be put into before it has the file: the v1 hierarchy, by its mount, or the v2
	// controller. Empty when every group has it from the start.
	key string
}

// together reports whether the file is one of v1's that more than one setting decides about.
func (p *place) together() bool { return p.joint != nil && !p.v2 && p.lack == "" }

// want returns what the limit is to be: a v2 text, or what the v1 file is to hold.
func (p *place) want(c *engine.Config) (string, error) {
	if p.together() {
		return p.joint(c)
	}
	if p.engine && !p.v2 {
		return p.initial, nil
	}
	text := p.limit(c)
	if text != p.initial && (p.spare == "" || text != p.spare) {
		return text, p.check("write")
	}
	return text, nil
}

// fresh is what it is in a new group.
func (p *place) fresh() string {
	if p.together() {
		return "max"
	}
	return p.initial
}

// lookup finds the place of a file. Errors: EOPNOTSUPP.
func (h *Host) lookup(op, file string) (*place, error) {
	i := slices.IndexFunc(h.places, func(p *place) bool { return p.file == file })
	if i < 0 {
		return nil, &engine.Error{Op: op, File: file, Errno: errUnsupported, Why: "no such resource file"}
	}
	return h.places[i], h.places[i].check(op)
}

// check returns the reason why the host lacks the file as an error.
func (p *place) check(op string) error {
	if p.lack == "" {
		return nil
	}
	return &engine.Error{Op: op, File: p.file, Errno: errUnsupported, Why: p.lack,
		Cure: cmp.Or(p.cure, "the host file tells what this host offers")}
}
