package cgroup

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const limited = "memory pids cpu" // the controllers that limits need

func limits(t testing.TB, g *Group) string {
	t.Helper()
	var b strings.Builder
	for _, file := range []string{"memory.max", "pids.max", "cpu.max", "cpu.weight"} {
		b.WriteString(read(t, g, file))
	}
	return b.String()
}

// kernelFile reads a file of the group past the package.
func kernelFile(t testing.TB, g *Group, controller, file string) string {
	t.Helper()
	for _, y := range g.tree.host.used {
		if slices.Contains(y.controllers, controller) {
			text, err := os.ReadFile(filepath.Join(y.mount, g.tree.name, g.path, file))
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
	}
	t.Fatalf("no hierarchy has %s", controller)
	return ""
}

func TestLimitsReachTheKernel(t *testing.T) {
	onHosts(t, limited, func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", resources(64<<20, 42, 20000, 50000, 2048))
		want := map[string]string{"memory/memory.limit_in_bytes": "67108864\n", "pids/pids.max": "42\n",
			"cpu/cpu.cfs_quota_us": "20000\n", "cpu/cpu.cfs_period_us": "50000\n", "cpu/cpu.shares": "2048\n"}
		if tree.host.Mode() == "v2" {
			want = map[string]string{"memory/memory.max": "67108864\n", "pids/pids.max": "42\n",
				"cpu/cpu.max": "20000 50000\n", "cpu/cpu.weight": "200\n"}
		}
		for file, text := range want {
			controller, name, _ := strings.Cut(file, "/")
			if got := kernelFile(t, g, controller, name); got != text {
				t.Errorf("%s: %q, want %q", file, got, text)
			}
		}
		if got, want := limits(t, g), "67108864\n42\n20000 50000\n200\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if err := g.Apply(nil); err != nil {
			t.Fatal(err)
		}
		if got, want := limits(t, g), "max\nmax\nmax 100000\n100\n"; got != want {
			t.Errorf("without limits: %q, want %q", got, want)
		}
	})
}

// settings are wanted limits and what must then be read. Any may follow any.
var settings = []struct {
	r    *specs.LinuxResources
	want string
}{
	{nil, "max\nmax\nmax 100000\n100\n"},
	{&specs.LinuxResources{}, "max\nmax\nmax 100000\n100\n"},
	{resources(8<<20, 1, 1000, 1000000, 2), "8388608\n1\n1000 1000000\n1\n"},
	{resources(8<<20, 0, 400000, 100000, 262144), "8388608\n0\n400000 100000\n10000\n"},
	{resources(-1, -1, -1, 1000, 1024), "max\nmax\nmax 1000\n100\n"},
	{resources(1<<30, 4<<20, 50000, 0, 512), "1073741824\n4194304\n50000 100000\n50\n"},
}

