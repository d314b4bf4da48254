package engine

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// checkMemory rounds the limits. What else the specification says about memory stays: the setters would drop it. 0 is "not
// set" for those of which it would mean nothing, or a container that cannot live.
func checkMemory(c *Config) error {
	m := c.Spec.Linux.Resources.Memory
	if m == nil {
		return nil
	}
	m.Swap, m.Reservation = unlessZero(m.Swap), unlessZero(m.Reservation) // the structure is this clone's own
	for _, size := range []**int64{&m.Limit, &m.Swap, &m.Reservation} {
		if *size == nil {
			continue
		}
		if **size < Max {
			return ociBad(fmt.Sprint(**size), "out of range", "write bytes, or -1 for none")
		}
		if **size != Max {
			*size = new(**size &^ (pageSize - 1))
		}
	}
	switch {
	case m.Swap == nil || *m.Swap == Max:
	case c.MemoryMax() == Max:
		return ociBad(fmt.Sprint(*m.Swap), "swap counts memory and swap together, and there is no limit on memory", "give limit, too, or write unified memory.swap.max")
	case *m.Swap < c.MemoryMax():
		return ociBad(fmt.Sprint(*m.Swap), "swap counts memory and swap together, and is below limit", "write at least limit")
	}
	return nil
}

// checkCPU takes 0 for "not set", as the tools that write these fields always do.
func checkCPU(c *Config) error {
	cpu := c.Spec.Linux.Resources.CPU
	if cpu == nil {
		return nil
	}
	cpu.Shares, cpu.Period = unlessZero(cpu.Shares), unlessZero(cpu.Period)
	cpu.Quota = unlessZero(cpu.Quota)
	quota, period := c.CPUMax()
	if err := c.Clone().SetCPUMax(quota, period); err != nil {
		return err
	}
	var err error
	if cpu.Cpus, err = numberList("cpus", cpu.Cpus); err == nil {
		cpu.Mems, err = numberList("mems", cpu.Mems)
	}
	return err
}

