package cgroup

import (
	"fmt"
	"math"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
)

// unlimited is what v1's memory files read as without a limit: PAGE_COUNTER_MAX pages in bytes (include/linux/page_counter.h).
var unlimited = uint64(math.MaxInt64 &^ (os.Getpagesize() - 1))

// number reads one decimal number, as cgroup files hold it.
func number(text string) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0, &engine.Error{Op: "read", Value: text, Errno: syscall.EIO, Why: "not a number"}
	}
	return n, nil
}

// keyed finds one number in a text of KEY NUMBER lines; ok is false when it is not there.
func keyed(text, key string) (n uint64, ok bool) {
	for line := range strings.Lines(text) {
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if k == key {
			n, err := strconv.ParseUint(v, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// pidList reads one pid a line. Processes of other pid namespaces read as 0 and are left out: nothing can be done to them.
func pidList(text string) []int {
	var pids []int
	for line := range strings.Lines(text) {
		if pid, err := strconv.Atoi(strings.TrimSuffix(line, "\n")); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// limitText writes a limit as v2 does.
func limitText(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

func memoryMaxFromV1(texts []string) (string, error) {
	n, err := number(texts[0])
	return sizeText(n), err
}

func memoryMaxToV1(_, value string) ([]change, error) {
	if value == "max" {
		value = "-1"
	}
	return []change{{0, value}}, nil
}

// oomFromV1 says what the kernel does: how the engine acts when the killer is held is not the kernel's to know.
func oomFromV1(texts []string) (string, error) {
	if held, _ := keyed(texts[0], "oom_kill_disable"); held != 0 {
		return "hold\n", nil
	}
	return "kill\n", nil
}

// oomGroupFromV1: to the kernel, no process of v1 dies with another.
func oomGroupFromV1([]string) (string, error) { return "0\n", nil }

func oomToV1(_, value string) ([]change, error) {
	return []change{{0, map[string]string{"kill": "0", "hold": "1"}[value]}}, nil
}

func cpuMaxFromV1(texts []string) (string, error) {
	quota := strings.TrimSpace(texts[0])
	if strings.HasPrefix(quota, "-") {
		quota = "max"
	}
	return fmt.Sprintf("%s %s\n", quota, strings.TrimSpace(texts[1])), nil
}

// cpuMaxToV1 splits quota and period so that no state in between is refused: v1 wants a child's share, quota by period, to
// stay within its parent's (kernel/sched/core.c, tg_cfs_schedulable_down), and no quota at all means the parent's share.
// The detour is taken only when the period changes, for lifting the last quota of a host patches the kernel's text.
func cpuMaxToV1(old, value string) ([]change, error) {
	was, wasPeriod, err := parseCPUMax(old)
	if err != nil {
		return nil, err
	}
	quota, period, err := parseCPUMax(value)
	if err != nil {
		return nil, err
	}
	var out []change
	if period != wasPeriod {
		if was != engine.Max {
			out = append(out, change{0, "-1"})
		}
		out = append(out, change{1, strconv.FormatInt(period, 10)})
		was = engine.Max
	}
	if quota != was {
		out = append(out, change{0, strconv.FormatInt(quota, 10)})
	}
	return out, nil
}

// parseCPUMax reads QUOTA PERIOD, in microseconds, either of which the kernel's own text always has. A quota of max is
// [engine.Max].
func parseCPUMax(text string) (quota, period int64, err error) {
	q, p, ok := strings.Cut(strings.TrimSuffix(text, "\n"), " ")
	n, errQuota := strconv.ParseUint(q, 10, 63)
	m, errPeriod := strconv.ParseUint(p, 10, 63)
	quota, period = int64(n), int64(m)
	if q == "max" {
		quota, errQuota = engine.Max, nil
	}
	if !ok || errQuota != nil || errPeriod != nil {
		return 0, 0, engine.Invalid("cpu.max", text, "not a bandwidth", "write QUOTA PERIOD in microseconds; the quota may be max")
	}
	return quota, period, nil
}

// The line between weight and shares: kernel/sched/sched.h, sched_weight_from_cgroup and sched_weight_to_cgroup.
const (
	defaultWeight = 100
	defaultShares = 1024
	maxWeight     = 10_000
)

func cpuWeightFromV1(texts []string) (string, error) {
	shares, err := number(texts[0])
	// Clamped before multiplying, so that no number overflows.
	shares = min(shares, maxWeight*defaultShares/defaultWeight)
	weight := max(1, (shares*defaultWeight+defaultShares/2)/defaultShares)
	return strconv.FormatUint(weight, 10) + "\n", err
}

func cpuWeightToV1(_, value string) ([]change, error) {
	weight, err := number(value)
	if err != nil || weight > maxWeight {
		return nil, engine.Invalid("cpu.weight", value, "not a weight", "write 1 to 10000")
	}
	return []change{{0, strconv.FormatUint((weight*defaultShares+defaultWeight/2)/defaultWeight, 10)}}, nil
}

// bandwidth renames the lines of v1's cpu.stat; v1 counts nanoseconds (kernel/sched/core.c, cpu_cfs_stat_show).
var bandwidth = []struct {
	from, to string
	unit     uint64
}{
	{"nr_periods", "nr_periods", 1},
	{"nr_throttled", "nr_throttled", 1},
	{"throttled_time", "throttled_usec", 1000},
	// Since 5.14; left out where the kernel has none.
	{"nr_bursts", "nr_bursts", 1},
	{"burst_time", "burst_usec", 1000},
}

// cpuStatFromV1 builds v2's cpu.stat from cpuacct's nanoseconds and v1's cpu.stat. What the ticks say of user and system
// time only divides the precise usage, so that both add up to it, as v2 does (kernel/sched/cputime.c, cputime_adjust).
func cpuStatFromV1(texts []string) (string, error) {
	var ns [3]uint64
	for i := range ns {
		n, err := number(texts[i])
		if err != nil {
			return "", err
		}
		ns[i] = n
	}
	usage, system := ns[0], share(ns[0], ns[2], ns[1])
	return cpuStat(usage/1000, (usage-system)/1000, system/1000, texts[3]), nil
}

// cpuStatFromBoth takes what v2 knows without its controller, the time, and what v1's cpu.stat says of the limit.
func cpuStatFromBoth(texts []string) (string, error) {
	var usec [3]uint64
	for i, name := range []string{"usage_usec", "user_usec", "system_usec"} {
		n, ok := keyed(texts[0], name)
		if !ok {
			return "", fmt.Errorf("cpu.stat of cgroup v2 has no %s: %w", name, syscall.EIO)
		}
		usec[i] = n
	}
	return cpuStat(usec[0], usec[1], usec[2], texts[1]), nil
}

// cpuStat is v2's text of microseconds and of v1's cpu.stat.
func cpuStat(usage, user, system uint64, limits string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "usage_usec %d\nuser_usec %d\nsystem_usec %d\n", usage, user, system)
	for _, line := range bandwidth {
		if n, ok := keyed(limits, line.from); ok {
			fmt.Fprintf(&b, "%s %d\n", line.to, n/line.unit)
		}
	}
	return b.String()
}

// share divides whole in the proportion part to rest, and returns part's; without either, nothing is part's.
func share(whole, part, rest uint64) uint64 {
	// The counters are read one after the other from a running group; halving both keeps their sum in range.
	part, rest = part/2, rest/2
	if part == 0 {
		return 0
	}
	hi, lo := bits.Mul64(whole, part)
	quotient, _ := bits.Div64(hi, lo, part+rest) // hi < part+rest, since whole*part < 2^64*part
	return quotient
}

// memoryEventsFromV1 adds up the counters of all groups whose files were read.
func memoryEventsFromV1(texts []string) (string, error) {
	var hits, kills uint64
	for line := range strings.Lines(texts[0]) {
		n, err := number(line)
		if err != nil {
			return "", err
		}
		hits += n
	}
	for line := range strings.Lines(texts[1]) {
		n, _ := keyed(line, "oom_kill")
		kills += n
	}
	return fmt.Sprintf("max %d\noom_kill %d\n", hits, kills), nil
}

// eventsFromV1 gets the freezer states and the processes of a group and all below it. The group's own state comes first,
// and says FROZEN only when everything below is (kernel/cgroup/legacy_freezer.c, update_if_frozen).
func eventsFromV1(texts []string) (string, error) {
	populated, frozen := 0, 0
	if texts[1] != "" {
		populated = 1
	}
	if strings.HasPrefix(texts[0], "FROZEN") {
		frozen = 1
	}
	return fmt.Sprintf("populated %d\nfrozen %d\n", populated, frozen), nil
}
