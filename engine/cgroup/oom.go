package cgroup

import (
	"fmt"
	"path"

	"golang.org/x/sys/unix"
)

// oomControl is v1's file that counts kills, tells whether memory has run out, and takes the killer away.
const oomControl = "memory.oom_control"

// OOM is what the kernel says about a group whose memory ran out.
type OOM struct {
	Kills uint64 // as [Group.OOMKills] counts
	// Under says that a task waits at this moment, for a kill or for memory: here, or at a limit above. It lasts where the
	// killer is held. v2 kills at once and never says so.
	Under bool
}

// OOM asks the kernel. Errors: those of [Group.OOMKills].
func (g *Group) OOM() (OOM, error) {
	p, err := g.tree.host.lookup("read", "memory.events.local")
	if err != nil {
		return OOM{}, err
	}
	if p.v2 {
		n, err := g.OOMKills()
		return OOM{Kills: n}, err
	}
	y := p.in[len(p.in)-1]
	text, err := g.top(y).read(path.Join(g.path, oomControl))
	if err != nil {
		return OOM{}, g.refuse("read", "memory.events", "", err)
	}
	kills, _ := keyed(text, "oom_kill")
	under, _ := keyed(text, "under_oom")
	return OOM{Kills: kills, Under: under != 0}, nil
}

// WatchOOM calls notify whenever the group's memory, or that of one above or below it, may have run out, and where it has by
// now. It comes before the kill (mm/memcontrol-v1.c, memcg1_oom_prepare), and also when the group is removed. It costs one
// descriptor. What happened before is not told: read [Group.OOM] afterwards.
func (g *Group) WatchOOM(w *Watcher, notify func()) (*Watch, error) {
	p, err := g.tree.host.lookup("read", "memory.events.local")
	if err != nil {
		return nil, err
	}
	y := p.in[len(p.in)-1]
	top := g.top(y)
	if p.v2 {
		// The file that counts what is below too: a killed process is accounted in the leaf.
		fd, err := top.open(path.Join(g.path, "memory.events"), unix.O_RDONLY)
		if err != nil {
			return nil, g.refuse("watch", "memory.events", "", err)
		}
		return w.add(fd, unix.EPOLLPRI, func(bool) { notify() })
	}
	control, err := top.open(path.Join(g.path, oomControl), unix.O_RDONLY)
	if err != nil {
		return nil, g.refuse("watch", "memory.events", "", err)
	}
	defer unix.Close(control) // the kernel keeps the group, not the file
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, top.fail("watch", path.Join(g.path, oomControl), "", err)
	}
	if err := top.write(path.Join(g.path, "cgroup.event_control"), fmt.Sprintf("%d %d", fd, control)); err != nil {
		_ = unix.Close(fd)
		return nil, g.refuse("watch", "memory.events", "", err)
	}
	return w.add(fd, unix.EPOLLIN, func(bool) { notify() })
}

// short reports whether a task of the group waits for memory because the killer is held.
func (g *Group) short() bool {
	oom, err := g.OOM()
	return err == nil && oom.Under
}

// OOMGroup reports whether the kernel itself kills all of a group that has memory.oom.group.
func (h *Host) OOMGroup() bool {
	p, err := h.lookup("read", "memory.oom.group")
	return err == nil && p.v2
}
