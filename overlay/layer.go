package overlay

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/crash"
)

// mountOverlay mounts l under the container's private layer.
func (s *Store) mountOverlay(r *Root, id string, l *lowers, ids *IDs) (*os.File, error) {
	dir, err := openat(s.homes, inHomes(id), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	disk, err := layerDisk(dir)
	if err != nil {
		return nil, err
	}
	if disk != nil {
		r.scaffold = append(r.scaffold, disk)
		return s.overlayIn(r, disk, true, l, ids)
	}
	return s.overlayIn(r, dir, false, l, ids)
}

// overlayIn mounts l under the layer in dir, and makes that if there is none. dir may be a mount of r's own. What it needed for that
// stays with r.
func (s *Store) overlayIn(r *Root, dir *os.File, own bool, l *lowers, ids *IDs) (*os.File, error) {
	// With the owner that the root has on disk: the layer is made before anything is idmapped.
	upper, work, err := layerIn(dir, l.dirs[0])
	if err != nil {
		return nil, err
	}
	defer upper.Close()
	defer work.Close()
	if ids == nil && l.direct() && !own {
		return newOverlay(layers{lowers: l.dirs, upper: upper, work: work}, l.attr)
	}
	v, err := r.shown(l, ids)
	if err != nil {
		return nil, err
	}
	defer v.close()
	home := dir // one for both halves, which have to be on one mount
	if own {
		err = setAttr(home, false, unix.MountAttr{}, ids)
	} else {
		home, err = r.idmapped(dir, ids)
	}
	if err != nil {
		return nil, err
	}
	mappedUpper, mappedWork, err := layerIn(home, v.dirs[0])
	if err != nil {
		return nil, err
	}
	defer mappedUpper.Close()
	defer mappedWork.Close()
	return s.overlay(layers{lowers: v.dirs, upper: mappedUpper, work: mappedWork, detached: []*os.File{v.mount, home}, ids: ids}, l.attr)
}

// idmapped makes a clone of the mount that dir is on, from dir on, with ids if there are any, which stays with the root. What is
// mounted below it stays behind: overlayfs would not look at it.
func (r *Root) idmapped(dir *os.File, ids *IDs) (*os.File, error) {
	tree, err := clone(dir, "", false, 0, ids)
	if err == nil {
		r.scaffold = append(r.scaffold, tree)
	}
	return tree, locate(err, dir)
}

// mountVolatile mounts l under a layer in memory, which the container's own memory limit pays for and which goes
// with the mount. The kernel's option "volatile" would add only a directory to make: a tmpfs has nothing to write back.
// With ids the layer itself is not idmapped, which kernels before 6.3 cannot do with a tmpfs; its files have the host's
// ids, and nobody but the container sees them. So root may make the overlay.
func (s *Store) mountVolatile(r *Root, _ string, l *lowers, ids *IDs) (*os.File, error) {
	memory, err := newTmpfs(l.size)
	if err != nil {
		return nil, err
	}
	r.scaffold = append(r.scaffold, memory)
	o := layers{lowers: l.dirs, detached: []*os.File{memory}}
	if ids != nil || !l.direct() {
		v, err := r.shown(l, ids)
		if err != nil {
			return nil, err
		}
		defer v.close()
		o.lowers, o.detached = v.dirs, append(o.detached, v.mount)
	}
	upper, work, err := layerIn(memory, o.lowers[0])
	if err != nil {
		return nil, err
	}
	defer upper.Close()
	defer work.Close()
	// For whoever asks what has changed, as long as there is the root.
	if r.upper, err = openat(upper, ".", unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return nil, err
	}
	o.upper, o.work = upper, work
	return s.overlay(o, l.attr)
}

// layerIn opens the upper and the work directory in dir. The work directory is made last, so its presence means that a
// crash did not interrupt the making of the other.
func layerIn(dir, like *os.File) (upper, work *os.File, err error) {
	work, err = openat(dir, "work", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return newLayer(dir, like)
	}
	if err != nil {
		return nil, nil, err
	}
	upper, err = openat(dir, "upper", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		work.Close()
		return nil, nil, err
	}
	return upper, work, nil
}

// newLayer makes an empty layer. The root directory of an overlay has the owner and the mode of its upper directory, so
// that takes them from the directory like, the root.
func newLayer(dir, like *os.File) (upper, work *os.File, err error) {
	var want unix.Stat_t
	if err := unix.Fstat(int(like.Fd()), &want); err != nil {
		return nil, nil, err
	}
	upper, err = mkdirat(dir, "upper", 0o755)
	if err != nil {
		return nil, nil, err
	}
	if err = setOwner(upper, &want); err == nil {
		work, err = mkdirat(dir, "work", 0o700)
	}
	if err != nil {
		upper.Close()
		return nil, nil, err
	}
	return upper, work, nil
}

// setOwner gives a directory the owner and the mode in want; most have them already.
func setOwner(dir *os.File, want *unix.Stat_t) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return err
	}
	if st.Uid != want.Uid || st.Gid != want.Gid {
		if err := unix.Fchownat(int(dir.Fd()), "", int(want.Uid), int(want.Gid), unix.AT_EMPTY_PATH); err != nil {
			return err
		}
		crash.Point("give a layer its owner")
	}
	if st.Mode&0o7777 == want.Mode&0o7777 {
		return nil
	}
	// fchmod(2) takes no O_PATH descriptor, and fchmodat2(2) is of 6.6.
	err := unix.Chmod(fdPath(dir), want.Mode&0o7777)
	crash.Point("give a layer its mode")
	return err
}

// Workplace makes a detached clone of the directory dir, with ids, for a program that is to fill it: what is on disk has the ids that the
// program sees. No device opens there, nothing can be executed, and no set-user-ID bit counts.
func Workplace(dir *os.File, ids *IDs) (*os.File, error) {
	tree, err := clone(dir, "", false, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, ids)
	return tree, locate(err, dir)
}
