package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// propagations maps the options that say whether mount events travel, mount_namespaces(7), to the flags of mount_setattr(2).
// The forms with r reach the mounts below too.
var propagations = map[string]uint64{
	"private": unix.MS_PRIVATE, "slave": unix.MS_SLAVE, "shared": unix.MS_SHARED, "unbindable": unix.MS_UNBINDABLE,
}

// MountOptions are the options of a mount, by what acts on them.
type MountOptions struct {
	Bind                 bool   // it shows a tree that exists
	Recursive            bool   // with what is mounted below it
	Attr                 uint64 // MOUNT_ATTR_*, which hold for the mounts below too
	Propagation          uint64 // MS_*, or 0 when nothing is said
	PropagationRecursive bool
	IDMap                bool     // shown with the ids of the container
	Create               bool     // the target is made when it is missing
	Rest                 []string // the file system's own
}

// ParseMountOptions sorts the options of a mount, which have been checked.
func ParseMountOptions(options []string) (o MountOptions) {
	var rest []string
	o.Attr, rest = split(options)
	for _, option := range rest {
		name, recursive := strings.CutPrefix(option, "r")
		key, _, _ := strings.Cut(option, "=")
		switch {
		case propagations[option] != 0:
			o.Propagation = propagations[option]
		case recursive && propagations[name] != 0:
			o.Propagation, o.PropagationRecursive = propagations[name], true
		case option == "bind":
			o.Bind = true
		case option == "rbind":
			o.Bind, o.Recursive = true, true
		case option == "idmap":
			o.IDMap = true
		case key == "x-mount.mkdir":
			o.Create = true
		default:
			o.Rest = append(o.Rest, option)
		}
	}
	return o
}

// Bind attaches a clone of a tree of the host, prepared before the launch with everything that its options say.
type Bind struct {
	Index  int // which of the prepared binds
	Source string
	Target string
	File   bool // the source is no directory
	Create bool // the target is made when it is missing
	Text   string
}

func (s Bind) String() string { return fmt.Sprintf("bind %s on %s (%s)", s.Source, s.Target, s.Text) }

// Binds are the mounts of a list that need a prepared tree, in order.
func Binds(mounts []specs.Mount) []specs.Mount {
	return slices.DeleteFunc(slices.Clone(mounts), func(m specs.Mount) bool { return !ParseMountOptions(m.Options).Bind })
}

// additional are the steps for mounts beyond the customary ones. Those that take a prepared tree are counted from bind on.
func additional(m specs.Mount, h Host, bind *int) Step {
	o := ParseMountOptions(m.Options)
	target := path.Clean(m.Destination)
	if o.Bind {
		*bind++
		at := *bind - 1
		file := at < len(h.BindFiles) && h.BindFiles[at]
		return Bind{at, m.Source, target, file, o.Create, strings.Join(m.Options, ",")}
	}
	s := Mount{Type: m.Type, Source: m.Source, Target: target, Attr: o.Attr, Options: o.Rest, Exists: !o.Create, Propagation: o.Propagation}
	if h.NoDevices(m.Options) {
		s.Attr |= unix.MOUNT_ATTR_NODEV
	}
	if m.Type == "cgroup" {
		// The second version is the only one that shows a container its own groups and nothing else. Unless asked for, not to
		// write to: that is delegation.
		s.Type, s.Source = "cgroup2", "cgroup"
		if !slices.Contains(m.Options, "rw") {
			s.Attr |= unix.MOUNT_ATTR_RDONLY
		}
	}
	return s
}

// Inside are the namespaces that a change to the mounts of a container that runs is made in, besides the mounts: those that
// kernel file systems show.
var Inside = []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.IPCNamespace, specs.CgroupNamespace, specs.PIDNamespace, specs.UserNamespace}

// Change returns the steps that change the mounts of a container that runs: what was removed goes, the last first, and what
// was added comes. The namespaces in own are the container's and not the host's.
func Change(before, after []specs.Mount, h Host, own map[specs.LinuxNamespaceType]bool) (steps []Step, binds []specs.Mount) {
	gone := Without(before, after)
	added := Without(after, before)
	steps = []Step{Fork{}, EnterMounts{}}
	for _, t := range Inside {
		if own[t] {
			steps = append(steps, Join{t, "of the container"})
		}
	}
	steps = append(steps, Clone{})
	if own[specs.UserNamespace] {
		steps = append(steps, BecomeRoot{})
	}
	for _, m := range slices.Backward(gone) {
		steps = append(steps, Detach{path.Clean(m.Destination)})
	}
	n := 0
	for _, m := range added {
		steps = append(steps, additional(m, h, &n))
	}
	return append(steps, Leave{}), Binds(added)
}

// Reached returns the mounts that there are when of the steps of [Change] only the first n were done.
func Reached(before, after []specs.Mount, steps []Step, n int) []specs.Mount {
	gone, added := Without(before, after), Without(after, before)
	detached, attached := 0, 0
	for _, s := range steps[:min(n, len(steps))] {
		switch s.(type) {
		case Detach:
			detached++
		case Bind, Mount:
			attached++
		}
	}
	return append(Without(before, gone[len(gone)-detached:]), added[:attached]...)
}

// Without returns the mounts of a that are not in b.
func Without(a, b []specs.Mount) []specs.Mount {
	return slices.DeleteFunc(slices.Clone(a), func(m specs.Mount) bool {
		return slices.ContainsFunc(b, func(n specs.Mount) bool {
			return m.Destination == n.Destination && m.Type == n.Type && m.Source == n.Source && slices.Equal(m.Options, n.Options)
		})
	})
}
