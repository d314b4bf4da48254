package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// The steps that show and hide single files.
type (
	// PlaceDevices binds device nodes. They come as detached mounts, which the server takes from descriptors whose numbers it
	// has verified, or of nodes that it makes: no path that the container could have a hand in is looked up. The child cannot
	// make them: a node that is made in a user namespace opens nothing.
	PlaceDevices struct{ Devices []Device }
	// Link makes a symbolic link unless something is there already.
	Link struct{ Target, Path string }
	// ReadOnly makes a path read-only, with everything mounted below it.
	ReadOnly struct{ Path string }
	// Mask hides a file behind the null device that [PlaceDevices] bound, a directory behind an empty one.
	Mask struct{ Path string }
)

// Device is a device node at a path of the container.
type Device struct {
	Path         string // clean and absolute
	Kind         byte   // 'c' character, 'b' block, 'p' a FIFO, which has no number
	Major, Minor uint32
	Own          bool   // a node made for this container, else the host's
	Mode         uint32 // permission bits of an own node
	UID, GID     uint32 // ids, in the container, of who has an own node
}

// NoDev reports whether mounts of a container are such that device nodes open nothing on them. So it is where a node that is made
// with mknod(2) would be one: with the host's user namespace. The devices controller holds the program to its list; this is a
// second wall, for a container that is not meant to open what it makes. Its devices, or the option dev of a mount, say that it is.
func NoDev(c *engine.Config, ownIDs bool) bool {
	return !ownIDs && !c.AllDevices()
}

// NoDevices applies [NoDev] to one mount. Without a controller, the option dev would open every device there is.
func (h Host) NoDevices(options []string) bool {
	return h.NoDev && !(h.Controlled && slices.Contains(options, "dev"))
}

// Number prints the device's type and number as devices.list of the devices controller does.
func (d Device) Number() string { return fmt.Sprintf("%c %d:%d", d.Kind, d.Major, d.Minor) }

// Null reports whether it is the null device.
func (d Device) Null() bool { return d.Kind == 'c' && d.Major == 1 && d.Minor == 3 }

func (d Device) String() string {
	if d.Own {
		return fmt.Sprintf("a new %s (%s mode %04o of %d:%d)", d.Path, d.Number(), d.Mode, d.UID, d.GID)
	}
	return fmt.Sprintf("the host's %s (%s)", d.Path, d.Number())
}

func (s PlaceDevices) String() string {
	list := make([]string, len(s.Devices))
	for i, d := range s.Devices {
		list[i] = d.String()
	}
	return "bind " + strings.Join(list, ", ")
}
func (s Link) String() string     { return "link " + s.Path + " -> " + s.Target }
func (s ReadOnly) String() string { return "make read-only " + s.Path }
func (s Mask) String() string     { return "mask " + s.Path }

// deviceNodes are the customary nodes of /dev, by the numbers of Documentation/admin-guide/devices.txt.
var deviceNodes = []Device{
	{Path: "/dev/null", Kind: 'c', Major: 1, Minor: 3}, {Path: "/dev/zero", Kind: 'c', Major: 1, Minor: 5},
	{Path: "/dev/full", Kind: 'c', Major: 1, Minor: 7}, {Path: "/dev/random", Kind: 'c', Major: 1, Minor: 8},
	{Path: "/dev/urandom", Kind: 'c', Major: 1, Minor: 9}, {Path: "/dev/tty", Kind: 'c', Major: 5, Minor: 0},
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

// deviceKinds maps the types of a configuration; u is what mknod(1) calls an unbuffered character device.
var deviceKinds = map[string]byte{"c": 'c', "u": 'c', "b": 'b', "p": 'p'}

// ownMode are the permission bits of a node that the configuration gives none, as in crun: the devices controller says who may
// use it.
const ownMode = 0o666

// Devices returns the nodes that a container gets, in the order in which a launch wants their mounts: the customary ones, and
// those of the configuration, which may put another device at a customary path. The null device itself stays where it is:
// masking relies on it.
func Devices(spec *specs.Spec) ([]Device, error) {
	all := slices.Clone(deviceNodes)
	for i := range spec.Linux.Devices {
		node, err := deviceOf(&spec.Linux.Devices[i])
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(all, func(have Device) bool { return have.Path == node.Path })
		switch {
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

// deviceOf checks one device of a configuration. One that is customary anyway is the host's.
func deviceOf(d *specs.LinuxDevice) (Device, error) {
	kind, ok := deviceKinds[d.Type]
	node := Device{Path: path.Clean(d.Path), Kind: kind, Major: uint32(d.Major), Minor: uint32(d.Minor)}
	switch {
	case !ok:
		return node, engine.Invalid("devices", d.Type, "no type of device", "write c, b or p")
	case d.Major < 0 || d.Major > majorMax || d.Minor < 0 || d.Minor > minorMax:
		return node, engine.Invalid("devices", fmt.Sprintf("%d:%d", d.Major, d.Minor), "no device number", "see ls -l on the host's node")
	case !strings.HasPrefix(d.Path, "/") || node.Path == "/" || strings.ContainsRune(d.Path, 0):
		return node, engine.Invalid("devices", d.Path, "not the absolute path of a node", "write a path such as /dev/fuse")
	}
	if d.FileMode == nil && d.UID == nil && d.GID == nil && slices.Contains(deviceNodes, node) {
		return node, nil
	}
	node.Own, node.Mode = true, ownMode
	if d.FileMode != nil {
		node.Mode = uint32(*d.FileMode) & 0o777
	}
	if d.UID != nil {
		node.UID = *d.UID
	}
	if d.GID != nil {
		node.GID = *d.GID
	}
	return node, nil
}
