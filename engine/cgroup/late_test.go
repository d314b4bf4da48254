package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func pinned(cpus string) *specs.LinuxResources {
	return &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: cpus}}
}

// allowed is the list of processors that a process may use, as the kernel says.
func allowed(t testing.TB, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "Cpus_allowed_list:\t")
	list, _, _ := strings.Cut(rest, "\n")
	return list
}

func online(t testing.TB) string {
	text, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// What nobody asks for costs a start nothing: there is no group, and nothing to join.
func TestLateIsNotEntered(t *testing.T) {
	onHosts(t, "cpuset", func(t *testing.T, tree *Tree) {
		create(t, tree, "a", resources(64<<20, 42, 20000, 50000, 2048))
		for i, top := range tree.tops {
			if y := tree.host.used[i]; top.exists("a") == y.late {
				t.Errorf("%s: there is a group: %v", top.path, top.exists("a"))
			}
		}
		if got := read(t, mustOpen(t, tree, "a"), "cpuset.cpus.effective"); got != online(t)+"\n" {
			t.Errorf("effective %q", got)
		}
	})
}

func mustOpen(t testing.TB, tree *Tree, p string) *Group {
	t.Helper()
	g, err := tree.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// A running family is moved as a whole, whoever forks meanwhile, and what is below goes along.
func TestEnterLive(t *testing.T) {
	onHosts(t, "cpuset", func(t *testing.T, tree *Tree) {
		a := create(t, tree, "a", nil)
		b := create(t, tree, "a/b", nil)
		spawn(t, a, "while :; do sleep 0.01 & sleep 0.01 & wait; done")
		below := spawn(t, b, "exec sleep 100").Process.Pid
		time.Sleep(20 * time.Millisecond)
		if err := a.Apply(pinned("0")); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			pids, err := a.Procs()
			if err != nil {
				t.Fatal(err)
			}
			for _, pid := range pids {
				if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
					if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil && !bytes.Contains(text, []byte("Cpus_allowed_list:\t0\n")) {
						t.Fatalf("%d is not pinned:\n%s", pid, text)
					}
				}
			}
		}
		later := spawn(t, b, "exec sleep 100").Process.Pid
		for _, pid := range []int{below, later} {
			if got := allowed(t, pid); got != "0" {
				t.Errorf("below: %s", got)
			}
		}
		if got := read(t, b, "cpuset.cpus.effective"); got != "0\n" {
			t.Errorf("below, effective: %q", got)
		}
		// As before, and as another process finds it after a crash.
		again := mustOpen(t, tree, "a")
		if got := read(t, again, "cpuset.cpus"); got != "0\n" {
			t.Errorf("found again: %q", got)
		}
		if err := again.Apply(nil); err != nil {
			t.Fatal(err)
		}
		if got := allowed(t, below); got != online(t) {
			t.Errorf("reset: %s", got)
		}
		c := create(t, tree, "c", nil)
		if err := again.Apply(pinned("0")); err != nil {
			t.Fatal(err)
		}
		if err := c.Write("cgroup.procs", fmt.Sprint(below)); err != nil {
			t.Fatal(err)
		}
		if got := allowed(t, below); got != online(t) {
			t.Errorf("moved to a group without: %s", got)
		}
	})
}

// A child that was on its way when its group entered is caught up with.
func TestSettle(t *testing.T) {
	onHosts(t, "cpuset", func(t *testing.T, tree *Tree) {
		a := create(t, tree, "a", nil)
		j, err := a.Join()
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		if err := a.Apply(pinned("0")); err != nil {
			t.Fatal(err)
		}
		// In the home only, as after a join with the files of before.
		pid := spawn(t, a, "exec sleep 100").Process.Pid
		for _, y := range tree.host.used {
			if y.late {
				if err := tree.roots[y.index].write("cgroup.procs", fmt.Sprint(pid)); err != nil {
					t.Fatal(err)
				}
				if got := allowed(t, pid); got == "0" {
					t.Fatal("the test does not take it out")
				}
			}
		}
		if err := j.Settle(); err != nil {
			t.Fatal(err)
		}
		if got := allowed(t, pid); got != "0" {
			t.Errorf("after it: %s", got)
		}
	})
}

// A processor that is not there is refused, and nothing has changed.
func TestCpusetRefused(t *testing.T) {
	onHosts(t, "cpuset", func(t *testing.T, tree *Tree) {
		a := create(t, tree, "a", pinned("0"))
		r := pinned("4000")
		r.Pids = &specs.LinuxPids{Limit: new(int64(7))}
		wantErrno(t, a.Apply(r), syscall.EINVAL)
		if got := read(t, a, "cpuset.cpus") + read(t, a, "pids.max"); got != "0\nmax\n" {
			t.Errorf("afterwards %q", got)
		}
	})
}

