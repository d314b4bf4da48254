package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
	"golang.org/x/sys/unix"
)

// Options say which part of the host's hierarchies a tree is for.
type Options struct {
	// Root is the group below which all groups are made, the same path in every hierarchy; empty is the root. It is how a
	// service manager delegates a part of the hierarchy (systemd's CGROUP_DELEGATION.md): what is above is not touched.
	Root string
	// Owner is the source of the mounts that [MountV1] makes. Those of others come and go with their owners, and are not used.
	Owner string
}

// CleanRoot brings the path of a group into the form of [Options].Root. Errors: EINVAL.
func CleanRoot(root string) (string, error) {
	clean := strings.TrimPrefix(path.Clean("/"+root), "/")
	for name := range strings.SplitSeq(root, "/") {
		if name == ".." || strings.ContainsAny(name, "\n\x00") {
			return "", engine.Invalid("--cgroup-root", root, "not the path of a group", "write it as /proc/self/cgroup does: /system.slice/ctrfs.service")
		}
	}
	return clean, nil
}

// narrow makes a hierarchy end at the group, as if nothing else of it were mounted.
func (y *hierarchy) narrow(root string) {
	around := *y
	y.around = &around
	y.mount, y.root = path.Join(y.mount, root), path.Join(y.root, root)
}

// checkRoot says what is wrong with the root of the hierarchies that are used. v1 does not make a group in each that a service
// manager has in one.
func (h *Host) checkRoot(root string) error {
	var missing []string
	for _, y := range h.used {
		if _, err := os.Stat(y.mount); y.around != nil && errors.Is(err, os.ErrNotExist) {
			missing = append(missing, y.mount)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &engine.Error{Op: "use", File: "--cgroup-root", Value: root, Errno: syscall.ENOENT,
		Why: "there is no such group in every hierarchy", Cure: "mkdir -p " + strings.Join(missing, " ")}
}

// asideName is the v2 group that holds ctrfs itself where it was started in the root that it was given. No container can be called so.
const asideName = "_ctrfs"

// StepAside moves the calling process out of the root, if it lives there, into a group of its own below it: v2 gives controllers to the
// groups below one only while it holds no process itself. Whoever starts a keeper calls it. Errors: those of moving.
func (h *Host) StepAside() error {
	home := h.used[0]
	if !home.unified || home.around == nil || len(home.controllers) == 0 {
		return nil
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	if at, ok := home.member(string(text)); !ok || at != "./" {
		return nil
	}
	d, err := openDir(home.mount)
	if err != nil {
		return err
	}
	defer d.close()
	if err := d.mkdir(asideName); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return d.write(path.Join(asideName, "cgroup.procs"), fmt.Sprint(os.Getpid()))
}

// StepBack removes the group that [Host.StepAside] made, once the keeper, who is on its way out, has left it. Whoever else lives in it
// keeps it.
func (h *Host) StepBack() error {
	home := h.used[0]
	if home.around == nil {
		return nil
	}
	d, err := openDir(home.mount)
	if err != nil {
		return err
	}
	defer d.close()
	if err = d.rmdir(asideName); errors.Is(err, unix.EBUSY) {
		return nil
	}
	return err
}
