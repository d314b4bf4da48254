package overlay

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

func TestCheck(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{
		"root/": "", "file": "x", "to-root": "->root", "to-to-root": "->to-root", "up": "->../", "root/sub/": "",
		"loop": "->loop", "dangling": "->nowhere", "to-file": "->file", "absolute": "->/", "to-proc": "->/proc/self/cwd",
		"mount/web/": "", "to-mount": "->mount/web", "beside": "->mount/web/../../root", "mountain/": "",
	})
	s := &Store{}
	s.Forbid(dir+"/mount/", 0)
	tests := []struct {
		root string
		want syscall.Errno
		says string
	}{
		{"host", 0, ""},
		{"/", 0, ""},
		{dir + "/root", 0, ""},
		{dir + "/to-to-root", 0, ""},
		{dir + "//root/.././root/sub/..", 0, ""},
		{dir + "/up", 0, ""},
		{dir + "/absolute", 0, ""},
		{dir + "/mountain", 0, ""},
		{"/proc", 0, ""},
		{dir + "/none", syscall.ENOENT, "create it"},
		{dir + "/dangling", syscall.ENOENT, "create it"},
		{dir + "/file", syscall.EINVAL, "path of a directory"},
		{dir + "/to-file", syscall.EINVAL, ""},
		{dir + "/file/x", syscall.ENOTDIR, ""},
		{dir + "/loop", syscall.ELOOP, ""},
		{dir + "/" + strings.Repeat("n", 256), syscall.ENAMETOOLONG, ""},
		{dir + "/mount", syscall.EINVAL, "outside the mount"},
		{dir + "/mount/web", syscall.EINVAL, "outside the mount"},
		{dir + "/to-proc", syscall.EINVAL, "procfs"},
		{"/proc/self/root", syscall.EINVAL, "procfs"},
		{"/proc/self/fd/0", syscall.EINVAL, "procfs"},
		{"root", syscall.EINVAL, "absolute"},
		{"", syscall.EINVAL, "absolute"},
	}
	for _, test := range tests {
		err := s.Check(test.root)
		if engine.Errno(err) != test.want {
			t.Errorf("Check(%q) = %v, want %v", test.root, err, test.want)
		} else if err != nil && (!strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "rootfs")) {
			t.Errorf("Check(%q) = %v, which does not say %q", test.root, err, test.says)
		}
	}
}

// What is mounted where we are is recognised by its device, however the path gets there.
func TestCheckDevice(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{"in": "->/proc/self/task", "through": "->/proc/../usr"})
	var st unix.Stat_t
	if err := unix.Stat("/proc", &st); err != nil {
		t.Fatal(err)
	}
	s := &Store{}
	s.Forbid("/nowhere", st.Dev)
	for _, root := range []string{"/proc", "/proc/sys", dir + "/in", dir + "/through"} {
		if err := s.Check(root); engine.Errno(err) != syscall.EINVAL || !strings.Contains(err.Error(), "own mount") {
			t.Errorf("Check(%q) = %v", root, err)
		}
	}
}

// A mount whose server never answers stands for our own, which cannot while it is asking: a root there is refused at
// once when it is ours, and after a while when it is not. The mount is made in a child's namespace, that nobody else
// runs into it.
func TestSilentServer(t *testing.T) {
	needRoot(t)
	dir := makeTree(t, t.TempDir(), map[string]string{"mnt/": "", "link": "->mnt/web"})
	got := runErrand(t, exec.Command("/proc/self/exe"), errand{Ops: []string{"fuse " + dir}})[0]
	if got != "EINVAL EINVAL EINVAL ETIMEDOUT" {
		t.Error(got)
	}
}

// mountSilent mounts a FUSE that nobody serves. Its operations wait until the closer is closed.
func mountSilent(at string) (dev uint64, closer io.Closer, err error) {
	device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return 0, nil, err
	}
	data := "rootmode=40000,user_id=0,group_id=0,fd=" + filepath.Base(fdPath(device))
	var st unix.Statx_t
	if err = unix.Mount("ctrfs-test", at, "fuse", unix.MS_NOSUID|unix.MS_NODEV, data); err == nil {
		err = unix.Statx(unix.AT_FDCWD, at, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	}
	if err != nil {
		device.Close()
		return 0, nil, err
	}
	return unix.Mkdev(st.Dev_major, st.Dev_minor), device, nil
}

// silentFUSE checks roots on a FUSE mount at dir/mnt that nobody serves.
func silentFUSE(dir string) (string, error) {
	dev, closer, err := mountSilent(dir + "/mnt")
	if err != nil {
		return "", err
	}
	defer closer.Close() // and what waits for an answer ends
	s := &Store{}
	s.Forbid("/elsewhere", dev)
	var out []string
	begin := time.Now()
	for _, root := range []string{"/mnt", "/mnt/web", "/link"} {
		out = append(out, unix.ErrnoName(engine.Errno(s.Check(dir+root))))
	}
	if took := time.Since(begin); took > patience/2 {
		return "it took " + took.String(), nil
	}
	s.forbidden.Store(nil)
	out = append(out, unix.ErrnoName(engine.Errno(s.Check(dir+"/link"))))
	return strings.Join(out, " "), nil
}

// A link below a tree that a container may write to is not followed, however the tree is reached; above it, links are.
func TestDistrust(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{
		"volume/real/": "", "volume/link": "->real", "volume/deep/link": "->../../root", "volume/deep/out": "->" + "/", "root/": "",
		"to-volume": "->volume", "link": "->root", "volume/real/back": "->../../link",
	})
	s := &Store{state: dir + "/state"}
	s.Distrust(func() []string { return []string{dir + "/none", dir + "/to-volume"} })
	for root, want := range map[string]syscall.Errno{
		"volume": 0, "volume/real": 0, "to-volume": 0, "to-volume/real": 0, "link": 0,
		"volume/link": syscall.ELOOP, "to-volume/link": syscall.ELOOP, "volume/deep/link": syscall.ELOOP, "volume/deep/out": syscall.ELOOP,
		"volume/real/back": syscall.ELOOP,
	} {
		err := s.Check(dir + "/" + root)
		if engine.Errno(err) != want || err != nil && !strings.Contains(err.Error(), "a container may write") {
			t.Errorf("Check(%q) = %v, want %v", root, err, want)
		}
	}
	s.Distrust(func() []string { return nil })
	if err := s.Check(dir + "/volume/link"); err != nil {
		t.Errorf("a link that nobody can change: %v", err)
	}
}
