package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// rooted makes a group in every hierarchy of a host, and returns its name and the mounts.
func rooted(t *testing.T, h *Host) string {
	t.Helper()
	name := fmt.Sprintf("ctrfs-test-%d-root.slice", os.Getpid())
	for _, y := range h.used {
		dir := filepath.Join(y.mount, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
	}
	return name
}

// A process that could not come in everywhere goes back to where it was, outside of the root.
func TestRootedMove(t *testing.T) {
	whole := hosts(t)["host"]
	name := rooted(t, whole)
	h, err := Options{Root: name}.Detect(nil)
	if err != nil {
		t.Fatal(err)
	}
	tree := newTree(t, h)
	g := create(t, tree, "a", nil)
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	where := func() string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	before := where()
	if err := g.Write("cgroup.procs", fmt.Sprint(cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(where(), ":/"+name+"/"+tree.name+"/a"); n == 0 {
		t.Fatalf("it is in\n%s", where())
	}
	if err := errors.Join(tree.moveBack(h.used, before, fmt.Sprint(cmd.Process.Pid))); err != nil {
		t.Fatal(err)
	}
	if where() != before {
		t.Errorf("it was in\n%sand is in\n%s", before, where())
	}
}

// What is not there is named, each directory, and nothing is made.
func TestRootMissing(t *testing.T) {
	whole := hosts(t)["host"]
	_, err := Options{Root: "ctrfs-test-none/x"}.Detect(nil)
	wantErrno(t, err, syscall.ENOENT)
	for _, y := range whole.used {
		if dir := filepath.Join(y.mount, "ctrfs-test-none/x"); !strings.Contains(err.Error(), dir) {
			t.Errorf("%v does not name %s", err, dir)
		}
	}
}

// A controller that the group was not given is missing, and the reason says who could give it.
func TestRootWithoutControllers(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{"cgroup.controllers": "memory pids cpu", "unit/cgroup.controllers": "pids"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o700), os.WriteFile(filepath.Join(dir, file), []byte(text+"\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	h, err := Options{Root: "unit"}.Detect(strings.NewReader("30 23 0:26 / " + dir + " rw - cgroup2 cgroup2 rw\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := render(h); !strings.Contains(got, "cgroup-pids yes\n") ||
		!strings.Contains(got, "cgroup-memory no "+dir+"/unit has not been given the controller memory: with systemd, Delegate=yes gives it\n") {
		t.Error(got)
	}
}

func TestCleanRoot(t *testing.T) {
	for root, want := range map[string]string{"": "", "/": "", "a": "a", "/a/b": "a/b", "//a//b/": "a/b", "/system.slice/x@1.service": "system.slice/x@1.service",
		"..": "!", "a/..": "!", "/../a": "!", "a\nb": "!"} {
		got, err := CleanRoot(root)
		if err != nil {
			got = "!"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", root, got, want)
		}
	}
}

// Only our own private hierarchies count.
func TestPrivateOfOthers(t *testing.T) {
	table := "30 23 0:26 / " + t.TempDir() + " rw - cgroup cgroup rw,pids\n31 23 0:27 / /run/a/cgroup/net_cls rw - cgroup ctrfs:/run/a rw,net_cls\n"
	for owner, want := range map[string]bool{"ctrfs:/run/a": true, "ctrfs:/run/b": false, "": false} {
		h, err := Options{Owner: owner}.Detect(strings.NewReader(table))
		if err != nil {
			t.Fatal(err)
		}
		if h.Offers("net_cls.classid") != want {
			t.Errorf("%q: %v", owner, !want)
		}
	}
}

func TestPriorities(t *testing.T) {
	text, err := prioritiesFromV1([]string{"lo 0\nifb0 10\neth0 3\n"})
	if err != nil || text != "eth0 3\nifb0 10\n" {
		t.Errorf("%q, %v", text, err)
	}
	for _, c := range []struct{ old, value, want string }{
		{"", "lo 1", "[{0 lo 1}]"}, {"lo 1", "", "[{0 lo 0}]"}, {"lo 1", "lo 2", "[{0 lo 2}]"}, {"a 1\nb 2", "b 2\nc 3", "[{0 a 0} {0 c 3}]"}, {"a 1", "a 1", "[]"},
	} {
		got, err := prioritiesToV1(c.old, c.value)
		if err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("%q to %q: %v, %v", c.old, c.value, got, err)
		}
	}
}
