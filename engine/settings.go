package engine

import (
	"fmt"
	"path"
	"strings"
	"syscall"

	"github.com/kballard/go-shellquote"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Cmd returns the argument vector quoted for a POSIX shell: what the cmd file reads as.
func (c *Config) Cmd() string { return shellquote.Join(c.Spec.Process.Args...) }

// SetCmd splits text by POSIX shell quoting rules, without any expansion. Empty text means no program.
func (c *Config) SetCmd(text string) error {
	args, err := shellquote.Split(text)
	if err != nil {
		return &Error{Op: "write", File: "cmd", Value: text, Errno: syscall.EINVAL, Err: err,
			Cure: "close every quote; write \\' for a quote itself"}
	}
	if len(args) > 0 && args[0] == "" {
		return Invalid("cmd", text, "the program's name is empty", "name a program first")
	}
	c.Spec.Process.Args = args
	return nil
}

// Env returns the environment, one KEY=VALUE each.
func (c *Config) Env() []string { return c.Spec.Process.Env }

// SetEnv replaces the environment. A key that stands twice takes its last value.
func (c *Config) SetEnv(items []string) error {
	var env []string
	at := map[string]int{}
	for _, item := range items {
		key, _, ok := strings.Cut(item, "=")
		if !ok || key == "" {
			return Invalid("env", item, "not KEY=VALUE", "write one KEY=VALUE a line")
		}
		if i, dup := at[key]; dup {
			env[i] = item
			continue
		}
		at[key] = len(env)
		env = append(env, item)
	}
	c.Spec.Process.Env = env
	return nil
}

// Cwd returns the working directory, an absolute path inside the root.
func (c *Config) Cwd() string { return c.Spec.Process.Cwd }

// SetCwd sets it. It is created at start when it is missing.
func (c *Config) SetCwd(dir string) error {
	if !strings.HasPrefix(dir, "/") {
		return Invalid("cwd", dir, "not an absolute path", "start it with /, as seen inside the container")
	}
	c.Spec.Process.Cwd = path.Clean(dir)
	return nil
}

// hostnameMax is the kernel's bound, uname(2) __NEW_UTS_LEN.
const hostnameMax = 64

// SetHostname sets the hostname; the empty name means the container's own.
func (c *Config) SetHostname(name string) error {
	if len(name) > hostnameMax {
		return Invalid("hostname", name, fmt.Sprintf("%d bytes are too long", len(name)), "use at most 64 bytes")
	}
	for _, r := range name {
		if r <= ' ' || r == 0x7f || r == '/' {
			return Invalid("hostname", name, "not a host name", "use letters, digits, dots and dashes")
		}
	}
	c.Spec.Hostname = name
	return nil
}

// EffectiveHostname is the hostname of a container called name.
func (c *Config) EffectiveHostname(name string) string {
	if c.Spec.Hostname != "" {
		return c.Spec.Hostname
	}
	return name
}

// StopSignal returns the signal that stop sends, by its name without SIG.
func (c *Config) StopSignal() string { return c.Extension.StopSignal }

// SetStopSignal sets it; the name must be one that [ParseSignal] knows.
func (c *Config) SetStopSignal(name string) error {
	sig, err := ParseSignal("stop.signal", name)
	if err != nil {
		return err
	}
	c.Extension.StopSignal = SignalName(sig)
	return nil
}

// StopTimeout returns how many seconds stop waits before KILL.
func (c *Config) StopTimeout() int { return c.Extension.StopTimeout }

// SetStopTimeout sets it.
func (c *Config) SetStopTimeout(seconds int) error {
	c.Extension.StopTimeout = seconds
	return nil
}

// pageSize rounds memory limits as the kernel does (mm/page_counter.c, page_counter_memparse), so that what is read back
// is what is in force.
const pageSize = 4096

// Max is the limit that is none: the kernel's word "max".
const Max int64 = -1

// MemoryMax returns the hard memory limit in bytes, or [Max].
func (c *Config) MemoryMax() int64 {
	if m := c.Spec.Linux.Resources.Memory; m != nil && m.Limit != nil {
		return *m.Limit
	}
	return Max
}

// SetMemoryMax sets it, rounded down to a page. How much may be swapped out stays what it is.
func (c *Config) SetMemoryMax(bytes int64) error {
	swap := c.MemorySwapMax()
	if c.memory().Limit = new(page(bytes)); page(bytes) == Max {
		c.memory().Limit = nil
	}
	return c.SetMemorySwapMax(swap)
}

// PidsMax returns how many processes and threads may exist at once, or [Max].
func (c *Config) PidsMax() int64 {
	if p := c.Spec.Linux.Resources.Pids; p != nil && p.Limit != nil {
		return *p.Limit
	}
	return Max
}

// pidsLimit is the kernel's own bound on a limit: PID_MAX_LIMIT, include/linux/threads.h.
const pidsLimit = 4 << 20

// SetPidsMax sets it.
func (c *Config) SetPidsMax(n int64) error {
	if n > pidsLimit {
		return Invalid("pids.max", fmt.Sprint(n), "more than any kernel allows", fmt.Sprintf("write 0 to %d, or max", pidsLimit))
	}
	if n == Max {
		c.Spec.Linux.Resources.Pids = nil
		return nil
	}
	c.Spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &n}
	return nil
}

