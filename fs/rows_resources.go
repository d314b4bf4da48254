package fs

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ctrfs/ctrfs/engine"
)

// resourceRows carry the kernel's own names and syntax of cgroup v2 on every host. A limit is part of the configuration;
// what is counted, and what is ordered, goes to the kernel.
var resourceRows = slices.Concat(groupRows, cpuRows, memoryRows, ioRows, hugepageRows())

var groupRows = []row{
	{name: "cgroup.procs", shape: list, read: ofControl("cgroup.procs"), act: writeControl("cgroup.procs"),
		help: "the processes in the container's group, as the host counts; writing a pid moves it here"},
	{name: "cgroup.threads", shape: list, read: ofControl("cgroup.threads"),
		help: "the threads in the container's group, as the host counts"},
	{name: "cgroup.events", shape: keyed, read: ofControl("cgroup.events"),
		help: "populated and frozen, each 0 or 1: whether anything lives in it or below it, and whether all of it is paused"},
	{name: "cgroup.stat", shape: keyed, read: ofControl("cgroup.stat"),
		help: "how many groups are below it, and what else the kernel counts of them"},
	{name: "cgroup.freeze", shape: single, read: ofControl("cgroup.freeze"), act: writeControl("cgroup.freeze"),
		help: "1 pauses the container, 0 resumes it"},
	{name: "cgroup.kill", shape: order, act: writeControl("cgroup.kill"),
		help: "write 1: kills every process in the container's group"},
	{name: "cgroup.controllers", shape: single, read: ofControl("cgroup.controllers"),
		help: "the controllers that the container has on this machine"},
	{name: "pids.max", shape: single, live: true,
		read: ofConfig(func(c *engine.Config) string { return formatLimit(c.PidsMax()) }),
		set:  asNumber(parseCount, (*engine.Config).SetPidsMax),
		help: "how many processes and threads may exist at once, or max"},
	{name: "pids.current", shape: single, read: ofControl("pids.current"),
		help: "how many processes and threads exist"},
	{name: "pids.events", shape: keyed, read: ofControl("pids.events"),
		help: "max: how often a process could not be made because of the limit"},
}

var cpuRows = []row{
	{name: "cpu.weight", shape: single, live: true,
		read: ofConfig(func(c *engine.Config) string { return fmt.Sprint(c.CPUWeight()) }),
		set:  asNumber(within(1, 10_000), (*engine.Config).SetCPUWeight),
		help: "relative share of the cpu, 1 to 10000"},
	{name: "cpu.weight.nice", shape: single, live: true,
		read: ofConfig(func(c *engine.Config) string { return fmt.Sprint(c.CPUWeightNice()) }),
		set:  asNumber(signed(-20, 19), (*engine.Config).SetCPUWeightNice),
		help: "the same as a niceness, -20 to 19"},
	{name: "cpu.max", shape: single, live: true, read: ofConfig(cpuMaxText), set: setCPUMax,
		help: "QUOTA [PERIOD] in microseconds: cpu time in each period, or max; one number keeps the period"},
	{name: "cpu.stat", shape: keyed, read: ofControl("cpu.stat"),
		help: "cpu time used, in microseconds, and how often the limit was hit"},
	pressureRow("cpu.pressure", "how much of the time processes waited for a cpu"),
	{name: "cpuset.cpus", shape: single, live: true, def: "those of the container around it",
		read: ofConfig((*engine.Config).CPUs), set: asText((*engine.Config).SetCPUs),
		help: "the processors that may be used, such as 0-2,7"},
	{name: "cpuset.mems", shape: single, live: true, def: "those of the container around it",
		read: ofConfig((*engine.Config).MemoryNodes), set: asText((*engine.Config).SetMemoryNodes),
		help: "the memory nodes that may be used, such as 0-1"},
	{name: "cpuset.cpus.effective", shape: single, read: ofControl("cpuset.cpus.effective"),
		help: "the processors that are used"},
}

// sizeRow is a limit in bytes.
func sizeRow(name string, get func(*engine.Config) int64, set func(*engine.Config, int64) error, help string) row {
	return row{name: name, shape: single, live: true, help: help,
		read: ofConfig(func(c *engine.Config) string { return formatLimit(get(c)) }), set: asNumber(parseSize, set)}
}

