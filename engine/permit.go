package engine

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// What a container may be that belongs to somebody who is not root. The rule is a list of what is permitted, and everything else has to be
// as in a new container: a field that a later version knows is refused until somebody has thought about it. It is asked about the whole
// configuration, when one is written and again before each start, so it does not matter who wrote which part of it and how it came.

// denial is a part of a configuration that only root may ask for, or let others ask for.
type denial struct {
	file  string
	value func(*Config) string // the offending one, "" for none
	why   string
}

// Ports below this one are root's: ip(7), CAP_NET_BIND_SERVICE.
const privilegedPort = 1024

// denials name what can be said better than by the name of a field. The list need not be whole: see [Config.Permitted].
var denials = []denial{
	{"rootfs", func(c *Config) string {
		if c.Image() != "" {
			return ""
		}
		return unless(RootHost, c.Rootfs())
	}, "a directory of this machine would be read with the rights of root in the container, over files that are not its owner's"},
	{"rootfs.mode", func(c *Config) string {
		if c.RootMode() == RootDirect {
			return string(RootDirect)
		}
		return ""
	}, "it would write to a directory of this machine's"},
	{"rootfs.size", func(c *Config) string { return unless("max", c.rootSizeText()) }, "it takes a file of that size and a loop device of this machine's"},
	{"mounts", func(c *Config) string {
		for _, m := range c.AdditionalMounts() {
			if !ownMount(m) {
				return formatMount(m)
			}
		}
		return ""
	}, "a tree of this machine would be read with the rights of root in the container; of others, tmpfs and mqueue may be mounted"},
	{"namespaces", func(c *Config) string {
		for _, n := range Namespaces {
			choice := c.Namespace(n.Type)
			if n.Type == specs.TimeNamespace && choice.Host {
				continue
			}
			if choice.Host || choice.Path != "" {
				return n.Name + " " + choice.String()
			}
		}
		return ""
	}, "namespaces of this machine, and those behind a path, are root's to give"},
	{"uid_map", func(c *Config) string { return strings.Join(c.UIDMap(), ", ") }, "which ids of this machine a container has is for root to say"},
	{"gid_map", func(c *Config) string { return strings.Join(c.GIDMap(), ", ") }, "which ids of this machine a container has is for root to say"},
	{"caps", func(c *Config) string {
		return strings.Join(except(c.Caps(), defaultCapabilities), " ")
	}, "these are beyond the customary ones"},
	{"seccomp", func(c *Config) string { return unless(SeccompDefault, c.Seccomp()) }, "only root may weaken the filter of system calls"},
	{"no_new_privs", func(c *Config) string {
		if c.NoNewPrivileges() {
			return ""
		}
		return "0"
	}, "programs could gain rights by being executed"},
	{"devices", func(c *Config) string { return others(c.Devices(), NewConfig().Devices()) }, "devices of this machine are root's to give"},
	{"masked", func(c *Config) string { return others(c.Masked(), defaultMasked) }, "what is hidden tells about this machine"},
	{"readonly", func(c *Config) string { return others(c.Readonly(), defaultReadonly) }, "what is read-only steers this machine"},
	{"sysctl", func(c *Config) string { return sysctlWords(c) }, "kernel parameters are root's to set"},
	{"oom_score_adj", func(c *Config) string {
		if a := c.Spec.Process.OOMScoreAdj; a != nil && *a < 0 {
			return itoa(int64(*a))
		}
		return ""
	}, "others would be killed in its place"},
	{"rlimits", func(c *Config) string {
		for _, r := range c.Rlimits() {
			if !slices.Contains(ownRlimits, r.Name) {
				return r.Name
			}
		}
		return ""
	}, "that limit is one on what this machine's other users are left"},
	{"log.max", func(c *Config) string {
		if n := c.LogMax(); n == Max || n > ownLogMax {
			return logMaxText(n)
		}
		return ""
	}, "a log lies on this machine's disk; up to 64M of it may be kept"},
	{"net.ports", func(c *Config) string {
		for _, p := range c.Ports() {
			if p.HostPort < privilegedPort {
				return p.String()
			}
		}
		return ""
	}, "ports below 1024 are root's to give"},
	{"net.listen", func(c *Config) string {
		for _, l := range c.Extension.Listen {
			if at, err := l.AddrPort(); l.Path() || err != nil || at.Port() < privilegedPort {
				return l.Kind + " " + l.Address
			}
		}
		return ""
	}, "paths of this machine, and ports below 1024, are root's to give"},
}

// ownLogMax is how much of a log may be kept, in bytes.
const ownLogMax = 64 << 20

// ownRlimits bound one process, and none of them bounds what is left for others.
var ownRlimits = []string{"as", "core", "cpu", "data", "fsize", "nofile", "rss", "stack"}

