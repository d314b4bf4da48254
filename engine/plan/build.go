package plan

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// Host is what a plan depends on besides the configuration.
type Host struct {
	Name       string     // the container's: its hostname when none is configured
	Cgroup     string     // path of its groups
	Limits     []string   // in words
	Roots      []Prepared // the prepared mounts, the root itself first
	Mountpoint string     // an empty directory that only root can reach
	// Joined says of each namespace that is not made anew where it comes from, in words; [OfHost] is the host's own.
	Joined map[specs.LinuxNamespaceType]string
	// BindFiles says of each bind mount of the configuration, in order, whether its source is no directory.
	BindFiles  []bool
	Texts      []Prepared // files of the container's own, which come before the bind mounts of the configuration
	NoDev      bool       // mounts open no devices; see [NoDev]
	Controlled bool       // a devices controller holds programs to what their devices allow
	IDs        string     // the mapping of the new user namespace, in words
	LastCap    int        // the highest capability that the kernel knows, /proc/sys/kernel/cap_last_cap
	OOMGroup   bool       // the kernel kills all that is in the group, or in one around it, when memory runs out, and programs may be there
	NoFile     uint64     // the hard RLIMIT_NOFILE that can be given

	Caps              uint64  // mask of the capabilities that can be given: ctrfs's own bounding set, or all in a user namespace
	OOMScoreMin       int     // the lowest oom_score_adj that can be given: -1000 with CAP_SYS_RESOURCE
	AppArmor, SELinux bool    // whether the kernel runs with them
	Filter            *Filter // the compiled seccomp filter, nil for none
	Input             bool    // there is something to read on stdin
	Connection        bool    // stdin and stdout are a connection; for [Enter]
}

// Words of [Host.Joined] with a meaning.
const (
	OfHost   = "host"                           // the host's own, which the child is in already
	OfItself = "of its own, which others enter" // made for this container, before its start
)

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
	rights, err := rightsOf(spec, h, Stdio{Terminal: spec.Process.Terminal, Input: h.Input, Free: c.Boots()})
	if err != nil {
		return nil, err
	}
	devices, err := Devices(spec)
	if err != nil {
		return nil, err
	}
	propagation, err := rootPropagation(spec.Linux.RootfsPropagation)
	if err != nil {
		return nil, err
	}
	persona, err := personality(spec.Linux.Personality)
	if err != nil {
		return nil, err
	}
	n := namespaces{spec.Linux.Namespaces, h}
	h.NoDev = NoDev(c, n.apartFromHost())
	steps := n.enter(rights.outside, spec.Linux.TimeOffsets)
	steps = append(steps, Guard{}, JoinCgroup{h.Cgroup, h.Limits})
	if n.isNew(specs.CgroupNamespace) {
		steps = append(steps, CgroupNamespace{})
	}
	steps = append(steps, Session{})
	if n.isNew(specs.UTSNamespace) || n.joined(specs.UTSNamespace) == OfItself {
		steps = append(steps, Hostname{c.EffectiveHostname(h.Name)})
		if spec.Domainname != "" {
			steps = append(steps, Domainname{spec.Domainname})
		}
	}
	if n.isNew(specs.NetworkNamespace) {
		steps = append(steps, Network{n.joined(specs.UserNamespace) != ""})
	}
	var early []Step
	ownMounts := n.isNew(specs.MountNamespace)
	if ownMounts {
		early = append(early, Private{})
	} else if needsProc(slices.Concat(rights.early, rights.inside)) && !slices.Contains(steps, Step(HostProc{})) {
		steps = append(steps, HostProc{})
	}
	steps = append(append(steps, early...), rights.early...)
	steps = append(steps, runtimeHooks(spec.Hooks)...)
	view, err := n.view(c, h, devices, rights.inside)
	if err != nil {
		return nil, err
	}
	console, err := terminal(c, view)
	if err != nil {
		return nil, err
	}
	steps = append(append(steps, view...), console...)
	if ownMounts {
		steps = append(steps, propagation...)
	}
	steps = append(steps, persona...)
	steps = append(steps, rights.late...)
	steps = append(steps, startHooks(spec.Hooks, rights.last)...)
	if c.Inetd() {
		return append(append(steps, rights.last...), Await{}), nil
	}
	last, env := listening(c, h.Name, rights.last, spec.Process.Env)
	if c.Init() {
		last = withReaper(last)
	}
	steps = append(steps, last...)
	return append(steps, Exec{candidates(spec.Process), spec.Process.Args, env}), nil
}

// basic are the places that a system's own file systems have: those of the customary mounts, whatever is mounted there.
var basic = []string{"/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"}

// files are the steps that make the container's view of files, in the order of the configuration: what is mounted on /dev
// belongs below /dev/pts. Only procfs and sysfs come before the old root goes: a kernel that lets a user namespace mount
// them wants to see that the old ones were visible.
func files(c *engine.Config, h Host, n namespaces, devices []Device, inside []Step) []Step {
	spec := &c.Spec
	var steps, early, late []Step
	bind := len(h.Texts)
	for i, t := range h.Texts {
		late = append(late, Bind{i, t.Text, t.Target, true, true, "nosuid,nodev,noexec"})
	}
	h.BindFiles = slices.Concat(slices.Repeat([]bool{true}, len(h.Texts)), h.BindFiles)
	for _, m := range spec.Mounts {
		o := ParseMountOptions(m.Options)
		if o.Bind || !slices.Contains(basic, path.Clean(m.Destination)) {
			late = append(late, additional(m, h, &bind))
			continue
		}
		target := path.Clean(m.Destination)
		kernel := m.Type == "proc" || m.Type == "sysfs"
		if shows, ok := shown[m.Type]; ok && !n.owns(shows) {
			if hostMounts[m.Type] == "" {
				continue
			}
			steps = append(steps, Borrow{m.Type, hostMounts[m.Type]})
			early = append(early, PlaceBorrowed{m.Type, target})
			continue
		}
		// A link in the place of /proc, /sys or /dev can only be meant to deceive.
		step := Mount{Type: m.Type, Source: m.Source, Target: target, Attr: o.Attr, Options: o.Rest, Propagation: o.Propagation, Strict: true}
		if h.NoDev && m.Type != "devpts" { // where nobody makes nodes
			step.Attr |= unix.MOUNT_ATTR_NODEV
		}
		if kernel {
			early = append(early, step)
		} else {
			late = append(late, step)
		}
	}
	for i, r := range h.Roots {
		if i == 0 {
			placing := createHooks(spec.Hooks, h, n.apartFromHost())
			steps = append(append(steps, placing...), Root{r.Text, h.Mountpoint, len(placing) > 0})
			// Not earlier: only the host's root reaches the mountpoint, which it owns, whatever its rights. Not later: what
			// is made in the root belongs to the container's.
			if n.apartFromHost() {
				steps = append(steps, BecomeRoot{})
			}
			steps = append(steps, inside...)
		} else {
			steps = append(steps, Attach{i, r.Target, r.Text})
		}
	}
	steps = append(steps, early...)
	steps = append(steps, DropOldRoot{})
	steps = append(steps, late...)
	steps = append(steps, PlaceDevices{devices})
	for _, l := range deviceLinks {
		steps = append(steps, l)
	}
	for _, p := range spec.Linux.ReadonlyPaths {
		steps = append(steps, ReadOnly{path.Clean(p)})
	}
	for _, p := range spec.Linux.MaskedPaths {
		steps = append(steps, Mask{path.Clean(p)})
	}
	return append(steps, Chdir{path.Clean(spec.Process.Cwd), false})
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
