package test

import (
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// empty waits until the store of images holds nothing.
func (m *Tree) empty() {
	m.T.Helper()
	var left []string
	Eventually(m.T, "nothing of the images is left", 10*time.Second, func() bool {
		left, _ = filepath.Glob(m.State + "/images/*/*")
		return len(left) == 0
	})
}

// TestImageDiskFull: a disk that fills while an archive is written, or unpacked, ends that with a clear error, leaves nothing, and the
// next one that fits works.
func TestImageDiskFull(t *testing.T) {
	RequireRoot(t)
	i, err := NewInstance()
	if err != nil {
		t.Fatal(err)
	}
	m := &Tree{i, t}
	if err := syscall.Mount("ctrfs-test", i.State, "tmpfs", 0, "size=16M,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if m.Mounted() {
			if err := m.Umount("--stop"); err != nil {
				t.Error(err)
			}
		}
		if err := syscall.Unmount(i.State, 0); err != nil {
			t.Error(err)
		}
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := i.Mount(); err != nil {
		t.Fatal(err)
	}
	m.Sh("mkdir %s/big %s/wide; head -c 30000000 /dev/urandom > %s/big/file; tar -C %s/big -cf %s/big.tar .", m.Tmp, m.Tmp, m.Tmp, m.Tmp, m.Tmp)
	m.Sh("yes 'a line of text that is found many times' | head -c 40000000 > %s/wide/file; tar -C %s/wide -czf %s/wide.tar .", m.Tmp, m.Tmp, m.Tmp)
	m.Sh("mkdir images/a images/b images/c")
	m.refused("cat "+m.Tmp+"/big.tar > images/a/tar", "No space left")
	Eventually(t, "what there is of the first one is gone", patience, func() bool {
		var st syscall.Statfs_t
		return syscall.Statfs(i.State, &st) == nil && st.Bavail*uint64(st.Bsize) > 12<<20
	})
	m.refused("cat "+m.Tmp+"/wide.tar > images/b/tar; test $(cat images/b/wait) = ready", "")
	for _, name := range []string{"a", "b"} {
		if got := m.Sh("cat images/%s/wait images/%s/error", name, name); !strings.HasPrefix(got, "failed\n") || !strings.Contains(got, "no space left on device") {
			t.Errorf("image %s: %q", name, got)
		}
	}
	m.Sh("rmdir images/a images/b")
	m.Sh("tar -C %s -cf - etc bin/sh bin/busybox | cat > images/c/tar", m.Root())
	m.imageReady("c")
	if got := m.Sh("mkdir x; echo c > x/image; echo 'sh -c \"echo up\"' > x/cmd; echo 1 > x/start; cat x/wait x/log; rmdir x images/c"); got != "0\nup\n" {
		t.Errorf("the next image's container says %q", got)
	}
	m.empty()
}

// TestImageRefused: what is no image, or not to be had, fails with a sentence, and changes nothing.
func TestImageRefused(t *testing.T) {
	r := StartRegistry(t)
	m := MountFor(t)
	m.Sh("mkdir images/a; head -c 100000 /dev/urandom > %s/noise; tar -C %s -cf %s/root.tar etc; head -c 1000 %s/root.tar > %s/cut.tar; : > %s/nothing", m.Tmp, m.Root(), m.Tmp, m.Tmp, m.Tmp, m.Tmp)
	for _, file := range []string{"noise", "cut.tar"} {
		if got := m.Sh("cat %s/%s > images/a/tar; cat images/a/wait; cat images/a/error | wc -l; cat images/a/id", m.Tmp, file); got != "failed\n1\n" {
			t.Errorf("%s: %q, %s", file, got, m.Sh("cat images/a/error"))
		}
	}
	for _, ref := range []struct{ text, want string }{{r.Addr + "/none:1", "no such image"}, {"127.0.0.1:1/x", "nobody answers"}} {
		if got := m.Sh("echo %s > images/a/pull; cat images/a/wait; cat images/a/error", ref.text); !strings.HasPrefix(got, "failed\n") || !strings.Contains(got, ref.want) {
			t.Errorf("%s: %q", ref.text, got)
		}
	}
	m.refused("echo 'a b' > images/a/pull", "Invalid argument")
	m.refused("echo > images/a/pull", "Invalid argument")
	m.refused("mkdir c; echo a > c/image", "No such file")
	m.refused("echo none > c/image", "No such file")
	if got := m.Sh("cat c/image c/rootfs; grep -c 'mkdir images/none' c/error; rmdir c images/a"); got != "\nhost\n1\n" {
		t.Errorf("afterwards: %q", got)
	}
	m.empty()
}

// TestImageStopped: a pull that is under way can be stopped, by an empty line and by the end of the mount, and leaves nothing.
func TestImageStopped(t *testing.T) {
	r := StartRegistry(t)
	layer := t.TempDir()
	Tool(t, "dd", "if=/dev/urandom", "of="+layer+"/noise", "bs=1M", "count=64")
	ref := r.Push(Layout(t, []string{layer}), "noise:1")
	m := MountFor(t)
	m.Sh("mkdir images/a; echo %s > images/a/pull", ref)
	m.refused("rmdir images/a", "busy")
	if got := m.Sh("echo > images/a/pull; cat images/a/wait; grep -c stopped images/a/error; cat images/a/progress"); got != "failed\n1\n" {
		t.Errorf("stopped: %q %s", got, m.Sh("cat images/a/error"))
	}
	if got := m.Sh("exec 9> images/a/tar; echo x >&9; cat images/a/state; echo > images/a/pull; cat images/a/wait; echo y >&9 2> /dev/null || echo refused; exec 9>&-; cat images/a/state"); got != "unpacking\nfailed\nrefused\nfailed\n" {
		t.Errorf("an archive that is stopped before its writer ends: %q", got)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	m.Sh("echo %s/x > images/a/pull; cat images/a/state", silent.Addr())
	if err := m.Umount(); err != nil {
		t.Fatal(err)
	}
	if err := m.Instance.Mount(); err != nil {
		t.Fatal(err)
	}
	if got := m.Sh("cat images/a/wait; cat images/a/id; rmdir images/a"); got != "failed\n" {
		t.Errorf("after the next mount: %q", got)
	}
	m.empty()
}
