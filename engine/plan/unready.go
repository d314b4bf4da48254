package plan

import (
	"slices"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// unready lists the fields of config.json that no file shows, that docs/oci.md calls honoured, and that no step honours yet.
// A row goes when its step comes.
var unready = []struct {
	field string
	asked func(*specs.Spec) bool
}{
	{"domainname", func(s *specs.Spec) bool { return s.Domainname != "" }},
	{"linux.rootfsPropagation", func(s *specs.Spec) bool { return s.Linux.RootfsPropagation != "" }},
	{"linux.personality", func(s *specs.Spec) bool { return s.Linux.Personality != nil }},
	{"linux.timeOffsets", func(s *specs.Spec) bool { return len(s.Linux.TimeOffsets) > 0 }},
	{"linux.devices[].fileMode, uid or gid", func(s *specs.Spec) bool {
		return slices.ContainsFunc(s.Linux.Devices, func(d specs.LinuxDevice) bool { return d.FileMode != nil || d.UID != nil || d.GID != nil })
	}},
	{"process.capabilities.inheritable", func(s *specs.Spec) bool {
		return s.Process.Capabilities != nil && len(s.Process.Capabilities.Inheritable) > 0
	}},
	{"process.capabilities.ambient", func(s *specs.Spec) bool {
		return s.Process.Capabilities != nil && len(s.Process.Capabilities.Ambient) > 0
	}},
}

// checkReady refuses to start without what such a field asks for.
func checkReady(c *engine.Config) error {
	for _, u := range unready {
		if u.asked(&c.Spec) {
			return &engine.Error{Op: "start", File: "config.json", Errno: syscall.EOPNOTSUPP, Why: u.field + " is not supported by a start",
				Cure: "leave it out"}
		}
	}
	return nil
}
