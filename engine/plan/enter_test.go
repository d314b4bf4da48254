package plan

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// inside is a host on which an exec enters these namespaces of its container.
func inside(types ...specs.LinuxNamespaceType) Host {
	h := joinedBy()
	for _, n := range engine.Namespaces {
		h.Joined[n.Type] = OfHost
	}
	for _, t := range types {
		h.Joined[t] = OfContainer
	}
	h.Filter = &Filter{Code: make([]byte, 16), Text: "a filter"}
	return h
}

// rightful sets every right that a program can have.
func rightful(t *testing.T) *engine.Config {
	return configured(t, func(c *engine.Config) {
		c.Spec.Process.User = specs.User{UID: 1000, GID: 100, AdditionalGids: []uint32{4}, Umask: new(uint32(0o77))}
		c.Spec.Process.Cwd, c.Spec.Process.ApparmorProfile, c.Spec.Process.OOMScoreAdj = "/home", "web", new(7)
		c.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 1, Hard: 2}}
		c.Spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
		for _, err := range []error{c.SetCaps([]string{"chown", "kill"}), c.SetTTY("100x30"), c.SetSysctl("kernel.domainname", "x")} {
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestEnterGolden: an exec is launched by steps that are told, too.
func TestEnterGolden(t *testing.T) {
	all := []specs.LinuxNamespaceType{specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace,
		specs.UserNamespace, specs.CgroupNamespace}
	for name, h := range map[string]Host{"enter": inside(all...), "enter_host": inside()} {
		steps, err := Enter(rightful(t), h)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, name, String(steps))
	}
}

// TestEnterRights: what [Build] lets the first program be and do, Enter lets the further ones, in the same order; nothing that is
// made for a container is made again.
func TestEnterRights(t *testing.T) {
	c := rightful(t)
	first, err := Build(c, Host{Name: "web", LastCap: 40, NoFile: 20000, Caps: 1<<41 - 1, OOMScoreMin: -1000, AppArmor: true, Roots: testHost.Roots,
		Filter: &Filter{Code: make([]byte, 16), Text: "a filter"}})
	if err != nil {
		t.Fatal(err)
	}
	further, err := Enter(c, inside(specs.UserNamespace, specs.MountNamespace))
	if err != nil {
		t.Fatal(err)
	}
	given := func(steps []Step) (list []string) {
		for _, s := range steps {
			switch s.(type) {
			case OOMScore, OpenLabel, Label, Chdir, Rlimit, User, NoNewPrivileges, Umask, Seccomp, Bound, Capabilities, Personality, Stdio, CloseRest, Session, Guard, Exec:
				list = append(list, s.String())
			case Root, Mount, Hostname, Sysctl, PlaceDevices, Mask, ReadOnly, Network, Private, DropOldRoot:
				list = append(list, "made: "+s.String())
			}
		}
		return list
	}
	want := slices.DeleteFunc(given(first), func(s string) bool { return strings.HasPrefix(s, "made: ") })
	if got := given(further); !slices.Equal(got, want) {
		t.Errorf("the first program\n%s\na further one\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

// TestEnterCopies: programs that run in the group already cannot take the keeper with them.
func TestEnterCopies(t *testing.T) {
	for _, c := range []struct {
		name string
		host Host
		want bool
	}{{"alone", inside(), false}, {"clocks", inside(specs.TimeNamespace), true}, {"together", func() Host { h := inside(); h.OOMGroup = true; return h }(), true}} {
		steps, err := Enter(rightful(t), c.host)
		if err != nil || steps[0] != (Fork{c.want}) {
			t.Errorf("%s: %v, %v", c.name, steps, err)
		}
	}
}
