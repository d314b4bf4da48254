package plan

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// everything asks for every right that there is.
func everything(c *engine.Config) {
	p := c.Spec.Process
	score, umask, root, mode := -500, uint32(0o027), uint32(0), os.FileMode(0o640)
	p.OOMScoreAdj, p.User = &score, specs.User{UID: 1000, GID: 100, AdditionalGids: []uint32{4, 20}, Umask: &umask}
	p.ApparmorProfile, p.SelinuxLabel = "web-profile", "system_u:system_r:container_t:s0:c1,c2"
	p.Capabilities.Inheritable, p.Capabilities.Ambient = []string{"CAP_NET_BIND_SERVICE"}, []string{"CAP_NET_BIND_SERVICE", "CAP_KILL"}
	p.Capabilities.Bounding = append(p.Capabilities.Bounding, "CAP_SYS_RESOURCE")
	c.Spec.Linux.Sysctl = map[string]string{"net.ipv4.conf.eth0/100.rp_filter": "1", "kernel.shmmax": "65536"}
	c.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200, UID: &root},
		{Path: "/dev/sda", Type: "b", Major: 8}, {Path: "/dev/zero", Type: "c", Major: 1, Minor: 7},
		{Path: "/dev/full", Type: "u", Major: 1, Minor: 7}, {Path: "/run/fifo", Type: "p", FileMode: &mode}}
}

// rightsHost can give everything but CAP_SYS_RESOURCE.
func rightsHost() Host {
	h := testHost
	h.Caps &^= 1 << 24
	h.AppArmor, h.SELinux = true, true
	h.Filter = &Filter{Code: make([]byte, 8*167), Text: "the default profile"}
	return h
}

func TestGoldenRights(t *testing.T) {
	golden(t, "rights", configured(t, everything), rightsHost())
	golden(t, "privileged", configured(t, func(c *engine.Config) {
		everything(c)
		c.Spec.Process.NoNewPrivileges = false
		c.Spec.Process.User = specs.User{}
		c.Spec.Process.Capabilities.Effective = nil
	}), rightsHost())
}

func TestOrderOfRights(t *testing.T) {
	rules := []orderRule{
		{"set oom_score_adj", "make every mount private", "the file is the host's root's: it comes before any user namespace"},
		{"take the apparmor", "pivot", "a procfs in the root may be a fake"},
		{"take the selinux", "pivot", "a procfs in the root may be a fake"},
		{"mount a procfs out of", "set kernel parameter", ""},
		{"become uid 0", "set kernel parameter", "the files belong to the root of the namespaces"},
		{"set kernel parameter", "detach the host", "a user namespace may mount proc only while one is visible"},
		{"execute under the apparmor", "execute /", ""},
		{"set umask", "filter", "a filter need not allow what the launch does"},
		{"close every other", "filter", "a filter need not allow what the launch does"},
	}
	strict := append(rules, orderRule{"set no_new_privs", "filter", "the kernel demands it, or CAP_SYS_ADMIN"},
		orderRule{"keep capabilities", "filter", "a filter need not allow what the launch does"})
	checkOrder(t, configured(t, everything), rightsHost(), strict)
	loose := append(rules, orderRule{"filter", "become user", "without no_new_privs it needs CAP_SYS_ADMIN"})
	checkOrder(t, configured(t, func(c *engine.Config) {
		everything(c)
		c.Spec.Process.NoNewPrivileges = false
	}), rightsHost(), loose)
}

func TestCapabilitySets(t *testing.T) {
	all, bind := []string{"CAP_NET_BIND_SERVICE", "CAP_SETUID"}, []string{"CAP_NET_BIND_SERVICE"}
	cases := []struct {
		name string
		uid  uint32
		caps specs.LinuxCapabilities
		want string
	}{
		{"root has what it is given", 0, specs.LinuxCapabilities{Bounding: all, Permitted: all, Effective: all},
			"keep capabilities SETUID NET_BIND_SERVICE"},
		{"a user gets none of it", 1, specs.LinuxCapabilities{Bounding: all, Permitted: all, Effective: all}, "keep no capabilities"},
		{"a user gets the ambient ones", 1, specs.LinuxCapabilities{Bounding: all, Permitted: all, Effective: all, Inheritable: all, Ambient: bind},
			"keep capabilities NET_BIND_SERVICE, inheritable SETUID NET_BIND_SERVICE, ambient NET_BIND_SERVICE"},
		{"as runc spec has it", 1, specs.LinuxCapabilities{Bounding: bind, Permitted: bind, Effective: bind, Ambient: bind},
			"keep no capabilities; ambient NET_BIND_SERVICE does nothing without being permitted and inheritable"},
		{"root with less than its bounds", 0, specs.LinuxCapabilities{Bounding: all, Permitted: bind, Effective: bind},
			"keep capabilities NET_BIND_SERVICE; execution gives root the whole bounding set"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, caps, err := capabilitySteps(&specs.Process{User: specs.User{UID: c.uid}, Capabilities: &c.caps}, testHost)
			if err != nil || caps.String() != c.want {
				t.Errorf("got %q, %v, want %q", caps, err, c.want)
			}
		})
	}
}

