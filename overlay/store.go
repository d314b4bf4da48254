package overlay

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// Store makes the roots of one ctrfs and keeps their writable layers.
type Store struct {
	state  string   // immutable; for texts, and for the one system call that cannot take a descriptor
	layers *os.File // STATE/layers
	trash  *trash
	host   *host

	forbidden atomic.Pointer[forbidden]
	// attach is set once the kernel has refused layers on detached mounts, and spares later calls the attempt.
	attach atomic.Bool
}

// forbidden is where ctrfs itself is mounted. A server that looked up a path below its own mount from within a request
// would wait for itself.
type forbidden struct {
	dir string // absolute and clean
	dev uint64 // st_dev
}

// Open opens the store below the directory state, which is made when it is missing, and begins to delete what an
// earlier process did not get to.
func Open(state string) (*Store, error) {
	state, err := filepath.Abs(state)
	if err != nil {
		return nil, storeError(state, err)
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, storeError(state, err)
	}
	dirs := map[string]*os.File{"layers": nil, "trash": nil, "host": nil, "mnt": nil}
	for name := range dirs {
		dir, err := privateDir(state, name)
		if err != nil {
			for _, d := range dirs {
				d.Close()
			}
			return nil, storeError(filepath.Join(state, name), err)
		}
		dirs[name] = dir
	}
	dirs["mnt"].Close()
	s := &Store{state: state, layers: dirs["layers"], trash: &trash{dir: dirs["trash"]}}
	s.host = newHost(dirs["host"], "/", s.trash)
	if err := s.host.forgetOtherBoots(); err != nil {
		return nil, errors.Join(storeError(filepath.Join(state, "host"), err), s.Close())
	}
	s.trash.kick()
	return s, nil
}

// privateDir makes and opens a directory of the store. One that exists is made private again, and a symbolic link in
// its place is refused.
func privateDir(parent, name string) (*os.File, error) {
	path := filepath.Join(parent, name)
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	dir, err := openat(nil, path, unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	if err := dir.Chmod(0o700); err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

func storeError(path string, err error) error {
	return &engine.Error{Op: "open", File: path, Errno: engine.Errno(err), Err: err,
		Cure: "name a state directory on a local disk with --state"}
}

// Close ends the deletion of what was removed, which the next Open continues, and closes the store. Roots that were
// prepared stay.
func (s *Store) Close() error {
	s.trash.close()
	return errors.Join(s.layers.Close(), s.trash.dir.Close(), s.host.dir.Close())
}

// Flush waits until everything that was removed is deleted, or could not be, which is the error.
func (s *Store) Flush(ctx context.Context) error { return s.trash.flush(ctx) }

// Forbid names ctrfs's own mount: its directory, and the st_dev of what is mounted there. No root below it is accepted,
// by name or through a symbolic link, and none is looked at.
func (s *Store) Forbid(dir string, dev uint64) {
	s.forbidden.Store(&forbidden{dir: filepath.Clean(dir), dev: dev})
}

// Check says whether root could be a container's root: what a write to rootfs verifies. Errors: ENOENT, ENOTDIR, EINVAL
// (not absolute, under ctrfs's own mount, through procfs), EACCES, ELOOP, ETIMEDOUT.
func (s *Store) Check(root string) error {
	if root == engine.RootHost {
		return nil
	}
	dir, err := bounded(func() (*os.File, error) { return s.open(root) }, (*os.File).Close)
	if err != nil {
		return rootError("write", root, err)
	}
	return dir.Close()
}

// patience is how long a path may take to answer: far longer than any disk, far shorter than a dead file server.
const patience = 3 * time.Second

// bounded runs do, and gives up waiting for it after patience. A result that comes too late is dropped.
func bounded[T any](do func() (T, error), drop func(T) error) (T, error) {
	type result struct {
		value T
		err   error
	}
	answer := make(chan result, 1)
	late := new(atomic.Bool)
	go func() {
		value, err := do()
		answer <- result{value, err}
		// Whoever sees late set after its own step takes the result out again; the channel hands it over exactly once.
		if late.Load() {
			select {
			case r := <-answer:
				if r.err == nil {
					drop(r.value)
				}
			default:
			}
		}
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case r := <-answer:
		return r.value, r.err
	case <-timer.C:
	}
	late.Store(true)
	select {
	case r := <-answer:
		return r.value, r.err
	default:
		var zero T
		return zero, syscall.ETIMEDOUT
	}
}

// Reconcile removes the layers of containers that known does not know: those that were being removed, or made, at a
// crash.
func (s *Store) Reconcile(known func(id string) bool) error {
	names, err := list(s.layers)
	for _, id := range names {
		if !known(id) {
			err = errors.Join(err, s.Remove(id))
		}
	}
	return err
}

// Remove gives up the writable layer of a container, if it has one. It costs a rename; the deletion follows in the
// background. Roots that were prepared with the layer must be closed, and their mounts gone, or they lose their files.
func (s *Store) Remove(id string) error {
	if err := validID(id); err != nil {
		return err
	}
	err := s.trash.take(s.layers, id)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return &engine.Error{Op: "remove", File: s.layerPath(id), Errno: engine.Errno(err), Err: err}
}

// validID keeps an id from being a path: ids come from the engine, which makes them, and from directory names, which a
// restored backup may contain.
func validID(id string) error {
	if id == "" || id[0] == '.' || strings.ContainsAny(id, "/\x00") || len(id) > unix.NAME_MAX {
		return &engine.Error{Op: "prepare", File: "layer", Value: id, Errno: syscall.EINVAL, Why: "not a container's id"}
	}
	return nil
}
