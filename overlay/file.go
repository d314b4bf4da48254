package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/crash"
)

// retry repeats a call that a signal has interrupted; the Go runtime sends some to itself.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		value, err := call()
		if err != syscall.EINTR {
			return value, err
		}
	}
}

// fdPath names an open file so that every call that takes a path takes it.
func fdPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// openat opens name relative to dir, or an absolute path when dir is nil.
func openat(dir *os.File, name string, flags int) (*os.File, error) {
	at := unix.AT_FDCWD
	if dir != nil {
		at = int(dir.Fd())
	}
	fd, err := retry(func() (int, error) { return unix.Openat(at, name, flags|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// mkdirat makes a directory, or takes the one that a crash left, and opens it.
func mkdirat(dir *os.File, name string, mode uint32) (*os.File, error) {
	if err := unix.Mkdirat(int(dir.Fd()), name, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	crash.Point("make a half of a layer")
	return openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
}

// list returns the names in a directory.
func list(dir *os.File) ([]string, error) {
	f, err := openat(dir, ".", unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
