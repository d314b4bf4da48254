package overlay

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRootOf: the root is that of the mount namespace, whatever the process in it has made its own, and this process stays where
// it is.
func TestRootOf(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("entering a mount namespace needs root")
	}
	dir := t.TempDir()
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs inside "$0" && echo inside > "$0/file" && : > "$0/ready" && exec chroot / sleep 1000`, dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	seen := fmt.Sprintf("/proc/%d/root%s/ready", cmd.Process.Pid, dir)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(seen); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	mounts, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mounts.Close()
	for range 20 { // on whatever threads
		root, err := RootOf(mounts)
		if err != nil {
			t.Fatal(err)
		}
		f, err := OpenInRoot(root, dir+"/file")
		if err != nil {
			t.Fatal(err)
		}
		text := make([]byte, 16)
		if n, err := f.Read(text); string(text[:n]) != "inside\n" {
			t.Errorf("read %q, %v", text[:n], err)
		}
		f.Close()
		root.Close()
		if _, err := os.Stat(dir + "/file"); !os.IsNotExist(err) {
			t.Fatalf("this process sees the other one's mounts: %v", err)
		}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := RootOf(null); err == nil || unix.Access(dir, unix.F_OK) != nil {
		t.Errorf("no namespace: got %v", err)
	}
}
