package engine

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ociRules are the rules for values that a config.json brings, by the field that the sentence names. What a setting has a
// rule for is left to its setter, so that a rule stands in one place only. A rule may bring a value into the form that a
// setter would have given it; it never changes what the value means.
var ociRules = []struct {
	path  string
	check func(*Config) error
}{
	{"ociVersion", checkVersion},
	{"process.args", func(c *Config) error {
		if len(c.Spec.Process.Args) > 0 && c.Spec.Process.Args[0] == "" {
			return ociBad("", "the program's name is empty", "name a program first")
		}
		return nil
	}},
	{"process.consoleSize", checkConsoleSize},
	{"process.env", func(c *Config) error { return c.SetEnv(c.Env()) }},
	{"process.cwd", func(c *Config) error { return c.SetCwd(c.Cwd()) }},
	{"process.user", checkUser},
	{"process.capabilities", checkCapabilities},
	{"process.rlimits", checkRlimits},
	{"process.apparmorProfile", func(c *Config) error { return c.SetAppArmor(c.AppArmor()) }},
	{"process.selinuxLabel", func(c *Config) error { return c.SetSELinux(c.SELinux()) }},
	{"process.oomScoreAdj", func(c *Config) error { return NewConfig().SetOOMScoreAdj(c.OOMScoreAdj()) }},
	{"root.path", func(c *Config) error { return c.SetRootfs(c.Rootfs()) }},
	{"hostname", func(c *Config) error { return c.SetHostname(c.Spec.Hostname) }},
	{"domainname", func(c *Config) error { return (&Config{}).SetHostname(c.Spec.Domainname) }}, // as long, of the same letters
	{"mounts", checkMounts},
	{"hooks", checkHooks},
	{"linux.namespaces", checkNamespaces},
	{"linux.uidMappings", func(c *Config) error { return c.SetUIDMap(c.UIDMap()) }},
	{"linux.gidMappings", func(c *Config) error { return c.SetGIDMap(c.GIDMap()) }},
	{"linux.sysctl", checkSysctls},
	{"linux.maskedPaths", func(c *Config) error { return c.SetMasked(c.Masked()) }},
	{"linux.readonlyPaths", func(c *Config) error { return c.SetReadonly(c.Readonly()) }},
	{"linux.devices", checkDevices},
	{"linux.resources.devices", checkDeviceRules},
	{"linux.resources.memory", checkMemory},
	{"linux.resources.pids.limit", func(c *Config) error {
		if n := c.PidsMax(); n < Max {
			return ociBad(fmt.Sprint(n), "out of range", "write -1 for none")
		}
		return c.Clone().SetPidsMax(c.PidsMax())
	}},
	{"linux.resources.cpu", checkCPU},
	{"linux.resources.blockIO", checkBlockIO},
	{"linux.resources.hugepageLimits", checkHugepages},
	{"linux.resources.unified", checkUnified}, // after all that it may repeat
	{"linux.seccomp", checkSeccomp},
	{"linux.rootfsPropagation", func(c *Config) error {
		return oneOf(c.Spec.Linux.RootfsPropagation, "", "private", "slave", "shared", "unbindable", "rprivate", "rslave", "rshared", "runbindable")
	}},
	{"linux.personality.domain", func(c *Config) error {
		if p := c.Spec.Linux.Personality; p != nil {
			return oneOf(string(p.Domain), string(specs.PerLinux), string(specs.PerLinux32))
		}
		return nil
	}},
	{"linux.timeOffsets", checkOffsets},
}

// ociBad is the refusal of a value; [ociAt] adds where it stands.
func ociBad(value, why, cure string) error { return Invalid("config.json", value, why, cure) }

// oneOf refuses what is none of the values. Among them the empty one is for what may be left out.
func oneOf(value string, taken ...string) error {
	if slices.Contains(taken, value) {
		return nil
	}
	why := "not known"
	if value == "" {
		why = "a value is missing"
	}
	names := slices.DeleteFunc(slices.Clone(taken), func(t string) bool { return t == "" })
	return ociBad(value, why, "write "+strings.Join(names, ", "))
}

