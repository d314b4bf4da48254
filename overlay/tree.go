package overlay

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// openTree makes a detached clone of the mount at path, relative to dir (nil: an absolute path; "": dir itself), and of
// those below it if recursive. It is still in the peer groups of the mounts that it is a clone of.
func openTree(dir *os.File, path string, recursive bool) (*os.File, error) {
	at, flags := unix.AT_FDCWD, uint(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if dir != nil {
		at, flags = int(dir.Fd()), flags|unix.AT_EMPTY_PATH
	}
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := retry(func() (int, error) { return unix.OpenTree(at, path, flags) })
	if err != nil {
		return nil, fmt.Errorf("open_tree: %w", err)
	}
	return os.NewFile(uintptr(fd), "mount"), nil
}

// setAttr changes a detached mount, or all of a detached tree of mounts, that nobody has used yet. With ids, it is
// idmapped too: where that is what is refused, the error is an [*unmappable]. Either all is done or nothing.
func setAttr(tree *os.File, recursive bool, attr unix.MountAttr, ids *IDs) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if ids != nil {
		attr.Attr_set, attr.Userns_fd = attr.Attr_set|unix.MOUNT_ATTR_IDMAP, uint64(ids.Userns.Fd())
	}
	err := unix.MountSetattr(int(tree.Fd()), "", flags, &attr)
	if ids != nil && (err == syscall.EINVAL || err == syscall.EPERM) {
		return &unmappable{err: err}
	}
	if err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}

// clone makes a detached clone, as openTree does, that is private, has attr added to each of its mounts, and shows files
// with the ids of ids.
func clone(dir *os.File, path string, recursive bool, attr uint64, ids *IDs) (*os.File, error) {
	tree, err := openTree(dir, path, recursive)
	if err != nil {
		return nil, err
	}
	if err = setAttr(tree, recursive, unix.MountAttr{Attr_set: attr, Propagation: unix.MS_PRIVATE}, ids); err != nil {
		tree.Close()
		return nil, err
	}
	return tree, nil
}

// cloneRoot makes a clone of the directory dir with all that is mounted below it. With ids, what cannot be idmapped
// below it is left out if it is the kernel's own or ctrfs's, and is an error if it holds files: without an idmap a
// container would write there with ids that are another's tomorrow, and a mount that is silently missing would have it
// write to the directory beneath.
func (s *Store) cloneRoot(dir *os.File, attr uint64, ids *IDs) (*os.File, error) {
	tree, err := clone(dir, "", true, attr, ids)
	var problem *unmappable
	if !errors.As(err, &problem) {
		return tree, err
	}
	where, err := os.Readlink(fdPath(dir))
	if err != nil {
		return nil, err
	}
	own := uint64(0)
	if no := s.forbidden.Load(); no != nil {
		own = no.dev
	}
	drop, err := ids.unmappables(dir, where, own)
	if err != nil {
		return nil, err
	}
	if len(drop) == 0 {
		return nil, problem.at(dir, where)
	}
	if tree, err = clone(dir, "", true, attr, nil); err != nil {
		return nil, err
	}
	defer tree.Close()
	return attached(s.state+"/mnt", []*os.File{tree}, func() (*os.File, error) {
		for _, name := range drop {
			// What lies below another that is dropped has gone with it. What could not be dropped fails again below.
			unix.Unmount(s.state+"/mnt"+name, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
		pruned, err := clone(nil, s.state+"/mnt", true, 0, ids)
		if errors.As(err, &problem) {
			return nil, problem.at(dir, where)
		}
		return pruned, err
	})
}

// unmappables names the mounts below dir, which is at the path where, that cannot be idmapped and can be done without,
// relative to where. One that cannot be done without is the error. own is the st_dev of ctrfs's own mount.
func (ids *IDs) unmappables(dir *os.File, where string, own uint64) ([]string, error) {
	var drop []string
	err := mountsBelow(where, func(m mountLine) error {
		if own != 0 && m.dev == own {
			drop = append(drop, m.below)
			return nil
		}
		for _, above := range drop {
			if under(m.below, above) {
				return nil
			}
		}
		err := ids.tryPath(m.path)
		var problem *unmappable
		if !errors.As(err, &problem) {
			return err
		}
		if !kernels[m.kind] {
			return &unmappable{kind: m.kind, path: m.path, err: problem.err}
		}
		drop = append(drop, m.below)
		return nil
	})
	return drop, err
}

// tryPath finds out whether the mount at path can be idmapped.
func (ids *IDs) tryPath(path string) error {
	tree, err := clone(nil, path, false, 0, ids)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EINVAL) && !errors.As(err, new(*unmappable)) {
		return nil // it is covered by another mount, gone, or unbindable, and so not in the clone
	}
	if err == nil {
		tree.Close()
	}
	return err
}

// kernels are the file systems whose files are the kernel's own state, of which a container gets its own, or nothing.
var kernels = map[string]bool{
	"autofs": true, "binfmt_misc": true, "bpf": true, "cgroup": true, "cgroup2": true, "configfs": true, "debugfs": true,
	"devpts": true, "devtmpfs": true, "efivarfs": true, "fusectl": true, "hugetlbfs": true, "mqueue": true, "nsfs": true, "proc": true,
	"pstore": true, "rpc_pipefs": true, "securityfs": true, "selinuxfs": true, "sysfs": true, "tracefs": true,
}
