package plan

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// The steps that show and hide single files.
type (
	// PlaceDevices binds device nodes of the host. They come as detached mounts, taken by the server from descriptors whose
	// numbers it has verified: no path that the container could have a hand in is looked up. A node that is made in a user
	// namespace would open nothing.
	PlaceDevices struct{ Devices []Device }
	// Link makes a symbolic link unless something is there already.
	Link struct{ Target, Path string }
	// ReadOnly makes a path read-only, with everything mounted below it.
	ReadOnly struct{ Path string }
	// Mask hides a file behind the null device that [PlaceDevices] bound, a directory behind an empty one.
	Mask struct{ Path string }
)

// Device is a device node: the host's own, seen at a path of the container.
type Device struct {
	Path         string // in the container, clean and absolute
	Block        bool   // else it is a character device
	Major, Minor uint32
	// What the configuration wants the node to have, nil for whatever the host's has. A bind cannot change them.
	Mode     *os.FileMode
	UID, GID *uint32
}

// Number prints the device's type and number as devices.list of the devices controller does.
func (d Device) Number() string {
	kind := 'c'
	if d.Block {
		kind = 'b'
	}
	return fmt.Sprintf("%c %d:%d", kind, d.Major, d.Minor)
}

// Null reports whether it is the null device.
func (d Device) Null() bool { return !d.Block && d.Major == 1 && d.Minor == 3 }

func (s PlaceDevices) String() string {
	list := make([]string, len(s.Devices))
	for i, d := range s.Devices {
		list[i] = fmt.Sprintf("%s (%s)", d.Path, d.Number())
	}
	return "bind the host's " + strings.Join(list, ", ")
}
func (s Link) String() string     { return "link " + s.Path + " -> " + s.Target }
func (s ReadOnly) String() string { return "make read-only " + s.Path }
func (s Mask) String() string     { return "mask " + s.Path }

// deviceNodes are the customary nodes of /dev, by the numbers of Documentation/admin-guide/devices.txt.
var deviceNodes = []Device{
	{Path: "/dev/null", Major: 1, Minor: 3}, {Path: "/dev/zero", Major: 1, Minor: 5}, {Path: "/dev/full", Major: 1, Minor: 7},
	{Path: "/dev/random", Major: 1, Minor: 8}, {Path: "/dev/urandom", Major: 1, Minor: 9}, {Path: "/dev/tty", Major: 5, Minor: 0},
}

// deviceLinks are the customary links of /dev.
var deviceLinks = []Link{
	{"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"},
	{"/proc/self/fd/2", "/dev/stderr"}, {"pts/ptmx", "/dev/ptmx"},
}

// The kernel's bounds on device numbers, include/linux/kdev_t.h.
const (
	majorMax = 1<<12 - 1
	minorMax = 1<<20 - 1
)

// Devices returns the nodes that a container gets, in the order in which a launch wants their mounts: the customary ones, and
// those of the configuration, which may put another device at a customary path. The null device itself stays where it is:
// masking relies on it.
func Devices(spec *specs.Spec) ([]Device, error) {
	all := slices.Clone(deviceNodes)
	for _, d := range spec.Linux.Devices {
		node := Device{Path: path.Clean(d.Path), Block: d.Type == "b", Major: uint32(d.Major), Minor: uint32(d.Minor),
			Mode: d.FileMode, UID: d.UID, GID: d.GID}
		at := slices.IndexFunc(all, func(have Device) bool { return have.Path == node.Path })
		switch {
		case d.Type == "p":
			return nil, &engine.Error{Op: "start", File: "devices", Value: d.Path, Errno: syscall.EOPNOTSUPP,
				Why: "a FIFO is no device", Cure: "have the program make it: mkfifo"}
		case !slices.Contains([]string{"c", "u", "b"}, d.Type):
			return nil, engine.Invalid("devices", d.Type, "no type of device", "write c or b")
		case d.Major < 0 || d.Major > majorMax || d.Minor < 0 || d.Minor > minorMax:
			return nil, engine.Invalid("devices", fmt.Sprintf("%d:%d", d.Major, d.Minor), "no device number", "see ls -l on the host's node")
		case !strings.HasPrefix(d.Path, "/") || node.Path == "/" || strings.ContainsRune(d.Path, 0):
			return nil, engine.Invalid("devices", d.Path, "not the absolute path of a node", "write a path such as /dev/fuse")
		case at == 0 && !node.Null():
			return nil, engine.Invalid("devices", node.Path, "another device in the place of the null device", "choose another path")
		case at >= 0:
			all[at] = node
		default:
			all = append(all, node)
		}
	}
	return all, nil
}
