package plan

import (
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// Host is what a plan depends on besides the configuration.
type Host struct {
	Name       string     // the container's: its hostname when none is configured
	Cgroup     string     // path of its groups
	Limits     []string   // in words
	Roots      []Prepared // the prepared mounts, the root itself first
	Mountpoint string     // an empty directory that only root can reach
	LastCap    int        // the highest capability that the kernel knows, /proc/sys/kernel/cap_last_cap
	NoFile     uint64     // the hard RLIMIT_NOFILE that can be given
}

// Prepared describes one mount that exists already and is waiting to be attached.
type Prepared struct{ Target, Text string }

// defaultNoFile is the soft limit on descriptors that programs expect. The server's own is higher, and programs that
// close every possible descriptor or use select(2) break on that.
const defaultNoFile = 1024

// Build returns the steps that launch a container. The errors are those of values that no single setting could check. A
// configuration without a program gives a plan that ends in [Exec] without candidates, for reading only.
func Build(c *engine.Config, h Host) ([]Step, error) {
	spec := &c.Spec
	if err := c.Validate(); err != nil {
		return nil, err
	}
	rights, err := rightsOf(spec, h)
	if err != nil {
		return nil, err
	}
	steps := []Step{
		Clone{cloned(spec.Linux.Namespaces)},
		Guard{},
		JoinCgroup{h.Cgroup, h.Limits},
		CgroupNamespace{},
		Session{},
		Hostname{c.EffectiveHostname(h.Name)},
		Network{},
		Private{},
		TakeDevices{deviceNodes},
	}
	steps = append(steps, files(spec, h)...)
	steps = append(steps, rights...)
	return append(steps, Stdio{}, CloseRest{}, Exec{candidates(spec.Process), spec.Process.Args, spec.Process.Env}), nil
}

// cloned are the namespaces that clone3(2) makes. The cgroup namespace is not one: its root is the group that its maker is
// in, and the child joins its group later. Nor is the network namespace, which is made ahead.
func cloned(all []specs.LinuxNamespace) (out []specs.LinuxNamespaceType) {
	for _, ns := range all {
		if ns.Type != specs.CgroupNamespace && ns.Type != specs.NetworkNamespace {
			out = append(out, ns.Type)
		}
	}
	return out
}

// files are the steps that make the container's view of files. The new procfs and sysfs come before the old root goes: a
// kernel that lets a user namespace mount them wants to see that the old ones were visible.
func files(spec *specs.Spec, h Host) []Step {
	var early, late []Step
	for _, m := range spec.Mounts {
		attr, options := split(m.Options)
		target := path.Clean(m.Destination)
		kernel := m.Type == "proc" || m.Type == "sysfs"
		// A link in the place of /proc, /sys or /dev can only be meant to deceive.
		strict := kernel || strings.HasPrefix(target+"/", "/dev/")
		step := Mount{Type: m.Type, Source: m.Source, Target: target, Attr: attr, Options: options, Strict: strict}
		if kernel {
			early = append(early, step)
		} else {
			late = append(late, step)
		}
	}
	var steps []Step
	for i, r := range h.Roots {
		if i == 0 {
			steps = append(steps, Root{r.Text, h.Mountpoint})
		} else {
			steps = append(steps, Attach{i, r.Target, r.Text})
		}
	}
	steps = append(steps, early...)
	steps = append(steps, DropOldRoot{})
	steps = append(steps, late...)
	steps = append(steps, PlaceDevices{deviceNodes})
	for _, l := range deviceLinks {
		steps = append(steps, l)
	}
	for _, p := range spec.Linux.ReadonlyPaths {
		steps = append(steps, ReadOnly{path.Clean(p)})
	}
	for _, p := range spec.Linux.MaskedPaths {
		steps = append(steps, Mask{path.Clean(p)})
	}
	return append(steps, Chdir{path.Clean(spec.Process.Cwd)})
}

// rightsOf are the steps that give up rights, in the only order that works: the bounding set needs CAP_SETPCAP, changing
// user needs CAP_SETUID, and what is left is set last.
func rightsOf(spec *specs.Spec, h Host) ([]Step, error) {
	steps, err := limits(spec.Process.Rlimits, h)
	if err != nil {
		return nil, err
	}
	caps := spec.Process.Capabilities
	if caps == nil {
		caps = &specs.LinuxCapabilities{}
	}
	var sets [3]uint64
	for i, names := range [][]string{caps.Bounding, caps.Permitted, caps.Effective} {
		mask, unknown := capabilityMask(names)
		if unknown != "" {
			return nil, engine.Invalid("capabilities", unknown, "no such capability", "see capabilities(7) for the names")
		}
		sets[i] = mask
	}
	var drop []int
	for i := 0; i <= h.LastCap; i++ {
		if sets[0]&(1<<i) == 0 {
			drop = append(drop, i)
		}
	}
	steps = append(steps, Bound{drop})
	u := spec.Process.User
	if u.UID != 0 || u.GID != 0 || len(u.AdditionalGids) > 0 {
		steps = append(steps, User{u.UID, u.GID, u.AdditionalGids})
	}
	if u.UID == 0 {
		steps = append(steps, Capabilities{sets[1], sets[2]})
	}
	if spec.Process.NoNewPrivileges {
		steps = append(steps, NoNewPrivileges{})
	}
	mask := uint32(0o022)
	if u.Umask != nil {
		mask = *u.Umask & 0o777
	}
	return append(steps, Umask{mask}), nil
}

// limits are the resource limits: the configured ones, and the customary limit on descriptors when it is not among them.
func limits(configured []specs.POSIXRlimit, h Host) ([]Step, error) {
	var steps []Step
	nofile := false
	for _, r := range configured {
		number, ok := rlimits[r.Type]
		if !ok {
			return nil, engine.Invalid("rlimits", r.Type, "no such limit", "see getrlimit(2) for the names")
		}
		nofile = nofile || r.Type == "RLIMIT_NOFILE"
		steps = append(steps, Rlimit{r.Type, number, r.Soft, r.Hard})
	}
	if !nofile {
		steps = append(steps, Rlimit{"RLIMIT_NOFILE", rlimits["RLIMIT_NOFILE"], min(defaultNoFile, h.NoFile), h.NoFile})
	}
	return steps, nil
}

// candidates are the paths that execvp(3) would try: the name itself when it holds a slash, else one in each directory of
// the container's own PATH.
func candidates(p *specs.Process) []string {
	if len(p.Args) == 0 {
		return nil
	}
	name := p.Args[0]
	if strings.Contains(name, "/") {
		return []string{name}
	}
	search := engine.DefaultPath
	for _, e := range p.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v
		}
	}
	var out []string
	for dir := range strings.SplitSeq(search, ":") {
		if dir == "" {
			dir = "."
		}
		out = append(out, path.Join(dir, name))
	}
	return out
}