func checkBlockIO(c *Config) error {
	b := c.Spec.Linux.Resources.BlockIO
	if b == nil {
		return nil
	}
	if b.Weight != nil && *b.Weight == 0 {
		b = clonePtr(b)
		b.Weight = nil
		c.Spec.Linux.Resources.BlockIO = b
	}
	if b.Weight != nil && (*b.Weight < minBlockWeight || *b.Weight > maxBlockWeight) {
		return ociBad(fmt.Sprint(*b.Weight), "the weight is out of range", "write 10 to 1000")
	}
	for i, list := range throttles(b) {
		seen := map[string]bool{}
		for _, d := range *list {
			device := IOLimit{Major: d.Major, Minor: d.Minor}.Device()
			if seen[device] {
				return ociBad(device, "it stands twice", "leave one out")
			}
			seen[device] = true
			if err := NewConfig().SetIOMax(device, IOKeys[i]+"="+strconv.FormatUint(d.Rate, 10)); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkHugepages(c *Config) error {
	seen := map[string]bool{}
	for _, h := range c.Spec.Linux.Resources.HugepageLimits {
		if h.Pagesize == "" {
			return ociBad("", "a size is missing", "write "+strings.Join(HugepageSizes, " or "))
		}
		if !slices.Contains(HugepageSizes, h.Pagesize) {
			return &Error{Errno: syscall.EOPNOTSUPP, Value: h.Pagesize, Why: "no such huge pages", Cure: "write " + strings.Join(HugepageSizes, " or ")}
		}
		if seen[h.Pagesize] {
			return ociBad(h.Pagesize, "it stands twice", "leave one out")
		}
		seen[h.Pagesize] = true
	}
	return nil
}

// unifiedSetter is what a key of unified sets.
type unifiedSetter struct {
	key string
	set func(*Config, string) error
	has func(*Config) bool // whether a field of the specification says something about it
}

// bytesOf reads a size as cgroup v2 prints it: a number, or max.
func bytesOf(set func(*Config, int64) error) func(*Config, string) error {
	return func(c *Config, text string) error {
		if text == "max" {
			return set(c, Max)
		}
		n, err := strconv.ParseUint(text, 10, 63)
		if err != nil {
			return ociBad(text, "not a number of bytes", "write bytes, or max")
		}
		return set(c, int64(n))
	}
}

func numberOf(set func(*Config, int64) error) func(*Config, string) error {
	return func(c *Config, text string) error {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return ociBad(text, "not a number", "write a number")
		}
		return set(c, n)
	}
}

// ociUnified are the keys that are taken: those of the files of limits.
var ociUnified = []unifiedSetter{
	{"memory.max", bytesOf((*Config).SetMemoryMax), func(c *Config) bool { return c.MemoryMax() != Max }},
	{"memory.low", bytesOf((*Config).SetMemoryLow), func(c *Config) bool { return c.MemoryLow() != 0 }},
	{"memory.min", bytesOf((*Config).SetMemoryMin), nil},
	{"memory.high", bytesOf((*Config).SetMemoryHigh), nil},
	// Behind memory.max, from which the specification counts it.
	{"memory.swap.max", bytesOf((*Config).SetMemorySwapMax), func(c *Config) bool { return c.MemorySwapMax() != Max }},
	{"memory.oom.group", func(c *Config, text string) error {
		if err := oneOf(text, "0", "1"); err != nil {
			return err
		}
		return numberOf((*Config).SetMemoryOOMGroup)(c, text)
	}, nil},
	{"pids.max", bytesOf((*Config).SetPidsMax), func(c *Config) bool { return c.PidsMax() != Max }},
	{"cpu.weight", numberOf((*Config).SetCPUWeight), func(c *Config) bool { return c.Spec.Linux.Resources.CPU != nil && c.cpu().Shares != nil }},
	{"cpu.max", setUnifiedCPU, func(c *Config) bool { quota, period := c.CPUMax(); return quota != Max || period != defaultPeriod }},
	{"cpuset.cpus", (*Config).SetCPUs, func(c *Config) bool { return c.CPUs() != "" }},
	{"cpuset.mems", (*Config).SetMemoryNodes, func(c *Config) bool { return c.MemoryNodes() != "" }},
	{"io.weight", func(c *Config, text string) error {
		return numberOf((*Config).SetIOWeight)(c, strings.TrimPrefix(text, "default "))
	}, func(c *Config) bool {
		return c.Spec.Linux.Resources.BlockIO != nil && c.Spec.Linux.Resources.BlockIO.Weight != nil
	}},
	{"io.max", func(c *Config, text string) error {
		for line := range strings.Lines(text) {
			device, rates, _ := strings.Cut(strings.TrimSpace(line), " ")
			if err := c.SetIOMax(device, rates); err != nil {
				return err
			}
		}
		return nil
	}, func(c *Config) bool { return len(c.IOMax()) > 0 }},
}

func setUnifiedCPU(c *Config, text string) error {
	words := strings.Fields(text)
	quota, period := Max, int64(defaultPeriod)
	err := error(nil)
	if len(words) < 1 || len(words) > 2 {
		err = strconv.ErrSyntax
	}
	if err == nil && words[0] != "max" {
		quota, err = strconv.ParseInt(words[0], 10, 64)
	}
	if err == nil && len(words) == 2 {
		period, err = strconv.ParseInt(words[1], 10, 64)
	}
	if err != nil {
		return ociBad(text, "not QUOTA PERIOD", "write two numbers of microseconds; the quota may be max")
	}
	return c.SetCPUMax(quota, period)
}

// checkUnified takes settings by the names of cgroup v2, each as if it were written to its file.
func checkUnified(c *Config) error {
	rest := maps.Clone(c.Spec.Linux.Resources.Unified)
	c.Spec.Linux.Resources.Unified = nil
	rules := slices.Clone(ociUnified)
	for _, size := range HugepageSizes {
		rules = append(rules, unifiedSetter{"hugetlb." + size + ".max",
			bytesOf(func(c *Config, n int64) error { return c.SetHugepageMax(size, n) }),
			func(c *Config) bool { return c.HugepageMax(size) != Max }})
	}
	for _, rule := range rules {
		text, ok := rest[rule.key]
		if !ok {
			continue
		}
		if rule.has != nil && rule.has(c) {
			return ociBad(rule.key, "it is set twice", "leave it out here, or the field of the specification that it repeats")
		}
		if err := rule.set(c, strings.TrimSpace(text)); err != nil {
			return err
		}
		delete(rest, rule.key)
	}
	for _, key := range slices.Sorted(maps.Keys(rest)) {
		return &Error{Errno: syscall.EOPNOTSUPP, Value: key, Why: "no file sets this", Cure: "leave it out"}
	}
	return nil
}