// A v2 controller that only few need is enabled when it is, and the processes around go into a leaf.
func TestHugetlb(t *testing.T) {
	onHosts(t, "hugetlb", func(t *testing.T, tree *Tree) {
		config := engine.NewConfig()
		if err := config.SetHugepageMax("2MB", 4<<20); err != nil {
			t.Fatal(err)
		}
		a := create(t, tree, "a", nil)
		pid := spawn(t, a, "exec sleep 100").Process.Pid
		b := create(t, tree, "a/b", nil)
		spawn(t, b, "exec sleep 100")
		if err := b.Apply(config.Spec.Linux.Resources); err != nil {
			t.Fatal(err)
		}
		if got := kernelFile(t, b, "hugetlb", "hugetlb.2MB.max"); got != "4194304\n" {
			t.Errorf("the kernel has %q", got)
		}
		if got := read(t, b, "hugetlb.2MB.max"); got != "4194304\n" {
			t.Errorf("read %q", got)
		}
		if got, want := read(t, a, "cgroup.procs"), fmt.Sprintf("%d\n", pid); got != want {
			t.Errorf("the one above holds %q, want %q", got, want)
		}
		spawn(t, a, "exec sleep 100") // goes where the others are
		if own, err := mustOpen(t, tree, "a").OwnProcs(); err != nil || len(own) != 2 {
			t.Errorf("own %v, %v", own, err)
		}
		if got, _, _ := strings.Cut(read(t, a, "cgroup.stat"), "\n"); got != "nr_descendants 1" {
			t.Errorf("%s: a leaf is no container", got)
		}
	})
}

// Two limits that v1 holds in an order, up and down, and one number that two files share.
func TestMemoryOrder(t *testing.T) {
	onHosts(t, limited, func(t *testing.T, tree *Tree) {
		a := create(t, tree, "a", nil)
		for _, c := range []struct{ limit, swap, low, high int64 }{
			{64 << 20, 1 << 20, 0, engine.Max}, {8 << 20, 1 << 20, 4096, engine.Max}, {64 << 20, 0, 0, 8192}, {engine.Max, engine.Max, 4096, engine.Max},
			{8 << 20, 1 << 30, 0, engine.Max}, {16 << 20, 0, 0, 4096}, {engine.Max, engine.Max, 0, engine.Max},
		} {
			config := engine.NewConfig()
			_, _, _, _ = config.SetMemoryMax(c.limit), config.SetMemorySwapMax(c.swap), config.SetMemoryLow(c.low), config.SetMemoryHigh(c.high)
			if err := a.Apply(config.Spec.Linux.Resources); err != nil {
				t.Fatalf("%+v: %v", c, err)
			}
			got := strings.Fields(read(t, a, "memory.max") + read(t, a, "memory.swap.max") + read(t, a, "memory.low") + read(t, a, "memory.high"))
			want := []string{limitText(c.limit), limitText(c.swap), limitText(c.low), limitText(c.high)}
			if tree.host.Mode() != "v2" { // one soft limit, which both show
				switch {
				case c.low != 0:
					want[3] = want[2]
				case c.high != engine.Max:
					want[2] = want[3]
				}
			}
			if strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("got %v, want %v", got, want)
			}
			a = mustOpen(t, tree, "a")
		}
	})
}

// What a container reads as before its first start has the keys that it has afterwards.
func TestEmpty(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", nil)
		for _, p := range tree.host.places {
			if p.lack != "" || p.blind || p.limit != nil {
				continue
			}
			empty, err := tree.Empty(p.file)
			if err != nil {
				t.Error(err)
			}
			keys := func(text string) string { return numbers.ReplaceAllString(text, "$1") }
			if got := read(t, g, p.file); keys(got) != keys(empty) {
				t.Errorf("%s: %q is empty, %q a new group's", p.file, empty, got)
			}
		}
	})
}

// Groups that enter at the same time do not get into each other's way.
func TestEnterTogether(t *testing.T) {
	onHosts(t, "cpuset", func(t *testing.T, tree *Tree) {
		var all sync.WaitGroup
		create(t, tree, "top", nil)
		for i := range 8 {
			g := create(t, tree, fmt.Sprintf("top/g%d", i), nil)
			pid := spawn(t, g, "exec sleep 100").Process.Pid
			all.Go(func() {
				if err := g.Apply(pinned("0")); err != nil {
					t.Error(err)
				}
				if got := allowed(t, pid); got != "0" {
					t.Error(got)
				}
			})
		}
		all.Wait()
	})
}
