package plan

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// namespaces are a container's, as its specification lists them: one that is not listed is the host's.
type namespaces struct {
	list []specs.LinuxNamespace
	host Host
}

// joins is the order in which namespaces are entered. All are before the user namespace, in which there is no right to enter
// another one's. A pid namespace takes effect for the child that follows.
var joins = []specs.LinuxNamespaceType{
	specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.TimeNamespace, specs.PIDNamespace,
	specs.MountNamespace, specs.UserNamespace,
}

// apart are the namespaces that clone3(2) does not make for a launch. The root of a cgroup namespace is the group that its
// maker is in, and the child joins its group later. A network namespace is made ahead, and with it the user namespace that
// owns it. A time namespace cannot be had by a child that shares its parent's memory (kernel/time/namespace.c).
var apart = []specs.LinuxNamespaceType{
	specs.CgroupNamespace, specs.NetworkNamespace, specs.UserNamespace, specs.TimeNamespace,
}

// shown says which namespace a kernel file system shows: only who owns that namespace may mount it.
var shown = map[string]specs.LinuxNamespaceType{
	"proc": specs.PIDNamespace, "sysfs": specs.NetworkNamespace, "mqueue": specs.IPCNamespace,
}

// hostMounts is where every host has those file systems. Message queues are not everywhere: who shares them does without.
var hostMounts = map[string]string{"proc": "/proc", "sysfs": "/sys"}

// isNew reports whether the container is to have a namespace of that type that nobody has had.
func (n namespaces) isNew(t specs.LinuxNamespaceType) bool {
	return n.host.Joined[t] == "" && slices.ContainsFunc(n.list, func(ns specs.LinuxNamespace) bool { return ns.Type == t })
}

// joined is where a namespace comes from that exists already, or "".
func (n namespaces) joined(t specs.LinuxNamespaceType) string {
	if from := n.host.Joined[t]; from != OfHost {
		return from
	}
	return ""
}

// owns reports whether the container's user namespace owns its namespace of that type. Of those that are joined this is so
// when the user namespace is joined with them, as in a pod.
func (n namespaces) owns(t specs.LinuxNamespaceType) bool {
	if !n.apartFromHost() {
		return true // it is the host's, which owns all
	}
	return n.isNew(t) || n.joined(t) != "" && n.joined(specs.UserNamespace) != ""
}

// enter are the steps from the keeper's namespaces to the container's. outside are those that need the host's ids and rights,
// and offsets the clocks of a new time namespace.
func (n namespaces) enter(outside []Step, offsets map[string]specs.LinuxTimeOffset) []Step {
	var before, made []Step
	for _, t := range joins {
		switch from := n.joined(t); {
		case from != "":
			before = append(before, Join{t, from})
		case t == specs.UserNamespace && n.isNew(t):
			before = append(before, Join{t, "with ids " + n.host.IDs})
		}
	}
	before = append(before, n.newTime(offsets)...)
	// A child that shares the keeper's memory takes the keeper with it when the kernel kills all of a group, see [Enter].
	copied := n.host.OOMGroup || n.isNew(specs.TimeNamespace) || n.joined(specs.TimeNamespace) != ""
	if len(before) > 0 || n.host.OOMGroup {
		made = append(append([]Step{Fork{copied}}, outside...), before...)
		outside = nil
	}
	var clone Clone
	for _, ns := range n.list {
		if n.isNew(ns.Type) && !slices.Contains(apart, ns.Type) {
			clone.Namespaces = append(clone.Namespaces, ns.Type)
		}
	}
	return append(append(made, clone), outside...)
}

// newTime are the steps that make a time namespace. Who makes one is not in it, but the next child is, and only one with
// memory of its own; Linux 6.3 and later put it there at execve(2), too. The user namespace that has been entered by then
// owns it.
func (n namespaces) newTime(offsets map[string]specs.LinuxTimeOffset) []Step {
	if !n.isNew(specs.TimeNamespace) {
		return nil
	}
	step := TimeNamespace{timeOffsets(offsets)}
	if !n.isNew(specs.MountNamespace) && needsProc([]Step{step}) {
		return []Step{HostProc{}, step}
	}
	return []Step{step}
}

// apartFromHost reports whether the container has another user namespace than the host's.
func (n namespaces) apartFromHost() bool {
	return n.isNew(specs.UserNamespace) || n.joined(specs.UserNamespace) != ""
}
