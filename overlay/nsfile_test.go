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
	mounted(t, pinned, "", unix.MS_BIND, "/proc/self/ns/net")
	for _, c := range []struct {
		path string
		kind int
		want syscall.Errno
	}{
		{"/proc/self/ns/net", unix.CLONE_NEWNET, syscall.EINVAL}, // self is a link, and is who asks
		{"/proc/1/ns/net", unix.CLONE_NEWNET, 0},
		{pinned, unix.CLONE_NEWNET, 0},
		{pinned, unix.CLONE_NEWPID, syscall.EINVAL},
		{file, unix.CLONE_NEWNET, syscall.EINVAL},
		{dir + "/dir", unix.CLONE_NEWNET, syscall.EINVAL},
		{dir + "/fifo", unix.CLONE_NEWNET, syscall.EINVAL},
		{dir + "/link", unix.CLONE_NEWNET, syscall.ELOOP},
		{dir + "/none", unix.CLONE_NEWNET, syscall.ENOENT},
	} {
		f, err := s.OpenNamespace(c.path, c.kind)
		if f != nil {
			f.Close()
		}
		if got := engine.Errno(err); got != c.want && !(c.path == "/proc/self/ns/net" && err != nil) {
			t.Errorf("%s: %v, want %v", c.path, err, c.want)
		}
	}
}
