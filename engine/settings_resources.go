package engine

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Unlimited is the least number of bytes that the kernel takes for no limit: PAGE_COUNTER_MAX pages, include/linux/page_counter.h.
const Unlimited = math.MaxInt64 &^ (pageSize - 1)

// memory returns the memory resources, made when there were none. It is called on a clone, which owns them.
func (c *Config) memory() *specs.LinuxMemory {
	if c.Spec.Linux.Resources.Memory == nil {
		c.Spec.Linux.Resources.Memory = &specs.LinuxMemory{}
	}
	return c.Spec.Linux.Resources.Memory
}

// tidy takes out resources that say nothing, so that a setting that is reset leaves no trace in config.json.
func (c *Config) tidy() {
	r := c.Spec.Linux.Resources
	if r.Memory != nil && *r.Memory == (specs.LinuxMemory{}) {
		r.Memory = nil
	}
	if r.CPU != nil && *r.CPU == (specs.LinuxCPU{}) {
		r.CPU = nil
	}
}

// page rounds a size as the kernel does: down to a page, and what is beyond all memory is no limit.
func page(bytes int64) int64 {
	if bytes == Max || bytes >= Unlimited {
		return Max
	}
	return bytes &^ (pageSize - 1)
}

// unified returns a setting that the specification keeps by its name in cgroup v2, because it has no field for it.
func (c *Config) unified(file string) string { return c.Spec.Linux.Resources.Unified[file] }

// setUnified sets it; the empty value takes it out.
func (c *Config) setUnified(file, value string) {
	r := c.Spec.Linux.Resources
	all := maps.Clone(r.Unified)
	delete(all, file)
	if value != "" {
		if all == nil {
			all = map[string]string{}
		}
		all[file] = value
	}
	if len(all) == 0 {
		all = nil
	}
	r.Unified = all
}

// unifiedSize returns a size among them: what a setter has put there, so it is a number or max.
func (c *Config) unifiedSize(file string, without int64) int64 {
	switch text := c.unified(file); text {
	case "":
		return without
	case "max":
		return Max
	default:
		n, _ := strconv.ParseInt(text, 10, 64)
		return n
	}
}

// setUnifiedSize sets it, rounded down to a page.
func (c *Config) setUnifiedSize(file string, bytes, without int64) {
	text := "max"
	if bytes = page(bytes); bytes != Max {
		text = fmt.Sprint(bytes)
	}
	if bytes == without {
		text = ""
	}
	c.setUnified(file, text)
}

// MemoryHigh returns the size above which memory is reclaimed and its users are slowed down, or [Max].
func (c *Config) MemoryHigh() int64 { return c.unifiedSize("memory.high", Max) }

// SetMemoryHigh sets it, rounded down to a page.
func (c *Config) SetMemoryHigh(bytes int64) error {
	c.setUnifiedSize("memory.high", bytes, Max)
	return nil
}

// MemoryMin returns how much memory is never reclaimed, or [Max].
func (c *Config) MemoryMin() int64 { return c.unifiedSize("memory.min", 0) }

// SetMemoryMin sets it, rounded down to a page.
func (c *Config) SetMemoryMin(bytes int64) error {
	c.setUnifiedSize("memory.min", bytes, 0)
	return nil
}

// MemoryLow returns how much memory is reclaimed last, or [Max]: the specification's reservation.
func (c *Config) MemoryLow() int64 {
	if m := c.Spec.Linux.Resources.Memory; m != nil && m.Reservation != nil {
		return *m.Reservation
	}
	return 0
}

// SetMemoryLow sets it, rounded down to a page.
func (c *Config) SetMemoryLow(bytes int64) error {
	if c.memory().Reservation = new(page(bytes)); page(bytes) == 0 {
		c.memory().Reservation = nil
	}
	c.tidy()
	return nil
}

// MemorySwapMax returns how much may be swapped out, or [Max]. The specification counts memory and swap together, as cgroup
// v1 does; where there is no limit on memory to count from, the setting is kept by its name.
func (c *Config) MemorySwapMax() int64 {
	n := c.unifiedSize("memory.swap.max", Max)
	if m := c.Spec.Linux.Resources.Memory; n == Max && m != nil && m.Swap != nil && *m.Swap != Max && c.MemoryMax() != Max {
		n = max(0, *m.Swap-c.MemoryMax())
	}
	return n
}

// SetMemorySwapMax sets it, rounded down to a page.
func (c *Config) SetMemorySwapMax(bytes int64) error {
	bytes = page(bytes)
	limit := c.MemoryMax()
	together := limit != Max && bytes != Max && bytes <= math.MaxInt64-limit
	c.memory().Swap = nil
	c.setUnifiedSize("memory.swap.max", Max, Max)
	if together {
		c.memory().Swap = new(limit + bytes)
	} else {
		c.setUnifiedSize("memory.swap.max", bytes, Max)
	}
	c.tidy()
	return nil
}

