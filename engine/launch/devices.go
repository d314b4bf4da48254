package launch

import (
	"fmt"
	"path"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/plan"
)

// addFiles translates the steps that show and hide single files.
func (a *assembler) addFiles(s plan.Step) error {
	switch s := s.(type) {
	case plan.PlaceDevices:
		return a.placeDevices(s)
	case plan.Terminal:
		return a.openTerminal(s)
	case plan.Link:
		how, size := a.openHow(unix.O_DIRECTORY, unix.RESOLVE_NO_MAGICLINKS)
		dir := a.result(a.open(path.Dir(s.Path), how, size))
		a.call(unix.SYS_SYMLINKAT, a.path(s.Target), dir, a.path(path.Base(s.Path))).on(syscall.EEXIST, 0).on(syscall.EROFS, 0)
		a.call(unix.SYS_CLOSE, dir)
	case plan.ReadOnly:
		a.readOnly(s)
	case plan.Mask:
		return a.mask(s)
	default:
		return a.addRights(s)
	}
	return nil
}

// directory opens a directory inside the root; a missing one is made. Every part of it is made in a descriptor of its parent,
// resolved by openat2(2): a link in the root that leads through a magic link of procfs could otherwise reach a directory of
// the host's behind a descriptor of the keeper's. The first attempt skips the making when it succeeds.
func (a *assembler) directory(p string, resolve uint64) arg {
	how, size := a.openHow(unix.O_DIRECTORY, resolve|unix.RESOLVE_NO_MAGICLINKS)
	var parts []string
	if p = path.Clean("/" + p); p != "/" {
		parts = strings.Split(p[1:], "/")
	}
	first := a.open(p, how, size).on(syscall.ENOENT, 0)
	first.okSkip = uint16(3*len(parts) + 1)
	dir := a.result(first)
	at := "/"
	for _, name := range parts {
		a.open(at, how, size).store = uint8(dir.value) + 1
		a.call(unix.SYS_MKDIRAT, dir, a.path(name), num(0o755)).on(syscall.EEXIST, 0)
		a.call(unix.SYS_CLOSE, dir)
		at = path.Join(at, name)
	}
	a.open(p, how, size).store = uint8(dir.value) + 1
	return dir
}

// placeDevices makes an empty file for each node and mounts the host's node on it. What is there already serves as well,
// unless it is a link.
func (a *assembler) placeDevices(s plan.PlaceDevices) error {
	if len(s.Devices) != len(a.files.Devices) {
		return fmt.Errorf("%d devices for a plan with %d: %w", len(a.files.Devices), len(s.Devices), syscall.EINVAL)
	}
	how, size := a.openHow(0, unix.RESOLVE_NO_SYMLINKS)
	before, in := a.nextReg, ""
	var dir arg
	for i, d := range s.Devices {
		mount := a.file(a.files.Devices[i])
		if d.Null() {
			a.null = &mount
		}
		if path.Dir(d.Path) != in {
			a.nextReg, in = before, path.Dir(d.Path)
			dir = a.directory(in, 0)
		}
		name := a.path(path.Base(d.Path))
		a.call(unix.SYS_MKNODAT, dir, name, num(unix.S_IFREG|0o666), num(0)).on(syscall.EEXIST, 0).on(syscall.EROFS, 0)
		node := a.result(a.call(unix.SYS_OPENAT2, dir, name, how, size))
		a.attach(mount, node)
		a.nextReg-- // the node's register serves the next one
	}
	return nil
}

func (a *assembler) readOnly(s plan.ReadOnly) {
	how, size := a.openHow(0, unix.RESOLVE_NO_MAGICLINKS)
	a.open(s.Path, how, size).on(syscall.ENOENT, 4).on(syscall.ENOTDIR, 4)
	target := a.result(&a.calls[len(a.calls)-1])
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	tree := a.result(a.call(unix.SYS_OPEN_TREE, target, a.empty(),
		num(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)))
	a.call(unix.SYS_MOUNT_SETATTR, tree, a.empty(), num(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE), structure(&a.Program, &attr), num(unsafe.Sizeof(attr)))
	a.attach(tree, target)
	a.call(unix.SYS_CLOSE, tree)
}

// mask hides a path, a directory or something else, if it is there. A file gets the mount of the null device by its
// descriptor: whatever the root calls /dev/null by now is never looked up (CVE-2025-31133).
func (a *assembler) mask(s plan.Mask) error {
	if a.null == nil {
		return fmt.Errorf("a plan that masks %s before there is a null device: %w", s.Path, syscall.EINVAL)
	}
	how, size := a.openHow(unix.O_DIRECTORY, unix.RESOLVE_NO_MAGICLINKS)
	dir := a.result(a.open(s.Path, how, size).on(syscall.ENOENT, 7).on(syscall.ENOTDIR, 4))
	fs := a.result(a.call(unix.SYS_FSOPEN, a.path("tmpfs"), num(unix.FSOPEN_CLOEXEC)))
	a.call(unix.SYS_FSCONFIG, fs, num(unix.FSCONFIG_CMD_CREATE), num(0), num(0), num(0))
	mount := a.result(a.call(unix.SYS_FSMOUNT, fs, num(unix.FSMOUNT_CLOEXEC),
		num(unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)))
	a.attach(mount, dir).okSkip = 3
	how, size = a.openHow(0, unix.RESOLVE_NO_MAGICLINKS)
	file := a.result(a.open(s.Path, how, size).on(syscall.ENOENT, 2).on(syscall.ENOTDIR, 2))
	null := a.result(a.call(unix.SYS_OPEN_TREE, *a.null, a.empty(), num(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)))
	a.attach(null, file)
	return nil
}