// ownMount reports whether a mount shows nothing that was there before.
func ownMount(m specs.Mount) bool { return !isBind(m) && (m.Type == "tmpfs" || m.Type == "mqueue") }

func sysctlWords(c *Config) string {
	var words []string
	for _, s := range c.Sysctls() {
		words = append(words, s[0]+" "+s[1])
	}
	return strings.Join(words, ", ")
}

// Permitted reports why a container with this configuration cannot belong to somebody who is not root; nil when it can. Whether the
// containers, images and networks that it names are theirs to use is for the engine to say. The error is EPERM.
func (c *Config) Permitted() error {
	for _, d := range denials {
		if value := d.value(c); value != "" {
			return notPermitted(d.file, value, d.why)
		}
	}
	if where := differs("", tree(c.guarded()), tree(NewConfig().guarded())); where != "" {
		return notPermitted("config.json", where, "only root may set that")
	}
	return nil
}

// PermittedFrom reports why somebody who is not root cannot make c of what was before: what root has asked for may stay as it is, and
// nothing that is root's to give may be added or taken away. The error is EPERM.
func (c *Config) PermittedFrom(before *Config) error {
	for _, d := range denials {
		if value := d.value(c); value != d.value(before) {
			return notPermitted(d.file, value, d.why)
		}
	}
	if where := differs("", tree(c.guarded()), tree(before.guarded())); where != "" {
		return notPermitted("config.json", where, "only root may set that")
	}
	return nil
}

// guarded is a configuration in which everything is as in a new container that anybody may set, or that denials know.
func (c *Config) guarded() *Config {
	rest, base := c.Clone(), NewConfig()
	p, b := rest.Spec.Process, base.Spec.Process
	p.Args, p.Env, p.Cwd, p.User, p.Terminal, p.ConsoleSize, p.OOMScoreAdj, p.Rlimits = b.Args, b.Env, b.Cwd, b.User, b.Terminal, b.ConsoleSize, b.OOMScoreAdj, b.Rlimits
	if caps := c.Spec.Process.Capabilities; caps != nil && len(caps.Inheritable)+len(caps.Ambient) == 0 && len(except(c.Caps(), defaultCapabilities)) == 0 {
		p.Capabilities = b.Capabilities
	}
	s := &rest.Spec
	s.Version, s.Hostname, s.Domainname, s.Annotations, s.Mounts, s.Root = base.Spec.Version, "", "", nil, base.Spec.Mounts, base.Spec.Root
	s.Linux.Namespaces = base.Spec.Linux.Namespaces
	r := s.Linux.Resources
	r.Memory, r.CPU, r.Pids, r.BlockIO, r.HugepageLimits = nil, nil, nil, nil, nil
	rest.Extension = base.Extension // each of its fields is a setting, and those that are not permitted are among the denials
	return rest
}

// SameLimits reports whether two configurations bound what a container uses alike.
func SameLimits(a, b *Config) bool {
	x, y := a.Spec.Linux.Resources, b.Spec.Linux.Resources
	return reflect.DeepEqual(x.Memory, y.Memory) && reflect.DeepEqual(x.CPU, y.CPU) && reflect.DeepEqual(x.Pids, y.Pids) &&
		reflect.DeepEqual(x.BlockIO, y.BlockIO) && reflect.DeepEqual(x.HugepageLimits, y.HugepageLimits)
}

// extensionFields is how many fields the extension has. [Config.Permitted] trusts its list to know all of them: a test counts.
const extensionFields = 21

func notPermitted(file, value, why string) error {
	return &Error{Op: "check", File: file, Value: value, Errno: syscall.EPERM, Why: why, Cure: "leave it as it is by default, or ask root for a container that belongs to root, with those files of it made yours that you need"}
}

// tree is a configuration as its JSON has it.
func tree(c *Config) any {
	var out any
	text, err := json.Marshal(c)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil { // a configuration that cannot be written down equals no other
		return err.Error()
	}
	return out
}

// differs names the first place at which two trees are not the same.
func differs(at string, a, b any) string {
	x, ok := a.(map[string]any)
	y, both := b.(map[string]any)
	if !ok || !both {
		if reflect.DeepEqual(a, b) {
			return ""
		}
		return strings.TrimPrefix(at, ".")
	}
	keys := map[string]bool{}
	for k := range x {
		keys[k] = true
	}
	for k := range y {
		keys[k] = true
	}
	var sorted []string
	for k := range keys {
		sorted = append(sorted, k)
	}
	slices.Sort(sorted)
	for _, k := range sorted {
		if where := differs(fmt.Sprint(at, ".", k), x[k], y[k]); where != "" {
			return where
		}
	}
	return ""
}