// Bounds of the bandwidth controller in microseconds: kernel/sched/core.c, min_cfs_quota_period and max_cfs_quota_period;
// max_bw_runtime bounds the quota.
const (
	defaultPeriod = 100_000
	minPeriod     = 1_000
	maxPeriod     = 1_000_000
	minQuota      = 1_000
	maxQuota      = 1<<44 - 1
)

// CPUMax returns the bandwidth limit: quota ([Max] for none) of every period, in microseconds.
func (c *Config) CPUMax() (quota, period int64) {
	quota, period = Max, defaultPeriod
	if cpu := c.Spec.Linux.Resources.CPU; cpu != nil {
		if cpu.Quota != nil {
			quota = *cpu.Quota
		}
		if cpu.Period != nil {
			period = int64(*cpu.Period)
		}
	}
	return quota, period
}

// SetCPUMax sets it.
func (c *Config) SetCPUMax(quota, period int64) error {
	value := fmt.Sprintf("%d %d", quota, period)
	if period < minPeriod || period > maxPeriod {
		return Invalid("cpu.max", value, "the period is out of range", "write QUOTA PERIOD with a period of 1000 to 1000000 microseconds")
	}
	if quota != Max && (quota < minQuota || quota > maxQuota) {
		return Invalid("cpu.max", value, "the quota is out of range", "write at least 1000 microseconds, or max")
	}
	cpu := c.cpu()
	p := uint64(period)
	cpu.Quota, cpu.Period = &quota, &p
	return nil
}

// cpu returns the CPU resources, made when there were none. It is called on a clone, which owns them.
func (c *Config) cpu() *specs.LinuxCPU {
	if c.Spec.Linux.Resources.CPU == nil {
		c.Spec.Linux.Resources.CPU = &specs.LinuxCPU{}
	}
	return c.Spec.Linux.Resources.CPU
}

// Bounds of cpu.weight (Documentation/admin-guide/cgroup-v2.rst), and the shares that the weight 100 stands for.
const (
	minWeight     = 1
	maxWeight     = 10_000
	defaultWeight = 100
	defaultShares = 1024
)

// CPUWeight returns the relative share of the CPU, 1 to 10000. The specification keeps v1's shares; the conversion is the
// kernel's own (kernel/sched/sched.h, sched_weight_from_cgroup), which is exact in both directions.
func (c *Config) CPUWeight() int64 {
	if cpu := c.Spec.Linux.Resources.CPU; cpu != nil && cpu.Shares != nil {
		shares := int64(min(*cpu.Shares, maxWeight*defaultShares/defaultWeight))
		return max(minWeight, (shares*defaultWeight+defaultShares/2)/defaultShares)
	}
	return defaultWeight
}

// niceWeights are the shares that the kernel gives to a process by its niceness, -20 to 19: kernel/sched/core.c,
// sched_prio_to_weight.
var niceWeights = [40]uint64{
	88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904, 3906, 3121, 2501, 1991, 1586, 1277,
	1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87, 70, 56, 45, 36, 29, 23, 18, 15,
}

const minNice = -20

// CPUWeightNice returns the niceness whose weight is nearest, as the kernel does (cpu_weight_nice_read_s64).
func (c *Config) CPUWeightNice() int64 {
	shares := uint64(defaultShares)
	if cpu := c.Spec.Linux.Resources.CPU; cpu != nil && cpu.Shares != nil {
		shares = *cpu.Shares
	}
	distance := func(i int) uint64 { return max(niceWeights[i], shares) - min(niceWeights[i], shares) }
	at := 0
	for at+1 < len(niceWeights) && distance(at+1) < distance(at) {
		at++
	}
	return int64(at) + minNice
}

// SetCPUWeightNice sets the relative share of the CPU to that of a process of a niceness, -20 to 19. The niceness that is
// nearest already changes nothing: whoever copies all files copies the weight itself, too.
func (c *Config) SetCPUWeightNice(nice int64) error {
	if nice < minNice || nice >= minNice+int64(len(niceWeights)) {
		return Invalid("cpu.weight.nice", fmt.Sprint(nice), "out of range", "write -20 to 19")
	}
	if nice != c.CPUWeightNice() {
		c.cpu().Shares = new(niceWeights[nice-minNice])
	}
	return nil
}

// SetCPUWeight sets it.
func (c *Config) SetCPUWeight(weight int64) error {
	if weight < minWeight || weight > maxWeight {
		return Invalid("cpu.weight", fmt.Sprint(weight), "out of range", "write 1 to 10000")
	}
	shares := uint64((weight*defaultShares + defaultWeight/2) / defaultWeight)
	c.cpu().Shares = &shares
	return nil
}
