package plan

import (
	"path"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// OfContainer is the word of [Host.Joined] for a namespace that an exec enters: the one that the container's first process is in.
const OfContainer = "of the container"

// Enter returns the steps that run one more program in a container that runs. The namespaces, the groups and the mounts are those
// that are there; what the program is and may do is what [Build] gives to the first one, by the same steps.
//
// Its own cgroup namespace comes after its groups: nobody gets into them from outside of that namespace where the host has mounted
// cgroup2 with nsdelegate, as systemd does (cgroup_procs_write_permission of kernel/cgroup/cgroup.c).
//
// Where the kernel kills all of a group at once when its memory runs out, the children have memory of their own, which takes twice
// the time: else the keeper, whose memory they would share, is killed with them, by programs that run in the group already
// (__oom_kill_process of mm/oom_kill.c). One alone is never picked while it shares its parent's memory (oom_badness).
func Enter(c *engine.Config, h Host) ([]Step, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.Clone()
	spec := &c.Spec
	spec.Linux.Sysctl = nil // it is set
	rights, err := rightsOf(spec, h, Stdio{Terminal: spec.Process.Terminal, Input: h.Input, Connection: h.Connection})
	if err != nil {
		return nil, err
	}
	persona, err := personality(spec.Linux.Personality)
	if err != nil {
		return nil, err
	}
	n := namespaces{nil, h}
	steps := append([]Step{Fork{h.OOMGroup || n.joined(specs.TimeNamespace) != ""}}, rights.outside...)
	var late []Step
	for _, t := range joins {
		switch from := n.joined(t); {
		case from == "":
		case t == specs.CgroupNamespace && c.Namespace(t).New():
			late = append(late, Join{t, from})
		default:
			steps = append(steps, Join{t, from})
		}
	}
	steps = append(steps, Clone{}, Guard{}, JoinCgroup{h.Cgroup, nil})
	steps = append(append(steps, late...), Session{})
	if needsProc(rights.early) {
		steps = append(steps, HostProc{})
	}
	steps = append(append(steps, rights.early...), AsMounted{OfContainer})
	if n.joined(specs.UserNamespace) != "" {
		steps = append(steps, BecomeRoot{})
	}
	steps = append(steps, Chdir{path.Clean(spec.Process.Cwd), !c.OwnMounts()})
	if size, wanted := c.Terminal(); wanted {
		steps = append(steps, Terminal{size, spec.Process.User.UID, true})
	}
	steps = append(append(steps, persona...), rights.late...)
	steps = append(steps, rights.last...)
	return append(steps, Exec{candidates(spec.Process), spec.Process.Args, spec.Process.Env}), nil
}
