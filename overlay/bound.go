package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
)

// A writable layer with a bound is a file system of its own, in a sparse file of that size in the container's directory. What is
// full is that file system: the container gets ENOSPC, and nobody else does. Its size is changed while nothing is mounted, by
// programs of e2fsprogs, which the keeper runs. The names tell how far that has got:
//
//	disk            the layer; the size of the file is the bound
//	disk.new        half made: made anew
//	disk.resizing   half resized: checked, repaired, resized again
const (
	diskName     = "disk"
	diskNew      = "disk.new"
	diskResizing = "disk.resizing"
)

// MinSize is the smallest bound of a layer, in bytes: a file system needs something for itself.
const MinSize = 1 << 20

// layerKind is the file system of a bounded layer. The file is sparse, so that inode tables are zero without being written, and
// what is deleted in the container is free on the host.
var layerKind = diskKind{name: "ext4", flags: []string{"discard", "noinit_itable"}, values: [][2]string{{"errors", "remount-ro"}}}

// Tools are how programs of this machine are run, to their end; the output is the first line of what they write. The server may
// not run them itself.
type Tools func(program string, args ...string) (status syscall.WaitStatus, output string, err error)

// RunWith gives the store what it needs for layers with a bound. It is called before anything is prepared.
func (s *Store) RunWith(tools Tools) { s.tools = tools }

// toolDirs are where the programs are that make and change file systems.
var toolDirs = []string{"/sbin", "/usr/sbin"}

// tool finds a program.
func tool(name string) (string, error) {
	for _, dir := range toolDirs {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return filepath.Join(dir, name), nil
		}
	}
	return "", fmt.Errorf("%s is in none of %v: %w", name, toolDirs, syscall.EOPNOTSUPP)
}

// run runs a program on a file of a container's, which may end with one of these statuses.
func (s *Store) run(name string, good int, args ...string) error {
	program, err := tool(name)
	if err == nil && s.tools == nil {
		err = fmt.Errorf("nobody can run %s: %w", name, syscall.EOPNOTSUPP)
	}
	if err != nil {
		return err
	}
	status, output, err := s.tools(program, args...)
	if err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	if !status.Exited() || status.ExitStatus() > good {
		return &toolError{program, status, output}
	}
	return nil
}

// toolError is the end of a program that did not do what it should.
type toolError struct {
	program string
	status  syscall.WaitStatus
	output  string
}

func (e *toolError) Error() string {
	return fmt.Sprintf("%s ended with status %d: %s", e.program, e.status.ExitStatus(), e.output)
}

func (e *toolError) Unwrap() error { return syscall.EIO }

// sizeError makes the error of a bound that cannot be.
func sizeError(op string, errno syscall.Errno, err error, why, cure string) error {
	return &engine.Error{Op: op, File: "rootfs.size", Errno: errno, Err: err, Why: why, Cure: cure}
}

