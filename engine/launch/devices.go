package launch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/plan"
)

// placeDevices makes an empty file for each node and mounts the host's node on it.
func (a *assembler) placeDevices(s plan.PlaceDevices) {
	how, size := a.openHow(unix.O_NOFOLLOW, 0)
	for i, p := range s.Paths {
		a.call(unix.SYS_MKNODAT, cwd, a.path(p), num(unix.S_IFREG|0o666), num(0)).on(syscall.EEXIST, 0).on(syscall.EROFS, 0)
		node := a.result(a.call(unix.SYS_OPENAT2, cwd, a.path(p), how, size))
		a.attach(a.devices[i], node)
	}
}

func (a *assembler) readOnly(s plan.ReadOnly) {
	how, size := a.openHow(0, 0)
	a.call(unix.SYS_OPENAT2, cwd, a.path(s.Path), how, size).on(syscall.ENOENT, 4).on(syscall.ENOTDIR, 4)
	target := a.result(&a.calls[len(a.calls)-1])
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	tree := a.result(a.call(unix.SYS_OPEN_TREE, target, a.empty(),
		num(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)))
	a.call(unix.SYS_MOUNT_SETATTR, tree, a.empty(), num(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE), structure(&a.Program, &attr), num(unsafe.Sizeof(attr)))
	a.attach(tree, target)
	a.call(unix.SYS_CLOSE, tree)
}

// mask hides a path, a directory or something else, if it is there.
func (a *assembler) mask(s plan.Mask) {
	how, size := a.openHow(unix.O_DIRECTORY, 0)
	dir := a.result(a.call(unix.SYS_OPENAT2, cwd, a.path(s.Path), how, size).on(syscall.ENOENT, 7).on(syscall.ENOTDIR, 4))
	fs := a.result(a.call(unix.SYS_FSOPEN, a.path("tmpfs"), num(unix.FSOPEN_CLOEXEC)))
	a.call(unix.SYS_FSCONFIG, fs, num(unix.FSCONFIG_CMD_CREATE), num(0), num(0), num(0))
	mount := a.result(a.call(unix.SYS_FSMOUNT, fs, num(unix.FSMOUNT_CLOEXEC),
		num(unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)))
	a.attach(mount, dir).okSkip = 3
	how, size = a.openHow(0, 0)
	file := a.result(a.call(unix.SYS_OPENAT2, cwd, a.path(s.Path), how, size).on(syscall.ENOENT, 2).on(syscall.ENOTDIR, 2))
	a.attach(a.clone(a.path("/dev/null"), 0), file)
}
