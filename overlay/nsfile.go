package overlay

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// RootOf opens the root directory of a mount namespace, for looking things up in it: O_PATH, so nothing of whoever lives there
// is asked. Errors: as setns(2).
func RootOf(mounts *os.File) (*os.File, error) {
	return onOwnThread(func() (*os.File, error) {
		if err := unix.Unshare(unix.CLONE_FS); err != nil { // threads share their root
			return nil, os.NewSyscallError("unshare", err)
		}
		if err := unix.Setns(int(mounts.Fd()), unix.CLONE_NEWNS); err != nil {
			return nil, os.NewSyscallError("setns", err)
		}
		return openat(nil, "/", unix.O_PATH|unix.O_DIRECTORY)
	})
}

// OpenNamespace opens the namespace that is mounted at a path of the host, as ip-netns(8) and unshare(1) do it. What procfs
// shows is refused as for roots: a pid may be another process's by the time of the start. kind is its CLONE_NEW* flag. Errors: EINVAL (no namespace, or one of another kind), and those of
// [Store.Check].
func (s *Store) OpenNamespace(path string, kind int) (*os.File, error) {
	f, err := bounded(func() (*os.File, error) {
		dir, err := s.open(filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		// Not opened before it is known to be a namespace: a FIFO would wait, and a device would do something.
		at, err := openat(dir, filepath.Base(path), unix.O_PATH|unix.O_NOFOLLOW)
		if err != nil {
			return nil, err
		}
		defer at.Close()
		var fs unix.Statfs_t
		if err := unix.Fstatfs(int(at.Fd()), &fs); err != nil {
			return nil, err
		}
		if fs.Type != unix.NSFS_MAGIC {
			return nil, fmt.Errorf("not a namespace: %w", syscall.EINVAL)
		}
		f, err := openat(nil, fdPath(at), unix.O_RDONLY)
		if err != nil {
			return nil, err
		}
		if is, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || is != kind {
			f.Close()
			return nil, fmt.Errorf("a namespace of another kind: %w", syscall.EINVAL)
		}
		return f, nil
	}, (*os.File).Close)
	if err != nil {
		return nil, pathError("start", "namespaces", path, err)
	}
	return f, nil
}
