package cgroup

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// hog takes as many megabytes of memory, and says when it has them.
func hog(megabytes int) string {
	return fmt.Sprintf("exec dd if=/dev/zero of=/dev/null bs=%dM count=1", megabytes)
}

func newWatcher(t *testing.T) *Watcher {
	t.Helper()
	w := NewWatcher()
	t.Cleanup(w.Close)
	return w
}

// A kill is told, to the group whose limit it is and to those below, not to the one above; and removing a group ends a watch
// that nobody has closed.
func TestWatchOOM(t *testing.T) {
	onHosts(t, limited, func(t *testing.T, tree *Tree) {
		w := newWatcher(t)
		var told [3]atomic.Int32
		a := create(t, tree, "a", nil)
		b := create(t, tree, "a/b", resources(32<<20, -1, 0, 0, 0))
		c := create(t, tree, "a/b/c", nil)
		for i, g := range []*Group{a, b, c} {
			x, err := g.WatchOOM(w, func() { told[i].Add(1) })
			if err != nil {
				t.Fatal(err)
			}
			defer x.Close()
		}
		eventually(t, "the watcher is quiet", func() bool {
			n := told[0].Load()
			time.Sleep(20 * time.Millisecond)
			return told[0].Load() == n
		})
		before := told[0].Load()
		_ = wait(t, spawn(t, c, hog(400)))
		eventually(t, "the limit's group is told", func() bool { return told[1].Load() > 0 })
		eventually(t, "the victim's group is told", func() bool { return told[2].Load() > 0 })
		if v1 := !v2Memory(tree.host); v1 && told[0].Load() != before {
			t.Error("the group above has no part in it")
		}
		if oom, err := c.OOM(); err != nil || oom.Kills != 1 || oom.Under {
			t.Errorf("%+v, %v", oom, err)
		}
		if err := c.Remove(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.OOM(); err == nil {
			t.Error("a group that is gone has counters")
		}
	})
}

// v2Memory reports whether memory is v2's.
func v2Memory(h *Host) bool {
	p, err := h.lookup("read", "memory.current")
	return err == nil && p.v2
}

// Without a killer the task waits, the freezer says so at once, and a higher limit lets it end.
func TestHoldOOM(t *testing.T) {
	onHosts(t, limited, func(t *testing.T, tree *Tree) {
		if v2Memory(tree.host) {
			t.Skip("cgroup v2's killer cannot be held")
		}
		r := resources(32<<20, -1, 0, 0, 0)
		r.Memory.DisableOOMKiller = new(true)
		g := create(t, tree, "a", r)
		w := newWatcher(t)
		cmd := spawn(t, g, "dd if=/dev/zero of=/dev/null bs=100M count=1 || exit 3")
		short := func() bool { oom, err := g.OOM(); return err == nil && oom.Under }
		eventually(t, "memory runs out", short)
		var told atomic.Int32
		x, err := g.WatchOOM(w, func() { told.Add(1) })
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		eventually(t, "what was before the watch is told", func() bool { return told.Load() == 1 })
		begin := time.Now()
		if err := g.Write("cgroup.freeze", "1"); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d > freezeWait/2 {
			t.Errorf("the freeze waited %v for a task that does not freeze", d)
		}
		r.Memory.Limit = new(int64(300 << 20))
		if err := g.Apply(r); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it wakes, and freezes", func() bool {
			return !short() && strings.Contains(read(t, g, "cgroup.events"), "frozen 1")
		})
		if err := g.Write("cgroup.freeze", "0"); err != nil {
			t.Fatal(err)
		}
		if err := wait(t, cmd); err != nil {
			t.Errorf("it ended by %v", err)
		}
	})
}

// A group below one whose killer is held has one of its own all the same: v1 would pass the setting on.
func TestHoldOOMIsNotPassedOn(t *testing.T) {
	onHosts(t, limited, func(t *testing.T, tree *Tree) {
		if v2Memory(tree.host) {
			t.Skip("cgroup v2's killer cannot be held")
		}
		r := resources(-1, -1, 0, 0, 0)
		r.Memory.DisableOOMKiller = new(true)
		create(t, tree, "a", r)
		b := create(t, tree, "a/b", resources(32<<20, -1, 0, 0, 0))
		if err := wait(t, spawn(t, b, hog(400))); err == nil || err.Error() != "signal: killed" {
			t.Errorf("the hog ended by %v", err)
		}
	})
}

// A trigger fires while tasks are stalled; what the kernel refuses is EINVAL, with the reason.
func TestWatchPressure(t *testing.T) {
	if _, err := os.Stat("/proc/pressure/cpu"); err != nil {
		t.Skip(err)
	}
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", nil)
		w := newWatcher(t)
		var told atomic.Int32
		_, err := g.WatchPressure(w, "cpu.pressure", "some 20000 2000000", func() { told.Add(1) })
		if !tree.host.used[0].unified {
			wantErrno(t, err, syscall.EOPNOTSUPP)
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		_, err = g.WatchPressure(w, "cpu.pressure", "some 1 1", func() {})
		wantErrno(t, err, syscall.EINVAL)
		if told.Load() != 0 {
			t.Error("told of nothing")
		}
		for range 4 { // two processors are not enough
			spawn(t, g, "while :; do :; done")
		}
		eventually(t, "the trigger fires", func() bool { return told.Load() > 0 })
		if err := g.Kill(); err != nil {
			t.Fatal(err)
		}
	})
}
