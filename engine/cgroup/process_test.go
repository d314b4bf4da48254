package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestJoin(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", nil)
		if yes, err := g.Populated(); yes || err != nil {
			t.Fatalf("populated %v, %v", yes, err)
		}
		pid := spawn(t, g, "exec sleep 100").Process.Pid
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, y := range tree.host.used {
			if y.late {
				continue
			}
			want := "/" + tree.name + "/a"
			if y.unified && tree.host.leaf {
				want += "/" + leafName
			}
			if got, _ := y.member(string(text)); "/"+strings.TrimPrefix(got, "./") != want {
				t.Errorf("%s: %q, want %q", y.mount, got, want)
			}
		}
		if got, want := read(t, g, "cgroup.procs"), fmt.Sprintf("%d\n", pid); got != want {
			t.Errorf("cgroup.procs %q, want %q", got, want)
		}
		if yes, err := g.Populated(); !yes || err != nil {
			t.Errorf("populated %v, %v", yes, err)
		}
		wantErrno(t, g.Remove(), syscall.EBUSY)
		if got, want := read(t, g, "cgroup.procs"), fmt.Sprintf("%d\n", pid); got != want {
			t.Errorf("after a refused removal cgroup.procs is %q", got)
		}
	})
}

func TestMove(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		a, b := create(t, tree, "a", nil), create(t, tree, "b", nil)
		pid := spawn(t, a, "exec sleep 100").Process.Pid
		if err := b.Write("cgroup.procs", fmt.Sprintf("%d\n", pid)); err != nil {
			t.Fatal(err)
		}
		if pids, err := b.OwnProcs(); err != nil || len(pids) != 1 || pids[0] != pid {
			t.Fatalf("%v, %v", pids, err)
		}
		if err := a.Remove(); err != nil { // nothing of it is left anywhere
			t.Fatal(err)
		}
	})
}

// When one hierarchy refuses, the process is found where it was in all of them.
func TestMoveIsAllOrNothing(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		a, b := create(t, tree, "a", nil), create(t, tree, "b", nil)
		pid := spawn(t, a, "exec sleep 100").Process.Pid
		where := fmt.Sprintf("/proc/%d/cgroup", pid)
		before, err := os.ReadFile(where)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.tops[0].rmdir("b"); err != nil { // the home comes last
			t.Fatal(err)
		}
		if err := b.Write("cgroup.procs", fmt.Sprint(pid)); err == nil {
			t.Fatal("moved into a group that is not there")
		}
		after, err := os.ReadFile(where)
		if err != nil || !bytes.Equal(before, after) {
			t.Errorf("before\n%s\nafter\n%s\n%v", before, after, err)
		}
	})
}

func TestNesting(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		a := create(t, tree, "a", nil)
		first := spawn(t, a, "exec sleep 100").Process.Pid
		b := create(t, tree, "a/b", nil) // below a group that holds a process
		second := spawn(t, b, "exec sleep 100").Process.Pid
		own, err := a.OwnProcs()
		if err != nil || len(own) != 1 || own[0] != first {
			t.Errorf("own %v, %v", own, err)
		}
		if all, err := a.Procs(); err != nil || len(all) != 2 {
			t.Errorf("all %v, %v", all, err)
		}
		if err := b.Kill(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the nested group is empty", func() bool { yes, err := b.Populated(); return !yes && err == nil })
		if !alive(first) {
			t.Error("killing the nested group killed the one above")
		}
		if err := b.Remove(); err != nil {
			t.Fatal(err)
		}
		_ = second
		groupsAre(t, tree, "a")
	})
}

