package local

import (
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
)

// rights is what this machine lets ctrfs give to a container.
type rights struct {
	caps              uint64 // a mask
	oomScoreMin       int
	appArmor, selinux bool
}

// learnRights finds it out. The kernel's own bound on oom_score_adj cannot be read; it is never above the present value.
func learnRights() (rights, error) {
	r := rights{caps: launch.Bounding(), oomScoreMin: -1000}
	if r.caps&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		text, err := os.ReadFile("/proc/self/oom_score_adj")
		if err != nil {
			return r, err
		}
		if _, err := fmt.Sscan(string(text), &r.oomScoreMin); err != nil {
			return r, fmt.Errorf("/proc/self/oom_score_adj: %w", err)
		}
	}
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	r.appArmor = err == nil && strings.HasPrefix(string(enabled), "Y")
	filesystems, err := os.ReadFile("/proc/filesystems")
	r.selinux = err == nil && strings.Contains(string(filesystems), "selinuxfs")
	return r, nil
}

// fill adds them to what a plan knows of the host. In a user namespace of its own a container's root can have every
// capability: they are worth something in there only.
func (r rights) fill(h *plan.Host, apart bool) {
	if apart {
		r.caps = ^uint64(0)
	}
	h.Caps, h.OOMScoreMin, h.AppArmor, h.SELinux = r.caps, r.oomScoreMin, r.appArmor, r.selinux
}

// devices are mounts of the nodes that a container gets, in the order of its plan, and how to close them.
func (e *Engine) devices(c *engine.Config, around *surroundings) (mounts []*os.File, done func(), err error) {
	list, err := plan.Devices(&c.Spec)
	if err != nil {
		return nil, nil, err
	}
	ids := launch.IDs{UIDs: c.Spec.Linux.UIDMappings, GIDs: c.Spec.Linux.GIDMappings}
	if around.ids != nil && len(ids.UIDs) == 0 {
		ids.UIDs = []specs.LinuxIDMapping{{HostID: around.ids.UID, Size: rangeSize}}
		ids.GIDs = []specs.LinuxIDMapping{{HostID: around.ids.GID, Size: rangeSize}}
	}
	mounts, err = e.nodes.Take(list, ids)
	return mounts, func() { closeFiles(mounts) }, err
}
