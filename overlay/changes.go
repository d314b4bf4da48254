package overlay

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// Changes writes what a container has changed of its root, a line each: "A", "C" or "D" and an absolute path, in which control
// characters and backslashes are \NNN in octal.
//
//	A   it was not there
//	C   it was, and was written to, replaced, or given other rights; a directory, if anything in it has changed
//	D   it was, and is not any more; of a directory that was deleted, nothing below it
//
// A directory that was deleted and made anew is C, and what it does not hold any more D, as a comparison of the two trees would
// have it. In each directory names are in order, those that are gone after the others; of more than a thousand, in order by the
// thousand.
//
// live is the root if the container runs. It is nil after a restart of the server, which has lost what the layer of mode volatile
// is in (EOPNOTSUPP). The tree may be a hostile one and change meanwhile: no link is followed, and what is held at any moment does
// not grow with it. Errors: as [Store.Prepare], and E2BIG for directories that are nested too deep.
func (s *Store) Changes(id string, from Source, how engine.RootMode, live *Root, running bool, w io.Writer) error {
	if how == engine.RootVolatile && !running || how == engine.RootReadOnly || how == engine.RootDirect {
		return nil
	}
	upper, done, err := s.openUpper(id, how, live)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has not been started yet
	}
	if err != nil {
		return changesError(err)
	}
	defer done()
	r := &Root{}
	defer r.Close()
	v, err := bounded(func() (view, error) {
		l, err := s.lowers(from, how)
		if err != nil {
			return view{}, err
		}
		defer l.close()
		return r.shown(l, nil) // without what is mounted below: overlayfs does not see that either
	}, func(v view) error { v.close(); return r.Close() })
	if err != nil {
		return changesError(err)
	}
	defer v.close()
	out := bufio.NewWriterSize(w, 64<<10)
	d := differ{out: out}
	if err := errors.Join(d.directory("", upper, v.dirs, false), out.Flush()); err != nil {
		return changesError(err)
	}
	return nil
}

func changesError(err error) error {
	return &engine.Error{Op: "read", File: "changes", Errno: engine.Errno(err), Err: err}
}

// openUpper opens the writable layer of a container.
func (s *Store) openUpper(id string, how engine.RootMode, live *Root) (upper *os.File, done func(), err error) {
	if how == engine.RootVolatile {
		if live == nil || live.upper == nil {
			return nil, nil, fmt.Errorf("the layer is in memory, where an earlier server has mounted it: %w", syscall.EOPNOTSUPP)
		}
		upper, err = openat(live.upper, ".", unix.O_PATH|unix.O_DIRECTORY)
		return upper, func() { upper.Close() }, err
	}
	dir, err := openat(s.homes, inHomes(id), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, nil, err
	}
	disk, err := layerDisk(dir)
	if err == nil && disk != nil {
		dir.Close()
		dir = disk
	}
	if err == nil {
		upper, err = openat(dir, "upper", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	}
	if err != nil {
		dir.Close()
		return nil, nil, err
	}
	return upper, func() { upper.Close(); dir.Close() }, nil
}

// Bounds of what is held while a tree is compared: names, of which each directory on the way takes some, and descriptors.
const (
	differNames = 1 << 16
	differFiles = 1 << 12
)

var errDeep = fmt.Errorf("directories are nested too deep: %w", syscall.E2BIG)

// differ compares a layer with what is below it.
type differ struct {
	out   *bufio.Writer
	names int // held
	files int // open
}

// line writes a line.
func (d *differ) line(kind byte, path string) {
	d.out.WriteByte(kind)
	d.out.WriteByte(' ')
	for i := range len(path) {
		if b := path[i]; b < ' ' || b == 0x7f || b == '\\' {
			fmt.Fprintf(d.out, `\%03o`, b)
		} else {
			d.out.WriteByte(b)
		}
	}
	d.out.WriteByte('\n')
}

// each calls do for the names in a directory, sorted as far as they can be held.
func (d *differ) each(dir *os.File, do func(name string) error) error {
	f, err := openat(dir, ".", unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(max(16, min(1024, differNames-d.names)))
		slices.Sort(names)
		d.names += len(names)
		for _, name := range names {
			if err := do(name); err != nil {
				return err
			}
		}
		d.names -= len(names)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// directory compares a directory of the layer with those that it lies on. fresh says that they do not show through: it, or one
// around it, was deleted and made anew.
func (d *differ) directory(path string, upper *os.File, lowers []*os.File, fresh bool) error {
	if d.files += 1 + len(lowers); d.files > differFiles {
		return errDeep
	}
	defer func() { d.files -= 1 + len(lowers) }()
	fresh = fresh || opaque(upper)
	err := d.each(upper, func(name string) error { return d.entry(path+"/"+name, name, upper, lowers, fresh) })
	if err != nil || !fresh {
		return err
	}
	for i, lower := range lowers {
		err := d.each(lower, func(name string) error {
			if !missing(upper, name) || slices.ContainsFunc(lowers[:i], func(above *os.File) bool { return !missing(above, name) }) {
				return nil // it is there, or was told of already
			}
			if there, _, err := look(lowers[i:], name); err != nil || !there {
				return err
			}
			d.line('D', path+"/"+name)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// entry compares one name of a directory of the layer.
func (d *differ) entry(path, name string, upper *os.File, lowers []*os.File, fresh bool) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(upper.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return vanished(err)
	}
	was, dirs, err := look(lowers, name)
	if err != nil {
		return err
	}
	defer closeAll(dirs)
	switch {
	case whiteout(&st) && was:
		d.line('D', path)
		return nil
	case whiteout(&st):
		return nil
	case was:
		d.line('C', path)
	default:
		d.line('A', path)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	dir, err := openat(upper, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return vanished(err)
	}
	defer dir.Close()
	return d.directory(path, dir, dirs, fresh)
}

// look finds what a name stands for in directories of which the first that has it shows it. If that is a directory, the result are
// all that it is made of.
func look(lowers []*os.File, name string) (there bool, dirs []*os.File, err error) {
	for _, lower := range lowers {
		var st unix.Stat_t
		err := unix.Fstatat(int(lower.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			closeAll(dirs)
			return false, nil, err
		}
		if whiteout(&st) || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return there || !whiteout(&st), dirs, nil
		}
		dir, err := openat(lower, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err != nil {
			closeAll(dirs)
			return false, nil, err
		}
		there, dirs = true, append(dirs, dir)
		if opaque(dir) {
			break
		}
	}
	return there, dirs, nil
}

// missing reports whether a directory has no such name.
func missing(dir *os.File, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == unix.ENOENT
}

// vanished is no error of what has been deleted, or replaced, since its name was read.
func vanished(err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return nil
	}
	return err
}

// whiteout reports whether a file stands for one that was deleted: Documentation/filesystems/overlayfs.rst.
func whiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// opaque reports whether nothing shows through a directory.
func opaque(dir *os.File) bool {
	value := make([]byte, 2)
	n, err := unix.Getxattr(fdPath(dir), "trusted.overlay.opaque", value)
	return err == nil && strings.HasPrefix(string(value[:n]), "y")
}

// Spool makes a file without a name on the disk of the state directory, for text of any length.
func (s *Store) Spool() (*os.File, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(s.homes.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	})
	if err != nil { // some file systems have none
		fd, err = unix.MemfdCreate("ctrfs-spool", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	return os.NewFile(uintptr(fd), "spool"), nil
}