// semver is version 2.0.0 of semantic versioning, for the versions that have the fields of [ociRows].
var semver = regexp.MustCompile(`^1\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

// checkVersion takes minor versions that are newer, too: whatever they add is refused by name.
func checkVersion(c *Config) error {
	if !semver.MatchString(c.Spec.Version) {
		return ociBad(c.Spec.Version, "not a version 1.x.y", "write "+specs.Version)
	}
	return nil
}

func checkUser(c *Config) error {
	u := c.Spec.Process.User
	if slices.Contains(append([]uint32{u.UID, u.GID}, u.AdditionalGids...), invalidID) {
		return ociBad(fmt.Sprint(uint32(invalidID)), "system calls take it for \"leave it alone\"", "write a lower id")
	}
	if u.Umask != nil && *u.Umask > 0o777 {
		return ociBad(fmt.Sprint(*u.Umask), "not a umask", "write 0 to 511, which is 0777")
	}
	return nil
}

func checkCapabilities(c *Config) error {
	caps := c.Spec.Process.Capabilities
	if caps == nil {
		return nil
	}
	for _, set := range [][]string{caps.Bounding, caps.Permitted, caps.Effective, caps.Inheritable, caps.Ambient} {
		for _, name := range set {
			if !isCap(name) {
				return ociBad(name, "no such capability", "see capabilities(7) for the names; they begin with CAP_")
			}
		}
	}
	for _, set := range [][]string{caps.Effective, caps.Ambient} { // capset(2) and prctl(2) refuse it
		for _, name := range set {
			if !slices.Contains(caps.Permitted, name) {
				return ociBad(name, "not in the permitted set", "add it there")
			}
		}
	}
	return nil
}

// checkRlimits leaves the limits in their order.
func checkRlimits(c *Config) error {
	seen := map[string]bool{}
	for _, r := range c.Spec.Process.Rlimits {
		known := slices.ContainsFunc(rlimitNames, func(name string) bool { return r.Type == rlimitPrefix+strings.ToUpper(name) })
		switch {
		case !known:
			return ociBad(r.Type, "no such limit", "see getrlimit(2) for the names; they begin with RLIMIT_")
		case seen[r.Type]:
			return ociBad(r.Type, "it stands twice", "leave one out")
		case r.Soft > r.Hard:
			return ociBad(r.Type, "the soft limit is above the hard one", "lower it")
		}
		seen[r.Type] = true
	}
	return nil
}

// checkSysctls puts the keys into the one form that is kept.
func checkSysctls(c *Config) error {
	given := c.Sysctls()
	c.Spec.Linux.Sysctl = nil
	for _, pair := range given {
		if _, twice := c.Spec.Linux.Sysctl[swapped.Replace(SysctlPath(pair[0]))]; twice || pair[1] == "" {
			return ociBad(pair[0], "it stands twice, or has no value", "leave it out")
		}
		if err := c.SetSysctl(pair[0], pair[1]); err != nil {
			return err
		}
	}
	return nil
}

func checkMounts(c *Config) error {
	for _, m := range c.Spec.Mounts {
		switch {
		case !path.IsAbs(m.Destination):
			return ociBad(m.Destination, "not an absolute path", "begin destination with /")
		case slices.Contains(m.Options, ""):
			return ociBad(m.Destination, "an option is empty", ociLeave)
		}
	}
	return nil
}

func checkNamespaces(c *Config) error {
	seen := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range c.Spec.Linux.Namespaces {
		if err := oneOf(string(ns.Type), "pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"); err != nil {
			return err
		}
		if seen[ns.Type] {
			return ociBad(string(ns.Type), "it stands twice", "leave one out")
		}
		if ns.Path != "" && (!path.IsAbs(ns.Path) || path.Clean(ns.Path) != ns.Path) {
			return ociBad(ns.Path, "not a clean absolute path", "write a path such as /run/netns/x")
		}
		seen[ns.Type] = true
	}
	return nil
}

func checkDevices(c *Config) error {
	for _, d := range c.Spec.Linux.Devices {
		if !path.IsAbs(d.Path) {
			return ociBad(d.Path, "not an absolute path", "write it as seen inside the container")
		}
		if err := oneOf(d.Type, "c", "b", "u", "p"); err != nil {
			return err
		}
		if d.Major < 0 || d.Minor < 0 || d.FileMode != nil && *d.FileMode > 0o777 {
			return ociBad(d.Path, "a number is out of range", "give major and minor, and permission bits only")
		}
	}
	return nil
}

func checkDeviceRules(c *Config) error {
	for _, d := range c.Spec.Linux.Resources.Devices {
		if err := oneOf(d.Type, "", "a", "c", "b"); err != nil {
			return err
		}
		if strings.Trim(d.Access, "rwm") != "" {
			return ociBad(d.Access, "not an access", "write some of r, w and m")
		}
		for _, n := range []*int64{d.Major, d.Minor} {
			if n != nil && *n < -1 {
				return ociBad(fmt.Sprint(*n), "not a device number", "leave it out for all")
			}
		}
	}
	return nil
}

func unlessZero[T int64 | uint64](p *T) *T {
	if p != nil && *p == 0 {
		return nil
	}
	return p
}

// checkSeccomp checks the words. Whether the filter can be made of them is for its compiler to say.
func checkSeccomp(c *Config) error {
	s := c.Spec.Linux.Seccomp
	if s == nil {
		return nil
	}
	actions := []specs.LinuxSeccompAction{s.DefaultAction}
	for _, call := range s.Syscalls {
		actions = append(actions, call.Action)
		if len(call.Names) == 0 {
			return ociBad("", "a rule names no system call", ociLeave)
		}
		for _, arg := range call.Args {
			if err := oneOf(string(arg.Op), "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"); err != nil {
				return err
			}
			if arg.Index > 5 {
				return ociBad(fmt.Sprint(arg.Index), "no system call has such an argument", "write 0 to 5")
			}
		}
	}
	for _, a := range actions {
		if a == specs.ActNotify {
			return &Error{Errno: syscall.EOPNOTSUPP, Value: string(a), Why: "nobody would answer", Cure: "write SCMP_ACT_ERRNO"}
		}
		err := oneOf(string(a), "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_LOG", "SCMP_ACT_TRAP", "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD",
			"SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRACE")
		if err != nil {
			return err
		}
	}
	return nil
}

func checkOffsets(c *Config) error {
	for clock, offset := range c.Spec.Linux.TimeOffsets {
		if err := oneOf(clock, "monotonic", "boottime"); err != nil {
			return err
		}
		if offset.Nanosecs >= 1e9 {
			return ociBad(fmt.Sprint(offset.Nanosecs), "a whole second or more", "count it in secs")
		}
	}
	return nil
}