// MemoryOOMGroup reports whether the kernel kills all of the container or nothing when memory runs out.
func (c *Config) MemoryOOMGroup() bool { return c.unified("memory.oom.group") == "1" }

// SetMemoryOOMGroup sets it: 1 or 0.
func (c *Config) SetMemoryOOMGroup(n int64) error {
	c.setUnified("memory.oom.group", map[int64]string{1: "1"}[n])
	return nil
}

// CPUs returns the processors that the container may use, in the kernel's form; empty for those of the container around it.
func (c *Config) CPUs() string {
	if cpu := c.Spec.Linux.Resources.CPU; cpu != nil {
		return cpu.Cpus
	}
	return ""
}

// SetCPUs sets them.
func (c *Config) SetCPUs(text string) (err error) {
	list, err := numberList("cpuset.cpus", text)
	if err == nil {
		c.cpu().Cpus = list
		c.tidy()
	}
	return err
}

// MemoryNodes returns the memory nodes that the container may use, as [Config.CPUs] does the processors.
func (c *Config) MemoryNodes() string {
	if cpu := c.Spec.Linux.Resources.CPU; cpu != nil {
		return cpu.Mems
	}
	return ""
}

// SetMemoryNodes sets them.
func (c *Config) SetMemoryNodes(text string) (err error) {
	list, err := numberList("cpuset.mems", text)
	if err == nil {
		c.cpu().Mems = list
		c.tidy()
	}
	return err
}

// listedMax bounds the numbers of processors and memory nodes: above NR_CPUS of any architecture.
const listedMax = 1 << 13

// numberList reads a list such as 0-2,7,16 (cpuset(7), "Formats") and returns it as the kernel prints it: ascending, ranges
// joined. The strides of that format, 0-31:2/4, are taken too.
func numberList(file, text string) (string, error) {
	var in [listedMax]bool
	for part := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		lo, hi, used, group, ok := numberRange(part)
		if !ok {
			return "", Invalid(file, text, "not a list of numbers", fmt.Sprintf("write numbers below %d and ranges, such as 0-2,7; an empty line is no restriction", listedMax))
		}
		for n := lo; n <= hi; n++ {
			in[n] = in[n] || (n-lo)%group < used
		}
	}
	var out []string
	for n := 0; n < listedMax; n++ {
		from := n
		for n+1 < listedMax && in[n] && in[n+1] {
			n++
		}
		switch {
		case !in[n]:
		case from == n:
			out = append(out, strconv.Itoa(n))
		default:
			out = append(out, fmt.Sprintf("%d-%d", from, n))
		}
	}
	return strings.Join(out, ","), nil
}

// numberRange reads one part of such a list: N, N-M, or N-M:USED/GROUP.
func numberRange(part string) (lo, hi, used, group int, ok bool) {
	span, stride, strided := strings.Cut(part, ":")
	from, to, ranged := strings.Cut(span, "-")
	if !ranged {
		to = from
	}
	use, of, _ := strings.Cut(stride, "/")
	if !strided {
		use, of = "1", "1"
	}
	ok = ranged || !strided
	for _, x := range []struct {
		text string
		to   *int
	}{{from, &lo}, {to, &hi}, {use, &used}, {of, &group}} {
		n, err := strconv.ParseUint(x.text, 10, 31)
		ok = ok && err == nil
		*x.to = int(n)
	}
	ok = ok && lo <= hi && hi < listedMax && used >= 1 && used <= group
	return lo, hi, used, group, ok
}

// HugepageSizes are the sizes of huge pages that files exist for, by the kernel's names: those of x86-64, and of arm64 with
// small pages of 4 KiB.
var HugepageSizes = []string{"64KB", "2MB", "32MB", "1GB"}

// hugepage is the size of such a page in bytes.
func hugepage(size string) int64 {
	units := map[string]int64{"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
	digits := strings.TrimRight(size, "KMGB")
	n, _ := strconv.ParseInt(digits, 10, 32)
	return n * units[size[len(digits):]]
}

// HugepageMax returns how many bytes of huge pages of a size may be used, or [Max].
func (c *Config) HugepageMax(size string) int64 {
	for _, h := range c.Spec.Linux.Resources.HugepageLimits {
		if h.Pagesize == size && h.Limit <= math.MaxInt64 {
			return int64(h.Limit)
		}
	}
	return Max
}

// SetHugepageMax sets it, rounded down to a huge page as the kernel does (mm/hugetlb_cgroup.c, hugetlb_cgroup_write).
func (c *Config) SetHugepageMax(size string, bytes int64) error {
	r := c.Spec.Linux.Resources
	all := slices.DeleteFunc(slices.Clone(r.HugepageLimits), func(h specs.LinuxHugepageLimit) bool { return h.Pagesize == size })
	if page(bytes) != Max {
		all = append(all, specs.LinuxHugepageLimit{Pagesize: size, Limit: uint64(bytes - bytes%hugepage(size))})
	}
	if len(all) == 0 {
		all = nil
	}
	r.HugepageLimits = all
	return nil
}
