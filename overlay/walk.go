package overlay

import (
	"errors"
	"os"
	"slices"
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
	errProcess  = errors.New("it is what procfs says of one process")
	errRelative = errors.New("it is not an absolute path")
	errTheirs   = errors.New("it goes through a link where a container may write, which can lead anywhere by now")
)

// open opens the directory at an absolute path, component by component, following symbolic links: no more than a
// descriptor can be had of what lies below our own mount, and a single openat(2) would already have asked the server,
// that is us, for each name on the way. The mount's own directory is recognised without a question to the server.
func (s *Store) open(path string) (*os.File, error) { return s.openAny(path, false) }

// openAny is open, but takes a file of any type at the end of the path if files is set. Nothing happens to it: the
// descriptor is a place only (O_PATH).
func (s *Store) openAny(path string, files bool) (*os.File, error) {
	if !strings.HasPrefix(path, "/") {
		return nil, errRelative
	}
	no := s.forbidden.Load()
	if no != nil && (path == no.dir || strings.HasPrefix(path, strings.TrimSuffix(no.dir, "/")+"/")) {
		return nil, errOwnMount
	}
	return s.resolve(walk{no: no, rest: strings.Split(path, "/"), files: files, theirs: s.theirs})
}

// resolve goes the whole way.
func (s *Store) resolve(w walk) (*os.File, error) {
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
	files bool       // it may end at what is no directory

	passed []place                   // the directories on the way
	theirs func(passed []place) bool // whether a container may write below one of them; nil: it does not matter
}

// place is a directory, whatever it is called.
type place struct{ dev, ino uint64 }

