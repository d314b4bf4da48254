package overlay

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// mountsFile is the setting that sources of mounts are written to.
const mountsFile = "mounts"

// BindOptions says how a source of the host is shown in a container.
type BindOptions struct {
	// Recursive takes what is mounted below the source along.
	Recursive bool
	// Attr are MOUNT_ATTR_* flags to add, of mount_setattr(2), which knows no others; AttrRecursive adds them to the
	// mounts below too. Nothing that the source has is ever taken away, but its way of keeping access times where Attr
	// names another.
	Attr          uint64
	AttrRecursive bool
	// Propagation is one of MS_PRIVATE, MS_SLAVE, MS_SHARED and MS_UNBINDABLE of mount_namespaces(7). 0 is MS_PRIVATE,
	// recursively. PropagationRecursive sets it below too; else the mounts below a private, slave or unbindable one become
	// slaves, so that no event leaves the container that has not been asked for, and those below a shared one stay what
	// they are.
	Propagation          uint64
	PropagationRecursive bool
	// IDs shows the files with the ids of a user namespace, in all mounts of the tree; nil: with the host's.
	IDs *IDs
}

// Bind opens source, an absolute path of the host, and makes a detached clone of the mount there, close-on-exec, to be
// attached with move_mount(2). Whether it is a directory, which its target has to be then too, says fstat(2). Errors: as
// [Store.Check], EINVAL for options that do not exist or a mount that is unbindable, and EOPNOTSUPP where ids are asked
// for and cannot be.
func (s *Store) Bind(source string, o BindOptions) (*os.File, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	tree, err := bounded(func() (*os.File, error) { return s.bind(source, o) }, (*os.File).Close)
	if err != nil {
		return nil, bindError(source, err)
	}
	return tree, nil
}

func (s *Store) bind(source string, o BindOptions) (*os.File, error) {
	place, err := s.openAny(source, true)
	if err != nil {
		return nil, err
	}
	defer place.Close()
	tree, err := openTree(place, "", o.Recursive)
	if errors.Is(err, syscall.EINVAL) {
		return nil, errUnbindable
	}
	if err != nil {
		return nil, err
	}
	for _, step := range o.steps() {
		if err = setAttr(tree, step.recursive, step.attr, step.ids); err != nil {
			tree.Close()
			return nil, o.culprit(place, err)
		}
	}
	return tree, nil
}

var errUnbindable = errors.New("it is on an unbindable mount, or one of another mount namespace")

// culprit completes the error of a source that cannot be idmapped by what in it cannot.
func (o BindOptions) culprit(place *os.File, err error) error {
	var problem *unmappable
	if !errors.As(err, &problem) {
		return err
	}
	where, linkErr := os.Readlink(fdPath(place))
	if linkErr != nil {
		return err
	}
	if o.Recursive && o.IDs.tryPath(where) == nil {
		// No mount is named that could be done without: whoever wrote rbind wants all of them.
		belowErr := mountsBelow(where, func(m mountLine) error {
			if o.IDs.tryPath(m.path) != nil {
				return &unmappable{kind: m.kind, path: m.path, err: problem.err}
			}
			return nil
		})
		if belowErr != nil {
			return belowErr
		}
	}
	return problem.at(place, where)
}

// bindStep is one call of mount_setattr(2).
type bindStep struct {
	recursive bool
	attr      unix.MountAttr
	ids       *IDs
}

// steps returns the calls that make of a clone what o says, in their order.
func (o BindOptions) steps() []bindStep {
	if o.Propagation == 0 {
		o.Propagation, o.PropagationRecursive = unix.MS_PRIVATE, true
	}
	var steps []bindStep
	add := func(recursive bool, attr unix.MountAttr, ids *IDs) {
		steps = append(steps, bindStep{recursive: recursive && o.Recursive, attr: attr, ids: ids})
	}
	if o.Recursive && !o.PropagationRecursive && o.Propagation != unix.MS_SHARED {
		add(true, unix.MountAttr{Propagation: unix.MS_SLAVE}, nil)
	}
	add(o.PropagationRecursive, unix.MountAttr{Propagation: o.Propagation}, nil)
	if o.Attr != 0 {
		attr := unix.MountAttr{Attr_set: o.Attr}
		if o.Attr&unix.MOUNT_ATTR__ATIME != 0 {
			attr.Attr_clr = unix.MOUNT_ATTR__ATIME // a field of values, not of flags
		}
		add(o.AttrRecursive, attr, nil)
	}
	if o.IDs != nil {
		add(true, unix.MountAttr{}, o.IDs)
	}
	return steps
}

