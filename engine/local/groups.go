package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/cgroup"
	"github.com/ctrfs/ctrfs/engine/crash"
)

// RootName is the file of the run directory that has the root of the groups, for as long as there may be any, and privateName the
// directory for the hierarchies that are mounted for them.
const (
	RootName    = "cgroup-root"
	privateName = "cgroup"
)

// openGroups mounts the hierarchies that were asked for, and makes or finds the tree of all groups.
func (e *Engine) openGroups(o Options, name string) error {
	if err := leaveRoot(o, name); err != nil {
		return err
	}
	e.private = cgroup.Private{Dir: filepath.Join(o.Run, privateName), Tree: name, Want: o.CgroupV1, Options: o.Cgroups}
	err := e.private.Mount()
	if err == nil {
		e.host, err = o.Cgroups.Detect(nil)
	}
	if err == nil {
		e.groups, err = e.host.Tree(name)
	}
	if err != nil {
		return errors.Join(err, e.private.Unmount(nil))
	}
	err = os.WriteFile(filepath.Join(o.Run, RootName), []byte(o.Cgroups.Root+"\n"), 0o600)
	crash.Point("note the root of the groups")
	return err
}

// leaveRoot removes what an earlier run has left below another root. Containers that live there cannot move.
func leaveRoot(o Options, name string) error {
	text, err := os.ReadFile(filepath.Join(o.Run, RootName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	before := strings.TrimSuffix(string(text), "\n")
	if err != nil || before == o.Cgroups.Root {
		return err
	}
	host, err := cgroup.Options{Root: before, Owner: o.Cgroups.Owner}.Detect(nil)
	if errors.Is(err, syscall.ENOENT) {
		return nil // its owner has removed it, with all that was in it
	}
	if err != nil {
		return err
	}
	tree, err := host.Tree(name)
	if err != nil {
		return err
	}
	defer tree.Close()
	if err = tree.Remove(); errors.Is(err, syscall.EBUSY) {
		err = &engine.Error{Op: "mount", File: "--cgroup-root", Value: o.Cgroups.Root, Errno: syscall.EBUSY, Err: err,
			Why: "containers that run have their groups below /" + before, Cure: "mount with --cgroup-root /" + before + ", or stop them first"}
	}
	return err
}

// closeGroups gives back what openGroups took. What holds groups of containers that go on stays.
func (e *Engine) closeGroups() {
	e.groups.Release()
	if err := e.private.Unmount(nil); err != nil {
		e.log.Warn("a hierarchy stays mounted", "err", err)
	}
}