// TestRefusedRights: what cannot be had is refused by name before anything is done.
func TestRefusedRights(t *testing.T) {
	sysctl := func(name, value string) func(*engine.Config) {
		return func(c *engine.Config) { c.Spec.Linux.Sysctl = map[string]string{name: value} }
	}
	device := func(d specs.LinuxDevice) func(*engine.Config) {
		return func(c *engine.Config) { c.Spec.Linux.Devices = []specs.LinuxDevice{d} }
	}
	score := func(n int) func(*engine.Config) { return func(c *engine.Config) { c.Spec.Process.OOMScoreAdj = &n } }
	cases := []struct {
		name, sentence string
		errno          syscall.Errno
		change         func(*engine.Config)
	}{
		{"effective without permitted", "NET_RAW", syscall.EINVAL, func(c *engine.Config) { c.Spec.Process.Capabilities.Permitted = []string{"CAP_KILL"} }},
		{"inheritable without bounding", "SYS_ADMIN", syscall.EINVAL, func(c *engine.Config) { c.Spec.Process.Capabilities.Inheritable = []string{"CAP_SYS_ADMIN"} }},
		{"an unknown ambient one", "CAP_X", syscall.EINVAL, func(c *engine.Config) { c.Spec.Process.Capabilities.Ambient = []string{"CAP_X"} }},
		{"apparmor without it", "apparmor", syscall.EOPNOTSUPP, func(c *engine.Config) { c.Spec.Process.ApparmorProfile = "x" }},
		{"selinux without it", "selinux", syscall.EOPNOTSUPP, func(c *engine.Config) { c.Spec.Process.SelinuxLabel = "x" }},
		{"a score out of range", "1001", syscall.EINVAL, score(1001)},
		{"a score below what can be given", "-501", syscall.EOPNOTSUPP, score(-501)},
		{"a filter that nobody compiled", "filter", syscall.EOPNOTSUPP, func(c *engine.Config) { c.Spec.Linux.Seccomp = &specs.LinuxSeccomp{} }},
		{"a soft limit above the hard one", "RLIMIT_CORE", syscall.EINVAL, func(c *engine.Config) {
			c.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 2, Hard: 1}}
		}},
		{"the host's core pattern", "kernel.core_pattern", syscall.EINVAL, sysctl("kernel.core_pattern", "|/x")},
		{"a name that begins like another", "kernel.shmmax_x", syscall.EINVAL, sysctl("kernel.shmmax_x", "1")},
		{"a parameter of a namespace that is not the container's", "user.max_mnt_namespaces", syscall.EINVAL, func(c *engine.Config) {
			c.SetNamespace("user", "host")
			sysctl("user.max_mnt_namespaces", "1")(c)
		}},
		{"a name with ..", "net", syscall.EINVAL, sysctl("net.//.//.kernel.core_pattern", "1")},
		{"a name with an empty part", "net", syscall.EINVAL, sysctl("net..ip_forward", "1")},
		{"a name with a line break", "net", syscall.EINVAL, sysctl("net.x\ny", "1")},
		{"no name", "name", syscall.EINVAL, sysctl("", "1")},
		{"a value with a line break", "line break", syscall.EINVAL, sysctl("net.ipv4.ip_forward", "1\n2")},
		{"no type", "x", syscall.EOPNOTSUPP, device(specs.LinuxDevice{Path: "/dev/p", Type: "x"})},
		{"a number that wraps", "4294967297", syscall.EOPNOTSUPP, device(specs.LinuxDevice{Path: "/dev/p", Type: "c", Major: 1<<32 + 1, Minor: 3})},
		{"a relative path", "dev/p", syscall.EOPNOTSUPP, device(specs.LinuxDevice{Path: "dev/p", Type: "c", Major: 1, Minor: 3})},
		{"another null", "/dev/x/../null", syscall.EOPNOTSUPP, device(specs.LinuxDevice{Path: "/dev/x/../null", Type: "c", Major: 1, Minor: 5})},
	}
	h := testHost
	h.OOMScoreMin = -500
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Build(configured(t, c.change), h)
			if engine.Errno(err) != c.errno || !strings.Contains(err.Error(), c.sentence) {
				t.Errorf("got %v, want %v naming %s", err, c.errno, c.sentence)
			}
		})
	}
	h.Filter = &Filter{Code: make([]byte, 12)}
	if _, err := Build(engine.NewConfig(), h); engine.Errno(err) != syscall.EINVAL {
		t.Errorf("half an instruction: got %v, want EINVAL", err)
	}
}

// FuzzSysctlPath: no name leads anywhere but below sys.
func FuzzSysctlPath(f *testing.F) {
	for _, name := range []string{"net.ipv4.ip_forward", "net.ipv4.conf.eth0/100.rp_filter", "net.//.x", "..", "a", "/"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		file, ok := sysctlPath(name)
		if !ok {
			return
		}
		parts := strings.Split(file, "/")
		if parts[0] != "sys" || len(parts) < 3 {
			t.Errorf("%q leads to %q", name, file)
		}
		for _, part := range parts {
			if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "\x00\n") {
				t.Errorf("%q leads to %q", name, file)
			}
		}
	})
}
