package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// cgroupMounts are the directories of the host's hierarchies, and which of them is v2's.
func cgroupMounts(t *testing.T) (all []string, v2 string) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if f[2] == "cgroup2" {
			v2 = f[1]
		}
		if (f[2] == "cgroup" || f[2] == "cgroup2") && strings.HasPrefix(f[1], "/sys/fs/cgroup") {
			all = append(all, f[1])
		}
	}
	return all, v2
}

// delegate makes the same group in every hierarchy, as a service manager would, and takes it away in the end.
func delegate(t *testing.T, group string) {
	t.Helper()
	all, _ := cgroupMounts(t)
	t.Cleanup(func() {
		for _, mount := range all {
			for dir := filepath.Join(mount, group); dir != mount; dir = filepath.Dir(dir) {
				if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
					t.Error(err)
				}
			}
		}
	})
	for _, mount := range all {
		if err := os.MkdirAll(filepath.Join(mount, group), 0o755); err != nil {
			t.Fatal(err)
		}
		enable(mount, filepath.Dir(group))
	}
}

// enable hands the controllers of a v2 root down to the groups below a slice, in which nobody lives. On v1 there is nothing to do.
func enable(mount, slice string) {
	offered, _ := os.ReadFile(filepath.Join(mount, "cgroup.controllers"))
	for _, dir := range []string{mount, filepath.Join(mount, slice)} {
		for _, c := range strings.Fields(string(offered)) {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0) // what is not there is tested by nobody
		}
	}
}

// All groups are made below the root that was given, in every hierarchy, found there again, and nothing is left of them.
func TestCgroupRoot(t *testing.T) {
	group := "ctrfs-root-test.slice/ctrfs.service"
	delegate(t, group)
	m := MountFor(t, "--cgroup-root", "/"+group)
	mounts, _ := cgroupMounts(t)
	m.Sh("mkdir -p c/d; for c in c c/d; do echo %s > $c/rootfs; echo 0 > $c/stop.timeout; echo sleep 1000 > $c/cmd; echo 64M > $c/memory.max; echo 10 > $c/pids.max; echo 1 > $c/start; done", m.Root())
	inside := func() {
		t.Helper()
		for _, c := range []string{"c", "c/d"} {
			text, err := os.ReadFile("/proc/" + m.Read(c+"/pid") + "/cgroup")
			if err != nil {
				t.Fatal(err)
			}
			groups := 0
			for line := range strings.Lines(string(text)) {
				_, at, _ := strings.Cut(strings.TrimSpace(line), ":/")
				if strings.HasPrefix(at, group+"/ctrfs-") && strings.Contains(at, m.Read(c+"/id")) {
					groups++
				} else if at != "" {
					t.Errorf("%s is in %s", c, line)
				}
			}
			if groups == 0 {
				t.Errorf("%s is nowhere in the group:\n%s", c, text)
			}
		}
		if got := m.Read("c/pids.current"); got != "2" {
			t.Errorf("pids.current is %s", got)
		}
		for _, mount := range mounts {
			if left, _ := filepath.Glob(filepath.Join(mount, "ctrfs-"+m.name())); len(left) > 0 {
				t.Errorf("made outside of the group: %v", left)
			}
		}
	}
	inside()
	// A process comes in from outside of the root.
	m.Sh("sleep 1000 & p=$!; echo $p > c/cgroup.procs; [ $(wc -l < c/cgroup.procs) = 2 ] && kill $p; wait $p; [ $(wc -l < c/cgroup.procs) = 1 ]")

	// Another server finds everything there; one for another root says what is in the way.
	umount := func(how string) {
		t.Helper()
		if err := m.Umount(how); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(root string) string {
		if err := m.Mount("--cgroup-root", root); err != nil {
			return err.Error()
		}
		return ""
	}
	umount("--keep")
	if out := mount("/"); !strings.Contains(out, "mount with --cgroup-root /"+group) {
		t.Errorf("another root: %q", out)
	}
	if out := mount("/ctrfs-no-such-test"); !strings.Contains(out, "there is no such group") || !strings.Contains(out, "mkdir -p /sys/fs/cgroup") {
		t.Errorf("a root that is not there: %q", out)
	}
	if out := mount("a/../b"); !strings.Contains(out, "not the path of a group") {
		t.Errorf("a root that is none: %q", out)
	}
	if out := mount(group); out != "" {
		t.Fatal(out)
	}
	inside()
	// When nothing runs any more, the root can change, and nothing is left in the one before.
	umount("--stop")
	Eventually(t, "the root is empty", 5*time.Second, func() bool {
		for _, mount := range mounts {
			if left, _ := filepath.Glob(filepath.Join(mount, group, "*ctrfs*")); len(left) > 0 {
				return false
			}
		}
		return true
	})
	if out := mount("/"); out != "" {
		t.Fatal(out)
	}
	m.Sh("echo true > c/cmd; echo 1 > c/start; cat c/wait")
}

// Started in the root itself, as by a unit with Delegate=yes, keeper and server make room in v2, where a group with processes in it can
// give no controllers to those below it; in the end they leave it as it was.
func TestCgroupRootOfOurOwn(t *testing.T) {
	RequireRoot(t)
	_, v2 := cgroupMounts(t)
	if v2 == "" {
		t.Skip("cgroup v2 is not mounted")
	}
	group := "ctrfs-own-test.slice/ctrfs.service"
	delegate(t, group)
	m := MountFor(t)
	if err := m.Umount("--stop"); err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(v2, group)
	start := fmt.Sprintf("echo $$ > %s/cgroup.procs; exec %s mount %s --state %s --run %s --cgroup-root /%s", unit, m.Binary, m.Dir, m.State, m.Run, group)
	if out, err := exec.Command("sh", "-c", start).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	keeper, server, err := m.Processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{keeper, server} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil || !strings.Contains(string(text), "0::/"+group+"/_ctrfs\n") {
			t.Errorf("%d is in %s, %v", pid, text, err)
		}
	}
	m.Sh("mkdir c; echo %s > c/rootfs; echo 0 > c/stop.timeout; echo sleep 1000 > c/cmd; echo 64M > c/memory.max; echo 1 > c/start", m.Root())
	if text, err := os.ReadFile("/proc/" + m.Read("c/pid") + "/cgroup"); err != nil || !strings.Contains(string(text), "0::/"+group+"/ctrfs-") {
		t.Errorf("the container is in %s, %v", text, err)
	}
	if err := m.Umount("--stop"); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(unit + "/*ctrfs*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
