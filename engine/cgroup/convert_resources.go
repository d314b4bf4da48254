package cgroup

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
)

// sizeText is a v2 size of a number of bytes that v1 holds.
func sizeText(bytes uint64) string {
	if bytes >= unlimited {
		return "max\n"
	}
	return strconv.FormatUint(bytes, 10) + "\n"
}

// swapMaxFromV1 gets the limit on memory and swap together, and the one on memory.
func swapMaxFromV1(texts []string) (string, error) {
	together, err := number(texts[0])
	if err != nil || together >= unlimited {
		return "max\n", err
	}
	limit, err := number(texts[1])
	// The two are read one after the other, and v1 lets nobody set the first below the second.
	return sizeText(together - min(together, limit)), err
}

// memswLimit is the limit on memory and swap together that stands for memory.swap.max. v1 cannot limit swap alone.
func memswLimit(c *engine.Config) (string, error) {
	limit, swap := c.MemoryMax(), c.MemorySwapMax()
	switch {
	case swap == engine.Max:
		return "max", nil
	case limit == engine.Max:
		return "", &engine.Error{Op: "write", File: "memory.swap.max", Value: limitText(swap), Errno: errUnsupported,
			Why: "cgroup v1 limits memory and swap together, and there is no limit on memory", Cure: "write memory.max first"}
	case uint64(limit)+uint64(swap) >= unlimited:
		return "max", nil
	}
	return limitText(limit + swap), nil
}

// rises reports whether a size becomes larger. v1 refuses a limit on memory and swap together below that on memory
// (mm/memcontrol-v1.c, mem_cgroup_resize_max), so on the way up it goes first, and on the way down last.
func rises(old, value string) bool {
	a, errOld := strconv.ParseUint(old, 10, 64)
	b, err := strconv.ParseUint(value, 10, 64)
	return old != "max" && (value == "max" || errOld == nil && err == nil && b > a)
}

// softLimit is v1's soft limit, of which memory.low and memory.high are two sides: what is above it goes first, what is below
// it last. A group has one, so both can be set to the same number only.
func softLimit(c *engine.Config) (string, error) {
	low, high := c.MemoryLow(), c.MemoryHigh()
	switch {
	case low == 0:
		return limitText(high), nil
	case high != engine.Max && high != low:
		return "", &engine.Error{Op: "write", File: "memory.high", Value: limitText(high), Errno: errUnsupported,
			Why: "cgroup v1 has one soft limit for memory.low and memory.high, and they are different", Cure: "reset one of them: echo > memory.low"}
	}
	return limitText(low), nil
}

// memoryLowFromV1 takes the kernel's "never before others" for v2's "no protection": what a new group has.
func memoryLowFromV1(texts []string) (string, error) {
	n, err := number(texts[0])
	if n >= unlimited {
		n = 0
	}
	return sizeText(n), err
}

// hugepageFromV1 knows no limit by its size: the largest multiple of the page (mm/hugetlb_cgroup.c, hugetlb_cgroup_init).
func hugepageFromV1(texts []string) (string, error) {
	n, err := number(texts[0])
	if n >= unlimited&^(1<<30-1) {
		n = unlimited
	}
	return sizeText(n), err
}

// memoryStat names v1's counters as v2 does, in v2's order (mm/memcontrol.c, memory_stats and memcg_vm_event_stat). v1's
// total_ ones count what is below, too.
var memoryStat = []struct{ v2, v1 string }{
	{"anon", "total_rss"},
	{"file", "total_cache"},
	{"kernel", ""}, // a file of its own
	{"shmem", "total_shmem"},
	{"file_mapped", "total_mapped_file"},
	{"file_dirty", "total_dirty"},
	{"file_writeback", "total_writeback"},
	{"swapcached", "total_swapcached"},
	{"anon_thp", "total_rss_huge"},
	{"inactive_anon", "total_inactive_anon"},
	{"active_anon", "total_active_anon"},
	{"inactive_file", "total_inactive_file"},
	{"active_file", "total_active_file"},
	{"unevictable", "total_unevictable"},
	{"workingset_refault_anon", "total_workingset_refault_anon"},
	{"workingset_refault_file", "total_workingset_refault_file"},
	{"pgfault", "total_pgfault"},
	{"pgmajfault", "total_pgmajfault"},
}

// memoryStatFromV1 gets memory.stat, and what the kernel itself uses for the group.
func memoryStatFromV1(texts []string) (string, error) {
	have := map[string]string{}
	for line := range strings.Lines(texts[0]) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		have[key] = value
	}
	kernel, err := number(texts[1])
	have[""] = strconv.FormatUint(kernel, 10)
	var b strings.Builder
	for _, s := range memoryStat {
		if value := have[s.v1]; value != "" { // what this kernel does not count is left out
			fmt.Fprintf(&b, "%s %s\n", s.v2, value)
		}
	}
	return b.String(), err
}

func swapCurrentFromV1(texts []string) (string, error) {
	n, ok := keyed(texts[0], "total_swap")
	if !ok {
		return "", &engine.Error{Op: "read", File: "memory.stat", Errno: errUnsupported, Why: "this kernel does not count what is swapped out"}
	}
	return strconv.FormatUint(n, 10) + "\n", nil
}

