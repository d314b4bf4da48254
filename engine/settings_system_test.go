package engine

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// booting is a configuration with a program, and what else a test sets.
func booting(t *testing.T, cmd string, set ...func(*Config) error) *Config {
	t.Helper()
	c := NewConfig()
	for _, f := range append([]func(*Config) error{func(c *Config) error { return c.SetCmd(cmd) }}, set...) {
		if err := f(c); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// TestBoots: what a start adds, by program and by what the configuration has already.
func TestBoots(t *testing.T) {
	namespace := func(text string) func(*Config) error {
		return func(c *Config) error {
			kind, value, _ := strings.Cut(text, " ")
			return c.SetNamespace(kind, value)
		}
	}
	mounts := func(lines ...string) func(*Config) error {
		return func(c *Config) error { return c.SetMounts(lines) }
	}
	const all = "/run /run/lock /tmp /sys/fs/cgroup container=ctrfs"
	for _, x := range []struct {
		name  string
		c     *Config
		v1    bool
		added string
	}{
		{"sysvinit's place", booting(t, "/sbin/init"), false, all},
		{"with arguments", booting(t, "/lib/systemd/systemd --unit=rescue.target"), false, all},
		{"written otherwise", booting(t, "//usr/sbin/../sbin/init"), false, all},
		{"only v1", booting(t, "/sbin/init"), true, "/run /run/lock /tmp container=ctrfs"},
		{"another program", booting(t, "sh -c /sbin/init"), false, ""},
		{"one that is called so", booting(t, "/srv/init"), false, ""},
		{"no program", NewConfig(), false, ""},
		{"a reaper", booting(t, "/sbin/init", func(c *Config) error { c.SetInit(true); return nil }), false, ""},
		{"another's processes", booting(t, "/sbin/init", namespace("pid host")), false, ""},
		{"the host's groups", booting(t, "/sbin/init", namespace("cgroup host")), false, "/run /run/lock /tmp container=ctrfs"},
		{"mounts and name of one's own", booting(t, "/sbin/init", mounts("tmpfs /tmp tmpfs size=1M", "cgroup /sys/fs/cgroup cgroup ro"),
			func(c *Config) error { return c.SetEnv([]string{"container=mine"}) }), false, "/run /run/lock"},
	} {
		before := x.c.Clone()
		booted := x.c.Booted(!x.v1)
		var added []string
		for _, m := range booted.Spec.Mounts[len(x.c.Spec.Mounts):] {
			added = append(added, m.Destination)
		}
		added = append(added, booted.Spec.Process.Env[len(x.c.Spec.Process.Env):]...)
		if got := strings.Join(added, " "); got != x.added {
			t.Errorf("%s: it gets %q, wanted %q", x.name, got, x.added)
		}
		if !reflect.DeepEqual(x.c, before) {
			t.Errorf("%s: the configuration itself has changed", x.name)
		}
		if err := booted.Validate(); err != nil {
			t.Errorf("%s: %v", x.name, err)
		}
		if got, want := booted.Delegates(), strings.Contains(x.added, "cgroup"); got != want {
			t.Errorf("%s: delegates %v, wanted %v", x.name, got, want)
		}
	}
}

// TestOCIBoots: config.json spells out what a system gets, and reads back as what it was made of.
func TestOCIBoots(t *testing.T) {
	c := booting(t, "/sbin/init", func(c *Config) error { return c.SetMounts([]string{"tmpfs /srv tmpfs size=1M"}) })
	text, err := c.OCI(Automatic{Hostname: "s", Cgroups: true})
	if err != nil {
		t.Fatal(err)
	}
	tree := parsed(t, text)
	delete(asObject(tree["annotations"]), ociAutomatic)
	foreign, err := decodeOCI(marshal(t, tree))
	if err != nil {
		t.Fatal(err)
	}
	has := func(m specs.Mount) bool { return m.Destination == "/run/lock" }
	if !slices.ContainsFunc(foreign.Spec.Mounts, has) || !slices.Contains(foreign.Env(), "container=ctrfs") {
		t.Errorf("another runtime reads\n%s", text)
	}
	if back, err := ParseOCI(text); err != nil || !reflect.DeepEqual(back, c) {
		t.Errorf("reads back as another configuration (%v)\n%s", err, text)
	}
}
