package launch

import (
	"path"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/plan"
)

// bind attaches a prepared tree.
func (a *assembler) bind(s plan.Bind) {
	tree := a.file(a.files.Binds[s.Index])
	switch {
	case s.File && s.Create:
		a.emptyFile(s.Target)
	case s.Create:
		a.attach(tree, a.directory(s.Target, 0))
		return
	}
	flags := uint64(unix.O_DIRECTORY)
	if s.File {
		flags = 0
	}
	a.attach(tree, a.existing(s.Target, flags))
}

// existing opens a path inside the root to mount on, which must be there.
func (a *assembler) existing(p string, flags uint64) arg {
	how, size := a.openHow(flags, unix.RESOLVE_NO_MAGICLINKS)
	return a.result(a.open(p, how, size))
}

// emptyFile makes a file to mount on, and the directories to it, where they are missing.
func (a *assembler) emptyFile(p string) {
	a.call(unix.SYS_CLOSE, a.directory(path.Dir(p), 0))
	h := unix.OpenHow{Flags: unix.O_CREAT | unix.O_EXCL | unix.O_RDONLY | unix.O_CLOEXEC, Mode: 0o644,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	a.open(p, structure(&a.Program, &h), num(unsafe.Sizeof(h))).on(syscall.EEXIST, 0).on(syscall.EROFS, 0)
}

// propagate says whether mount events travel to and from a mount that has been attached.
func (a *assembler) propagate(mount arg, how uint64) {
	attr := unix.MountAttr{Propagation: how}
	a.call(unix.SYS_MOUNT_SETATTR, mount, a.empty(), num(unix.AT_EMPTY_PATH), structure(&a.Program, &attr), num(unsafe.Sizeof(attr)))
}
