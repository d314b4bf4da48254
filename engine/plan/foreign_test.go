package plan

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// everyway sets whatever a container without mounts of its own may have besides.
func everyway(t *testing.T) func(*engine.Config) {
	return func(c *engine.Config) {
		for _, err := range []error{c.SetNamespace("mnt", "host"), c.SetSysctl("kernel.domainname", "x"), c.SetDevices([]string{"a *:* rwm"})} {
			if err != nil {
				t.Fatal(err)
			}
		}
		h := []specs.Hook{{Path: "/hook"}}
		c.Spec.Hooks = &specs.Hooks{CreateRuntime: h, CreateContainer: h, StartContainer: h}
		c.Spec.Process.ApparmorProfile = "web"
		c.Spec.Process.Cwd = "/srv"
		c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		c.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 3600}}
	}
}

// joinedBy is a host on which a container joins these of another's.
func joinedBy(types ...specs.LinuxNamespaceType) Host {
	h := testHost
	h.AppArmor = true
	h.Joined = map[specs.LinuxNamespaceType]string{}
	for _, t := range types {
		h.Joined[t] = "of web"
	}
	return h
}

// TestForeignGolden: what is done to files that are there already is to look at them.
func TestForeignGolden(t *testing.T) {
	golden(t, "mnt_host", configured(t, everyway(t)), joinedBy())
	joins := configured(t, func(c *engine.Config) {
		everyway(t)(c)
		c.SetNamespace("mnt", "web")
		c.Spec.Hooks.CreateContainer = nil
	})
	golden(t, "mnt_joined", joins, joinedBy(specs.MountNamespace, specs.UserNamespace))
	golden(t, "time_joined", configured(t, func(c *engine.Config) { c.SetNamespace("time", "web") }), joinedBy(specs.TimeNamespace))
}

// TestForeignMountsNothing: whatever else is configured, no step mounts, hides or makes anything; most of all not on the host.
func TestForeignMountsNothing(t *testing.T) {
	harmless := map[string]bool{}
	for _, s := range []Step{Fork{}, Join{}, Clone{}, Guard{}, JoinCgroup{}, CgroupNamespace{}, Session{}, Hostname{}, Network{}, HostProc{},
		TimeNamespace{}, OpenLabel{}, Hooks{}, AsMounted{}, Hook{}, BecomeRoot{}, Sysctl{}, Chdir{}, Rlimit{}, Umask{}, Label{}, Stdio{},
		CloseRest{}, Bound{}, User{}, Capabilities{}, NoNewPrivileges{}, Exec{}} {
		harmless[fmt.Sprintf("%T", s)] = true
	}
	check := func(name string, c *engine.Config, h Host) {
		t.Helper()
		steps, err := Build(c, h)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, s := range steps {
			if cwd, ok := s.(Chdir); !harmless[fmt.Sprintf("%T", s)] || ok && !cwd.Exists {
				t.Errorf("%s: there is the step %T: %s", name, s, s)
			}
		}
	}
	for _, kind := range engine.Namespaces {
		c := configured(t, everyway(t))
		c.Spec.Linux.Sysctl = nil
		c.Spec.Linux.TimeOffsets = nil
		c.SetNamespace(kind.Name, "host")
		check("mnt host, "+kind.Name+" host", c, joinedBy())
		c.SetNamespace("mnt", "web")
		c.SetNamespace(kind.Name, "web")
		c.Spec.Hooks.CreateContainer = nil
		check("mnt web, "+kind.Name+" web", c, joinedBy(specs.MountNamespace, kind.Type))
		h := joinedBy(kind.Type)
		h.Joined[specs.MountNamespace] = OfHost // as it turns out at the start
		check("mnt web, which is the host's", c, h)
	}
}

// TestForeignHooks: a hook of this machine cannot be executed where its files are out of sight.
func TestForeignHooks(t *testing.T) {
	c := configured(t, everyway(t))
	c.SetNamespace("mnt", "web")
	if _, err := Build(c, joinedBy(specs.MountNamespace)); engine.Errno(err) != syscall.EOPNOTSUPP {
		t.Errorf("got %v, want EOPNOTSUPP", err)
	}
}

// TestForeignOrder states what a launch into somebody else's files is wrong without.
func TestForeignOrder(t *testing.T) {
	c := configured(t, func(c *engine.Config) {
		everyway(t)(c)
		c.SetNamespace("mnt", "web")
		c.SetNamespace("user", "web")
		c.Spec.Hooks.CreateContainer = nil
		c.Spec.Process.OOMScoreAdj = new(100)
	})
	checkOrder(t, c, joinedBy(specs.MountNamespace, specs.UserNamespace), []orderRule{
		{"set oom_score_adj", "enter the mount namespace", "it is written by its path, which is the host's until then"},
		{"enter the mount namespace", "enter the user namespace", "nobody in there owns another one's mounts"},
		{"take this machine's procfs", "take the apparmor attribute", ""},
		{"take this machine's procfs", "make a new time namespace", ""},
		{"enter the user namespace", "make a new time namespace", "it owns it"},
		{"make a new time namespace", "clone with new namespaces", "who makes it is not in it, and before Linux 6.3 execve(2) does not change that"},
		{"take the apparmor attribute", "become uid 0", "the attribute is the host's root's to write"},
		{"stand in the root", "change directory", ""},
		{"become uid 0", "change directory", "the directory is one that the container's root may enter"},
	})
}
