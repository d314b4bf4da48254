package local

import (
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/cgroup"
)

// leftoversLimit bounds the killing of what a program has left behind. A process in the middle of a call that cannot be
// interrupted dies after that.
const leftoversLimit = 2 * time.Second

// endLeftovers kills what still lives in the group of a container that has exited. The kernel does that for a pid namespace
// when its first process is gone; a container without one of its own would otherwise go on as something that nobody sees.
// Containers below have groups of their own. c.mu is held.
func (c *container) endLeftovers() {
	if c.rec.Config.Namespace(specs.PIDNamespace).New() || c.group == nil {
		return
	}
	group := c.group
	c.leftovers.Go(func() {
		for end := time.Now().Add(leftoversLimit); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			pids, err := group.OwnProcs()
			if err == nil && len(pids) == 0 {
				return
			}
			for _, pid := range pids {
				killIn(group, pid, unix.SIGKILL)
			}
		}
		c.e.log.Warn("processes of a container that has exited do not die", "container", c.id)
	})
}

// killIn sends a signal to a process that is in a group, and says whether it has. The descriptor is opened before the second look, so that it cannot be that of
// another process which has got the number meanwhile.
func killIn(group *cgroup.Group, pid int, sig unix.Signal) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	pids, err := group.OwnProcs()
	return err == nil && slices.Contains(pids, pid) && unix.PidfdSendSignal(fd, sig, nil, 0) == nil
}