// enter goes to the directory called name, or puts the text of a symbolic link of that name before the rest.
func (w *walk) enter(name string) error {
	// O_DIRECTORY makes a link fail with ENOTDIR, and an automount point mount what belongs there.
	next, err := openat(w.at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if errors.Is(err, syscall.ENOTDIR) && w.at != nil {
		return w.follow(name)
	}
	if err == nil && w.at != nil && w.isProcess(name) {
		next.Close()
		return errProcess
	}
	if err != nil {
		return err
	}
	w.at.Close()
	w.at = next
	var st unix.Statx_t
	// AT_STATX_DONT_SYNC: both numbers are in the kernel; any other stat of a FUSE mount asks its server.
	if err := unix.Statx(int(next.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_INO, &st); err != nil {
		return err
	}
	dev := unix.Mkdev(st.Dev_major, st.Dev_minor)
	if w.no != nil && dev == w.no.dev {
		return errOwnMount
	}
	w.passed = append(w.passed, place{dev, st.Ino})
	return nil
}

func (w *walk) follow(name string) error {
	text := make([]byte, unix.PathMax)
	n, err := retry(func() (int, error) { return unix.Readlinkat(int(w.at.Fd()), name, text) })
	if err != nil && w.files && len(w.rest) == 0 {
		return w.end(name)
	}
	if err != nil {
		return syscall.ENOTDIR // not a link either, so a file
	}
	if w.links++; w.links > maxLinks {
		return syscall.ELOOP
	}
	// The links of procfs lead to an open file, which their text does not name: /proc/PID/root of a container reads as
	// "/".
	if w.inProc() {
		return errProcLink
	}
	// Whoever wrote the path may have seen something else there: a container that shares a volume with another one must not
	// choose what of the host the other one is shown (CVE-2021-25741).
	if w.theirs != nil && w.theirs(w.passed) {
		return errTheirs
	}
	target := string(text[:n])
	w.rest = append(strings.Split(target, "/"), w.rest...)
	if strings.HasPrefix(target, "/") {
		w.passed = nil
		return w.enter("/")
	}
	return nil
}

// Distrust names the trees that programs of containers may write to, as list gives them whenever a path goes through a link.
// A link below one of them is not followed: not to a root, and not to the source of a mount.
func (s *Store) Distrust(list func() []string) { s.distrusted.Store(&list) }

// theirs reports whether one of the directories passed is such a tree. Its own name may go through links.
func (s *Store) theirs(passed []place) bool {
	list := s.distrusted.Load()
	if list == nil {
		return false
	}
	trees := append((*list)(), s.state+"/"+homes)
	slices.Sort(trees)
	for _, tree := range slices.Compact(trees) {
		w := walk{no: s.forbidden.Load(), rest: strings.Split(tree, "/"), files: true}
		if dir, err := s.resolve(w); err == nil {
			var st unix.Statx_t
			err = unix.Statx(int(dir.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
			dir.Close()
			if err != nil || slices.Contains(passed, place{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}) {
				return true
			}
		}
	}
	return false
}

// inProc reports whether the walk is in procfs. Where that cannot be known it is taken to be.
func (w *walk) inProc() bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(int(w.at.Fd()), &fs) != nil || fs.Type == unix.PROC_SUPER_MAGIC
}

// isProcess reports whether name, in the directory that the walk is at, is a process's in procfs.
func (w *walk) isProcess(name string) bool {
	if strings.Trim(name, "0123456789") != "" || !w.inProc() {
		return false
	}
	const procRoot = 1 // PROC_ROOT_INO, include/linux/proc_fs.h
	var st unix.Stat_t
	return unix.Fstat(int(w.at.Fd()), &st) != nil || st.Ino == procRoot
}

// end goes to the file called name, which is neither a directory nor a link.
func (w *walk) end(name string) error {
	file, err := openat(w.at, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	var st unix.Statx_t
	err = unix.Statx(int(file.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		err = syscall.ELOOP // it has become a link meanwhile
	}
	if err == nil && w.no != nil && unix.Mkdev(st.Dev_major, st.Dev_minor) == w.no.dev {
		err = errOwnMount // a file of ours, bound elsewhere
	}
	if err != nil {
		file.Close()
		return err
	}
	w.at.Close()
	w.at = file
	return nil
}

// problems says for each way in which a path can be refused why, and what to do where it is a root, and where it is the
// source of a mount.
var problems = []struct {
	err                error
	errno              syscall.Errno
	why                string
	rootCure, bindCure string
}{
	{syscall.ENOENT, syscall.ENOENT, "there is nothing at this path", "create it, or write host", "create it first"},
	{syscall.ENOTDIR, syscall.ENOTDIR, "not a directory", "write the path of a directory, of a file that holds a file system, or host", "write a path whose every part but the last is a directory"},
	{syscall.EACCES, syscall.EACCES, "", "write the path of a directory that root may search", "write a path that root may search"},
	{syscall.ELOOP, syscall.ELOOP, "too many symbolic links", "write the path that they should lead to", "write the path that they should lead to"},
	{syscall.ETIMEDOUT, syscall.ETIMEDOUT, "the path does not answer", "see whether the file server that it is on is up", "see whether the file server that it is on is up"},
	{errOwnMount, syscall.EINVAL, errOwnMount.Error(), "write a directory outside the mount", "write a path outside the mount"},
	{errProcLink, syscall.EINVAL, errProcLink.Error(), "write the path that it should lead to", "write the path that it should lead to"},
	{errProcess, syscall.EINVAL, errProcess.Error(), "write a directory outside /proc", "write a path outside /proc"},
	{errTheirs, syscall.ELOOP, errTheirs.Error(), "write the path that it should lead to", "write the path that it should lead to"},
	{errRelative, syscall.EINVAL, errRelative.Error(), "write the absolute path of a directory, or host", "write an absolute path"},
}

// rootError makes the error of a root that cannot be used.
func rootError(op, root string, err error) error {
	return pathError(op, "rootfs", root, err)
}

func pathError(op, file, value string, err error) error {
	if busy, ok := errors.AsType[*busyLoop](err); ok {
		return &engine.Error{Op: op, File: file, Value: value, Errno: syscall.EBUSY, Why: busy.Error(),
			Cure: "wait until that has ended: a file is written to, or a root that does not change, not both"}
	}
	for _, p := range diskProblems {
		if errors.Is(err, p.err) {
			return &engine.Error{Op: op, File: file, Value: value, Errno: p.errno, Err: err, Cure: p.cure}
		}
	}
	for _, p := range problems {
		if !errors.Is(err, p.err) {
			continue
		}
		e := &engine.Error{Op: op, File: file, Value: value, Errno: p.errno, Why: p.why, Cure: p.rootCure}
		if file == mountsFile {
			e.Cure = p.bindCure
		}
		return e
	}
	return &engine.Error{Op: op, File: file, Value: value, Errno: engine.Errno(err), Err: err}
}
