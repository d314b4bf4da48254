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
	"github.com/ctrfs/ctrfs/engine/crash"
)

// Store makes the roots of one ctrfs and keeps their writable layers.
type Store struct {
	state string   // immutable; for texts, and for the one system call that cannot take a descriptor
	homes *os.File // STATE/containers
	trash *trash
	host  *host
	apart apart
	tools Tools // immutable once anything is prepared; nil: there are none

	forbidden  atomic.Pointer[forbidden]
	distrusted atomic.Pointer[func() []string]
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
	dirs := map[string]*os.File{homes: nil, "trash": nil, "host": nil, "mnt": nil}
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
	spread(dirs[homes])
	s := &Store{state: state, homes: dirs[homes], trash: &trash{dir: dirs["trash"]}}
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

// spread tells ext4 that the directories in dir have nothing to do with each other, chattr(1) +T, so that it puts each into
// another part of the disk. Other file systems do not know the flag, and do not need it.
func spread(dir *os.File) {
	const topDir = 0x20000 // FS_TOPDIR_FL
	if flags, err := unix.IoctlGetUint32(int(dir.Fd()), getFlags); err == nil {
		unix.IoctlSetPointerInt(int(dir.Fd()), setFlags, int(flags|topDir))
	}
}

// Home is the directory of a container, relative to the state directory. Containers are spread over as many directories as
// there are first characters of an id, and those over the disk: without a journal, ext4 gives an inode number out again only
// after a minute, and for every new file looks at each one that was freed nearby meanwhile. A thousand containers that had
// come and gone in one directory made the next start take twice as long.
func Home(id string) string { return homes + "/" + id[:1] + "/" + id }

const homes = "containers"

// MakeHome makes the directory of a container. Errors: EEXIST, and what the disk says.
func (s *Store) MakeHome(id string) error {
	if err := validID(id); err != nil {
		return err
	}
	dir := int(s.homes.Fd())
	err := unix.Mkdirat(dir, inHomes(id), 0o700)
	crash.Point("make a container's directory")
	if err == unix.ENOENT { // the first one with this character
		if err = unix.Mkdirat(dir, id[:1], 0o700); err == nil || err == unix.EEXIST {
			crash.Point("make a directory of directories")
			err = unix.Mkdirat(dir, inHomes(id), 0o700)
			crash.Point("make a container's directory")
		}
	}
	return err
}

// inHomes is a container's directory relative to s.homes.
func inHomes(id string) string { return id[:1] + "/" + id }

// List returns the ids of all containers that have a directory, also of those whose creation or removal a crash cut off.
func (s *Store) List() ([]string, error) {
	shards, err := list(s.homes)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, shard := range shards {
		dir, err := openat(s.homes, shard, unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err != nil {
			return nil, err
		}
		in, err := list(dir)
		dir.Close()
		if err != nil {
			return nil, err
		}
		ids = append(ids, in...)
	}
	return ids, nil
}

func storeError(path string, err error) error {
	return &engine.Error{Op: "open", File: path, Errno: engine.Errno(err), Err: err,
		Cure: "name a state directory on a local disk with --state"}
}

// Close ends the deletion of what was removed, which the next Open continues, and closes the store. Roots that were
// prepared stay.
func (s *Store) Close() error {
	s.trash.close()
	return errors.Join(s.homes.Close(), s.trash.dir.Close(), s.host.dir.Close())
}

// Flush waits until everything that was removed is deleted, or could not be, which is the error.
func (s *Store) Flush(ctx context.Context) error { return s.trash.flush(ctx) }

// Forbid names ctrfs's own mount: its directory, and the st_dev of what is mounted there. No root below it is accepted,
// by name or through a symbolic link, and none is looked at.
func (s *Store) Forbid(dir string, dev uint64) {
	s.forbidden.Store(&forbidden{dir: filepath.Clean(dir), dev: dev})
}

// Check says whether root could be a container's root: what a write to rootfs verifies. Errors: ENOENT, ENOTDIR, EINVAL
// (not absolute, under ctrfs's own mount, through procfs, a file without a file system), EACCES, ELOOP, EOPNOTSUPP (a device),
// ETIMEDOUT.
func (s *Store) Check(root string) error {
	if root == engine.RootHost {
		return nil
	}
	dir, err := bounded(func() (*os.File, error) { return s.check(root) }, (*os.File).Close)
	if err != nil {
		return rootError("write", root, err)
	}
	return dir.Close()
}

// check opens a root that is a directory, or a file that holds one.
func (s *Store) check(root string) (*os.File, error) {
	dir, err := s.openAny(root, true)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(dir.Fd()), &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return dir, nil
	}
	defer dir.Close()
	if err != nil {
		return nil, err
	}
	file, _, err := openDisk(dir, unix.O_RDONLY)
	return file, err
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

// Reconcile removes the directories of containers that known does not know: those that were being removed, or made, at a
// crash.
func (s *Store) Reconcile(known func(id string) bool) error {
	ids, err := s.List()
	for _, id := range ids {
		if !known(id) {
			err = errors.Join(err, s.Remove(id))
		}
	}
	return err
}

// Remove gives up the directory of a container, with its layer and all else that is in it. It costs a rename; the deletion
// follows in the background. Roots that were prepared with the layer must be closed, and their mounts gone, or they lose
// their files.
func (s *Store) Remove(id string) error {
	return s.give(id, func() error { return s.trash.take(s.homes, inHomes(id)) })
}

// Discard gives up the writable layer of a container and nothing else, likewise.
func (s *Store) Discard(id string) error {
	return s.give(id, func() error {
		dir, err := openat(s.homes, inHomes(id), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err != nil {
			return err
		}
		defer dir.Close()
		for _, half := range []string{"work", "upper", diskName, diskNew, diskResizing} { // against the order of their making
			if e := s.trash.take(dir, half); e != nil && !errors.Is(e, fs.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
		return err
	})
}

// OpenLayer opens the writable layer of a container, as overlayfs has it on disk; nil when there is none yet. It is the caller's to close.
func (s *Store) OpenLayer(id string) (*os.File, error) {
	if err := validID(id); err != nil {
		return nil, err
	}
	home, err := openat(s.homes, inHomes(id), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer home.Close()
	disk, err := layerDisk(home)
	if err != nil {
		return nil, err
	}
	if disk != nil {
		defer disk.Close() // what is open in it stays so
		home = disk
	}
	upper, err := openat(home, "upper", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return upper, err
}

// TakeAway gives up an entry of a directory of the state directory, which others keep there, likewise.
func (s *Store) TakeAway(dir *os.File, name string) error { return s.trash.take(dir, name) }

// give does what gives something of a container up. That there is nothing to give up is no error.
func (s *Store) give(id string, up func() error) error {
	if err := validID(id); err != nil {
		return err
	}
	err := up()
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return &engine.Error{Op: "remove", File: filepath.Join(s.state, Home(id)), Errno: engine.Errno(err), Err: err}
}

// validID keeps an id from being a path: ids come from the engine, which makes them, and from directory names, which a
// restored backup may contain.
func validID(id string) error {
	if id == "" || id[0] == '.' || strings.ContainsAny(id, "/\x00") || len(id) > unix.NAME_MAX {
		return &engine.Error{Op: "prepare", File: "layer", Value: id, Errno: syscall.EINVAL, Why: "not a container's id"}
	}
	return nil
}
