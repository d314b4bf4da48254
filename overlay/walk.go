package overlay

import (
	"errors"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// maxLinks is how many symbolic links a path may go through: the kernel's MAXSYMLINKS.
const maxLinks = 40

var (
	errOwnMount = errors.New("it lies under ctrfs's own mount")
	errProcLink = errors.New("it goes through a link of procfs, whose meaning depends on who asks")
	errRelative = errors.New("it is not an absolute path")
)

// open opens the directory at an absolute path, component by component, following symbolic links: no more than a
// descriptor can be had of what lies below our own mount, and a single openat(2) would already have asked the server,
// that is us, for each name on the way. The mount's own directory is recognised without a question to the server.
func (s *Store) open(path string) (*os.File, error) {
	if !strings.HasPrefix(path, "/") {
		return nil, errRelative
	}
	no := s.forbidden.Load()
	if no != nil && (path == no.dir || strings.HasPrefix(path, strings.TrimSuffix(no.dir, "/")+"/")) {
		return nil, errOwnMount
	}
	w := walk{no: no, rest: strings.Split(path, "/")}
	defer func() { w.at.Close() }()
	if err := w.enter("/"); err != nil {
		return nil, err
	}
	for len(w.rest) > 0 {
		name := w.rest[0]
		w.rest = w.rest[1:]
		if name == "" || name == "." {
			continue
		}
		if err := w.enter(name); err != nil {
			return nil, err
		}
	}
	dir := w.at
	w.at = nil
	return dir, nil
}

// walk is a path resolution under way.
type walk struct {
	no    *forbidden // nil when nothing is
	at    *os.File   // where it has got to; nil before the first step
	rest  []string   // the components still to go
	links int        // how many links it went through
}

// enter goes to the directory called name, or puts the text of a symbolic link of that name before the rest.
func (w *walk) enter(name string) error {
	// O_DIRECTORY makes a link fail with ENOTDIR, and an automount point mount what belongs there.
	next, err := openat(w.at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if errors.Is(err, syscall.ENOTDIR) && w.at != nil {
		return w.follow(name)
	}
	if err != nil {
		return err
	}
	w.at.Close()
	w.at = next
	if w.no == nil {
		return nil
	}
	var st unix.Statx_t
	// AT_STATX_DONT_SYNC: the device number is in the kernel; any other stat of a FUSE mount asks its server.
	if err := unix.Statx(int(next.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st); err != nil {
		return err
	}
	if unix.Mkdev(st.Dev_major, st.Dev_minor) == w.no.dev {
		return errOwnMount
	}
	return nil
}

func (w *walk) follow(name string) error {
	text := make([]byte, unix.PathMax)
	n, err := retry(func() (int, error) { return unix.Readlinkat(int(w.at.Fd()), name, text) })
	if err != nil {
		return syscall.ENOTDIR // not a link either, so a file
	}
	if w.links++; w.links > maxLinks {
		return syscall.ELOOP
	}
	// The links of procfs lead to an open file, which their text does not name: /proc/PID/root of a container reads as
	// "/".
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(w.at.Fd()), &fs); err != nil {
		return err
	}
	if fs.Type == unix.PROC_SUPER_MAGIC {
		return errProcLink
	}
	target := string(text[:n])
	w.rest = append(strings.Split(target, "/"), w.rest...)
	if strings.HasPrefix(target, "/") {
		return w.enter("/")
	}
	return nil
}

// rootProblems says for each way in which a root can be refused why, and what to do.
var rootProblems = []struct {
	err       error
	errno     syscall.Errno
	why, cure string
}{
	{syscall.ENOENT, syscall.ENOENT, "no such directory", "create it, or write host"},
	{syscall.ENOTDIR, syscall.ENOTDIR, "not a directory", "write the path of a directory, or host"},
	{syscall.EACCES, syscall.EACCES, "", "write the path of a directory that root may search"},
	{syscall.ELOOP, syscall.ELOOP, "too many symbolic links", "write the path that they should lead to"},
	{syscall.ETIMEDOUT, syscall.ETIMEDOUT, "the path does not answer", "see whether the file server that it is on is up"},
	{errOwnMount, syscall.EINVAL, errOwnMount.Error(), "write a directory outside the mount"},
	{errProcLink, syscall.EINVAL, errProcLink.Error(), "write the path that it should lead to"},
	{errRelative, syscall.EINVAL, errRelative.Error(), "write the absolute path of a directory, or host"},
}

// rootError makes the error of a root that cannot be used.
func rootError(op, root string, err error) error {
	for _, p := range rootProblems {
		if errors.Is(err, p.err) {
			return &engine.Error{Op: op, File: "rootfs", Value: root, Errno: p.errno, Why: p.why, Cure: p.cure}
		}
	}
	return &engine.Error{Op: op, File: "rootfs", Value: root, Errno: engine.Errno(err), Err: err}
}
