package overlay

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

func TestOpenNamespace(t *testing.T) {
	s, dir := newStore(t), tempDir(t)
	file := makeTree(t, dir, map[string]string{"file": "x", "link": "->/proc/self/ns/net", "dir/": ""}) + "/file"
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	pinned := filepath.Join(dir, "pinned")
	if err := os.WriteFile(pinned, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/proc/self/ns/net", pinned, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(pinned, unix.MNT_DETACH) })
	for _, c := range []struct {
		path string
		kind int
		want syscall.Errno
	}{
		{"/proc/self/ns/net", unix.CLONE_NEWNET, syscall.EINVAL},
		{"/proc/1/ns/net", unix.CLONE_NEWNET, syscall.EINVAL},
		{pinned, unix.CLONE_NEWNET, 0},
		{pinned, unix.CLONE_NEWPID, syscall.EINVAL},
		{file, unix.CLONE_NEWNET, syscall.EINVAL},
		{dir + "/dir", unix.CLONE_NEWNET, syscall.EINVAL},
		{dir + "/fifo", unix.CLONE_NEWNET, syscall.EINVAL},
		{dir + "/link", unix.CLONE_NEWNET, syscall.EINVAL},
		{dir + "/none", unix.CLONE_NEWNET, syscall.ENOENT},
	} {
		f, err := s.OpenNamespace(c.path, c.kind)
		if f != nil {
			f.Close()
		}
		if got := engine.Errno(err); got != c.want {
			t.Errorf("%s: %v, want %v", c.path, err, c.want)
		}
	}
}
