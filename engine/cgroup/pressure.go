package cgroup

import (
	"path"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
	"golang.org/x/sys/unix"
)

// WatchPressure gives the kernel a trigger, "some 150000 2000000", as Documentation/accounting/psi.rst has it, and calls
// notify each time that it fires. Errors: EINVAL for one that the kernel refuses, EOPNOTSUPP.
func (g *Group) WatchPressure(w *Watcher, file, trigger string, notify func()) (*Watch, error) {
	fd, err := g.tree.trigger(g.path, file, trigger)
	if err != nil {
		return nil, err
	}
	// The end of the group is told as an error.
	return w.add(fd, unix.EPOLLPRI, func(gone bool) {
		if !gone {
			notify()
		}
	})
}

// CheckPressure finds out whether the kernel would take a trigger, without a group that it is for.
func (t *Tree) CheckPressure(file, trigger string) error {
	fd, err := t.trigger(".", file, trigger)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err
}

// trigger opens a group's pressure file and gives it a trigger, which lasts until the descriptor is closed.
func (t *Tree) trigger(group, file, trigger string) (int, error) {
	p, err := t.host.lookup("write", file)
	if err != nil {
		return -1, err
	}
	top := t.tops[p.in[0].index]
	fd, err := top.open(path.Join(group, file), unix.O_RDWR|unix.O_NONBLOCK)
	if err == nil {
		_, err = retry(func() (int, error) { return unix.Write(fd, []byte(trigger+"\x00")) })
		if err == nil {
			return fd, nil
		}
		_ = unix.Close(fd)
	}
	return -1, refuseTrigger(file, trigger, err)
}

// triggerCures tells what an errno of a pressure file means: kernel/sched/psi.c, psi_trigger_create and psi_show.
var triggerCures = map[syscall.Errno][2]string{
	syscall.EINVAL: {"this kernel does not take the trigger",
		"write some or full, the stall and the window in microseconds; without CAP_SYS_RESOURCE, which this host withholds from ctrfs, a window is a multiple of 2000000"},
	syscall.ENOENT:     {"this kernel counts no pressure", "boot one with CONFIG_PSI, with psi=1 where that is off by default"},
	syscall.EOPNOTSUPP: {"this kernel counts no pressure", "boot it with psi=1"},
}

func refuseTrigger(file, trigger string, err error) error {
	out := &engine.Error{Op: "write", File: file, Value: trigger, Errno: engine.Errno(err), Err: err}
	if c, ok := triggerCures[out.Errno]; ok {
		out.Why, out.Cure, out.Err = c[0], c[1], nil
	}
	if out.Errno == syscall.ENOENT {
		out.Errno = errUnsupported
	}
	return out
}
