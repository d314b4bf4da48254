package overlay

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Text is a file that only one container sees.
type Text struct {
	Name string // of the file, without a directory
	Text string
}

// Texts makes files on a tmpfs of their own, which belong to that user and group, and returns a detached mount of each, in order. The
// file system is gone with the last of them.
func Texts(uid, gid uint32, texts []Text) (mounts []*os.File, err error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "size", "1m"); err != nil { // the container may write to them
		return nil, os.NewSyscallError("fsconfig", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	dir, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(dir)
	for _, t := range texts {
		if err := text(dir, uid, gid, t); err != nil {
			return nil, fmt.Errorf("make %s: %w", t.Name, err)
		}
	}
	mounts, err = textTrees(dir, texts)
	if !errors.Is(err, unix.EINVAL) {
		return mounts, err
	}
	// Before Linux 6.15 only what is attached in the caller's mount namespace can be cloned.
	fd, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	whole := os.NewFile(uintptr(fd), "tmpfs")
	defer whole.Close()
	_, err = attached("/dev", []*os.File{whole}, func() (_ *os.File, err error) {
		mounts, err = textTrees(dir, texts)
		return nil, err
	})
	return mounts, err
}

// textTrees clones a mount of each file.
func textTrees(dir int, texts []Text) (mounts []*os.File, err error) {
	for _, t := range texts {
		tree, err := unix.OpenTree(dir, t.Name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			for _, m := range mounts {
				m.Close()
			}
			return nil, fmt.Errorf("mount %s: %w", t.Name, err)
		}
		mounts = append(mounts, os.NewFile(uintptr(tree), t.Name))
	}
	return mounts, nil
}

// text writes one of them in dir.
func text(dir int, uid, gid uint32, t Text) error {
	fd, err := unix.Openat(dir, t.Name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(t.Text)); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, 0o644); err != nil { // whatever the umask says
		return err
	}
	return unix.Fchown(fd, int(uid), int(gid))
}

// Lies says what a path of the root leads to, before anything is attached to it: whether something is there, and if not, whether its
// directory is, so that it can be made. Links are followed within the root.
func (r *Root) Lies(path string) (there, dir bool) {
	if len(r.Mounts) == 0 {
		return false, false
	}
	root := int(r.Mounts[0].File.Fd())
	open := func(path string, flags uint64) bool {
		fd, err := unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
		if err == nil {
			unix.Close(fd)
		}
		return err == nil
	}
	if open(path, 0) {
		return true, true
	}
	dangling := open(path, unix.O_NOFOLLOW)
	i := len(path) - 1
	for i > 0 && path[i] != '/' {
		i--
	}
	return false, !dangling && open(path[:i], unix.O_DIRECTORY)
}
