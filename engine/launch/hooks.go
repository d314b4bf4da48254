package launch

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/plan"
)

// Hooks on the host are not the child's: it reports and waits ([assembler.meet]). Those in the container are made by the child
// itself, and so are in all that it is in and may do no more than it: its namespaces, its groups, its user and its filter.
//
//	child ── vfork ──► hook: descriptors, rights, execve(2)
//	      ◄── waits for its exit, and kills it when its time is over

// Hooks are the descriptors for the hooks of a plan.
type Hooks struct {
	Meet    *os.File            // this end of a socket: the child writes a byte at each plan.Hooks, and waits for one
	States  map[string]*os.File // stdin, by point: the state, to be written before the child goes on
	Discard *os.File            // stdout
	Output  *os.File            // stderr: [HookOutput] bytes for each
}

// HookOutput is how much of the file for output each hook has for itself.
const HookOutput = 1 << 20

// pollFD is struct pollfd, poll(2).
type pollFD struct {
	fd              int32
	events, revents int16
}

// meet reports and waits. An end of the other side is a refusal, and so is its death.
func (a *assembler) meet() {
	socket, byte1 := a.file(a.files.Hooks.Meet), a.bytes(make([]byte, 1))
	a.call(unix.SYS_SENDTO, socket, byte1, num(1), num(unix.MSG_NOSIGNAL), num(0), num(0))
	answer := a.result(a.call(unix.SYS_RECVFROM, socket, byte1, num(1), num(0), num(0), num(0)))
	a.call(expect, answer, num(1), num(int(syscall.ECANCELED)))
}

// hook runs one. Its calls follow those of the child's that make it, and the child skips them.
func (a *assembler) hook(s plan.Hook) error {
	files := a.files.Hooks
	state := files.States[s.Point]
	if state == nil || files.Output == nil || files.Discard == nil {
		return fmt.Errorf("a plan with hooks, and no files for them: %w", syscall.EINVAL)
	}
	made := -1
	if s.Point != "" {
		limit := unix.NsecToTimespec(int64(s.Timeout))
		made = len(a.calls)
		a.call(spawn, num(0), structure(&a.Program, &limit))
	}
	in, out := a.file(state), a.file(files.Output)
	a.call(unix.SYS_LSEEK, in, num(0), num(unix.SEEK_SET))
	a.call(unix.SYS_LSEEK, out, num(s.Index*HookOutput), num(unix.SEEK_SET))
	for fd, f := range []arg{in, a.file(files.Discard), out} {
		a.call(unix.SYS_DUP3, f, num(fd), num(0))
	}
	a.call(unix.SYS_CLOSE_RANGE, num(3), num(uint32(1<<32-1)), num(0))
	for _, r := range s.Rights {
		if err := a.add(r); err != nil {
			return err
		}
	}
	if made < 0 {
		a.exec = uint32(len(a.calls))
	}
	a.call(unix.SYS_EXECVE, a.path(s.Path), a.vector(s.Args), a.vector(s.Env))
	if made >= 0 {
		a.calls[made].args[0] = uint64(len(a.calls) - made - 1)
	}
	return nil
}

// await waits for a hook in the child, with the restrictions of [run]. The result of its clone may be an error.
//
//go:norace
//go:nosplit
//go:nocheckptr
func await(h *header, c *call, result uintptr) syscall.Errno {
	if int(result) < 0 {
		return syscall.Errno(-int(result))
	}
	failed := syscall.Errno(h.errno) // why it did not execute anything
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&h.watch)), 1, uintptr(c.args[1]), 0, 0, 0)
		if errno == syscall.EINTR {
			continue // the kernel has written down the time that is left
		}
		if errno == 0 && n == 0 {
			failed = syscall.ETIMEDOUT
			syscall.RawSyscall6(unix.SYS_PIDFD_SEND_SIGNAL, uintptr(h.watch.fd), uintptr(unix.SIGKILL), 0, 0, 0, 0)
		}
		break
	}
	for {
		_, _, errno := syscall.RawSyscall6(unix.SYS_WAIT4, result, uintptr(unsafe.Pointer(&h.status)), 0, 0, 0, 0)
		if errno != syscall.EINTR {
			break
		}
	}
	syscall.RawSyscall(unix.SYS_CLOSE, uintptr(h.watch.fd), 0, 0)
	if failed == 0 && h.status != 0 {
		return syscall.ECANCELED
	}
	return failed
}
