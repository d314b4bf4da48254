package overlay

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// Features tries what roots need and says what this host can do. With userns, the descriptor of a user namespace that
// maps ids as a container's will, idmapped-overlay is tried too; without one it is "unknown", since a process with
// threads cannot make one. It makes and drops mounts: ask once, not for every reader.
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
	idmapped := engine.Feature{Name: "idmapped-overlay", Value: "unknown", Reason: "there was no user namespace to try it with"}
	if userns != nil {
		idmapped = feature(idmapped.Name, s.tryIDMapped(dir, lower, userns), "run containers without a user namespace: "+withoutUserns)
	}
	return append(features, append(diskFeatures(), detached, idmapped)...)
}

// diskFeatures say which files can be roots. A file system that is a module, and not loaded, is not tried: to ask what there
// is should not load it.
func diskFeatures() []engine.Feature {
	control, err := openat(nil, loopControl, unix.O_RDWR)
	loop := feature("loop", err, "load the module loop; roots cannot be files, nor rootfs.size bound a layer on a disk")
	control.Close()
	text, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return []engine.Feature{loop, feature("root-files", err, "")}
	}
	known := strings.Fields(string(text))
	files := engine.Feature{Name: "root-files"}
	var with, without []string
	for _, k := range diskKinds {
		if slices.Contains(known, k.name) {
			with = append(with, k.name)
		} else {
			without = append(without, k.name)
		}
	}
	files.Value = strings.Join(with, ",")
	if len(without) > 0 {
		files.Reason = "not " + strings.Join(without, ", ") + ", unless a module brings it"
	}
	if len(with) == 0 {
		files.Value = "no"
	}
	_, err = tool("mke2fs")
	bounds := feature("layer-bounds", err, "install e2fsprogs; of rootfs.mode volatile, rootfs.size works all the same")
	return []engine.Feature{loop, files, bounds, {Name: "root-devices", Value: "no",
		Reason: "a zfs dataset or a device, such as one of device-mapper, has to be mounted, and rootfs set to the directory"}}
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
	mount, err := newOverlay(layers{lowers: []*os.File{lower}, upper: upper, work: work}, unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return err
	}
	return mount.Close()
}

func (s *Store) tryVolatile(lower *os.File) error {
	r := &Root{}
	defer r.Close()
	mount, err := s.mountVolatile(r, "", &lowers{dirs: []*os.File{lower}, attr: unix.MOUNT_ATTR_NODEV}, nil)
	if err != nil {
		return err
	}
	return mount.Close()
}

var errNoRoot = errors.New("the user namespace has no root")

// tryIDMapped mounts an overlay of which both layers are mapped to userns, as its root.
func (s *Store) tryIDMapped(dir, lower, userns *os.File) error {
	ids, err := identify(lower, userns)
	if err != nil {
		return err
	}
	r := &Root{}
	defer r.Close()
	mount, err := s.overlayIn(r, dir, false, &lowers{dirs: []*os.File{lower}, attr: unix.MOUNT_ATTR_NODEV}, ids)
	if err != nil {
		return err
	}
	return mount.Close()
}

// Identify finds out which ids the root of a user namespace has on the host, without entering it. The file stays the
// caller's, and open as long as the result is used.
func (s *Store) Identify(userns *os.File) (*IDs, error) {
	own, err := openat(nil, filepath.Join(s.state, "mnt"), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer own.Close()
	return identify(own, userns)
}

// identify shows own, a directory of the host's root, with the ids of the namespace: the mount says who that is.
func identify(own, userns *os.File) (*IDs, error) {
	ids := &IDs{Userns: userns}
	mapped, err := clone(own, "", false, 0, ids)
	if err != nil {
		return nil, locate(err, own)
	}
	defer mapped.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(mapped.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Uid == overflow || st.Gid == overflow {
		return nil, errNoRoot
	}
	ids.UID, ids.GID = st.Uid, st.Gid
	return ids, nil
}
