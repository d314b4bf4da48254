package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// Beside makes the path of a root absolute that is relative to where whoever writes it stands: the bundle of a specification.
// pid is the writer, who waits in write(2) meanwhile, so that its pid is nobody else's and its working directory does not
// change. 0 is one whom this machine's procfs does not show: a process of another pid namespace.
//
// The directory has to be the one that has this path for ctrfs, too. A writer in another mount namespace may stand in one that
// this path does not lead to, or in one without a path; so may one whose directory has been removed.
func (s *Store) Beside(pid uint32, root string) (string, error) {
	refuse := func(errno syscall.Errno, why string, err error) error {
		return &engine.Error{Op: "write", File: "rootfs", Value: root, Errno: errno, Why: why, Err: err,
			Cure: "write an absolute path, or host"}
	}
	if pid == 0 {
		return "", refuse(syscall.EINVAL, "it is relative to the working directory of a process in another pid namespace", nil)
	}
	at, err := bounded(func() (string, error) { return s.standing(pid) }, func(string) error { return nil })
	switch {
	case errors.Is(err, errOwnMount):
		return "", refuse(syscall.EINVAL, "it is relative to the working directory, which lies in ctrfs's own mount", nil)
	case errors.Is(err, errElsewhere):
		return "", refuse(syscall.ENOENT, "it is relative to the working directory, which has no path that ctrfs sees", nil)
	case err != nil:
		return "", refuse(engine.Errno(err), "it is relative to the working directory, which cannot be opened", err)
	}
	return filepath.Join(at, root), nil
}

var errElsewhere = errors.New("the path leads somewhere else")

// standing is the path of a process's working directory.
func (s *Store) standing(pid uint32) (string, error) {
	dir, err := openat(nil, fmt.Sprintf("/proc/%d/cwd", pid), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	where, err := os.Readlink(fdPath(dir))
	if err != nil {
		return "", err
	}
	found, err := s.open(where)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, errRelative) {
		return "", errElsewhere
	}
	if err != nil {
		return "", err
	}
	defer found.Close()
	if !sameDirectory(dir, found) {
		return "", errElsewhere
	}
	return where, nil
}

// sameDirectory asks what the kernel knows already: one of them may be a file server's, also our own.
func sameDirectory(a, b *os.File) bool {
	var st [2]unix.Statx_t
	for i, f := range []*os.File{a, b} {
		err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st[i])
		if err != nil {
			return false
		}
	}
	return st[0].Ino == st[1].Ino && st[0].Dev_major == st[1].Dev_major && st[0].Dev_minor == st[1].Dev_minor
}