// bindAttrs are the flags that a caller may add. An idmap comes with its namespace.
const bindAttrs = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC |
	unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME | unix.MOUNT_ATTR_NOSYMFOLLOW

func (o BindOptions) check() error {
	if o.Attr&^bindAttrs != 0 {
		return engine.Invalid(mountsFile, "", "there are no such mount attributes", "use those of mount_setattr(2)")
	}
	switch o.Propagation {
	case 0, unix.MS_PRIVATE, unix.MS_SLAVE, unix.MS_SHARED, unix.MS_UNBINDABLE:
		return nil
	}
	return engine.Invalid(mountsFile, "", "more than one propagation", "write private, slave, shared or unbindable")
}

// bindError makes the error of a source that cannot be bound.
func bindError(source string, err error) error {
	if errors.As(err, new(*unmappable)) {
		return &engine.Error{Op: "start", File: mountsFile, Value: source, Errno: syscall.EOPNOTSUPP, Err: err,
			Cure: "leave out idmap, and its files belong to nobody inside, or run it without a user namespace: " + withoutUserns}
	}
	if errors.Is(err, errUnbindable) {
		return &engine.Error{Op: "start", File: mountsFile, Value: source, Errno: syscall.EINVAL, Why: err.Error(),
			Cure: "write another path, or make the mount bindable (mount --make-private)"}
	}
	return pathError("start", mountsFile, source, err)
}

// OpenInRoot opens a regular file of a root to read it, as /etc/passwd is when the name of a user is looked up. root is
// the first mount of a [Root], attached or not. Links are followed as inside the root, and what they lead to is not
// touched before it is known to be a file that is stored somewhere: no FIFO, no device, nothing of procfs, whose files
// may block. How much of it is read is the caller's to bound. Errors: as openat2(2), EINVAL for what is no such file,
// ETIMEDOUT.
func OpenInRoot(root *os.File, path string) (*os.File, error) {
	f, err := bounded(func() (*os.File, error) { return openInRoot(root, path) }, (*os.File).Close)
	if err != nil {
		e := &engine.Error{Op: "start", File: path, Errno: engine.Errno(err), Err: err}
		if errors.Is(err, errNoFile) {
			e.Errno, e.Cure = syscall.EINVAL, "look what it is in the container's root"
		}
		return nil, e
	}
	return f, nil
}

var errNoFile = errors.New("it is not a regular file")

func openInRoot(root *os.File, path string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := retry(func() (int, error) { return unix.Openat2(int(root.Fd()), path, &how) })
	// Somebody renames a directory on the way just now: the kernel cannot tell whether ".." has left the root.
	for range 100 {
		if err != syscall.EAGAIN {
			break
		}
		fd, err = retry(func() (int, error) { return unix.Openat2(int(root.Fd()), path, &how) })
	}
	if err != nil {
		return nil, err
	}
	place := os.NewFile(uintptr(fd), path)
	defer place.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || unstored[fs.Type] {
		return nil, errNoFile
	}
	// O_NONBLOCK: for leases, fcntl(2).
	return openat(nil, fdPath(place), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
}

// unstored are the file systems whose regular files are none.
var unstored = map[int64]bool{
	unix.PROC_SUPER_MAGIC: true, unix.SYSFS_MAGIC: true, unix.DEBUGFS_MAGIC: true, unix.TRACEFS_MAGIC: true,
	unix.SECURITYFS_MAGIC: true, unix.CGROUP_SUPER_MAGIC: true, unix.CGROUP2_SUPER_MAGIC: true,
}
