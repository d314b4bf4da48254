package launch

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/plan"
)

// Nodes are the device nodes of the host that containers have used: each is looked up and verified once, by its number, and
// kept by a descriptor. The zero value is ready; it is safe for concurrent use.
type Nodes struct {
	mu   sync.Mutex // guards open, and what is in it
	open map[string]*os.File
}

// IDs are the mappings of a container's user namespace. Without any, ids are the host's.
type IDs struct{ UIDs, GIDs []specs.LinuxIDMapping }

// Take returns a detached mount of each device's node, for [Files.Devices]: the host's, or a new one. The caller closes them.
// ENOENT: the host has no such device; EINVAL: the owner of a new node has no place in the mappings.
func (n *Nodes) Take(devices []plan.Device, ids IDs) ([]*os.File, error) {
	mounts := make([]*os.File, len(devices))
	err := n.bind(devices, mounts)
	if err == nil && slices.ContainsFunc(devices, func(d plan.Device) bool { return d.Own }) {
		err = onOwnThread(func() error { return makeNodes(devices, ids, mounts) })
	}
	if err == nil {
		return mounts, nil
	}
	for _, m := range mounts {
		if m != nil {
			m.Close()
		}
	}
	return nil, err
}

// bind fills in the mounts of the host's nodes.
func (n *Nodes) bind(devices []plan.Device, mounts []*os.File) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, d := range devices {
		if d.Own {
			continue
		}
		node, err := n.node(d)
		if err == nil {
			mounts[i], err = cloneMount(int(node.Fd()), "", d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cloneMount makes a detached mount of what is at a path below a directory, or of the descriptor itself.
func cloneMount(dir int, name string, d plan.Device) (*os.File, error) {
	fd, err := unix.OpenTree(dir, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return nil, fmt.Errorf("open_tree %s: %w", d.Path, err)
	}
	return os.NewFile(uintptr(fd), d.Path), nil
}

// onOwnThread runs f on a thread that ends with it.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: what f has done to the thread goes with it
		done <- f()
	}()
	return <-done
}

// makeNodes makes the nodes that are a container's own, on a tmpfs that nothing but their mounts keeps. The tmpfs is attached
// to a mount namespace of this thread's: kernels before 6.15 clone no mount that is attached nowhere. It is mounted with the
// host's rights, so that the nodes open their devices in any user namespace.
func makeNodes(devices []plan.Device, ids IDs, mounts []*os.File) error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	unix.Umask(0)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	dir, err := attachTmpfs()
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	for i, d := range devices {
		if !d.Own {
			continue
		}
		name := strconv.Itoa(i)
		if err := makeNode(dir, name, d, ids); err != nil {
			return &engine.Error{Op: "start", File: "devices", Value: d.Path, Errno: engine.Errno(err), Why: "its node cannot be made", Err: err}
		}
		if mounts[i], err = cloneMount(dir, name, d); err != nil {
			return err
		}
	}
	return nil
}

// attachTmpfs mounts a tmpfs over the root of this thread's mount namespace and returns its directory.
func attachTmpfs() (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	dir, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsmount", err)
	}
	if err := unix.MoveMount(dir, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		unix.Close(dir)
		return -1, os.NewSyscallError("move_mount", err)
	}
	return dir, nil
}

// nodeTypes are the bits of mknod(2).
var nodeTypes = map[byte]uint32{'c': unix.S_IFCHR, 'b': unix.S_IFBLK, 'p': unix.S_IFIFO}

func makeNode(dir int, name string, d plan.Device, ids IDs) error {
	uid, err := hostID(ids.UIDs, d.UID)
	if err != nil {
		return err
	}
	gid, err := hostID(ids.GIDs, d.GID)
	if err != nil {
		return err
	}
	if err := unix.Mknodat(dir, name, nodeTypes[d.Kind]|d.Mode, int(unix.Mkdev(d.Major, d.Minor))); err != nil {
		return os.NewSyscallError("mknod", err)
	}
	return os.NewSyscallError("chown", unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW))
}

// hostID is the host's id for one of the container's.
func hostID(maps []specs.LinuxIDMapping, id uint32) (int, error) {
	if len(maps) == 0 {
		return int(id), nil
	}
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return int(m.HostID + (id - m.ContainerID)), nil
		}
	}
	return 0, fmt.Errorf("id %d is not mapped: %w", id, syscall.EINVAL)
}

// node returns the verified node, opened at its first use.
func (n *Nodes) node(d plan.Device) (*os.File, error) {
	if f := n.open[d.Number()]; f != nil {
		return f, nil
	}
	f, err := OpenDevice(d)
	if err != nil {
		return nil, err
	}
	if n.open == nil {
		n.open = map[string]*os.File{}
	}
	n.open[d.Number()] = f
	return f, nil
}

// Close closes the descriptors.
func (n *Nodes) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range n.open {
		f.Close()
	}
	n.open = nil
}

// OpenDevice finds the host's node of a device, at the path itself or else where the kernel says that it is, and opens it with
// O_PATH. The result is verified: it is a node of that type and number, whatever its path was.
func OpenDevice(d plan.Device) (*os.File, error) {
	paths := []string{d.Path}
	if name := deviceName(d); name != "" {
		paths = append(paths, filepath.Join("/dev", name))
	}
	for _, p := range paths {
		fd, err := unix.Open(p, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		f := os.NewFile(uintptr(fd), p)
		if is(d, f) {
			return f, nil
		}
		f.Close()
	}
	return nil, &engine.Error{Op: "start", File: "devices", Value: d.Number(), Errno: syscall.ENOENT,
		Why: "the host's /dev has no such device", Cure: "load its driver, or take it out of devices"}
}

// is reports whether a descriptor is the device's node.
func is(d plan.Device, f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == nodeTypes[d.Kind] && st.Rdev == unix.Mkdev(d.Major, d.Minor)
}

// deviceName asks sysfs what the kernel calls a device: DEVNAME of its uevent, a path below /dev, or "".
func deviceName(d plan.Device) string {
	kind := "char"
	if d.Kind == 'b' {
		kind = "block"
	}
	text, err := os.ReadFile(fmt.Sprintf("/sys/dev/%s/%d:%d/uevent", kind, d.Major, d.Minor))
	if err != nil {
		return ""
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if name, ok := strings.CutPrefix(line, "DEVNAME="); ok && filepath.IsLocal(name) {
			return name
		}
	}
	return ""
}

// Bounding returns this process's own capability bounding set: what a child can be given without a user namespace.
func Bounding() (mask uint64) {
	for c := range 64 {
		if in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == nil && in == 1 {
			mask |= 1 << c
		}
	}
	return mask
}
