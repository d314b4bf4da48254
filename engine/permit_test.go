package engine

import (
	"errors"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestExtensionFields: whoever adds a field to the extension has to say whether anybody may set it.
func TestExtensionFields(t *testing.T) {
	if n := reflect.TypeFor[Extension]().NumField(); n != extensionFields {
		t.Errorf("the extension has %d fields: see that each is permitted to everybody or among the denials, then count them", n)
	}
}

// TestPermitted: a new container, and what anybody may set, belongs to whom it wants; everything else is root's to give.
func TestPermitted(t *testing.T) {
	free := map[string]func(*Config) error{
		"nothing":  func(*Config) error { return nil },
		"cmd":      func(c *Config) error { return c.SetCmd("sh -c 'echo hi'") },
		"env":      func(c *Config) error { return c.SetEnv([]string{"A=1"}) },
		"user":     func(c *Config) error { return c.SetUser("5:6") },
		"hostname": func(c *Config) error { return c.SetHostname("x") },
		"memory":   func(c *Config) error { return c.SetMemoryMax(1 << 20) },
		"mounts":   func(c *Config) error { return c.SetMounts([]string{"tmpfs /data tmpfs size=1m,x-mount.mkdir 0 0"}) },
		"net":      func(c *Config) error { return c.SetNet("blue") },
		"ports":    func(c *Config) error { return c.SetPorts([]string{"8080:80"}) },
		"listen":   func(c *Config) error { return c.SetListen([]string{"tcp 127.0.0.1:8080"}) },
		"caps":     func(c *Config) error { return c.SetCaps([]string{"none"}) },
		"mode":     func(c *Config) error { return c.SetRootMode(RootReadOnly) },
		"image":    func(c *Config) error { return c.SetImage("debian") },
		"join":     func(c *Config) error { return c.SetNamespace("net", "pod") },
		"nofile":   func(c *Config) error { return c.SetRlimit("nofile", "100") },
		"oom":      func(c *Config) error { return c.SetOOMScoreAdj(500) },
	}
	for name, set := range free {
		c := NewConfig()
		if err := set(c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := c.Permitted(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := c.PermittedFrom(NewConfig()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	denied := map[string]func(*Config) error{
		"rootfs":       func(c *Config) error { return c.SetRootfs("/srv") },
		"rootfs.size":  func(c *Config) error { return c.SetRootSize(1 << 20) },
		"mounts":       func(c *Config) error { return c.SetMounts([]string{"/etc /data none bind 0 0"}) },
		"namespaces":   func(c *Config) error { return c.SetNamespace("pid", "host") },
		"net host":     func(c *Config) error { return c.SetNet("host") },
		"net path":     func(c *Config) error { return c.SetNet("/run/netns/x") },
		"user host":    func(c *Config) error { return c.SetNamespace("user", "host") },
		"uid_map":      func(c *Config) error { return c.SetUIDMap([]string{"0 0 1"}) },
		"gid_map":      func(c *Config) error { return c.SetGIDMap([]string{"0 0 1"}) },
		"caps":         func(c *Config) error { return c.SetCaps([]string{"+SYS_ADMIN"}) },
		"seccomp":      func(c *Config) error { return c.SetSeccomp("unconfined") },
		"no_new_privs": func(c *Config) error { c.SetNoNewPrivileges(false); return nil },
		"devices":      func(c *Config) error { return c.SetDevices([]string{"a"}) },
		"masked":       func(c *Config) error { return c.SetMasked(nil) },
		"readonly":     func(c *Config) error { return c.SetReadonly(nil) },
		"sysctl":       func(c *Config) error { return c.SetSysctl("net.ipv4.ip_forward", "1") },
		"oom":          func(c *Config) error { return c.SetOOMScoreAdj(-1) },
		"rlimits":      func(c *Config) error { return c.SetRlimit("memlock", "100") },
		"log.max":      func(c *Config) error { return c.SetLogMax(Max) },
		"ports":        func(c *Config) error { return c.SetPorts([]string{"80:80"}) },
		"listen":       func(c *Config) error { return c.SetListen([]string{"tcp 127.0.0.1:80"}) },
		"listen unix":  func(c *Config) error { return c.SetListen([]string{"unix /run/x"}) },
		"net_cls":      func(c *Config) error { return c.SetNetClassID(1) },
		"net_prio":     func(c *Config) error { return c.SetNetPriority("eth0", "1") },
	}
	for name, set := range denied {
		c := NewConfig()
		if err := set(c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		mustDeny(t, name, c.Permitted())
		mustDeny(t, name, c.PermittedFrom(NewConfig()))
		mustDeny(t, "taking away "+name, NewConfig().PermittedFrom(c))
		if err := c.SetCmd("other"); err != nil {
			t.Fatal(err)
		}
		before := NewConfig()
		if err := set(before); err != nil {
			t.Fatal(err)
		}
		if err := c.PermittedFrom(before); err != nil {
			t.Errorf("%s, which root has set, forbids another cmd: %v", name, err)
		}
	}
}

func mustDeny(t *testing.T, name string, err error) {
	t.Helper()
	if !errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), "; ") {
		t.Errorf("%s: %v, not EPERM with a cure", name, err)
	}
}

// TestPermittedJSON: what no file shows is root's to give, whatever it is.
func TestPermittedJSON(t *testing.T) {
	for name, set := range map[string]func(*specs.Spec){
		"hooks":       func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true"}}} },
		"propagation": func(s *specs.Spec) { s.Linux.RootfsPropagation = "shared" },
		"personality": func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32} },
		"ambient":     func(s *specs.Spec) { s.Process.Capabilities.Ambient = []string{"CAP_CHOWN"} },
		"rdma":        func(s *specs.Spec) { s.Linux.Resources.Rdma = map[string]specs.LinuxRdma{"x": {}} },
		"clocks":      func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1}} },
	} {
		c := NewConfig()
		set(&c.Spec)
		mustDeny(t, name, c.Permitted())
		mustDeny(t, name, c.PermittedFrom(NewConfig()))
	}
}
