package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// lowers are the directories that a root is made of, the uppermost first, and which attributes its mount shall have.
type lowers struct {
	dirs  []*os.File
	attr  uint64
	size  int64    // bound of the layer in memory above them, in bytes; 0 is none
	own   bool     // it is a mount that nobody else has, not a directory
	where string   // of such a mount: the file that it is
	done  func()   // of such a mount: to be called when the root is closed; may be nil
	base  *os.File // of a chain: the directory that all of dirs are below; else nil
	names []string // of a chain: the paths of dirs, relative to base
}

func (l *lowers) close() {
	for _, d := range l.dirs {
		d.Close()
	}
	l.base.Close()
	if l.done != nil {
		l.done()
	}
}

// direct reports whether overlayfs can take the directories as they are, without ids.
func (l *lowers) direct() bool { return l.base == nil && !l.own }

// take gives the mount, with more attributes and with ids, to the root.
func (l *lowers) take(r *Root, attr uint64, ids *IDs) (*os.File, error) {
	mount := l.dirs[0]
	err := setAttr(mount, false, unix.MountAttr{Attr_set: attr}, ids)
	var problem *unmappable
	if errors.As(err, &problem) {
		err = problem.at(mount, l.where)
	}
	if err != nil {
		return nil, err
	}
	if l.done != nil {
		r.ended = append(r.ended, l.done)
	}
	l.dirs, l.done = nil, nil
	return mount, nil
}

// inherited are the attributes of the mount that a root is on which the container's root keeps.
var inherited = []struct {
	flag int64
	attr uint64
}{
	{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID}, // statfs(2): ST_NOSUID and ST_NOEXEC are numbered as MS_* are
	{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
}

// lowers opens what a root of that mode is made of. The attributes of the state directory say nothing about programs: neither about the
// host's nor about an image's.
func (s *Store) lowers(from Source, how engine.RootMode) (*lowers, error) {
	switch {
	case len(from.Layers) > 0:
		return chain(from)
	case from.Path == engine.RootHost:
		dir, err := s.host.skeleton()
		return &lowers{dirs: []*os.File{dir}, attr: unix.MOUNT_ATTR_NODEV}, err
	}
	dir, err := s.openAny(from.Path, true)
	if err != nil {
		return nil, err
	}
	l := &lowers{dirs: []*os.File{dir}, attr: unix.MOUNT_ATTR_NODEV}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		l.close()
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		defer dir.Close()
		l.own, l.where = true, from.Path
		l.dirs[0], l.done, err = s.disk(dir, how)
		return l, err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		l.close()
		return nil, err
	}
	for _, i := range inherited {
		if fs.Flags&i.flag != 0 {
			l.attr |= i.attr
		}
	}
	return l, nil
}

var errLayer = errors.New("a layer of the image is not where it should be")

// chain opens the layers of an image.
func chain(from Source) (*lowers, error) {
	l := &lowers{attr: unix.MOUNT_ATTR_NODEV}
	for _, path := range from.Layers {
		name, err := filepath.Rel(from.Base, path)
		if err != nil || !filepath.IsLocal(name) {
			return nil, fmt.Errorf("%s is not below %s: %w", path, from.Base, syscall.EINVAL)
		}
		l.names = append(l.names, name)
	}
	var err error
	if l.base, err = openat(nil, from.Base, unix.O_PATH|unix.O_DIRECTORY); err == nil {
		l.dirs, err = openBelow(l.base, l.names)
	}
	if err != nil {
		l.close()
		return nil, fmt.Errorf("%w: %w", errLayer, err)
	}
	return l, nil
}

// openBelow opens directories below base that are on its mount.
func openBelow(base *os.File, names []string) (dirs []*os.File, err error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV}
	for _, name := range names {
		fd, err := retry(func() (int, error) { return unix.Openat2(int(base.Fd()), name, &how) })
		if err != nil {
			closeAll(dirs)
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		dirs = append(dirs, os.NewFile(uintptr(fd), name))
	}
	return dirs, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// view is what a root is made of, as it is with ids, on a mount of its own that stays with the root.
type view struct {
	dirs  []*os.File
	mount *os.File
}

// close closes what lies on the mount.
func (v view) close() {
	if len(v.dirs) > 1 || len(v.dirs) == 1 && v.dirs[0] != v.mount {
		closeAll(v.dirs)
	}
}

// shown makes a view, with ids if there are any. A chain, too, is on one mount.
func (r *Root) shown(l *lowers, ids *IDs) (v view, err error) {
	if l.own {
		if v.mount, err = l.take(r, 0, ids); err == nil {
			r.scaffold = append(r.scaffold, v.mount)
		}
	} else if l.base == nil {
		v.mount, err = r.idmapped(l.dirs[0], ids)
	}
	if l.base == nil {
		v.dirs = []*os.File{v.mount}
		return v, err
	}
	if v.mount, err = r.idmapped(l.base, ids); err == nil {
		v.dirs, err = openBelow(v.mount, l.names)
	}
	return v, err
}

// mountReadOnly shows the root, and nothing can be written.
func (s *Store) mountReadOnly(r *Root, _ string, l *lowers, ids *IDs) (*os.File, error) {
	if l.own {
		return l.take(r, l.attr|unix.MOUNT_ATTR_RDONLY, ids)
	}
	if l.base == nil {
		return s.cloneRoot(l.dirs[0], l.attr|unix.MOUNT_ATTR_RDONLY, ids)
	}
	v, err := r.shown(l, ids)
	if err != nil {
		return nil, err
	}
	defer v.close()
	o := layers{lowers: v.dirs, detached: []*os.File{v.mount}}
	if len(o.lowers) == 1 { // overlayfs wants two, if nothing is written
		empty, err := r.nothing(s)
		if err != nil {
			return nil, err
		}
		o.lowers, o.detached = []*os.File{v.dirs[0], empty}, []*os.File{v.mount, empty}
	}
	return s.overlay(o, l.attr|unix.MOUNT_ATTR_RDONLY)
}

// mountDirect shows the root, and what is written is written to it.
func (s *Store) mountDirect(r *Root, _ string, l *lowers, ids *IDs) (*os.File, error) {
	if l.own {
		return l.take(r, l.attr, ids)
	}
	return s.cloneRoot(l.dirs[0], l.attr, ids)
}

// nothing is an empty directory on a mount of its own.
func (r *Root) nothing(s *Store) (*os.File, error) {
	dir, err := openat(nil, filepath.Join(s.state, "mnt"), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return r.idmapped(dir, nil)
}

// fdPaths joins the names of open directories, as lowerdir takes them: these have no colon.
func fdPaths(dirs []*os.File) string {
	var names []string
	for _, d := range dirs {
		names = append(names, fdPath(d))
	}
	return strings.Join(names, ":")
}
