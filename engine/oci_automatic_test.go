package engine

import (
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// everything is what an engine may supply, all of it.
var everything = Automatic{
	Hostname:    "web",
	User:        &specs.User{UID: 33, GID: 34, AdditionalGids: []uint32{5}},
	Seccomp:     &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow}}},
	UIDMappings: []specs.LinuxIDMapping{{HostID: 1 << 20, Size: 1 << 16}},
	GIDMappings: []specs.LinuxIDMapping{{HostID: 1 << 21, Size: 1 << 16}},
}

// TestOCIAutomatic: what is spelled out is what another runtime reads, and it reads back as what it was made of.
func TestOCIAutomatic(t *testing.T) {
	c := NewConfig()
	c.Spec.Process.User.Umask = new(uint32(0o27))
	if err := c.SetUser("www"); err != nil {
		t.Fatal(err)
	}
	text, err := c.OCI(everything)
	if err != nil {
		t.Fatal(err)
	}
	tree := parsed(t, text)
	delete(asObject(tree["annotations"]), ociAutomatic)
	delete(asObject(tree["annotations"]), annotation+"user")
	foreign, err := decodeOCI(marshal(t, tree))
	if err != nil {
		t.Fatal(err)
	}
	s, a := &foreign.Spec, everything
	user := *a.User
	user.Umask = c.Spec.Process.User.Umask
	if s.Hostname != a.Hostname || !reflect.DeepEqual(s.Process.User, user) || !reflect.DeepEqual(s.Linux.Seccomp, a.Seccomp) ||
		!reflect.DeepEqual(s.Linux.UIDMappings, a.UIDMappings) || !reflect.DeepEqual(s.Linux.GIDMappings, a.GIDMappings) {
		t.Errorf("another runtime reads\n%s", text)
	}
	if back, err := ParseOCI(text); err != nil || !reflect.DeepEqual(back, c) {
		t.Errorf("reads back as another configuration (%v)\n%s", err, text)
	}
}

// TestOCIAutomaticEdited: what was changed after it was spelled out counts, and the rest stays automatic.
func TestOCIAutomaticEdited(t *testing.T) {
	c := NewConfig()
	good, err := c.OCI(everything)
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name   string
		change func(tree map[string]any)
		want   func(*Config)
	}{
		{"hostname", func(tree map[string]any) { tree["hostname"] = "db" }, func(c *Config) { c.Spec.Hostname = "db" }},
		{"no hostname", func(tree map[string]any) { delete(tree, "hostname") }, func(*Config) {}},
		{"seccomp", func(tree map[string]any) {
			asObject(asObject(tree["linux"])["seccomp"])["defaultAction"] = "SCMP_ACT_LOG"
		},
			func(c *Config) {
				other := *everything.Seccomp
				other.DefaultAction = specs.ActLog
				c.Spec.Linux.Seccomp = &other
			}},
		{"no seccomp", func(tree map[string]any) { delete(asObject(tree["linux"]), "seccomp") }, func(*Config) {}},
		{"capabilities", func(tree map[string]any) { delete(asObject(tree["process"]), "capabilities") },
			func(c *Config) { c.Spec.Process.Capabilities = nil }},
		{"one map", func(tree map[string]any) {
			asObject(tree["linux"])["uidMappings"] = []any{map[string]any{"containerID": 0, "hostID": 5, "size": 6}}
		}, func(c *Config) { c.Spec.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 5, Size: 6}} }},
		{"no annotation", func(tree map[string]any) { delete(tree, "annotations") }, func(c *Config) {
			c.Spec.Hostname, c.Spec.Linux.Seccomp = everything.Hostname, everything.Seccomp
			c.Spec.Linux.UIDMappings, c.Spec.Linux.GIDMappings = everything.UIDMappings, everything.GIDMappings
		}},
	}
	for _, x := range cases {
		tree, want := parsed(t, good), c.Clone()
		x.change(tree)
		x.want(want)
		got, err := decodeOCI(marshal(t, tree))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, and it is not what was asked for\n%+v\nwant\n%+v", x.name, err, got, want)
		}
	}
}

// TestOCIAutomaticChoices: what is configured, or belongs to somebody else's namespace, is not filled in.
func TestOCIAutomaticChoices(t *testing.T) {
	for _, x := range []struct{ key, value, missing string }{
		{"user", "host", "uidMappings"}, {"user", "/x", "uidMappings"}, {"user", "pod", "gidMappings"}, {"uts", "host", "hostname"},
	} {
		c := NewConfig()
		if err := c.SetNamespace(x.key, x.value); err != nil {
			t.Fatal(err)
		}
		if text, err := c.OCI(everything); err != nil || strings.Contains(string(text), x.missing) {
			t.Errorf("%s %s: %s is filled in, %v", x.key, x.value, x.missing, err)
		}
	}
	c := NewConfig()
	if err := c.SetSeccomp(SeccompUnconfined); err != nil {
		t.Fatal(err)
	}
	if text, err := c.OCI(everything); err != nil || strings.Contains(string(text), "SCMP_ACT") {
		t.Errorf("a filter where none is wanted, %v", err)
	}
	// A user whom nobody has looked up is nobody, not root.
	for user, want := range map[string]specs.User{"www": {UID: nobody, GID: nobody}, "7": {UID: 7, GID: nobody}, "7:www": {UID: 7, GID: nobody}, "7:8": {UID: 7, GID: 8}} {
		if err := c.SetUser(user); err != nil {
			t.Fatal(err)
		}
		full, _ := c.spellOut(Automatic{})
		if got := full.Spec.Process.User; !reflect.DeepEqual(got, want) {
			t.Errorf("user %s is %+v", user, got)
		}
		text, err := c.OCI(Automatic{})
		if back, err2 := ParseOCI(text); err != nil || err2 != nil || back.User() != user {
			t.Errorf("user %s does not read back: %v %v", user, err, err2)
		}
	}
}

// TestOCIAutomaticUnknown: a mark for a field that no start fills in is no mark.
func TestOCIAutomaticUnknown(t *testing.T) {
	_, err := decodeOCI([]byte(`{"ociVersion":"1.3.0","annotations":{"org.ctrfs.automatic":"root.path=1"}}`))
	if Errno(err) != syscall.EINVAL || !strings.Contains(err.Error(), "root.path") {
		t.Error(err)
	}
}
