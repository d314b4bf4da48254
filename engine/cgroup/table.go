package cgroup

import (
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

	// v1 names the files of v1. The part before the first dot is the controller (kernel/cgroup/cgroup.c,
	// cgroup_file_name); "cgroup" is any hierarchy's, so the home's.
	v1 []string
	// reads says that only the first so many are read; 0 is all.
	reads int
	// deep: these tell about the group alone, where v2's counts what is below it too. get then sees the texts of the
	// group and all below it, one after the other.
	deep bool
	get  func(texts []string) (string, error)
	// set turns a change from the v2 text old to value into writes, in order.
	set func(old, value string) ([]change, error)

	limit   func(*engine.Config) string // a limit: the v2 text that a configuration wants
	initial string                      // a limit: what a new group has; not more than the group above it
	spare   string                      // a limit: what a host without the file may leave undone

	act   func(g *Group, value string) error // an action: what writing the file does
	blind bool                               // cannot be read
}

// change is one write to a v1 file: which of row.v1, and the text.
type change struct {
	file int
	text string
}

// table has a row for every file, limits first, which are applied in this order, then state, then actions.
var table = []row{
	{file: "memory.max", controller: "memory", v1: []string{"memory.limit_in_bytes"},
		get: memoryMaxFromV1, set: memoryMaxToV1, initial: "max",
		limit: func(c *engine.Config) string { return limitText(c.MemoryMax()) }},
	{file: "pids.max", controller: "pids", v1: []string{"pids.max"}, initial: "max",
		limit: func(c *engine.Config) string { return limitText(c.PidsMax()) }},
	{file: "cpu.max", controller: "cpu", v1: []string{"cpu.cfs_quota_us", "cpu.cfs_period_us"},
		get: cpuMaxFromV1, set: cpuMaxToV1, initial: "max 100000",
		limit: func(c *engine.Config) string {
			quota, period := c.CPUMax()
			return fmt.Sprintf("%s %d", limitText(quota), period)
		}},
	// Going through the weight gives one configuration the same split on every host; shares between two weights
	// are rounded.
	{file: "cpu.weight", controller: "cpu", v1: []string{"cpu.shares"},
		get: cpuWeightFromV1, set: cpuWeightToV1, initial: "100",
		limit: func(c *engine.Config) string { return strconv.FormatInt(c.CPUWeight(), 10) }},
	// In v2 it is no file but a program: devices_v2.go.
	{file: devicesFile, controller: "devices", v1: []string{"devices.list", "devices.deny", "devices.allow"}, reads: 1,
		get: devicesFromV1, set: devicesToV1, limit: deviceLimit, initial: engine.AllDevices, spare: defaultDevices},

	{file: "cgroup.events", v1: []string{"freezer.state", "cgroup.procs"}, deep: true, get: eventsFromV1},
	{file: "cpu.stat", controller: "cpu", get: cpuStatFromV1,
		v1: []string{"cpuacct.usage", "cpuacct.usage_user", "cpuacct.usage_sys", "cpu.stat"}},
	{file: "memory.current", controller: "memory", v1: []string{"memory.usage_in_bytes"}},
	// v1 counts neither low, high nor oom events; what it does not know is left out, not invented.
	{file: "memory.events", controller: "memory", deep: true, get: memoryEventsFromV1,
		v1: []string{"memory.failcnt", "memory.oom_control"}},
	{file: "memory.events.local", controller: "memory", get: memoryEventsFromV1,
		v1: []string{"memory.failcnt", "memory.oom_control"}},
	{file: "memory.peak", controller: "memory", v1: []string{"memory.max_usage_in_bytes"}},
	{file: "pids.current", controller: "pids", v1: []string{"pids.current"}},

	{file: "cgroup.freeze", v1: []string{"freezer.self_freezing", "freezer.state"}, act: (*Group).writeFreeze},
	{file: "cgroup.kill", v1: []string{"cgroup.procs"}, act: (*Group).writeKill, blind: true},
	{file: "cgroup.procs", own: true, v1: []string{"cgroup.procs"}, act: (*Group).writeProcs},
}

const errUnsupported = syscall.EOPNOTSUPP

// place is where this host keeps a row's file.
type place struct {
	*row
	v2   bool
	in   []*hierarchy // the v2 hierarchy, or that of each v1 file
	lack string       // why the host cannot offer it; empty when it can
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
	return &engine.Error{Op: op, File: p.file, Errno: errUnsupported, Why: p.lack, Cure: "the host file tells what this host offers"}
}
