package overlay

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// Look makes a read-only tree of what the container would find as its root, for whoever wants to look at it while it does not
// run: a detached mount, with the ids that files have on disk. It has to be closed before the container is started, since a layer
// is not to change below it. Errors: as [Store.Prepare].
func (s *Store) Look(id string, from Source, how engine.RootMode) (*os.File, error) {
	mounts, err := s.Describe(id, from, how)
	if err != nil {
		return nil, err
	}
	tree, err := bounded(func() (*os.File, error) { return s.look(id, from, how, mounts) }, (*os.File).Close)
	if err != nil {
		return nil, rootError("read", from.Path, err)
	}
	return tree, nil
}

func (s *Store) look(id string, from Source, how engine.RootMode, mounts []Mount) (*os.File, error) {
	l, err := s.lowers(from, how)
	if err != nil {
		return nil, err
	}
	defer l.close()
	r := &Root{}
	defer r.Release()
	tree, err := s.layered(r, id, l, how)
	if err != nil || len(mounts) == 1 {
		return tree, err
	}
	defer tree.Close()
	return s.withParts(tree, mounts[1:])
}

// layered shows the root under its layer, if there is one.
func (s *Store) layered(r *Root, id string, l *lowers, how engine.RootMode) (*os.File, error) {
	readOnly := l.attr | unix.MOUNT_ATTR_RDONLY
	if how != engine.RootOverlay {
		return s.mountReadOnly(r, id, l, nil)
	}
	dir, err := openat(s.homes, inHomes(id), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	home, err := layerDisk(dir)
	if err == nil && home == nil {
		home, err = r.idmapped(dir, nil)
	} else if err == nil {
		r.scaffold = append(r.scaffold, home)
	}
	if err != nil {
		return nil, err
	}
	upper, err := openat(home, "upper", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) { // it has not been started yet
		if l.direct() {
			return clone(l.dirs[0], "", false, readOnly, nil)
		}
		return s.mountReadOnly(r, id, l, nil)
	}
	if err != nil {
		return nil, err
	}
	defer upper.Close()
	v, err := r.shown(l, nil)
	if err != nil {
		return nil, err
	}
	defer v.close()
	return s.overlay(layers{lowers: append([]*os.File{upper}, v.dirs...), detached: []*os.File{home, v.mount}}, readOnly)
}

// withParts attaches the parts of the root called host to it, and takes the whole as one tree. The layer may have something
// else in the place of a part; what leads there stays in the root.
func (s *Store) withParts(tree *os.File, parts []Mount) (*os.File, error) {
	at := filepath.Join(s.state, "mnt")
	return attached(at, []*os.File{tree}, func() (*os.File, error) {
		for _, m := range parts {
			part, err := s.part(m.Target, nil)
			if err != nil {
				return nil, err
			}
			how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
			fd, err := retry(func() (int, error) { return unix.Openat2(int(tree.Fd()), m.Target, &how) })
			if err == nil {
				target := os.NewFile(uintptr(fd), m.Target)
				err = unix.MoveMount(int(part.Fd()), "", int(target.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
				target.Close()
			}
			part.Close()
			if err != nil {
				return nil, err
			}
		}
		return clone(nil, at, true, unix.MOUNT_ATTR_RDONLY, nil)
	})
}
