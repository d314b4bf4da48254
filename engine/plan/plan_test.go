package plan

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var testHost = Host{Name: "web", Cgroup: "pod/web", Mountpoint: "/run/x/root", LastCap: 40, NoFile: 20000, Caps: 1<<41 - 1, OOMScoreMin: -1000,
	Roots: []Prepared{{"/", "overlay"}, {"/usr", "the host's /usr, read-only"}}}

func configured(t *testing.T, change func(*engine.Config)) *engine.Config {
	t.Helper()
	c := engine.NewConfig()
	if err := c.SetCmd(`sh -c "echo hi"`); err != nil {
		t.Fatal(err)
	}
	change(c)
	return c
}

// TestGolden prints plans and compares them with the files in testdata; -update rewrites those.
func TestGolden(t *testing.T) {
	cases := map[string]func(*engine.Config){
		"default": func(*engine.Config) {},
		"user": func(c *engine.Config) {
			c.Spec.Process.User = specs.User{UID: 1000, GID: 100, AdditionalGids: []uint32{4, 20}}
			c.Spec.Process.Cwd = "/home/user"
		},
		"limits": func(c *engine.Config) {
			c.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 64, Hard: 128}, {Type: "RLIMIT_CORE", Soft: 0, Hard: ^uint64(0)}}
		},
		"hooks": func(c *engine.Config) {
			h := []specs.Hook{{Path: "/hook/a", Args: []string{"a", "b c"}, Timeout: new(3)}, {Path: "/hook/b"}}
			//lint:ignore SA1019 prestart is deprecated, and still what many tools write
			c.Spec.Hooks = &specs.Hooks{Prestart: h, CreateRuntime: h[1:], CreateContainer: h, StartContainer: h[:1], Poststart: h, Poststop: h}
		},
		"hooks_inside": func(c *engine.Config) { // the child reports even so
			c.Spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/hook/a"}}}
			c.Spec.Process.NoNewPrivileges = false
		},
		"terminal": func(c *engine.Config) {
			c.Spec.Process.User.UID = 1000
			if err := c.SetTTY("100x30"); err != nil {
				t.Fatal(err)
			}
		},
		"init": func(c *engine.Config) {
			c.SetInit(true)
			c.Spec.Process.User = specs.User{UID: 1000, GID: 100}
			c.Spec.Process.Terminal = true
		},
		"empty": func(c *engine.Config) { c.Spec.Process.Args = nil },
		"bare": func(c *engine.Config) {
			c.Spec.Process.Capabilities = nil
			c.Spec.Process.NoNewPrivileges = false
			c.Spec.Linux.MaskedPaths, c.Spec.Linux.ReadonlyPaths = nil, nil
			c.Spec.Mounts = nil
			c.Spec.Process.Args = []string{"/bin/true"}
		},
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			golden(t, name, configured(t, change), testHost)
		})
	}
}

// golden compares the plan of a configuration with its file.
func golden(t *testing.T, name string, c *engine.Config, h Host) {
	t.Helper()
	steps, err := Build(c, h)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, name, String(steps))
}

