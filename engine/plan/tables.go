package plan

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// attributes maps the mount options that are the kernel's own to the attributes of fsmount(2) and mount_setattr(2). Every
// other option belongs to the file system.
var attributes = []struct {
	option string
	attr   uint64
}{
	{"ro", unix.MOUNT_ATTR_RDONLY},
	{"nosuid", unix.MOUNT_ATTR_NOSUID},
	{"nodev", unix.MOUNT_ATTR_NODEV},
	{"noexec", unix.MOUNT_ATTR_NOEXEC},
	{"noatime", unix.MOUNT_ATTR_NOATIME},
	{"strictatime", unix.MOUNT_ATTR_STRICTATIME},
	{"nodiratime", unix.MOUNT_ATTR_NODIRATIME},
	{"nosymfollow", unix.MOUNT_ATTR_NOSYMFOLLOW},
	// What a mount is anyway.
	{"rw", 0}, {"suid", 0}, {"dev", 0}, {"exec", 0}, {"diratime", 0}, {"symfollow", 0},
	{"relatime", 0}, // the kernel's default
}

// split divides mount options into attributes and what the file system is told.
func split(options []string) (attr uint64, rest []string) {
next:
	for _, o := range options {
		for _, a := range attributes {
			if a.option == o {
				attr |= a.attr
				continue next
			}
		}
		rest = append(rest, o)
	}
	return attr, rest
}

// attrNames is the inverse of split, for printing.
func attrNames(attr uint64) []string {
	var names []string
	for _, a := range attributes {
		if a.attr != 0 && attr&a.attr == a.attr {
			names = append(names, a.option)
		}
	}
	return names
}

// capabilityMask turns names into a bit set; the second result is a name that does not exist, or "".
func capabilityMask(names []string) (mask uint64, unknown string) {
	for _, name := range names {
		i := slices.Index(engine.CapabilityNames, capPrefix+strings.TrimPrefix(name, capPrefix))
		if i < 0 {
			return 0, name
		}
		mask |= 1 << i
	}
	return mask, ""
}

// capabilityNames is the inverse of capabilityMask, for printing.
func capabilityNames(mask uint64) []string {
	var names []string
	for i, name := range engine.CapabilityNames {
		if mask&(1<<i) != 0 {
			names = append(names, strings.TrimPrefix(name, capPrefix))
		}
	}
	return names
}

// capPrefix begins a capability's full name, which is left out where people read many.
const capPrefix = "CAP_"

// rlimits maps the names of OCI process.rlimits to the numbers of getrlimit(2).
var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}
