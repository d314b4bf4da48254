package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestMain fails the run when a test has left a group or a descriptor behind.
func TestMain(m *testing.M) {
	before := descriptors()
	code := m.Run()
	left, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/ctrfs-test-%d-*", os.Getpid()))
	more, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/ctrfs-test-%d-*", os.Getpid()))
	if left = append(left, more...); len(left) > 0 {
		fmt.Println("left behind:", left)
		code = 1
	}
	// Some are the runtime's own, opened once: the poller's.
	if after := descriptors(); code == 0 && after > before+3 {
		fmt.Printf("%d descriptors before, %d after\n", before, after)
		code = 1
	}
	os.Exit(code)
}

func descriptors() int {
	list, _ := os.ReadDir("/proc/self/fd")
	return len(list)
}

// requireRoot skips a test that makes real groups, or fails it where CI is to run everything.
func requireRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("cgroups can be made by root only, and CI must test them")
	}
	t.Skip("cgroups can be made by root only")
}

// hosts returns this host, and what else it can stand for on its real hierarchies when part of the mount table is hidden:
// pure v1, and pure v2 with no controllers, with and without leaves. On a pure v2 machine there is only "host".
func hosts(t testing.TB) map[string]*Host {
	t.Helper()
	requireRoot(t)
	detect := func(keep func(line string) bool) *Host {
		table, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		for line := range strings.Lines(string(table)) {
			if keep(line) {
				b.WriteString(line)
			}
		}
		h, err := Detect(&b)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	all := map[string]*Host{"host": detect(func(string) bool { return true })}
	if all["host"].Mode() == "hybrid" {
		v2 := func(line string) bool { return strings.Contains(line, " - cgroup2 ") }
		all["v1"] = detect(func(line string) bool { return !v2(line) })
		all["core"] = detect(v2)
		all["leaf"] = detect(v2)
		all["leaf"].leaf = true
	}
	return all
}

// onHosts runs a test with a fresh tree on every host that has all of the controllers.
func onHosts(t *testing.T, controllers string, test func(t *testing.T, tree *Tree)) {
	for name, h := range hosts(t) {
		has := strings.Join(h.Controllers(), " ")
		for c := range strings.FieldsSeq(controllers) {
			if !strings.Contains(has, c) {
				h = nil
				break
			}
		}
		if h != nil {
			t.Run(name, func(t *testing.T) { test(t, newTree(t, h)) })
		}
	}
}

var trees atomic.Int32

func newTree(t testing.TB, h *Host) *Tree {
	t.Helper()
	tree, err := h.Tree(fmt.Sprintf("ctrfs-test-%d-%d", os.Getpid(), trees.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		groups, _ := tree.Groups()
		for _, p := range groups {
			if g, err := tree.Open(p); err == nil {
				_ = g.Kill()
			}
		}
		if err := tree.Remove(); err != nil {
			t.Error(err)
		}
		for _, y := range h.used {
			if _, err := os.Stat(filepath.Join(y.mount, tree.name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("left in %s: %v", y.mount, err)
			}
		}
		_ = tree.Close()
	})
	return tree
}

func create(t testing.TB, tree *Tree, p string, r *specs.LinuxResources) *Group {
	t.Helper()
	g, err := tree.Create(p, r)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// spawn runs a shell script as a process that joins the group as a container does: by CLONE_INTO_CGROUP, and by writing 0
// to each tasks file itself, before anything else.
func spawn(t testing.TB, g *Group, script string) *exec.Cmd {
	t.Helper()
	join, err := g.Join()
	if err != nil {
		t.Fatal(err)
	}
	defer join.Close()
	var b strings.Builder
	for i := range join.Tasks {
		fmt.Fprintf(&b, "echo 0 > /proc/self/fd/%d || exit 99; ", 3+i) // dash has one digit for a descriptor
	}
	b.WriteString("echo joined; ")
	cmd := exec.Command("sh", "-c", b.String()+script)
	cmd.ExtraFiles = join.Tasks
	if join.Into != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(join.Into.Fd())}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		for p := g; p != nil; p = p.above() { // what v1 has frozen does not die
			_ = p.Write("cgroup.freeze", "0")
		}
		_ = wait(t, cmd)
	})
	line := make([]byte, 7)
	if _, err := out.Read(line); err != nil || string(line) != "joined\n" {
		t.Fatalf("the child did not join: %q, %v", line, err)
	}
	return cmd
}

// wait is cmd.Wait with an end.
func wait(t testing.TB, cmd *exec.Cmd) error {
	t.Helper()
	if cmd.ProcessState != nil {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		t.Fatalf("%d does not end", cmd.Process.Pid)
		return nil
	}
}

// above returns the group that g is nested in; nil at the top.
func (g *Group) above() *Group {
	dir := filepath.Dir(g.path)
	if dir == "." {
		return nil
	}
	return &Group{tree: g.tree, path: dir}
}

// eventually waits for something that takes the kernel a moment.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("not in time: %s", what)
}

func wantErrno(t testing.TB, err error, errno syscall.Errno) {
	t.Helper()
	if !errors.Is(err, errno) {
		t.Fatalf("got %v, want %v", err, errno)
	}
}

func read(t testing.TB, g *Group, file string) string {
	t.Helper()
	text, err := g.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// resources builds limits from v2 texts: memory and pids with -1 for none, quota and period 0 for absent.
func resources(memory, pids, quota int64, period, shares uint64) *specs.LinuxResources {
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}, Pids: &specs.LinuxPids{Limit: &pids}, CPU: &specs.LinuxCPU{}}
	if quota != 0 {
		r.CPU.Quota = &quota
	}
	if period != 0 {
		r.CPU.Period = &period
	}
	if shares != 0 {
		r.CPU.Shares = &shares
	}
	return r
}