// A parent's limit kills the greedy child only, and each group counts its own.
func TestMemoryMax(t *testing.T) {
	onHosts(t, limited, func(t *testing.T, tree *Tree) {
		a := create(t, tree, "a", resources(48<<20, -1, 0, 0, 0))
		b := create(t, tree, "a/b", nil)
		bystander := spawn(t, a, "exec sleep 100").Process.Pid
		hog := spawn(t, b, "exec dd if=/dev/zero of=/dev/null bs=400M count=1")
		if err := wait(t, hog); err == nil || err.Error() != "signal: killed" {
			t.Errorf("the hog ended by %v", err)
		}
		if n, err := b.OOMKills(); n != 1 || err != nil {
			t.Errorf("child: %d kills, %v", n, err)
		}
		if n, err := a.OOMKills(); n != 0 || err != nil {
			t.Errorf("parent: %d kills, %v", n, err)
		}
		if n, _ := keyed(read(t, a, "memory.events"), "oom_kill"); n != 1 {
			t.Errorf("the parent's memory.events count %d with what is below", n)
		}
		if !alive(bystander) {
			t.Error("the bystander was killed")
		}
		peak, err := number(read(t, a, "memory.peak"))
		if err != nil || peak < 40<<20 || peak > 48<<20 {
			t.Errorf("peak %d, %v", peak, err)
		}
	})
}

func TestOOMKillsOfParent(t *testing.T) {
	onHosts(t, limited, func(t *testing.T, tree *Tree) {
		a := create(t, tree, "a", resources(32<<20, -1, 0, 0, 0))
		for i, nested := range []bool{false, true} {
			if nested {
				create(t, tree, "a/b", nil) // with v2, from now on the leaf is accounted by itself
			}
			_ = wait(t, spawn(t, a, "exec dd if=/dev/zero of=/dev/null bs=400M count=1"))
			if n, err := a.OOMKills(); n != uint64(i+1) || err != nil {
				t.Errorf("%d kills, %v", n, err)
			}
		}
	})
}

func TestPidsMax(t *testing.T) {
	onHosts(t, limited, func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", resources(-1, 5, 0, 0, 0))
		sh := spawn(t, g, "i=0; while [ $i -lt 20 ]; do sleep 100 & i=$((i+1)); done; sleep 100")
		var exit *exec.ExitError // dash exits when it cannot fork, and leaves four
		if err := wait(t, sh); !errors.As(err, &exit) || exit.ExitCode() != 2 {
			t.Errorf("ended by %v", err)
		}
		pids, err := g.Procs()
		if err != nil || len(pids) != 4 || read(t, g, "pids.current") != "4\n" {
			t.Errorf("%v, %v, %s", pids, err, read(t, g, "pids.current"))
		}
		if err := g.Kill(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCPUMax(t *testing.T) {
	onHosts(t, limited, func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", resources(-1, -1, 20000, 100000, 0))
		spawn(t, g, "while :; do :; done")
		usage := func() uint64 { n, _ := keyed(read(t, g, "cpu.stat"), "usage_usec"); return n }
		before, start := usage(), time.Now()
		time.Sleep(time.Second)
		part := float64(usage()-before) / float64(time.Since(start).Microseconds())
		// How much one gets of a machine that others use too is not for this test to say; the bound is.
		if part > 0.25 || part < 0.05 {
			t.Errorf("%.2f of a core, want 0.20", part)
		}
		if n, _ := keyed(read(t, g, "cpu.stat"), "nr_throttled"); n == 0 {
			t.Error("never throttled")
		}
	})
}

// ran is how long a process has been on a CPU, in nanoseconds (proc_pid_schedstat).
func ran(t testing.TB, pid int) (ns uint64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err == nil {
		_, err = fmt.Sscan(string(text), &ns)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestFreeze(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		a := create(t, tree, "a", nil)
		b := create(t, tree, "a/b", nil)
		for _, g := range []*Group{a, b} {
			pid := spawn(t, g, "while :; do :; done").Process.Pid
			if err := a.Write("cgroup.freeze", "1\n"); err != nil {
				t.Fatal(err)
			}
			// The clock of a running task is brought up to date at a tick, or when it leaves the CPU, which is the last that
			// a task does that the kernel already counts as frozen.
			time.Sleep(20 * time.Millisecond)
			before := ran(t, pid)
			time.Sleep(50 * time.Millisecond)
			// One that was missed would have run for most of that time.
			if after := ran(t, pid); after-before > uint64(time.Millisecond) {
				t.Errorf("%s ran on for %d ns", g.path, after-before)
			}
			if got := read(t, a, "cgroup.freeze") + read(t, a, "cgroup.events"); got != "1\npopulated 1\nfrozen 1\n" {
				t.Errorf("frozen, it reads %q", got)
			}
			if got := read(t, b, "cgroup.freeze"); got != "0\n" {
				t.Errorf("the nested group's own cgroup.freeze is %q", got)
			}
			if err := a.Write("cgroup.freeze", "0"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it runs again", func() bool { return ran(t, pid) > before })
			if got := read(t, a, "cgroup.freeze"); got != "0\n" {
				t.Errorf("thawed, it reads %q", got)
			}
		}
	})
}

func TestFreezeEmpty(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", nil)
		if err := g.Write("cgroup.freeze", "1"); err != nil {
			t.Fatal(err)
		}
		if got := read(t, g, "cgroup.events"); got != "populated 0\nfrozen 1\n" {
			t.Errorf("%q", got)
		}
	})
}

// A freeze that does not come about in time is taken back. Without any patience that happens soon.
func TestFreezeTimeout(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", nil)
		pid := spawn(t, g, "while :; do :; done").Process.Pid
		eventually(t, "a freeze that takes too long", func() bool {
			err := g.freeze(true, 0)
			if err != nil {
				wantErrno(t, err, syscall.ETIMEDOUT)
				return true
			}
			return g.freeze(false, 0) != nil
		})
		if got := read(t, g, "cgroup.freeze"); got != "0\n" {
			t.Errorf("cgroup.freeze is %q", got)
		}
		before := ran(t, pid)
		eventually(t, "it runs on", func() bool { return ran(t, pid) > before })
	})
}