// compare compares a printed plan with its file.
func compare(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestRefusals(t *testing.T) {
	cases := []struct {
		name, sentence string
		errno          syscall.Errno
		change         func(*engine.Config)
	}{
		{"no such capability", "CAP_NOPE", syscall.EINVAL, func(c *engine.Config) { c.Spec.Process.Capabilities.Bounding = []string{"CAP_NOPE"} }},
		{"no such limit", "RLIMIT_NOPE", syscall.EINVAL, func(c *engine.Config) { c.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOPE"}} }},
		{"mounts on the host", "mounts", syscall.EINVAL, func(c *engine.Config) {
			c.SetNamespace("mnt", "host")
			c.SetMounts([]string{"tmpfs /x tmpfs rw"})
		}},
		{"a terminal without devpts", "no devpts", syscall.EINVAL, func(c *engine.Config) { c.Spec.Process.Terminal, c.Spec.Mounts = true, nil }},
		{"a terminal in what is no devpts", "no devpts", syscall.EINVAL, func(c *engine.Config) {
			c.Spec.Process.Terminal, c.Spec.Mounts[3] = true, specs.Mount{Destination: "/dev/pts", Type: "tmpfs"}
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Build(configured(t, c.change), testHost)
			if engine.Errno(err) != c.errno || !strings.Contains(err.Error(), c.sentence) {
				t.Errorf("got %v, want %v naming %s", err, c.errno, c.sentence)
			}
		})
	}
}

// orderRule says that a step comes before another, and why.
type orderRule struct{ first, then, because string }

// TestOrder states the rules of order that a launch is wrong without.
func TestOrder(t *testing.T) {
	checkOrder(t, configured(t, func(c *engine.Config) { c.Spec.Process.User.UID = 1 }), testHost, []orderRule{
		{"guard", "join cgroup", "a guarded child is never seen unguarded"},
		{"join cgroup", "unshare the cgroup", "the group of that moment becomes the root of the namespace"},
		{"make every mount private", "pivot", "else the host sees the mounts"},
		{"mount proc", "detach the host", "a user namespace may mount proc only while one is visible"},
		{"detach the host", "mount tmpfs on /dev", "nothing of the host is in reach of the container's own mounts"},
		{"mount tmpfs on /dev", "bind the host's /dev/null", "else it hides them"},
		{"bind the host's /dev/null", "mask", "masking takes the container's own null"},
		{"drop", "become user", "the bounding set needs CAP_SETPCAP"},
		{"become user", "keep no capabilities", "changing user needs CAP_SETUID"},
		{"connect stdin", "close every other", "the log is one of the others until then"},
		{"set no_new_privs", "execute", ""},
		{"close every other", "execute", ""},
	})
	checkOrder(t, configured(t, func(c *engine.Config) { c.Spec.Process.User.UID, c.Spec.Process.Terminal = 1, true }), testHost, []orderRule{
		{"start a new session", "connect stdin", "only the leader of a session without a terminal gets one"},
		{"mount devpts", "open a terminal", "it is opened in that"},
		{"detach the host", "open a terminal", "and not in the host's"},
		{"open a terminal", "connect stdin", ""},
		{"open a terminal", "drop", "giving it to the user needs CAP_CHOWN"},
	})
}

// TestMountFlags: no option that any mount takes is handed to the file system, which would refuse it, or ignored.
func TestMountFlags(t *testing.T) {
	c := engine.NewConfig()
	for _, o := range strings.Fields("ro rw suid nosuid dev nodev exec noexec relatime noatime strictatime diratime nodiratime symfollow nosymfollow") {
		if err := c.SetMounts([]string{"none /x tmpfs " + o + " 0 0"}); err != nil {
			t.Fatal(err)
		}
		attr, rest := split([]string{o})
		if len(rest) > 0 || strings.HasPrefix(o, "no") != (attr != 0 && o != "ro" && o != "strictatime") {
			t.Errorf("%s: attributes %#x, left to the file system: %q", o, attr, rest)
		}
	}
}

// TestForeignMounts: where another tool's configuration mounts a system's own file systems with other options, they still
// come in their order, and procfs and sysfs while they may.
func TestForeignMounts(t *testing.T) {
	c := configured(t, func(c *engine.Config) {
		mounts := c.Spec.Mounts
		for i := range mounts {
			mounts[i].Options = slices.DeleteFunc(slices.Clone(mounts[i].Options), func(o string) bool { return o == "noexec" })
		}
		c.Spec.Mounts = append(mounts, specs.Mount{Destination: "/data", Type: "none", Source: "/srv", Options: []string{"bind"}})
	})
	checkOrder(t, c, testHost, []orderRule{
		{"mount proc", "detach the host", ""},
		{"mount sysfs", "detach the host", ""},
		{"detach the host", "mount tmpfs on /dev", ""},
		{"mount tmpfs on /dev", "mount devpts on /dev/pts", "else it hides it"},
		{"mount devpts", "mount tmpfs on /dev/shm", ""},
		{"mount mqueue", "bind /srv", ""},
		{"bind /srv", "bind the host's /dev/null", ""},
	})
}

func checkOrder(t *testing.T, c *engine.Config, h Host, rules []orderRule) {
	t.Helper()
	steps, err := Build(c, h)
	if err != nil {
		t.Fatal(err)
	}
	at := func(of string) int {
		for i, s := range steps {
			if strings.HasPrefix(s.String(), of) {
				return i
			}
		}
		t.Fatalf("there is no step %q in\n%s", of, String(steps))
		return -1
	}
	for _, rule := range rules {
		if at(rule.first) > at(rule.then) {
			t.Errorf("%q comes after %q: %s", rule.first, rule.then, rule.because)
		}
	}
}

func TestCandidates(t *testing.T) {
	for _, c := range []struct{ program, path, want string }{
		{"sh", "/bin:/usr/bin", "/bin/sh /usr/bin/sh"}, {"./sh", "/bin", "./sh"}, {"/x/sh", "/bin", "/x/sh"}, {"sh", "/bin:", "/bin/sh sh"},
	} {
		p := &specs.Process{Args: []string{c.program}, Env: []string{"PATH=" + c.path}}
		if got := strings.Join(candidates(p), " "); got != c.want {
			t.Errorf("%s in %s: %s, want %s", c.program, c.path, got, c.want)
		}
	}
}

// TestTogether: where the kernel kills all of a group, no child shares the keeper's memory, whatever else it enters.
func TestTogether(t *testing.T) {
	for name, change := range map[string]func(*engine.Config){"default": func(*engine.Config) {},
		"bare": func(c *engine.Config) { c.Spec.Linux.Namespaces = nil }} {
		h := testHost
		h.OOMGroup = true
		steps, err := Build(configured(t, change), h)
		if err != nil || len(steps) == 0 || steps[0] != (Fork{Copy: true}) {
			t.Errorf("%s: %v, error %v", name, steps, err)
		}
	}
}