// CheckSize says whether the layer of a container can get another bound: what a write to rootfs.size verifies. 0 is none. Errors:
// EBUSY, EOPNOTSUPP.
func (s *Store) CheckSize(id string, size int64) error {
	dir, err := openat(s.homes, inHomes(id), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer dir.Close()
	if size == 0 {
		return nil
	}
	if _, err := tool("mke2fs"); err != nil {
		return sizeError("write", syscall.EOPNOTSUPP, err, "", "install e2fsprogs, or write max")
	}
	if err := boundless(dir); err != nil {
		return err
	}
	file, err := openat(dir, diskName, unix.O_RDONLY|unix.O_NOFOLLOW)
	if err != nil {
		return nil // there is none yet, or one that is half changed: the start sees to it
	}
	defer file.Close()
	if used, err := usedBytes(file); err == nil && used > size {
		return sizeError("write", syscall.EBUSY, nil, fmt.Sprintf("the layer holds %d bytes already", used), "write more, or delete something in the container first")
	}
	return nil
}

// boundless is the error of a layer that is there without a bound, and not empty. Its files are not copied: that could take
// minutes, and nobody knows beforehand whether they fit.
func boundless(dir *os.File) error {
	upper, err := openat(dir, "upper", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer upper.Close()
	names, err := list(upper)
	if err == nil && len(names) > 0 {
		return sizeError("write", syscall.EBUSY, nil, "the layer has files, and was made without a bound", "make another container, and set it before its first start")
	}
	return err
}

// usedBytes is what the files in an ext4 take, by its superblock as it was when that was written last: the layout of
// Documentation/filesystems/ext4/super.rst.
func usedBytes(file io.ReaderAt) (int64, error) {
	super := make([]byte, 1024)
	if _, err := file.ReadAt(super, 1024); err != nil {
		return 0, err
	}
	word := func(at int) int64 { return int64(binary.LittleEndian.Uint32(super[at:])) }
	blocks, free, overhead := word(0x4), word(0xc), word(0x248)
	if word(0x60)&0x80 != 0 { // INCOMPAT_64BIT
		blocks, free = blocks|word(0x150)<<32, free|word(0x158)<<32
	}
	shift := word(0x18)
	if used := blocks - free - overhead; shift <= 6 && used > 0 && used < 1<<46 { // else it makes no sense, and the start says so
		return used << (10 + shift), nil
	}
	return 0, nil
}

// furnish sees to it that the layer of a container is a file system of its own with that bound, if it is to have one. It runs
// programs, so it is done before the start's patience begins to run out. 0 is no bound: a layer without one stays what it is, one with a
// bound becomes as large as the disk.
func (s *Store) furnish(id string, size int64) error {
	dir, err := openat(s.homes, inHomes(id), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer dir.Close()
	there, err := s.diskThere(dir)
	if err != nil || size == 0 && !there {
		return err
	}
	if size == 0 {
		if size, err = s.whole(); err != nil {
			return err
		}
	}
	if there {
		return s.resize(id, dir, size)
	}
	if err := boundless(dir); err != nil {
		return err
	}
	return s.format(id, dir, size)
}

// diskThere reports whether the layer has a bound.
func (s *Store) diskThere(dir *os.File) (bool, error) {
	for _, name := range []string{diskName, diskResizing} {
		var st unix.Stat_t
		err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil || err != unix.ENOENT {
			return err == nil, err
		}
	}
	return false, nil
}

// whole is the size of the disk that the state directory is on.
func (s *Store) whole() (int64, error) {
	var fs unix.Statfs_t
	err := unix.Fstatfs(int(s.homes.Fd()), &fs)
	return int64(fs.Blocks) * fs.Bsize, err
}

// format makes the file system of a layer.
func (s *Store) format(id string, dir *os.File, size int64) error {
	path := filepath.Join(s.layerPath(id), diskNew)
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(dir.Fd()), diskNew, unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), diskNew)
	defer file.Close()
	err = file.Truncate(size)
	crash.Point("begin a layer's disk")
	if err == nil {
		err = s.run("mke2fs", 0, "-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", path)
	}
	if err != nil {
		return sizeError("start", engine.Errno(err), err, "the layer cannot be made", "see layer-bounds in the file host, or write max")
	}
	return s.rename(dir, diskNew, diskName)
}

func (s *Store) rename(dir *os.File, from, to string) error {
	err := unix.Renameat2(int(dir.Fd()), from, int(dir.Fd()), to, unix.RENAME_NOREPLACE)
	crash.Point("name a layer's disk")
	return err
}

// resize changes the size of a layer's file system, unless it is what it should be.
func (s *Store) resize(id string, dir *os.File, size int64) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), diskName, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Size == size {
		return nil
	}
	if err == nil {
		if err := idle(dir); err != nil {
			return err
		}
		err = s.rename(dir, diskName, diskResizing)
	} else if err == unix.ENOENT {
		err = nil // a crash has left it half way
	}
	if err != nil {
		return err
	}
	path := filepath.Join(s.layerPath(id), diskResizing)
	file, err := openat(dir, diskResizing, unix.O_RDWR|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := s.run("e2fsck", 1, "-f", "-y", path); err != nil {
		return sizeError("start", engine.Errno(err), err, "the layer cannot be checked", "")
	}
	if err = unix.Fstat(int(file.Fd()), &st); err != nil {
		return err
	}
	grow := size > st.Size
	if grow {
		err = file.Truncate(size)
		crash.Point("grow a layer's disk")
	}
	if err == nil {
		err = s.run("resize2fs", 0, path, fmt.Sprintf("%ds", size/512))
	}
	if refused := (*toolError)(nil); errors.As(err, &refused) && !grow {
		// It has changed nothing: the bound stays what it was.
		return errors.Join(sizeError("start", syscall.ENOSPC, err, "the layer does not fit into it", "write more, or max"), s.rename(dir, diskResizing, diskName))
	}
	if err == nil {
		err = file.Truncate(size)
		crash.Point("cut a layer's disk")
	}
	if err != nil {
		return sizeError("start", engine.Errno(err), err, "the layer cannot be resized", "write the size that it had")
	}
	return s.rename(dir, diskResizing, diskName)
}

// idle waits until nothing has the layer's file system mounted any more, which may outlive its container for a moment, and with
// it whoever looks into it.
func idle(dir *os.File) error {
	file, err := openat(dir, diskName, unix.O_RDONLY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer file.Close()
	for end := time.Now().Add(loopPatience); ; time.Sleep(5 * time.Millisecond) {
		device, _, err := findLoop(file)
		if err != nil || device == nil {
			return err
		}
		device.Close()
		if time.Now().After(end) {
			return sizeError("start", syscall.EBUSY, &busyLoop{device.Name(), "the layer is mounted"}, "", "try again, or write the size that it had")
		}
	}
}

// disk mounts the layer of a container that has a bound; nil: it has none. The mount is the caller's alone.
func layerDisk(dir *os.File) (*os.File, error) {
	file, err := openat(dir, diskName, unix.O_RDWR|unix.O_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return layerKind.mount(file, false)
}
