package launch_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
)

// TestOpenDeviceVerifies: what is at the path does not count unless it has the number.
func TestOpenDeviceVerifies(t *testing.T) {
	requireRoot(t)
	dir := t.TempDir()
	link, other := filepath.Join(dir, "link"), filepath.Join(dir, "other")
	if err := os.Symlink("/dev/full", link); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(other, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 7))); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{link, other, "/etc/passwd", "/no/such/node"} {
		f, err := launch.OpenDevice(plan.Device{Path: p, Kind: 'c', Major: 1, Minor: 5})
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Rdev != unix.Mkdev(1, 5) {
			t.Errorf("%s: got device %#x, %v", p, st.Rdev, err)
		}
		f.Close()
	}
	if _, err := launch.OpenDevice(plan.Device{Path: "/dev/null", Kind: 'b', Major: 1, Minor: 3}); engine.Errno(err) != syscall.ENOENT {
		t.Errorf("a block device in the place of a character device: got %v, want ENOENT", err)
	}
}

// TestOwnNodes: a device that is not customary is a node of the container's own, with the owner and mode that it asks for, that
// works, and leaves the host's as it is.
func TestOwnNodes(t *testing.T) {
	uid, gid, mode, fifo := uint32(1000), uint32(100), os.FileMode(0o640), os.FileMode(0o600)
	out := inside(t, "stat -c '%n %F %t:%T %a %u:%g' /dev/random /dev/deep/down/zero /run/fifo; head -c 1 /dev/random | wc -c; head -c 1 /dev/deep/down/zero | od -An -tx1",
		func(c *engine.Config) {
			c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs"})
			c.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/deep/down/zero", Type: "c", Major: 1, Minor: 5},
				{Path: "/dev/random", Type: "c", Major: 1, Minor: 8, FileMode: &mode, UID: &uid, GID: &gid}, {Path: "/run/fifo", Type: "p", FileMode: &fifo}}
		})
	want := "/dev/random character special file 1:8 640 1000:100\n/dev/deep/down/zero character special file 1:5 666 0:0\n" +
		"/run/fifo fifo 0:0 600 0:0\n1\n 00\n"
	if out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	var st unix.Stat_t
	if err := unix.Stat("/dev/random", &st); err != nil || st.Mode&0o777 != 0o666 || st.Uid != 0 {
		t.Errorf("the host's node has mode %o and owner %d, %v", st.Mode, st.Uid, err)
	}
}

// TestTakeMapsOwners: ids are the container's, and one that is not mapped is refused.
func TestTakeMapsOwners(t *testing.T) {
	requireRoot(t)
	var nodes launch.Nodes
	defer nodes.Close()
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 1000}}
	d := plan.Device{Path: "/dev/fuse", Kind: 'c', Major: 10, Minor: 229, Own: true, Mode: 0o600, UID: 33}
	mounts, err := nodes.Take([]plan.Device{d}, launch.IDs{UIDs: ids, GIDs: ids})
	if err != nil {
		t.Fatal(err)
	}
	defer mounts[0].Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(mounts[0].Fd()), &st); err != nil || st.Uid != 100033 || st.Gid != 100000 || st.Rdev != unix.Mkdev(10, 229) {
		t.Errorf("got %d:%d device %#x, %v", st.Uid, st.Gid, st.Rdev, err)
	}
	d.UID = 1000
	if mounts, err := nodes.Take([]plan.Device{{Path: "/dev/null", Kind: 'c', Major: 1, Minor: 3}, d}, launch.IDs{UIDs: ids}); engine.Errno(err) != syscall.EINVAL || mounts != nil {
		t.Errorf("an owner without a mapping: got %v, %v, want EINVAL", mounts, err)
	}
}
