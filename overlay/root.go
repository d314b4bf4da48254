package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// Root is a container's root, ready to be moved into a mount namespace.
type Root struct {
	Mounts []Mount // in the order in which they are to be attached, "/" first

	mu       sync.Mutex
	scaffold []*os.File // guarded by mu; detached mounts that the making needed: overlayfs has clones of its own by now
}

// Mount is one mount of a root.
type Mount struct {
	// File is the detached mount, close-on-exec. It is nil in what [Store.Describe] returns.
	File *os.File
	// Target is where it goes, an absolute path inside the root. The root may be hostile: resolve it with openat2(2)
	// and RESOLVE_IN_ROOT below the first mount, never as a path of the host.
	Target string
	// Text says what it is, for the plan: "overlay lower=/srv/debian upper=/var/lib/ctrfs/containers/7/upper nodev".
	Text string
}

// Release drops what only the making of the root needed. The kernel waits for a grace period with each, so nobody else should.
// It may be called while the root is closed.
func (r *Root) Release() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	for _, f := range r.scaffold {
		err = errors.Join(err, f.Close())
	}
	r.scaffold = nil
	return err
}

// Close drops the mounts. Those that were moved somewhere live on there. The last close of an overlay writes its layer
// to disk, for up to some milliseconds.
func (r *Root) Close() error {
	err := r.Release()
	for i := range r.Mounts {
		err = errors.Join(err, r.Mounts[i].File.Close())
	}
	r.Mounts = nil
	return err
}

// mode is what a root mode does: say it, and do it.
type mode struct {
	text  func(s *Store, id, root string) string
	mount func(s *Store, r *Root, id string, lower *os.File, attr uint64, ids *IDs) (*os.File, error)
}

// modes are the root modes. Each mounts the directory lower with attr added to the mount's attributes.
var modes = map[engine.RootMode]mode{
	engine.RootOverlay: {
		text: func(s *Store, id, root string) string {
			return fmt.Sprintf("overlay lower=%s upper=%s nodev", root, filepath.Join(s.layerPath(id), "upper"))
		},
		mount: (*Store).mountOverlay,
	},
	engine.RootVolatile: {
		text:  func(s *Store, id, root string) string { return fmt.Sprintf("overlay lower=%s upper=tmpfs nodev", root) },
		mount: (*Store).mountVolatile,
	},
	engine.RootReadOnly: {
		text: func(s *Store, id, root string) string { return fmt.Sprintf("rbind %s ro nodev private", root) },
		mount: func(s *Store, _ *Root, id string, lower *os.File, attr uint64, ids *IDs) (*os.File, error) {
			return s.cloneRoot(lower, attr|unix.MOUNT_ATTR_RDONLY, ids)
		},
	},
	engine.RootDirect: {
		text: func(s *Store, id, root string) string { return fmt.Sprintf("rbind %s rw nodev private", root) },
		mount: func(s *Store, _ *Root, id string, lower *os.File, attr uint64, ids *IDs) (*os.File, error) {
			return s.cloneRoot(lower, attr, ids)
		},
	},
}

// Describe returns the mounts that Prepare would make, without making them or looking at root.
func (s *Store) Describe(id, root string, how engine.RootMode) ([]Mount, error) {
	m, ok := modes[how]
	if !ok {
		return nil, engine.Invalid("rootfs.mode", string(how), "not a root mode", "write overlay, volatile, ro or rw")
	}
	if err := validID(id); err != nil {
		return nil, err
	}
	mounts := []Mount{{Target: "/", Text: m.text(s, id, root)}}
	if root != engine.RootHost {
		return mounts, nil
	}
	if how == engine.RootDirect {
		return nil, &engine.Error{Op: "start", File: "rootfs.mode", Value: string(how), Errno: syscall.EINVAL,
			Why:  "the root called host has no files of its own to write to",
			Cure: "write overlay or volatile, or set rootfs to a directory"}
	}
	for _, part := range s.host.parts() {
		text := fmt.Sprintf("rbind %s ro nodev private", filepath.Join(s.host.from, part))
		mounts = append(mounts, Mount{Target: part, Text: text})
	}
	return mounts, nil
}

// Prepare makes the root of container id from root, an absolute path or [engine.RootHost]. A writable layer is made
// when it is the container's first. With ids, files have the ids on disk that the container sees; without, those of the
// host. Errors: as [Store.Check], and EROFS or ENOSPC of the state directory, EOPNOTSUPP where a file system cannot be
// idmapped, and whatever the kernel says of the one that root is on.
func (s *Store) Prepare(id, root string, how engine.RootMode, ids *IDs) (*Root, error) {
	mounts, err := s.Describe(id, root, how)
	if err != nil {
		return nil, err
	}
	r, err := bounded(func() (*Root, error) { return s.prepare(id, root, modes[how], mounts, ids) }, (*Root).Close)
	if errors.Is(err, syscall.ETIMEDOUT) {
		return nil, rootError("start", root, err)
	}
	return r, err
}

func (s *Store) prepare(id, root string, m mode, mounts []Mount, ids *IDs) (*Root, error) {
	lower, attr, err := s.lower(root)
	if err != nil {
		return nil, rootError("start", root, err)
	}
	defer lower.Close()
	r := &Root{}
	for i, mount := range mounts {
		if i == 0 {
			mount.File, err = m.mount(s, r, id, lower, attr, ids)
		} else {
			mount.File, err = s.part(mount.Target, ids)
		}
		if err != nil {
			r.Close()
			return nil, prepareError(root, err)
		}
		r.Mounts = append(r.Mounts, mount)
	}
	return r, nil
}

// part clones a tree of the host. By path each time: a clone of one that is kept is some 7 µs cheaper (6.18), but older
// kernels refuse to clone a detached mount, so both ways would have to be kept right.
func (s *Store) part(target string, ids *IDs) (*os.File, error) {
	dir, err := openat(nil, filepath.Join(s.host.from, target), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return s.cloneRoot(dir, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_RDONLY, ids)
}

// prepareError makes the error of a root that could be opened, but not mounted.
func prepareError(root string, err error) error {
	e := &engine.Error{Op: "start", File: "rootfs", Value: root, Errno: engine.Errno(err), Err: err,
		Cure: "see overlay in the file host, or try another rootfs.mode"}
	if errors.As(err, new(*unmappable)) {
		e.Errno, e.Cure = syscall.EOPNOTSUPP, "run it without a user namespace: "+withoutUserns
	}
	return e
}

// inherited are the attributes of the mount that a root is on which the container's root keeps.
var inherited = []struct {
	flag int64
	attr uint64
}{
	{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID}, // statfs(2): ST_NOSUID and ST_NOEXEC are numbered as MS_* are
	{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
}

// lower opens the directory that a root is made of, and says which attributes its mount shall have.
func (s *Store) lower(root string) (*os.File, uint64, error) {
	if root == engine.RootHost {
		dir, err := s.host.skeleton()
		return dir, unix.MOUNT_ATTR_NODEV, err // the state directory's own attributes say nothing about the host's programs
	}
	dir, err := s.open(root)
	if err != nil {
		return nil, 0, err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		dir.Close()
		return nil, 0, err
	}
	attr := uint64(unix.MOUNT_ATTR_NODEV)
	for _, i := range inherited {
		if fs.Flags&i.flag != 0 {
			attr |= i.attr
		}
	}
	return dir, attr, nil
}

// layerPath is where the writable layer of a container is, for texts.
func (s *Store) layerPath(id string) string {
	return s.state + "/" + Home(id)
}
