package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
	upper    *os.File   // of a layer in memory: the layer; not changed once it is made
	ended    []func()   // what else ends with the root; not changed once it is made
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
	r.upper.Close()
	for _, end := range r.ended {
		end()
	}
	r.ended = nil
	return err
}

// Source is what a root is made of.
type Source struct {
	// Path is the setting rootfs: an absolute path of the host, or [engine.RootHost].
	Path string
	// Layers are the directories of an image, in place of Path: absolute paths, the uppermost first. They are below the
	// directory Base and on its mount, where nobody but root can change anything. Links are not followed.
	Layers []string
	Base   string
	// Strange says that the container belongs to somebody who is not root: of the trees of the host in [engine.RootHost], its root shall
	// read no more than everybody may. They are shown without ids, so they belong to nobody it is.
	Strange bool
	// Size is how many bytes the writable layer of it may take, if there is one: at least [MinSize]. 0 is no bound.
	Size int64
}

// Directory is the source that a directory of the host's is, or another setting of rootfs.
func Directory(path string) Source { return Source{Path: path} }

// String says what the source is, for the plan.
func (from Source) String() string {
	if len(from.Layers) > 0 {
		return strings.Join(from.Layers, ":")
	}
	return from.Path
}

// mode is what a root mode does: say it, and do it.
type mode struct {
	text  func(s *Store, id string, from Source) string
	mount func(s *Store, r *Root, id string, l *lowers, ids *IDs) (*os.File, error)
}

// modes are the root modes.
var modes = map[engine.RootMode]mode{
	engine.RootOverlay: {
		text: func(s *Store, id string, from Source) string {
			if from.Size > 0 {
				return fmt.Sprintf("overlay lower=%s upper=upper in %s size=%d nodev", from, filepath.Join(s.layerPath(id), diskName), from.Size)
			}
			return fmt.Sprintf("overlay lower=%s upper=%s nodev", from, filepath.Join(s.layerPath(id), "upper"))
		},
		mount: (*Store).mountOverlay,
	},
	engine.RootVolatile: {
		text: func(s *Store, id string, from Source) string {
			if from.Size > 0 {
				return fmt.Sprintf("overlay lower=%s upper=tmpfs size=%d nodev", from, from.Size)
			}
			return fmt.Sprintf("overlay lower=%s upper=tmpfs nodev", from)
		},
		mount: (*Store).mountVolatile,
	},
	engine.RootReadOnly: {
		text: func(s *Store, id string, from Source) string {
			if len(from.Layers) > 0 {
				return fmt.Sprintf("overlay lower=%s ro nodev", from)
			}
			return fmt.Sprintf("rbind %s ro nodev private", from)
		},
		mount: (*Store).mountReadOnly,
	},
	engine.RootDirect: {
		text:  func(s *Store, id string, from Source) string { return fmt.Sprintf("rbind %s rw nodev private", from) },
		mount: (*Store).mountDirect,
	},
}

// Describe returns the mounts that Prepare would make, without making them or looking at the source.
func (s *Store) Describe(id string, from Source, how engine.RootMode) ([]Mount, error) {
	m, ok := modes[how]
	if !ok {
		return nil, engine.Invalid("rootfs.mode", string(how), "not a root mode", "write overlay, volatile, ro or rw")
	}
	if err := validID(id); err != nil {
		return nil, err
	}
	mounts := []Mount{{Target: "/", Text: m.text(s, id, from)}}
	if len(from.Layers) > 0 && how == engine.RootDirect {
		return nil, &engine.Error{Op: "start", File: "rootfs.mode", Value: string(how), Errno: syscall.EINVAL,
			Why:  "an image is never changed, other containers may use it",
			Cure: "write overlay or volatile, or set rootfs to a directory"}
	}
	if len(from.Layers) > 0 || from.Path != engine.RootHost {
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

// Prepare makes the root of container id. A writable layer is made when it is the container's first. With ids, files have
// the ids on disk that the container sees; without, those of the host. Errors: as [Store.Check], and EROFS or ENOSPC of the
// state directory, EOPNOTSUPP where a file system cannot be idmapped, and whatever the kernel says of the one that the
// source is on.
func (s *Store) Prepare(id string, from Source, how engine.RootMode, ids *IDs) (*Root, error) {
	mounts, err := s.Describe(id, from, how)
	if err != nil {
		return nil, err
	}
	if how == engine.RootOverlay {
		if err := s.furnish(id, from.Size); err != nil {
			return nil, prepareError(from.Path, err)
		}
	}
	r, err := bounded(func() (*Root, error) { return s.prepare(id, from, how, mounts, ids) }, (*Root).Close)
	if errors.Is(err, syscall.ETIMEDOUT) {
		return nil, rootError("start", from.Path, err)
	}
	return r, err
}

func (s *Store) prepare(id string, from Source, how engine.RootMode, mounts []Mount, ids *IDs) (*Root, error) {
	l, err := s.lowers(from, how)
	if err != nil {
		return nil, rootError("start", from.Path, err)
	}
	defer l.close()
	l.size = from.Size
	r := &Root{}
	for i, mount := range mounts {
		if i == 0 {
			mount.File, err = modes[how].mount(s, r, id, l, ids)
		} else {
			own := ids
			if from.Strange {
				own = nil
			}
			mount.File, err = s.part(mount.Target, own)
		}
		if err != nil {
			r.Close()
			return nil, prepareError(from.Path, err)
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
	if said, ok := errors.AsType[*engine.Error](err); ok {
		return said
	}
	e := &engine.Error{Op: "start", File: "rootfs", Value: root, Errno: engine.Errno(err), Err: err,
		Cure: "see overlay in the file host, or try another rootfs.mode"}
	if errors.As(err, new(*unmappable)) {
		e.Errno, e.Cure = syscall.EOPNOTSUPP, "run it without a user namespace: "+withoutUserns
	}
	return e
}

// layerPath is where the writable layer of a container is, for texts.
func (s *Store) layerPath(id string) string {
	return s.state + "/" + Home(id)
}
