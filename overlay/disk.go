package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// diskKind is a file system that a file may hold.
type diskKind struct {
	name   string
	at     int64 // where its magic number is
	magic  []byte
	sealed bool     // it can only be read
	flags  []string // options of every mount
	values [][2]string
	apart  bool // it needs no loop device where the kernel reads such files itself
}

// diskKinds are the file systems that a root may be in. Of several that share a file one is looked at first: none does.
//
// An ext4 must not stop the machine when it is damaged, whatever it says itself. An xfs that is a copy of another, with its
// UUID, is a root like any other. Nothing is replayed where a root must not change: a file that has not been unmounted is
// refused, rather than shown as it never was.
var diskKinds = []diskKind{
	{name: "ext4", at: 1080, magic: []byte{0x53, 0xef}, values: [][2]string{{"errors", "remount-ro"}}},
	{name: "xfs", at: 0, magic: []byte("XFSB"), flags: []string{"nouuid"}},
	{name: "btrfs", at: 0x10040, magic: []byte("_BHRfS_M")},
	{name: "squashfs", at: 0, magic: []byte("hsqs"), sealed: true},
	{name: "erofs", at: 1024, magic: []byte{0xe2, 0xe1, 0xf5, 0xe0}, sealed: true, apart: true},
}

var (
	errNoDisk  = errors.New("the file holds no ext4, xfs, btrfs, squashfs or erofs")
	errDevice  = errors.New("it is a device, not a file")
	errSealed  = errors.New("that file system can only be read")
	errUnclean = errors.New("it was not unmounted the last time, and would have to be repaired")
)

// diskProblems is for roots that are files what [problems] is for paths.
var diskProblems = []struct {
	err   error
	errno syscall.Errno
	cure  string
}{
	{errNoDisk, syscall.EINVAL, "write the path of a directory, or of a file with one of these; unpack an archive first, and take a partition out of a disk's image"},
	{errDevice, syscall.EOPNOTSUPP, "mount it, and write the directory"},
	{errSealed, syscall.EROFS, "write overlay, volatile or ro into rootfs.mode"},
	{errUnclean, syscall.EUCLEAN, "start it once with rw in rootfs.mode, or repair the file with fsck"},
}

// recognise tells which file system a file holds.
func recognise(file io.ReaderAt) (*diskKind, error) {
	for i := range diskKinds {
		k := &diskKinds[i]
		found := make([]byte, len(k.magic))
		if _, err := file.ReadAt(found, k.at); err != nil && err != io.EOF {
			return nil, err
		}
		if bytes.Equal(found, k.magic) {
			return k, nil
		}
	}
	return nil, errNoDisk
}

// openDisk opens what place, a descriptor for a path only, stands for, once it is known to be a file, and tells which file system
// is in it.
func openDisk(place *os.File, access int) (*os.File, *diskKind, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(place.Fd()), &st); err != nil {
		return nil, nil, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFBLK:
		return nil, nil, errDevice
	default:
		return nil, nil, syscall.ENOTDIR
	}
	file, err := openat(nil, fdPath(place), access|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, nil, err
	}
	kind, err := recognise(file)
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, kind, nil
}

// disk mounts the file system in the file at place: to write to it only in the mode that is for that. The second result is
// to be called when the root is closed.
func (s *Store) disk(place *os.File, how engine.RootMode) (*os.File, func(), error) {
	readOnly, access := how != engine.RootDirect, unix.O_RDONLY
	if !readOnly {
		access = unix.O_RDWR
	}
	file, kind, err := openDisk(place, access)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	if kind.sealed && !readOnly {
		return nil, nil, fmt.Errorf("%s: %w", kind.name, errSealed)
	}
	if kind.apart {
		mount, done, err := s.apart.mount(file, kind)
		if !errors.Is(err, syscall.ENOTBLK) && !errors.Is(err, syscall.EINVAL) {
			return mount, done, err
		}
	}
	mount, err := kind.mount(file, readOnly)
	return mount, func() {}, err
}

// mount mounts the file system in a file, by way of a loop device.
func (k *diskKind) mount(file *os.File, readOnly bool, more ...string) (*os.File, error) {
	device, err := loopDevice(file, readOnly)
	if err != nil {
		return nil, err
	}
	defer device.Close()
	return k.open(device.Name(), readOnly, more...)
}

// open mounts the file system that source holds.
func (k *diskKind) open(source string, readOnly bool, more ...string) (*os.File, error) {
	c := newContext(k.name)
	defer c.close()
	c.set("source", source)
	if readOnly {
		c.flag("ro")
	}
	for _, flag := range slices.Concat(k.flags, more) {
		c.flag(flag)
	}
	for _, v := range k.values {
		c.set(v[0], v[1])
	}
	mount, err := c.mount(unix.MOUNT_ATTR_NODEV)
	// What has a journal says so when that is not empty, and cannot be written.
	if readOnly && !k.sealed && (errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EACCES)) {
		return nil, fmt.Errorf("%w: %w", errUnclean, err)
	}
	return mount, err
}
