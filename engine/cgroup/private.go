package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Mountable lists the controllers of v1 that nobody mounts unless asked to, and for which there are files.
func Mountable() (names []string) {
	for _, r := range networkRows {
		names = append(names, r.controller)
	}
	return names
}

// Private are the v1 hierarchies that ctrfs mounts for itself: one for each controller, below a directory of its own and never where the
// host has its own. A mount is taken away again when nothing of ours lives in its hierarchy.
type Private struct {
	Dir  string   // made and removed
	Tree string   // the name of the tree
	Want []string // controllers
	Options
}

// Mount mounts what is wanted and not mounted yet, by anybody else either, and unmounts what an earlier run has left and is not wanted.
// Errors: EINVAL for a controller without files, EOPNOTSUPP for one that the kernel lacks, EBUSY for one that is in use elsewhere.
func (p *Private) Mount() error {
	for _, name := range p.Want {
		if !slices.Contains(Mountable(), name) {
			return engine.Invalid("--cgroup-v1", name, "not a controller that ctrfs mounts", "write some of "+strings.Join(Mountable(), ","))
		}
	}
	mounts, err := p.mounts()
	if err != nil {
		return err
	}
	for _, name := range p.Want {
		there := slices.ContainsFunc(mounts, func(m *mountinfo.Info) bool {
			return !strings.HasPrefix(m.Source, privatePrefix) && slices.Contains(strings.Split(m.VFSOptions, ","), name) || m.Mountpoint == filepath.Join(p.Dir, name)
		})
		if there {
			continue
		}
		if err := p.mount(name); err != nil {
			return errors.Join(err, p.Unmount(nil))
		}
	}
	return p.Unmount(p.Want)
}

// privatePrefix begins the source of such mounts, of whomever.
const privatePrefix = "ctrfs:"

func (p *Private) mounts() ([]*mountinfo.Info, error) {
	return mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup"))
}

func (p *Private) mount(name string) error {
	at := filepath.Join(p.Dir, name)
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	err := unix.Mount(p.Owner, at, "cgroup", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, name)
	if err == nil {
		return nil
	}
	_ = os.Remove(at)
	e := &engine.Error{Op: "mount", File: "cgroup v1", Value: name, Errno: engine.Errno(err), Cure: "mount without it"}
	switch e.Errno {
	case syscall.ENOENT, syscall.EINVAL, syscall.ENODEV:
		e.Errno, e.Why = errUnsupported, "this kernel has no such controller for cgroup v1"
	case syscall.EBUSY:
		e.Why = "another hierarchy has it"
	}
	return e
}

// Unmount takes away our mounts, except those to keep, and those whose hierarchies hold groups of containers: they live on, and the
// next mount finds them there.
func (p *Private) Unmount(keep []string) error {
	mounts, err := p.mounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range mounts {
		if filepath.Dir(m.Mountpoint) != p.Dir || slices.Contains(keep, filepath.Base(m.Mountpoint)) {
			continue
		}
		if err := unix.Rmdir(filepath.Join(m.Mountpoint, p.Tree)); err != nil && err != unix.ENOENT {
			continue
		}
		errs = append(errs, unmount(m.Mountpoint))
	}
	_ = os.Remove(p.Dir) // stays while something is in it
	return errors.Join(errs...)
}

// unmount takes away a hierarchy with its mount. The kernel keeps one whose last groups are still being freed when its mount goes, with
// nobody to see it but /proc/PID/cgroup, until somebody mounts and unmounts it again (kernel/cgroup/cgroup.c, cgroup_kill_sb).
func unmount(at string) error {
	_, _ = until(removeWait, func() (bool, error) { return groupsOf(filepath.Base(at)) <= 1, nil })
	err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW)
	if err == unix.EBUSY { // somebody looks around in it
		err = unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if err == nil {
		err = os.Remove(at)
	}
	return err
}

// groupsOf returns how many groups a controller has, also those that are being freed; its root is one.
func groupsOf(controller string) int {
	text, err := os.ReadFile("/proc/cgroups")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) == 4 && f[0] == controller {
			n, _ := strconv.Atoi(f[2])
			return n
		}
	}
	return 0
}