func TestApplyInAnyOrder(t *testing.T) {
	onHosts(t, limited, func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", nil)
		for range 3 {
			for _, i := range rand.Perm(len(settings)) {
				s := settings[i]
				if err := g.Apply(s.r); err != nil {
					t.Fatalf("%q: %v", s.want, err)
				}
				if got := limits(t, g); got != s.want {
					t.Fatalf("got %q, want %q", got, s.want)
				}
			}
			// Somebody else's view of the group, as after a crash, starts from what is there.
			var err error
			if g, err = tree.Open("a"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Only what differs is written: a limit changed behind our back stays when nobody wants it otherwise.
func TestApplyWritesTheDifference(t *testing.T) {
	onHosts(t, limited, func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", resources(64<<20, 42, 0, 0, 0))
		p, err := tree.host.lookup("write", "pids.max")
		if err != nil {
			t.Fatal(err)
		}
		if err := g.change(p, "42", "7"); err != nil {
			t.Fatal(err)
		}
		if err := g.Apply(resources(32<<20, 42, 0, 0, 0)); err != nil {
			t.Fatal(err)
		}
		if got, want := limits(t, g), "33554432\n7\nmax 100000\n100\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// The kernel refuses the third limit; the first two are as before, and the group knows it.
func TestApplyIsAllOrNothing(t *testing.T) {
	onHosts(t, limited, func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", resources(64<<20, 42, 20000, 50000, 2048))
		before := limits(t, g)
		// One millisecond is the least that the kernel takes; on v1 the period has been changed by then.
		err := g.Apply(resources(32<<20, 7, 1, 100000, 512))
		wantErrno(t, err, syscall.EINVAL)
		if !strings.Contains(err.Error(), "cpu.max") || !strings.Contains(err.Error(), `"1 100000"`) {
			t.Errorf("%v names neither file nor value", err)
		}
		if got := limits(t, g); got != before {
			t.Errorf("got %q, want %q", got, before)
		}
		if err := g.Apply(resources(32<<20, 7, 10000, 100000, 512)); err != nil {
			t.Fatal(err)
		}
		if got, want := limits(t, g), "33554432\n7\n10000 100000\n50\n"; got != want {
			t.Errorf("then %q, want %q", got, want)
		}
	})
}

// v1 refuses a child more than its parent's share; no way between two allowed settings may pass through a refused one.
func TestNestedBandwidth(t *testing.T) {
	onHosts(t, limited, func(t *testing.T, tree *Tree) {
		create(t, tree, "a", resources(-1, -1, 50000, 100000, 0))
		g := create(t, tree, "a/b", resources(-1, -1, 50000, 100000, 0))
		below := create(t, tree, "a/b/c", nil)
		for range 20 {
			quota, period := int64(1000+rand.IntN(49000)), uint64(0)
			period = uint64(2*quota) + uint64(rand.IntN(100000))
			if err := g.Apply(resources(-1, -1, quota, period, 0)); err != nil {
				t.Fatal(err)
			}
			if err := below.Apply(resources(-1, -1, quota, period, 0)); err != nil {
				t.Fatal(err)
			}
			if err := below.Apply(nil); err != nil {
				t.Fatal(err)
			}
		}
		err := g.Apply(resources(-1, -1, 100000, 100000, 0))
		if tree.host.Mode() == "v2" {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		wantErrno(t, err, syscall.EINVAL)
		if !strings.Contains(err.Error(), "parent") {
			t.Errorf("%v does not say why", err)
		}
	})
}

func TestUnsupportedLimit(t *testing.T) {
	h := hosts(t)["core"]
	if h == nil {
		t.Skip("no v2 hierarchy without controllers here")
	}
	tree := newTree(t, h)
	g := create(t, tree, "a", nil) // no limit, no need
	wantErrno(t, g.Apply(resources(1<<20, -1, 0, 0, 0)), syscall.EOPNOTSUPP)
	_, err := tree.Create("b", resources(1<<20, -1, 0, 0, 0))
	wantErrno(t, err, syscall.EOPNOTSUPP)
	groupsAre(t, tree, "a")
	_, err = g.OOMKills()
	wantErrno(t, err, syscall.EOPNOTSUPP)
}

func groupsAre(t *testing.T, tree *Tree, want ...string) {
	t.Helper()
	got, err := tree.Groups()
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("groups %q, %v, want %q", got, err, want)
	}
}

func TestTreeOfGroups(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		groupsAre(t, tree)
		a := create(t, tree, "a", nil)
		create(t, tree, "a/b", nil)
		create(t, tree, "a/b/c", nil)
		create(t, tree, "d", nil)
		groupsAre(t, tree, "a", "a/b", "a/b/c", "d")
		again, err := tree.host.Tree(tree.name)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		groupsAre(t, again, "a", "a/b", "a/b/c", "d")
		for range 2 { // what is gone is fine
			if err := a.Remove(); err != nil {
				t.Fatal(err)
			}
		}
		groupsAre(t, tree, "d")
		if _, err := a.Read("cgroup.procs"); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("a removed group reads as %v", err)
		}
	})
}

func TestCreateRefuses(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		create(t, tree, "a", nil)
		for p, errno := range map[string]syscall.Errno{"a": syscall.EEXIST, "x/y": syscall.ENOENT, "": syscall.EINVAL,
			"..": syscall.EINVAL, "a/../b": syscall.EINVAL, "/a": syscall.EINVAL, "a/": syscall.EINVAL,
			"a/" + leafName: syscall.EINVAL, "a\nb": syscall.EINVAL, strings.Repeat("a", 64): syscall.EINVAL} {
			_, err := tree.Create(p, nil)
			wantErrno(t, err, errno)
			if errno != syscall.EEXIST {
				_, err = tree.Open(p)
				wantErrno(t, err, errno)
			}
		}
		groupsAre(t, tree, "a")
	})
}