var memoryRows = []row{
	{name: "memory.current", shape: single, read: ofControl("memory.current"),
		help: "bytes of memory in use"},
	{name: "memory.peak", shape: single, read: ofControl("memory.peak"),
		help: "the most bytes of memory that were in use"},
	sizeRow("memory.min", (*engine.Config).MemoryMin, (*engine.Config).SetMemoryMin,
		"memory that is never reclaimed, in bytes"),
	sizeRow("memory.low", (*engine.Config).MemoryLow, (*engine.Config).SetMemoryLow,
		"memory that is reclaimed last, in bytes"),
	sizeRow("memory.high", (*engine.Config).MemoryHigh, (*engine.Config).SetMemoryHigh,
		"soft limit on memory: what is above it is reclaimed, and slowed down"),
	sizeRow("memory.max", (*engine.Config).MemoryMax, (*engine.Config).SetMemoryMax,
		"hard limit on memory: bytes, 256M, 1G or max; rounded down to a page"),
	sizeRow("memory.swap.max", (*engine.Config).MemorySwapMax, (*engine.Config).SetMemorySwapMax,
		"hard limit on what is swapped out, in bytes or max"),
	{name: "memory.swap.current", shape: single, read: ofControl("memory.swap.current"),
		help: "bytes that are swapped out"},
	{name: "memory.oom.group", shape: single, live: true, set: asNumber(within(0, 1), (*engine.Config).SetMemoryOOMGroup),
		read: ofConfig(func(c *engine.Config) string {
			if c.MemoryOOMGroup() {
				return "1"
			}
			return "0"
		}),
		help: "1: when memory runs out, all processes are killed and not one"},
	{name: "memory.oom", shape: single, live: true,
		read: ofConfig(func(c *engine.Config) string { return string(c.OOM()) }),
		set:  asText((*engine.Config).SetOOM),
		help: "what happens when memory.max is reached and nothing can be reclaimed: kill, freeze or stop"},
	{name: "memory.events", shape: keyed, read: ofControl("memory.events"),
		help: "how often limits were hit, and how many processes were killed for it, here and below"},
	{name: "memory.stat", shape: keyed, read: ofControl("memory.stat"),
		help: "what memory is used for, in bytes, and what happened to it"},
	pressureRow("memory.pressure", "how much of the time processes waited for memory"),
}

var ioRows = []row{
	{name: "io.max", shape: keyed, live: true, def: "none", read: ofConfig(ioMaxText), keys: (*engine.Config).SetIOMax,
		help: "MAJ:MIN rbps=N wbps=N riops=N wiops=N a line: bytes and operations a second, or max; what is not named stays"},
	{name: "io.weight", shape: single, live: true, set: setIOWeight,
		read: ofConfig(func(c *engine.Config) string { return fmt.Sprintf("default %d", c.IOWeight()) }),
		help: "relative share of devices, 1 to 10000"},
	{name: "io.stat", shape: keyed, read: ofControl("io.stat"),
		help: "bytes and operations a device: read, written and discarded"},
	pressureRow("io.pressure", "how much of the time processes waited for devices"),
}

func hugepageRows() (rows []row) {
	for _, size := range engine.HugepageSizes {
		rows = append(rows, sizeRow("hugetlb."+size+".max",
			func(c *engine.Config) int64 { return c.HugepageMax(size) },
			func(c *engine.Config, bytes int64) error { return c.SetHugepageMax(size, bytes) },
			"hard limit on huge pages of "+size+", in bytes or max"))
	}
	return rows
}

// pressureRow reads as the kernel's file, and takes the kernel's triggers, one for each file. Status shows what is armed.
func pressureRow(file, help string) row {
	return row{name: file, shape: keyed, read: ofControl(file),
		act: toProgram(func(by engine.Caller, p engine.Program, value string) error {
			return p.Update(by, file, true, func(c *engine.Config) error { return c.SetPressure(file, value) })
		}),
		help: help + "; some 150000 2000000 has events tell when it is 0.15 s within 2 s, an empty line ends that"}
}

func ioMaxText(c *engine.Config) string {
	var b strings.Builder
	for _, l := range c.IOMax() {
		b.WriteString(l.String() + "\n")
	}
	return b.String()
}

// setIOWeight takes what the kernel shows, "default 100", and the number alone.
func setIOWeight(file, value string) (func(*engine.Config) error, error) {
	number := strings.TrimPrefix(strings.TrimSpace(value), "default ")
	weight, err := parseInt(file, number, 1, 10_000)
	return func(c *engine.Config) error { return c.SetIOWeight(weight) }, err
}

func cpuMaxText(c *engine.Config) string {
	quota, period := c.CPUMax()
	return fmt.Sprintf("%s %d", formatLimit(quota), period)
}

// setCPUMax keeps the present period when one number is written: kernel/sched/core.c, cpu_period_quota_parse.
func setCPUMax(file, value string) (func(*engine.Config) error, error) {
	quota, period, err := parseBandwidth(file, value)
	return func(c *engine.Config) error {
		if period == 0 {
			_, period = c.CPUMax()
		}
		return c.SetCPUMax(quota, period)
	}, err
}
