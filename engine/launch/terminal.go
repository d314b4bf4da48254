package launch

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/plan"
)

// The child opens the terminal, because a devpts with the right owners can only be mounted in the container's user namespace,
// and sends the master's descriptor through a socket, to whoever has the other end. The keeper could also take it out of the
// child with pidfd_getfd(2), which nothing here shall depend on: it works because the keeper may trace its child, when others
// may not, and it needs a meeting of the two. A message waits in the socket until the keeper looks, and goes with the socket
// when the launch fails.

// terminal opens one. Its master is the ptmx of the container's own devpts, in the mount that this launch has made. The other
// end is asked of the master itself: only a master answers TIOCGPTPEER, with a terminal (136:*) of the same devpts (ptm_open_peer
// of drivers/tty/pty.c). So nobody has a say in what is opened here, and bound on /dev/console.
func (a *assembler) openTerminal(s plan.Terminal) error {
	pts := a.treeAt("/dev/pts")
	if s.Mounted { // the program had the time to mount something else there: then it has no master, or one of its own
		flags, length := a.openHow(unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
		pts = new(a.result(a.open("/dev/pts", flags, length)))
	}
	if pts == nil || a.files.Terminal == nil {
		return fmt.Errorf("a plan with a terminal, and no devpts or no socket for it: %w", syscall.EINVAL)
	}
	how := unix.OpenHow{Flags: unix.O_RDWR | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS}
	master := a.result(a.call(unix.SYS_OPENAT2, *pts, a.path("ptmx"), structure(&a.Program, &how), num(unsafe.Sizeof(how))))
	size := unix.Winsize{Col: s.Size.Columns, Row: s.Size.Rows}
	a.call(unix.SYS_IOCTL, master, num(unix.TIOCSPTLCK), a.bytes(make([]byte, 4)))
	a.call(unix.SYS_IOCTL, master, num(unix.TIOCSWINSZ), structure(&a.Program, &size))
	a.slave = a.result(a.call(unix.SYS_IOCTL, master, num(unix.TIOCGPTPEER), num(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)))
	// Whom the namespace does not know cannot be given it: the step that changes the user says so.
	a.call(unix.SYS_FCHOWN, a.slave, num(s.UID), num(uint32(1<<32-1))).on(syscall.EINVAL, 0)
	a.sendMaster(master)
	if !s.Mounted {
		a.showConsole()
	}
	return nil
}

// showConsole binds the terminal on /dev/console.
func (a *assembler) showConsole() {
	console := a.result(a.call(unix.SYS_OPEN_TREE, a.slave, a.empty(), num(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)))
	var dir arg
	if dev := a.treeAt("/dev"); dev != nil {
		dir = *dev
	} else {
		dir = a.directory("/dev", unix.RESOLVE_NO_SYMLINKS)
	}
	a.call(unix.SYS_MKNODAT, dir, a.path("console"), num(unix.S_IFREG|0o600), num(0)).on(syscall.EEXIST, 0).on(syscall.EROFS, 0)
	flags, length := a.openHow(0, unix.RESOLVE_NO_SYMLINKS)
	a.attach(console, a.result(a.call(unix.SYS_OPENAT2, dir, a.path("console"), flags, length)))
}

// sendMaster passes the master on. The number of the descriptor stands in the message, and no call of a program writes it
// there: so the master gets a number that is known, for that moment.
func (a *assembler) sendMaster(master arg) {
	const known = 0
	iov := a.bytes(rawBytes([]uint64{a.bytes(make([]byte, 8)).value, 1})) // struct iovec: one byte that means nothing
	rights := unix.UnixRights(known)
	control := a.bytes(rights)
	message := a.bytes(rawBytes([]uint64{0, 0, iov.value, 1, control.value, uint64(len(rights)), 0})) // struct msghdr
	a.relocs = append(a.relocs, uint32(iov.value), uint32(message.value)+16, uint32(message.value)+32)
	a.call(unix.SYS_DUP3, master, num(known), num(0))
	a.call(unix.SYS_SENDMSG, a.file(a.files.Terminal), message, num(unix.MSG_NOSIGNAL))
	a.call(unix.SYS_DUP3, a.file(a.files.Null), num(known), num(0))
	a.call(unix.SYS_CLOSE, master)
}

// stdio makes the standard descriptors. A terminal becomes the controlling one of the session that [plan.Session] has begun.
func (a *assembler) stdio(s plan.Stdio) error {
	files := []arg{a.slave, a.slave, a.slave}
	switch {
	case !s.Terminal:
		in := a.files.Null
		if s.Input {
			in = a.files.Input
		}
		if in == nil {
			return fmt.Errorf("a plan with a standard input, and nothing to read: %w", syscall.EINVAL)
		}
		files = []arg{a.file(in), a.file(a.files.Log), a.file(a.files.Log)}
		if s.Connection {
			if a.files.Connection == nil {
				return fmt.Errorf("a plan with a connection, and none to stand for it: %w", syscall.EINVAL)
			}
			files[0] = a.file(a.files.Connection)
			files[1] = files[0]
		}
	case a.slave.kind != register:
		return fmt.Errorf("a plan that uses a terminal before it is opened: %w", syscall.EINVAL)
	case !s.Free:
		a.call(unix.SYS_IOCTL, a.slave, num(unix.TIOCSCTTY), num(0))
	}
	for fd, f := range files {
		a.call(unix.SYS_DUP3, f, num(fd), num(0))
	}
	return nil
}