// A failure in any hierarchy leaves none of the directories made before it, and one that was there before is not touched.
func TestCreateIsAllOrNothing(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		for i, top := range tree.tops {
			if tree.host.used[i].late {
				continue
			}
			if err := top.mkdir("a"); err != nil {
				t.Fatal(err)
			}
			_, err := tree.Create("a", nil)
			wantErrno(t, err, syscall.EEXIST)
			for _, other := range tree.tops {
				if other.exists("a") != (other == top) {
					t.Errorf("%s: %v", other.path, other.exists("a"))
				}
			}
			if err := top.rmdir("a"); err != nil {
				t.Fatal(err)
			}
		}
		_, err := tree.Create("a", resources(1<<20, 10, 1, 0, 0)) // the quota is too small, or there is no controller
		if err == nil {
			t.Error("created with a refused limit")
		}
		groupsAre(t, tree)
	})
}

func TestOpenMends(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		last := tree.tops[len(tree.tops)-1]
		for _, p := range []string{"a", "a/b"} {
			if err := last.mkdir(p); err != nil {
				t.Fatal(err)
			}
		}
		groupsAre(t, tree, "a", "a/b")
		g, err := tree.Open("a/b")
		if err != nil {
			t.Fatal(err)
		}
		for _, top := range tree.tops {
			if !top.exists("a/b") {
				t.Errorf("%s lacks it", top.path)
			}
		}
		if err := g.Apply(nil); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWriteRefuses(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", nil)
		for _, c := range []struct {
			file, value string
			errno       syscall.Errno
		}{
			{"cgroup.procs", "", syscall.EINVAL}, {"cgroup.procs", "0", syscall.EINVAL}, {"cgroup.procs", "-1", syscall.EINVAL},
			{"cgroup.procs", "12x", syscall.EINVAL}, {"cgroup.procs", "99999999999", syscall.EINVAL},
			{"cgroup.procs", "2147483647", syscall.ESRCH}, {"cgroup.freeze", "2", syscall.EINVAL},
			{"cgroup.freeze", "", syscall.EINVAL}, {"cgroup.kill", "0", syscall.EINVAL},
			{"cgroup.events", "1", syscall.EACCES}, {"no.such", "1", syscall.EOPNOTSUPP},
		} {
			err := g.Write(c.file, c.value)
			wantErrno(t, err, c.errno)
			if !strings.Contains(err.Error(), c.file) {
				t.Errorf("%v does not name %s", err, c.file)
			}
		}
	})
}

// The kernel's ERANGE is not in the interface; an undo that fails too neither hides the cause nor breaks the line.
func TestErrnos(t *testing.T) {
	g := &Group{}
	if got := engine.Errno(g.refuse("write", "x", "1", syscall.ERANGE)); got != syscall.EINVAL {
		t.Errorf("ERANGE is %v", got)
	}
	err := also(g.refuse("write", "x", "1", syscall.ESRCH), syscall.EPERM)
	if engine.Errno(err) != syscall.ESRCH || !errors.Is(err, syscall.EPERM) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v: %q", engine.Errno(err), err)
	}
}

func TestCPUStatKeys(t *testing.T) {
	onHosts(t, limited, func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", resources(-1, -1, 50000, 0, 0))
		text := read(t, g, "cpu.stat")
		for _, key := range []string{"usage_usec", "user_usec", "system_usec", "nr_periods", "nr_throttled", "throttled_usec"} {
			if _, ok := keyed(text, key); !ok {
				t.Errorf("no %s in %q", key, text)
			}
		}
	})
}

func ExampleHost_Features() {
	host, err := Detect(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range host.Features()[:1] {
		fmt.Println(f.Name)
	}
	// Output: cgroup
}
