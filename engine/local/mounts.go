package local

import (
	"errors"
	"maps"
	"os"
	"slices"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
	"github.com/ctrfs/ctrfs/overlay"
)

// openBinds prepares the trees of the host that a configuration mounts, in order, and says of each whether it is no directory.
func (c *container) openBinds(config *engine.Config, mounts []specs.Mount, ids *overlay.IDs) (trees []*os.File, plain []bool, err error) {
	for _, m := range plan.Binds(mounts) {
		o := plan.ParseMountOptions(m.Options)
		options := overlay.BindOptions{Recursive: o.Recursive, Attr: o.Attr, AttrRecursive: true, Propagation: o.Propagation,
			PropagationRecursive: o.PropagationRecursive}
		if o.IDMap {
			options.IDs = ids
		}
		h := plan.Host{NoDev: plan.NoDev(config, ids != nil), Controlled: c.e.controlled()}
		// Also in a user namespace: nobody makes nodes there that open, but a container without one, which shares the volume, makes
		// some that open here. Whoever wants the nodes of a tree says so.
		if h.NoDevices(m.Options) || !slices.Contains(m.Options, "dev") && !config.AllDevices() {
			options.Attr |= unix.MOUNT_ATTR_NODEV
		}
		tree, err := c.e.roots.Bind(m.Source, options)
		if err != nil {
			return trees, plain, err
		}
		trees = append(trees, tree)
		var st unix.Stat_t
		if err := unix.Fstat(int(tree.Fd()), &st); err != nil {
			return trees, plain, err
		}
		plain = append(plain, st.Mode&unix.S_IFMT != unix.S_IFDIR)
	}
	return trees, plain, nil
}

// writable lists the trees of the host that programs of containers may write to, whether they run or not: what they left there
// stays.
func (e *Engine) writable() (trees []string) {
	e.mu.RLock()
	all := slices.Collect(maps.Values(e.byID))
	e.mu.RUnlock()
	for _, c := range all {
		config := c.View().Config
		if config.RootMode() == engine.RootDirect {
			trees = append(trees, config.Rootfs())
		}
		for _, m := range plan.Binds(config.Spec.Mounts) {
			if plan.ParseMountOptions(m.Options).Attr&unix.MOUNT_ATTR_RDONLY == 0 {
				trees = append(trees, m.Source)
			}
		}
	}
	return trees
}

// remount changes the mounts of the container while it runs. What the kernel refuses half way is taken back.
func (c *container) remount(config *engine.Config, before, after []specs.Mount) error {
	steps, err := c.change(config, before, after)
	f, ok := errors.AsType[*launch.Failure](err)
	if !ok {
		return err
	}
	if reached := plan.Reached(before, after, steps, f.Step); len(plan.Without(reached, before))+len(plan.Without(before, reached)) > 0 {
		if _, undo := c.change(config, reached, before); undo != nil {
			c.e.log.Error("mounts are not what the configuration says", "container", c.id, "err", undo)
		}
	}
	return explainMount(f, steps)
}

// change makes one child in the container's namespaces do it.
func (c *container) change(config *engine.Config, before, after []specs.Mount) ([]plan.Step, error) {
	c.mu.Lock()
	pid, pidfd := c.pid, c.pidfd
	if pidfd != nil {
		pidfd, _ = dupFile(pidfd)
	}
	c.mu.Unlock()
	if pidfd == nil {
		return nil, nil // it has just exited: the next start sees the new ones
	}
	defer pidfd.Close()
	files := launch.Files{Join: map[specs.LinuxNamespaceType]*os.File{}}
	defer func() {
		closeFiles(files.Binds)
		closeFiles([]*os.File{files.Mounts})
		for _, f := range files.Join {
			f.Close()
		}
	}()
	own := map[specs.LinuxNamespaceType]bool{}
	for _, n := range engine.Namespaces {
		if n.Type != specs.MountNamespace && config.Namespace(n.Type).Host {
			continue
		}
		f, err := namespaceOf(pid, pidfd, n.Name)
		if err != nil {
			return nil, err
		}
		if n.Type == specs.MountNamespace {
			files.Mounts = f
			continue
		}
		if hostsOwn(f, n.Name) { // another container's that is the host's
			f.Close()
			continue
		}
		files.Join[n.Type], own[n.Type] = f, true
	}
	var ids *overlay.IDs
	var err error
	if user := files.Join[specs.UserNamespace]; user != nil {
		if ids, err = c.e.roots.Identify(user); err != nil {
			return nil, err
		}
	}
	h := plan.Host{NoDev: plan.NoDev(config, ids != nil), Controlled: c.e.controlled()}
	_, binds := plan.Change(before, after, h, own)
	if files.Binds, h.BindFiles, err = c.openBinds(config, binds, ids); err != nil {
		return nil, err
	}
	steps, _ := plan.Change(before, after, h, own)
	program, err := launch.Assemble(steps, files)
	if err == nil {
		err = c.e.keeper.Perform(program)
	}
	return steps, err
}

// explainMount says which of the steps failed.
func explainMount(f *launch.Failure, steps []plan.Step) error {
	out := &engine.Error{Op: "write", File: "mounts", Errno: f.Errno, Err: f.Errno, Cure: mountCures[f.Errno]}
	if f.Step < len(steps) {
		out.Why = steps[f.Step].String()
	}
	return out
}

// targetCures says what to do about a mount that finds no place in the root.
var targetCures = map[syscall.Errno]string{
	syscall.ENOENT:  "make the target in the root first, or add the option x-mount.mkdir",
	syscall.ENOTDIR: "a directory goes on a directory, and a file on a file",
	syscall.EINVAL:  "a directory goes on a directory, and a file on a file",
	syscall.ELOOP:   "choose a target that is not behind such a link",
}

// mountCures says what to do about a mount that cannot be made or taken away.
var mountCures = map[syscall.Errno]string{
	syscall.ELOOP:  "stop the container: the program may have put a link on the way to the target, which is not followed",
	syscall.EBUSY:  "something in the container uses it, or is mounted below it: end that first",
	syscall.ENOENT: "make the target first, or add the option x-mount.mkdir",
	syscall.EINVAL: "look whether it is still mounted: the program may have unmounted it",
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
