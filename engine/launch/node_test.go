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

// TestDevices: a node of the host is found by its number and bound wherever the configuration wants it.
func TestDevices(t *testing.T) {
	out := inside(t, "stat -c '%F %t:%T' /dev/deep/down/zero /dev/full; head -c 3 /dev/deep/down/zero | od -An -tx1; echo x > /dev/null", func(c *engine.Config) {
		c.Spec.Linux.Devices = []specs.LinuxDevice{
			{Path: "/dev/deep/down/zero", Type: "c", Major: 1, Minor: 5}, {Path: "/dev/full", Type: "c", Major: 1, Minor: 9}}
	})
	if out != "character special file 1:5\ncharacter special file 1:9\n 00 00 00\n" {
		t.Errorf("got %q", out)
	}
}

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
		f, err := launch.OpenDevice(plan.Device{Path: p, Major: 1, Minor: 5})
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Rdev != unix.Mkdev(1, 5) {
			t.Errorf("%s: got device %#x, %v", p, st.Rdev, err)
		}
		f.Close()
	}
	if _, err := launch.OpenDevice(plan.Device{Path: "/dev/null", Block: true, Major: 1, Minor: 3}); engine.Errno(err) != syscall.ENOENT {
		t.Errorf("a block device in the place of a character device: got %v, want ENOENT", err)
	}
}

// TestTakeRefuses: an owner or a mode that the host's node has not, and no descriptor stays open.
func TestTakeRefuses(t *testing.T) {
	requireRoot(t)
	mode, uid := os.FileMode(0o600), uint32(1000)
	var nodes launch.Nodes
	defer nodes.Close()
	for _, d := range []plan.Device{{Path: "/dev/null", Major: 1, Minor: 3, Mode: &mode}, {Path: "/dev/null", Major: 1, Minor: 3, UID: &uid}} {
		mounts, err := nodes.Take([]plan.Device{{Path: "/dev/zero", Major: 1, Minor: 5}, d})
		if engine.Errno(err) != syscall.EOPNOTSUPP || mounts != nil {
			t.Errorf("%+v: got %v, %v, want EOPNOTSUPP", d, mounts, err)
		}
	}
}
