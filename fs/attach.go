package fs

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

// connect opens a FUSE connection and mounts it on dir. go-fuse could, but leaves the descriptor open across exec(2).
func connect(dir string, o Options) (fd int, err error) {
	if fd, err = open(); err != nil {
		return -1, err
	}
	if o.Replace {
		fd, err = replace(fd, dir, o.Source)
	} else {
		err = attach(fd, dir, o.Source)
	}
	if err != nil {
		syscall.Close(fd)
		return -1, mountError(dir, err, "name a directory that exists, and be root with CAP_SYS_ADMIN")
	}
	return fd, nil
}

// open opens a connection, which can be mounted once.
func open() (fd int, err error) {
	fd, err = syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return -1, mountError("/dev/fuse", err, "modprobe fuse, and be root")
	}
	return fd, nil
}

// options are those of every mount, mount.fuse3(8). One without a value is a flag.
func options(fd int) [][2]string {
	return [][2]string{{"fd", strconv.Itoa(fd)}, {"rootmode", strconv.FormatInt(syscall.S_IFDIR, 8)}, {"user_id", strconv.Itoa(os.Geteuid())},
		{"group_id", strconv.Itoa(os.Getegid())}, {"max_read", strconv.Itoa(maxRead)}, {"allow_other", ""}, {"default_permissions", ""}}
}

// attach mounts a connection.
func attach(fd int, dir, source string) error {
	data := ""
	for _, o := range options(fd) {
		data += "," + o[0]
		if o[1] != "" {
			data += "=" + o[1]
		}
	}
	return syscall.Mount(source, dir, "fuse.ctrfs", mountFlags, data[1:])
}

// replace mounts a connection in place of the dead mount on dir: beneath it, and takes that away then. So there is no moment at which
// dir is a directory of the host's, in which somebody's mkdir(2) would make one that is no container, and is hidden a moment later.
// Before Linux 6.5 there is such a moment. The result is the connection that was mounted, which then is another one.
func replace(fd int, dir, source string) (int, error) {
	beneath := attachBeneath(fd, dir, source)
	if err := syscall.Unmount(dir, syscall.MNT_DETACH|unmountNoFollow); err != nil {
		return fd, errors.Join(fmt.Errorf("the dead mount stays: %w", err), beneath)
	}
	if beneath == nil {
		return fd, nil
	}
	syscall.Close(fd) // it belongs to a mount that has found no place
	fd, err := open()
	if err == nil {
		err = attach(fd, dir, source)
	}
	return fd, err
}

// The system calls of fsopen(2) and its relatives, whose numbers are the same on every architecture, and of their flags what is
// needed here.
const (
	sysMoveMount = 429
	sysFsopen    = 430
	sysFsconfig  = 431
	sysFsmount   = 432

	fsopenCloexec, fsmountCloexec = 1, 1

	fsconfigSetFlag, fsconfigSetString, fsconfigCreate = 0, 1, 6

	mountAttr        = 0x2 | 0x4 | 0x8 // MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC
	moveMountFrom    = 0x4             // MOVE_MOUNT_F_EMPTY_PATH
	moveMountBeneath = 0x200           // MOVE_MOUNT_BENEATH, Linux 6.5
	atFdcwd          = ^uintptr(99)    // AT_FDCWD, -100
)

// attachBeneath mounts a connection on dir, beneath what is mounted there.
func attachBeneath(fd int, dir, source string) error {
	kind, err := syscall.BytePtrFromString("fuse")
	if err != nil {
		return err
	}
	fs, _, errno := syscall.Syscall(sysFsopen, uintptr(unsafe.Pointer(kind)), fsopenCloexec, 0)
	if errno != 0 {
		return os.NewSyscallError("fsopen", errno)
	}
	defer syscall.Close(int(fs))
	for _, o := range append([][2]string{{"source", source}, {"subtype", "ctrfs"}}, options(fd)...) {
		if err := configure(fs, o[0], o[1]); err != nil {
			return err
		}
	}
	if _, _, errno := syscall.Syscall6(sysFsconfig, fs, fsconfigCreate, 0, 0, 0, 0); errno != 0 {
		return os.NewSyscallError("fsconfig", errno)
	}
	mount, _, errno := syscall.Syscall(sysFsmount, fs, fsmountCloexec, mountAttr)
	if errno != 0 {
		return os.NewSyscallError("fsmount", errno)
	}
	defer syscall.Close(int(mount))
	none, err1 := syscall.BytePtrFromString("")
	to, err2 := syscall.BytePtrFromString(dir)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	_, _, errno = syscall.Syscall6(sysMoveMount, mount, uintptr(unsafe.Pointer(none)), atFdcwd, uintptr(unsafe.Pointer(to)), moveMountFrom|moveMountBeneath, 0)
	if errno != 0 {
		return os.NewSyscallError("move_mount", errno)
	}
	return nil
}

// configure sets an option of a file system that is being mounted, or a flag, which has no value.
func configure(fs uintptr, name, value string) error {
	key, err1 := syscall.BytePtrFromString(name)
	text, err2 := syscall.BytePtrFromString(value)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	how := uintptr(fsconfigSetString)
	if value == "" {
		how, text = fsconfigSetFlag, nil
	}
	if _, _, errno := syscall.Syscall6(sysFsconfig, fs, how, uintptr(unsafe.Pointer(key)), uintptr(unsafe.Pointer(text)), 0, 0); errno != 0 {
		return os.NewSyscallError("fsconfig "+name, errno)
	}
	return nil
}