// Killing reaches everybody: deep, forking, frozen.
func TestKillTree(t *testing.T) {
	for _, frozen := range []bool{false, true} {
		onHosts(t, "", func(t *testing.T, tree *Tree) {
			a := create(t, tree, "a", nil)
			b := create(t, tree, "a/b", nil)
			sh := spawn(t, a, `f() { [ $1 -gt 0 ] && { f $(($1-1)) & f $(($1-1)) & }; sleep 100; }; f 4`)
			// A chain whose every link forks the next and exits: one look at the pids is always too late.
			spawn(t, b, `f() { [ $1 -gt 0 ] && f $(($1-1)) & }; f 20000; sleep 100`)
			eventually(t, "a fork tree", func() bool { pids, err := a.Procs(); return err == nil && len(pids) > 30 })
			if frozen {
				if err := a.Write("cgroup.freeze", "1"); err != nil {
					t.Fatal(err)
				}
			}
			if err := a.Write("cgroup.kill", "1\n"); err != nil {
				t.Fatal(err)
			}
			if err := wait(t, sh); err == nil || err.Error() != "signal: killed" {
				t.Errorf("ended by %v", err)
			}
			if err := a.Remove(); err != nil { // also waits for the last of them
				t.Fatal(err)
			}
		})
	}
}

// v1 lets nothing die in a frozen parent, which must be told instead of waited for.
func TestKillBelowFrozen(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		a := create(t, tree, "a", nil)
		b := create(t, tree, "a/b", nil)
		cmd := spawn(t, b, "exec sleep 100")
		if err := a.Write("cgroup.freeze", "1"); err != nil {
			t.Fatal(err)
		}
		err := b.Kill()
		if tree.host.Mode() == "v1" {
			wantErrno(t, err, syscall.EBUSY)
			err = a.Write("cgroup.freeze", "0")
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := wait(t, cmd); err == nil || err.Error() != "signal: killed" {
			t.Errorf("ended by %v", err)
		}
	})
}

func TestKillEmpty(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", nil)
		if err := g.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := g.Remove(); err != nil {
			t.Fatal(err)
		}
	})
}

// Killing and removing at once, as rmdir of a dying container does, is a matter of waiting a moment.
func TestRemoveAfterKill(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		for range 10 {
			g := create(t, tree, "a", nil)
			cmd := spawn(t, g, "sleep 100 & sleep 100 & wait")
			if err := g.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := g.Remove(); err != nil {
				t.Fatal(err)
			}
			_ = wait(t, cmd)
		}
	})
}
