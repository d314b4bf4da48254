package overlay

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// Features tries what roots need and says what this host can do. With userns, the descriptor of a user namespace that
// maps ids as a container's will, idmapped-overlay is tried too; without one it says so, since a process with threads
// cannot make one. It makes and drops mounts: ask once, not for every reader.
func (s *Store) Features(userns *os.File) []engine.Feature {
	probe := filepath.Join(s.state, "probe")
	lower, err := openat(nil, filepath.Join(s.state, "mnt"), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return []engine.Feature{feature("overlay", err, "")}
	}
	defer lower.Close()
	dir, err := privateDir(s.state, "probe")
	if err != nil {
		return []engine.Feature{feature("overlay", err, "")}
	}
	defer os.RemoveAll(probe) // nothing in it but our own empty directories
	defer dir.Close()

	features := []engine.Feature{
		feature("overlay", s.tryOverlay(dir, lower), "name a directory on ext4, xfs, btrfs or tmpfs with --state"),
		feature("volatile", s.tryVolatile(lower), ""),
	}
	detached := engine.Feature{Name: "detached-layers", Value: "yes"}
	if s.attach.Load() {
		detached.Value, detached.Reason = "no", "each such root takes a private mount namespace, which costs some 0.3 ms"
	}
	return append(features, detached, feature("idmapped-overlay", s.tryIDMapped(dir, lower, userns), ""))
}

// feature renders the outcome of a try.
func feature(name string, err error, cure string) engine.Feature {
	if err == nil {
		return engine.Feature{Name: name, Value: "yes"}
	}
	reason := err.Error()
	if cure != "" {
		reason += "; " + cure
	}
	return engine.Feature{Name: name, Value: "no", Reason: reason}
}

func (s *Store) tryOverlay(dir, lower *os.File) error {
	upper, work, err := layerIn(dir, lower)
	if err != nil {
		return err
	}
	defer upper.Close()
	defer work.Close()
	mount, err := newOverlay(layers{lower: lower, upper: upper, work: work}, unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return err
	}
	return mount.Close()
}

func (s *Store) tryVolatile(lower *os.File) error {
	mount, err := s.mountVolatile("", lower, unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return err
	}
	return mount.Close()
}

var errNoUserNamespace = errors.New("there is no user namespace to try it with")

// tryIDMapped mounts an overlay of which both layers are mapped to userns. Where the namespace does not map the mounter
// itself, overlayfs only mounts it read-only, which newOverlay does not take for success.
func (s *Store) tryIDMapped(dir, lower, userns *os.File) error {
	if userns == nil {
		return errNoUserNamespace
	}
	var mapped [2]*os.File
	for i, d := range []*os.File{lower, dir} {
		tree, err := clone(d, "", 0)
		if err != nil {
			return err
		}
		defer tree.Close()
		if err := idmap(tree, userns); err != nil {
			return err
		}
		mapped[i] = tree
	}
	upper, work, err := layerIn(mapped[1], lower)
	if err != nil {
		return err
	}
	defer upper.Close()
	defer work.Close()
	mount, err := s.overlay(layers{lower: mapped[0], upper: upper, work: work, detached: mapped[:]}, unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return err
	}
	return mount.Close()
}
