package fs

import (
	"fmt"

	"github.com/ctrfs/ctrfs/engine"
)

// resourceRows carry the kernel's own names and syntax of cgroup v2 on every host. A limit is part of the configuration;
// what is counted, and what is ordered, goes to the kernel.
var resourceRows = []row{
	{name: "memory.max", shape: single, live: true,
		read: ofConfig(func(c *engine.Config) string { return formatLimit(c.MemoryMax()) }),
		set:  asNumber(parseSize, (*engine.Config).SetMemoryMax),
		help: "hard limit on memory: bytes, 256M, 1G or max; rounded down to a page"},
	{name: "pids.max", shape: single, live: true,
		read: ofConfig(func(c *engine.Config) string { return formatLimit(c.PidsMax()) }),
		set:  asNumber(parseCount, (*engine.Config).SetPidsMax),
		help: "how many processes and threads may exist at once, or max"},
	{name: "cpu.max", shape: single, live: true, read: ofConfig(cpuMaxText), set: setCPUMax,
		help: "QUOTA [PERIOD] in microseconds: cpu time in each period, or max; one number keeps the period"},
	{name: "cpu.weight", shape: single, live: true,
		read: ofConfig(func(c *engine.Config) string { return fmt.Sprint(c.CPUWeight()) }),
		set:  asNumber(within(1, 10_000), (*engine.Config).SetCPUWeight),
		help: "relative share of the cpu, 1 to 10000"},
	{name: "memory.current", shape: single, read: ofControl("memory.current"),
		help: "bytes of memory in use"},
	{name: "memory.peak", shape: single, read: ofControl("memory.peak"),
		help: "the most bytes of memory that were in use"},
	{name: "cpu.stat", shape: keyed, read: ofControl("cpu.stat"),
		help: "cpu time used, in microseconds, and how often the limit was hit"},
	{name: "pids.current", shape: single, read: ofControl("pids.current"),
		help: "how many processes and threads exist"},
	{name: "cgroup.procs", shape: list, read: ofControl("cgroup.procs"), act: writeControl("cgroup.procs"),
		help: "the processes in the container's group, as the host counts; writing a pid moves it here"},
	{name: "cgroup.freeze", shape: single, read: ofControl("cgroup.freeze"), act: writeControl("cgroup.freeze"),
		help: "1 pauses the container, 0 resumes it"},
	{name: "cgroup.kill", shape: order, act: writeControl("cgroup.kill"),
		help: "write 1: kills every process in the container's group"},
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
