package launch

import (
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/plan"
)

// timeNamespace makes one for the next child. Its clocks can be set until that is made, and by who made it, through the
// host's procfs.
func (a *assembler) timeNamespace(s plan.TimeNamespace) {
	a.call(unix.SYS_UNSHARE, num(unix.CLONE_NEWTIME))
	if len(s.Offsets) == 0 {
		return
	}
	dir, name := a.ofProc("self/timens_offsets")
	file := a.result(a.call(unix.SYS_OPENAT, dir, name, num(unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW)))
	text := strings.Join(s.Offsets, "\n") + "\n"
	a.call(unix.SYS_WRITE, file, a.path(text), num(len(text)))
	a.call(unix.SYS_CLOSE, file)
}

// rootPropagation changes the mount that the working directory, the new root, is on.
func (a *assembler) rootPropagation(s plan.RootPropagation) {
	attr := unix.MountAttr{Propagation: s.How}
	var flags uint32
	if s.Recursive {
		flags = unix.AT_RECURSIVE
	}
	a.call(unix.SYS_MOUNT_SETATTR, cwd, a.path("/"), num(flags), structure(&a.Program, &attr), num(unsafe.Sizeof(attr)))
}