// ioMaxText is io.max as a configuration has it.
func ioMaxText(c *engine.Config) string {
	var lines []string
	for _, l := range c.IOMax() {
		lines = append(lines, l.String())
	}
	return strings.Join(lines, "\n")
}

// parseIOMax reads io.max, ours or the kernel's.
func parseIOMax(text string) ([]engine.IOLimit, error) {
	c := engine.NewConfig()
	for line := range strings.Lines(text) {
		device, rates, _ := strings.Cut(strings.TrimSpace(line), " ")
		if err := c.SetIOMax(device, rates); err != nil {
			return nil, err
		}
	}
	return c.IOMax(), nil
}

// ioMaxFromV1 gets a file of DEVICE RATE lines for each key.
func ioMaxFromV1(texts []string) (string, error) {
	c := engine.NewConfig()
	for i, text := range texts {
		for line := range strings.Lines(text) {
			device, rate, _ := strings.Cut(strings.TrimSpace(line), " ")
			if err := c.SetIOMax(device, engine.IOKeys[i]+"="+rate); err != nil {
				return "", &engine.Error{Op: "read", Value: line, Errno: syscall.EIO, Why: "not a limit on a device", Err: err}
			}
		}
	}
	if text := ioMaxText(c); text != "" {
		return text + "\n", nil
	}
	return "", nil
}

// ioMaxChanges calls each for every device whose limits differ, with those that it had.
func ioMaxChanges(old, value string, each func(was, is engine.IOLimit)) error {
	before, err := parseIOMax(old)
	if err != nil {
		return err
	}
	after, err := parseIOMax(value)
	if err != nil {
		return err
	}
	none := [4]uint64{engine.NoRate, engine.NoRate, engine.NoRate, engine.NoRate}
	of := func(all []engine.IOLimit, l engine.IOLimit) engine.IOLimit {
		for _, x := range all {
			if x.Device() == l.Device() {
				return x
			}
		}
		l.Rates = none
		return l
	}
	// A device that is gone has lost its limits with the kernel's own knowledge of it, and naming it would be refused: what
	// is to be taken away comes last, so that whoever goes on regardless has done the rest.
	for _, is := range after {
		if was := of(before, is); was != is {
			each(was, is)
		}
	}
	for _, was := range before {
		if is := of(after, was); is.Rates == none {
			each(was, is)
		}
	}
	return nil
}

func ioMaxToV1(old, value string) (out []change, err error) {
	err = ioMaxChanges(old, value, func(was, is engine.IOLimit) {
		for i, rate := range is.Rates {
			if rate == was.Rates[i] {
				continue
			}
			if rate == engine.NoRate {
				rate = 0
			}
			out = append(out, change{i, is.Device() + " " + strconv.FormatUint(rate, 10)})
		}
	})
	return out, err
}

// ioMaxToV2 writes a line at a time: the kernel takes one device a write.
func ioMaxToV2(old, value string) (out []change, err error) {
	err = ioMaxChanges(old, value, func(_, is engine.IOLimit) { out = append(out, change{0, is.String()}) })
	return out, err
}

// bfqMaxWeight is BFQ_MAX_WEIGHT of block/bfq-iosched.h.
const bfqMaxWeight = 1000

func ioWeightFromV1(texts []string) (string, error) {
	n, err := number(texts[0])
	return "default " + strconv.FormatUint(n, 10) + "\n", err
}

func ioWeightToV1(_, value string) ([]change, error) {
	weight, err := number(strings.TrimPrefix(value, "default "))
	if err == nil && weight > bfqMaxWeight {
		err = &engine.Error{Op: "write", File: "io.weight", Value: value, Errno: errUnsupported,
			Why: "cgroup v1 has no weight above 1000", Cure: "write 1 to 1000; the default is 100"}
	}
	return []change{{0, strconv.FormatUint(weight, 10)}}, err
}

// ioCounters are the keys of io.stat, and which counter of which of v1's files is meant: bytes are in the first.
var ioCounters = []struct {
	key  string
	file int
	name string
}{
	{"rbytes", 0, "Read"}, {"wbytes", 0, "Write"}, {"rios", 1, "Read"}, {"wios", 1, "Write"}, {"dbytes", 0, "Discard"}, {"dios", 1, "Discard"},
}

// ioStatFromV1 gets lines of DEVICE COUNTER NUMBER. Like v2 it leaves out a device that nothing was done to
// (block/blk-cgroup.c, blkcg_print_one_stat).
func ioStatFromV1(texts []string) (string, error) {
	type counter struct {
		file         int
		device, name string
	}
	counts := map[counter]uint64{}
	var devices []string
	for file, text := range texts {
		for line := range strings.Lines(text) {
			words := strings.Fields(line)
			if len(words) != 3 {
				continue // the sum of all devices
			}
			n, err := number(words[2])
			if err != nil {
				return "", err
			}
			counts[counter{file, words[0], words[1]}] = n
			if !slices.Contains(devices, words[0]) {
				devices = append(devices, words[0])
			}
		}
	}
	var b strings.Builder
	for _, device := range devices {
		line, any := device, uint64(0)
		for _, c := range ioCounters {
			n := counts[counter{c.file, device, c.name}]
			line += fmt.Sprintf(" %s=%d", c.key, n)
			any |= n
		}
		if any != 0 {
			b.WriteString(line + "\n")
		}
	}
	return b.String(), nil
}
