package plan

import (
	"path"
	"slices"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// A container without a mount namespace of its own runs on files that are there already: this machine's, or those of whom it
// joins. Whatever a launch mounts, hides or makes otherwise would be done to them, so none of those steps is taken, and
// [engine.Config.Validate] refuses the settings that ask for one.

// Steps for such a container.
type (
	// HostProc has the steps that follow find what they want of procfs in this machine's own, by a descriptor: in somebody
	// else's mounts, /proc can be anything.
	HostProc struct{}
	// AsMounted makes the root directory of the mount namespace the working one.
	AsMounted struct{ Whose string }
)

func (HostProc) String() string { return "take this machine's procfs by a descriptor" }
func (s AsMounted) String() string {
	return "stand in the root directory " + s.Whose + ", and leave all as it is mounted there"
}

// needsProc reports whether a step writes through procfs.
func needsProc(steps []Step) bool {
	return slices.ContainsFunc(steps, func(s Step) bool {
		switch s := s.(type) {
		case OpenProc, OpenLabel:
			return true
		case TimeNamespace:
			return len(s.Offsets) > 0
		}
		return false
	})
}

// view are the steps that make the container's files, or make do with those that are there.
func (n namespaces) view(c *engine.Config, h Host, devices []Device, inside []Step) ([]Step, error) {
	if n.isNew(specs.MountNamespace) {
		return files(c, h, n, devices, inside), nil
	}
	return unmounted(c, h, n, inside)
}

// unmounted are the steps in the place of [files]. Hooks of this machine have a place only where its files are in sight.
func unmounted(c *engine.Config, h Host, n namespaces, inside []Step) ([]Step, error) {
	whose := "of this machine"
	if from := n.joined(specs.MountNamespace); from != "" {
		whose = from
		if hooks := HooksOf(c.Spec.Hooks, CreateContainer); len(hooks) > 0 {
			return nil, &engine.Error{Op: "start", File: "hooks.createContainer", Value: hooks[0].Path, Errno: syscall.EOPNOTSUPP,
				Why: "in the mount namespace " + from + ", the files of this machine are out of sight", Cure: "make it a createRuntime hook, which runs on the host"}
		}
	}
	steps := []Step{AsMounted{whose}}
	for _, s := range createHooks(c.Spec.Hooks, h, n.apartFromHost()) {
		if _, ok := s.(PlaceRoot); !ok {
			steps = append(steps, s)
		}
	}
	if n.apartFromHost() {
		steps = append(steps, BecomeRoot{})
	}
	for _, s := range inside {
		if s != (OpenProc{}) { // HostProc serves
			steps = append(steps, s)
		}
	}
	return append(steps, Chdir{path.Clean(c.Spec.Process.Cwd), true}), nil
}
