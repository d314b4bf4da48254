package plan

import (
	"reflect"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
)

// settable are the settings that can be configured and that no step honours yet. One that is not what a new container has
// is refused: a container never runs with less isolation than its files say. A row goes when its step comes.
var settable = []struct {
	file string
	get  func(*engine.Config) any
}{
	{"uid_map", func(c *engine.Config) any { return c.UIDMap() }},
	{"gid_map", func(c *engine.Config) any { return c.GIDMap() }},
	{"user", func(c *engine.Config) any { return c.Extension.User }}, // a number is honoured
	{"mounts", func(c *engine.Config) any { return c.Mounts() }},
	{"seccomp", func(c *engine.Config) any { return c.Seccomp() == engine.SeccompDefault }},
	{"apparmor", func(c *engine.Config) any { return c.AppArmor() }},
	{"selinux", func(c *engine.Config) any { return c.SELinux() }},
	{"sysctl", func(c *engine.Config) any { return c.Sysctls() }},
	{"devices", func(c *engine.Config) any { return c.Devices() }},
	{"oom_score_adj", func(c *engine.Config) any { return c.OOMScoreAdj() }},
}

// unlaunched refuses what no step honours yet.
func unlaunched(c *engine.Config) error {
	refuse := func(file, value string) error {
		return &engine.Error{Op: "start", File: file, Value: value, Errno: syscall.EOPNOTSUPP, Why: "not supported by a start",
			Cure: "reset it: rm " + file}
	}
	fresh := engine.NewConfig()
	for _, ns := range engine.Namespaces {
		choice := c.Namespace(ns.Type)
		if ns.Name != "user" && choice != fresh.Namespace(ns.Type) {
			return refuse("namespaces", ns.Name+" "+choice.String())
		}
	}
	for _, s := range settable {
		if !reflect.DeepEqual(s.get(c), s.get(fresh)) {
			return refuse(s.file, "")
		}
	}
	return checkReady(c)
}
