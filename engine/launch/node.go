package launch

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

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

// Take returns a detached mount of each device's node, for [Files.Devices]. The caller closes them. ENOENT: the host has no
// such device; EOPNOTSUPP: its node is not as the configuration wants it to be.
func (n *Nodes) Take(devices []plan.Device) (mounts []*os.File, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer func() {
		if err != nil {
			for _, m := range mounts {
				m.Close()
			}
			mounts = nil
		}
	}()
	for _, d := range devices {
		node, err := n.node(d)
		if err != nil {
			return mounts, err
		}
		if err := fits(d, node); err != nil {
			return mounts, err
		}
		fd, err := unix.OpenTree(int(node.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
		if err != nil {
			return mounts, fmt.Errorf("open_tree %s: %w", node.Name(), err)
		}
		mounts = append(mounts, os.NewFile(uintptr(fd), node.Name()))
	}
	return mounts, nil
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
	kind := uint32(unix.S_IFCHR)
	if d.Block {
		kind = unix.S_IFBLK
	}
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == kind && st.Rdev == unix.Mkdev(d.Major, d.Minor)
}

// deviceName asks sysfs what the kernel calls a device: DEVNAME of its uevent, a path below /dev, or "".
func deviceName(d plan.Device) string {
	kind := "char"
	if d.Block {
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

// fits refuses owners and modes that are not those of the host's node. It is the node itself that the container gets, and to
// change it would change it for everybody.
func fits(d plan.Device, node *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(node.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	refuse := func(what string, have, want any) error {
		return &engine.Error{Op: "start", File: "devices", Value: d.Path, Errno: syscall.EOPNOTSUPP,
			Why: fmt.Sprintf("the host's node has %s %v, not %v", what, have, want), Cure: "leave it out of the configuration"}
	}
	switch {
	case d.Mode != nil && uint32(*d.Mode)&0o7777 != st.Mode&0o7777:
		return refuse("mode", fmt.Sprintf("%04o", st.Mode&0o7777), fmt.Sprintf("%04o", uint32(*d.Mode)&0o7777))
	case d.UID != nil && *d.UID != st.Uid:
		return refuse("owner", st.Uid, *d.UID)
	case d.GID != nil && *d.GID != st.Gid:
		return refuse("group", st.Gid, *d.GID)
	}
	return nil
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
