package overlay

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// OpenNamespace opens the namespace that a path of the host stands for: a file of /proc/PID/ns, or a bind mount of one, as
// ip-netns(8) makes them. kind is its CLONE_NEW* flag. Errors: EINVAL (no namespace, or one of another kind), and those of
// [Store.Check].
func (s *Store) OpenNamespace(path string, kind int) (*os.File, error) {
	return bounded(func() (*os.File, error) {
		dir, err := s.open(filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		// Not opened before it is known to be a namespace: a FIFO would wait, and a device would do something.
		at, err := last(dir, filepath.Base(path))
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
}

// last takes the last step of a path to a namespace. A link is followed on procfs only, where it is the namespace itself.
func last(dir *os.File, name string) (*os.File, error) {
	at, err := openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(at.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return at, err
	}
	defer at.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(at.Fd()), &fs); err != nil {
		return nil, err
	}
	if fs.Type != unix.PROC_SUPER_MAGIC {
		return nil, syscall.ELOOP
	}
	return openat(dir, name, unix.O_PATH)
}
