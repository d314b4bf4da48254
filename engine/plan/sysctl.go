package plan

import (
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// The steps that set kernel parameters of the new namespaces, sysctl(8).
type (
	// OpenProc mounts a procfs that is attached nowhere. What is written through it reaches the kernel, whatever the root has
	// at /proc, and no container can be in its way.
	OpenProc struct{}
	// Sysctl writes one value through it.
	Sysctl struct{ Name, Path, Value string }
)

func (OpenProc) String() string {
	return "mount a procfs out of everybody's sight, for kernel parameters"
}
func (s Sysctl) String() string { return "set kernel parameter " + s.Name + " = " + s.Value }

// namespaced lists the kernel parameters that belong to a namespace, by the beginning of their names. Every other one
// belongs to the host. Of net.*, the kernel shows a new network namespace only what is its own.
var namespaced = []struct {
	name string // a prefix if it ends in a dot
	in   specs.LinuxNamespaceType
}{
	{"net.", specs.NetworkNamespace},
	{"fs.mqueue.", specs.IPCNamespace},
	{"kernel.domainname", specs.UTSNamespace},
	{"kernel.msgmax", specs.IPCNamespace}, {"kernel.msgmnb", specs.IPCNamespace}, {"kernel.msgmni", specs.IPCNamespace},
	{"kernel.sem", specs.IPCNamespace}, {"kernel.shmall", specs.IPCNamespace}, {"kernel.shmmax", specs.IPCNamespace},
	{"kernel.shmmni", specs.IPCNamespace}, {"kernel.shm_rmid_forced", specs.IPCNamespace},
	{"kernel.msg_next_id", specs.IPCNamespace}, {"kernel.sem_next_id", specs.IPCNamespace}, {"kernel.shm_next_id", specs.IPCNamespace},
	{"user.", specs.UserNamespace},
}

// sysctls are the steps for the kernel parameters. Their names are checked again here, right where they become paths of the
// kernel's, however the configuration came about: one of the host's, such as kernel.core_pattern, is a way out.
func sysctls(spec *specs.Spec, h Host) ([]Step, error) {
	if len(spec.Linux.Sysctl) == 0 {
		return nil, nil
	}
	steps := []Step{OpenProc{}}
	for _, name := range slices.Sorted(maps.Keys(spec.Linux.Sysctl)) {
		file, ok := sysctlPath(name)
		if !ok {
			return nil, engine.Invalid("sysctl", name, "not a kernel parameter's name", "write it with dots, as sysctl -a prints it")
		}
		value := spec.Linux.Sysctl[name]
		if strings.ContainsAny(value, "\x00\n") {
			return nil, engine.Invalid("sysctl", value, "a NUL byte or a line break", "write the value on one line")
		}
		if !owned(name, spec.Linux.Namespaces, h) {
			return nil, &engine.Error{Op: "start", File: "sysctl", Value: name, Errno: syscall.EINVAL,
				Why: "it belongs to the host, or to a namespace that the container has not for itself", Cure: "set it on the host"}
		}
		steps = append(steps, Sysctl{name, file, value})
	}
	return steps, nil
}

// owned reports whether a parameter belongs to one of the namespaces. One of another container's may turn out to be the host's.
func owned(name string, namespaces []specs.LinuxNamespace, h Host) bool {
	for _, row := range namespaced {
		if name == row.name || strings.HasSuffix(row.name, ".") && strings.HasPrefix(name, row.name) {
			return h.Joined[row.in] != OfHost && slices.ContainsFunc(namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == row.in })
		}
	}
	return false
}

// sysctlPath turns a name into a path below procfs. As in sysctl(8), a slash in a name stands for a dot in a file name:
// net.ipv4.conf.eth0/100.rp_filter.
func sysctlPath(name string) (string, bool) {
	parts := strings.Split(name, ".")
	for i, part := range parts {
		part = strings.ReplaceAll(part, "/", ".")
		if part == "" || part == "." || part == ".." || strings.ContainsFunc(part, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return "", false
		}
		parts[i] = part
	}
	return "sys/" + strings.Join(parts, "/"), len(parts) > 1
}
