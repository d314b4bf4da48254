package cgroup

import (
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
	"golang.org/x/sys/unix"
)

// rules builds the resources that a list of devices stands for.
func rules(t testing.TB, lines ...string) *specs.LinuxResources {
	t.Helper()
	c := engine.NewConfig()
	if err := c.SetDevices(lines); err != nil {
		t.Fatal(err)
	}
	return c.Spec.Linux.Resources
}

// probed are devices to try. The last has no driver behind it, and so ends in another error once it may be opened.
var probed = []struct {
	kind         string
	mode         uint32
	major, minor uint32
}{{"c", unix.S_IFCHR, 1, 3}, {"c", unix.S_IFCHR, 1, 5}, {"c", unix.S_IFCHR, 1, 7}, {"b", unix.S_IFBLK, 255, 3}}

// probe has a process of the group open each of the probed devices for reading, writing and both, and make it: a line for each
// that is EPERM.
func probe(t testing.TB, g *Group) (refused []string) {
	t.Helper()
	dir := t.TempDir()
	var script strings.Builder
	for _, d := range probed {
		node := fmt.Sprintf("%s/%s%d:%d", dir, d.kind, d.major, d.minor)
		if err := unix.Mknod(node, d.mode|0o600, int(unix.Mkdev(d.major, d.minor))); err != nil {
			t.Fatal(err)
		}
		for access, try := range map[string]string{"r": ": < " + node, "w": ": > " + node, "rw": ": <> " + node,
			"m": fmt.Sprintf("mknod %s.made %s %d %d", node, d.kind, d.major, d.minor)} {
			fmt.Fprintf(&script, "case $({ %s; } 2>&1) in *permitted*) echo '%s %d:%d %s' >> %s/refused ;; esac\n", try, d.kind, d.major, d.minor, access, dir)
		}
	}
	_ = wait(t, spawn(t, g, script.String()))
	text, err := os.ReadFile(filepath.Join(dir, "refused"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	refused = strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	slices.Sort(refused)
	return slices.DeleteFunc(refused, func(s string) bool { return s == "" })
}

// refusals is what probe must find, by the rule that one line of a list must allow the whole of an access.
func refusals(list string) (refused []string) {
	for _, d := range probed {
		for _, access := range []string{"r", "w", "rw", "m"} {
			r := engine.DeviceRule{Kind: d.kind, Major: int64(d.major), Minor: int64(d.minor), Access: access}
			if !engine.CoveredBy(engine.ParseDeviceList(list), r) {
				refused = append(refused, r.String())
			}
		}
	}
	slices.Sort(refused)
	return refused
}

// Lists that follow one another in one group, whatever the backend. /dev/null must stay, for the shell.
func TestDevices(t *testing.T) {
	lists := [][]string{{}, {"a"}, {"c *:* rwm"}, {"b *:* m"}, {"c 1:* r", "c 1:5 w"}, {"c *:3 rw", "b 255:* r"}, {"c 1:5 r", "c 1:5 m"},
		{"c 1:7 rwm", "b *:3 rwm"}, strings.Split(defaultDevices, "\n")}
	onHosts(t, "devices", func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", rules(t, "c 1:3 rwm", "c 1:7 w"))
		for range 2 { // in another order
			for _, i := range rand.Perm(len(lists)) {
				r := rules(t, append([]string{"c 1:3 rwm"}, lists[i]...)...)
				if err := g.Apply(r); err != nil {
					t.Fatal(err)
				}
				list := deviceLimit(configOf(r))
				if got, want := probe(t, g), refusals(list); !slices.Equal(got, want) {
					t.Errorf("%q refuses\n%q, want\n%q", list, got, want)
				}
				if text := read(t, g, devicesFile); text != list+"\n" {
					t.Errorf("%q reads as %q", list, text)
				}
			}
			// A server that comes back finds the devices of the one before.
			var err error
			if g, err = tree.Open("a"); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.Apply(nil); err != nil {
			t.Fatal(err)
		}
		if got := probe(t, g); len(got) > 0 {
			t.Errorf("without a list it refuses %q", got)
		}
	})
}

// A group gets no more than the one above it has, at no time.
func TestNestedDevices(t *testing.T) {
	onHosts(t, "devices", func(t *testing.T, tree *Tree) {
		outer, inner := rules(t, "c 1:3 rwm", "c 1:5 rwm"), rules(t, "c 1:3 rwm", "c 1:7 r")
		a := create(t, tree, "a", outer)
		b, err := tree.Create("a/b", inner)
		p, _ := tree.host.lookup("read", devicesFile)
		if !p.filtered() { // v1 says so; a program that allows more than those above it changes nothing
			wantErrno(t, err, syscall.EPERM)
			groupsAre(t, tree, "a")
			b = create(t, tree, "a/b", rules(t, "c 1:3 rwm"))
		} else if err != nil {
			t.Fatal(err)
		}
		both := refusals("c 1:3 rwm")
		if got := probe(t, b); !slices.Equal(got, both) {
			t.Errorf("got %q, want %q", got, both)
		}
		// What the outer one loses, the inner one loses, and gets back.
		for _, change := range []*specs.LinuxResources{rules(t, "c 1:5 rwm", "c 1:3 r"), rules(t, "c 1:7 r", "c 1:3 rwm")} {
			if err := a.Apply(change); err != nil {
				t.Fatal(err)
			}
			if err := b.RenewDevices(inner, change); err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, r := range refusals("") {
				rule := engine.ParseDeviceList(r)[0]
				if !engine.CoveredBy(engine.ParseDeviceList(deviceLimit(configOf(change))), rule) ||
					!engine.CoveredBy(engine.ParseDeviceList(deviceLimit(configOf(inner))), rule) {
					want = append(want, r)
				}
			}
			got := probe(t, b)
			if !p.filtered() { // v1 keeps of a line only what the outer line covers as a whole
				got = slices.DeleteFunc(got, func(s string) bool { return s == "c 1:3 r" })
				want = slices.DeleteFunc(want, func(s string) bool { return s == "c 1:3 r" })
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	})
}

// On v1 everything cannot be taken back around a nested group; nothing has changed then.
func TestDevicesOfAllBusy(t *testing.T) {
	h := hosts(t)["v1"]
	if h == nil {
		t.Skip("no cgroup v1 here")
	}
	tree := newTree(t, h)
	a := create(t, tree, "a", rules(t, "a"))
	create(t, tree, "a/b", rules(t, "a"))
	wantErrno(t, a.Apply(rules(t, "c 1:3 rwm")), syscall.EINVAL)
	if text := read(t, a, devicesFile); text != engine.AllDevices+"\n" {
		t.Errorf("now it is %q", text)
	}
}

// Where nothing controls devices, what is not enforced is refused, but for what every container has.
func TestDevicesWithoutController(t *testing.T) {
	requireRoot(t)
	defer func(lack func() string) { filterLack = lack }(filterLack)
	filterLack = func() string { return "none taken" }
	h := hosts(t)["core"]
	if h == nil {
		t.Skip("the v2 hierarchy has controllers")
	}
	tree := newTree(t, h)
	for lines, errno := range map[string]syscall.Errno{defaultDevices: 0, "a": 0, "c 1:3 rwm": syscall.EOPNOTSUPP, defaultDevices + "\nc 10:229 rwm": syscall.EOPNOTSUPP} {
		g, err := tree.Create("a", rules(t, strings.Split(lines, "\n")...))
		if errno != 0 {
			wantErrno(t, err, errno)
			continue
		}
		if err != nil {
			t.Fatalf("%q: %v", lines, err)
		}
		if err := g.Remove(); err != nil {
			t.Fatal(err)
		}
	}
}

// Programs of others stay, and ours is found among them.
func TestForeignFilter(t *testing.T) {
	h := hosts(t)["core"]
	if h == nil {
		h = hosts(t)["host"]
	}
	tree := newTree(t, h)
	p, err := tree.host.lookup("read", devicesFile)
	if err != nil || !p.filtered() {
		t.Skip("no device filters here")
	}
	g := create(t, tree, "a", rules(t, "c 1:3 rwm", "c 1:5 rwm"))
	foreign, err := loadNamed("other", engine.ParseDeviceList("c 1:3 rwm\nc 1:7 rwm"))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(foreign)
	fd, err := tree.tops[0].open("a", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	arg := attachArg{group: uint32(fd), program: uint32(foreign), kind: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	if _, err := bpf(unix.BPF_PROG_ATTACH, &arg); err != nil {
		t.Fatal(err)
	}
	for _, change := range []struct {
		r    *specs.LinuxResources
		want string
	}{{rules(t, "c 1:3 rwm", "c 1:7 rwm", "b *:* rwm"), "c 1:3 rwm\nc 1:7 rwm"}, {nil, "c 1:3 rwm\nc 1:7 rwm"}, {rules(t, "c 1:3 rwm"), "c 1:3 rwm"}} {
		if err := g.Apply(change.r); err != nil {
			t.Fatal(err)
		}
		if got, want := probe(t, g), refusals(change.want); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// FuzzDevicesToV1 checks that the writes lead from any list to any other, by the kernel's own rules for them.
func FuzzDevicesToV1(f *testing.F) {
	f.Add(engine.AllDevices, defaultDevices)
	f.Add("c 1:3 rw\nc *:3 m", "c 1:3 rm\nb 7:* r")
	f.Fuzz(func(t *testing.T, old, value string) {
		old, value = engine.FormatDeviceList(engine.ParseDeviceList(old)), engine.FormatDeviceList(engine.ParseDeviceList(value))
		changes, err := devicesToV1(old, value)
		if err != nil {
			t.Fatal(err)
		}
		now := engine.ParseDeviceList(old)
		for _, c := range changes {
			rule := engine.ParseDeviceList(c.text)
			switch {
			case c.file == devicesDeny && c.text == "a":
				now = nil
			case c.file == devicesDeny:
				now = without(now, rule)
			default:
				now = append(now, rule...)
			}
		}
		if got := engine.FormatDeviceList(now); got != value {
			t.Fatalf("%q to %q gives %q by %v", old, value, got, changes)
		}
	})
}
