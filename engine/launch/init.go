package launch

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/plan"
	"github.com/ctrfs/ctrfs/engine/reaper"
)

// A container with init has two processes from the beginning. The one that is to be PID 1 makes the other, and sleeps until that
// one has executed the program or has died, as a parent does that lends its memory (vfork(2)). So what goes wrong on the way to
// the program is found in the image as ever, and is told as ever. Only when the program runs does PID 1 execute the reaper.
//
//	PID 1: … split ── vfork ──► rights, execve(2) of the program
//	       rights, execveat(2) of the reaper

// pidDigits is the room for the program's pid in decimal.
const pidDigits = 10

// split begins the calls of the child.
func (a *assembler) split() {
	// Where PID 1 is that of somebody else's namespace, it adopts orphans as the namespace's own would.
	a.call(unix.SYS_PRCTL, num(unix.PR_SET_CHILD_SUBREAPER), num(1), num(0), num(0), num(0))
	a.pid = a.bytes(make([]byte, pidDigits+1))
	a.parted = len(a.calls)
	a.call(splitOff, num(0), a.pid)
}

// withInit is the end of a plan with a reaper: what the child's parent does when the child has executed its program. Its rights
// are the program's, its descriptors are not: it shall not keep a terminal open, nor the other end of anything.
func (a *assembler) withInit(steps []plan.Step) error {
	at := -1
	for i, s := range steps {
		if s == (plan.Reaper{}) {
			at = i
		}
	}
	if at < 0 {
		return nil
	}
	if a.files.Init == nil {
		return fmt.Errorf("a plan with a reaper, and no file of it: %w", syscall.EINVAL)
	}
	a.calls[a.parted].args[0] = uint64(len(a.calls) - a.parted - 1)
	a.step = uint16(at)
	// From here on it is the reaper's to handle signals: what comes before it is there must not be lost.
	a.call(unix.SYS_RT_SIGPROCMASK, num(unix.SIG_SETMASK), a.bytes(rawBytes(allSignals.Val[:1])), num(0), num(unsafe.Sizeof(allSignals.Val[0])))
	for _, s := range steps[at+1:] {
		switch s := s.(type) {
		case plan.Session, plan.Exec:
		case plan.Stdio:
			if err := a.stdio(plan.Stdio{}); err != nil {
				return err
			}
		case plan.CloseRest, plan.Listen: // by the execution, which needs one of them
			a.call(unix.SYS_CLOSE_RANGE, num(3), num(uint32(1<<32-1)), num(unix.CLOSE_RANGE_CLOEXEC))
		default:
			if err := a.add(s); err != nil {
				return err
			}
		}
	}
	argv := a.vector([]string{reaper.Name, ""})
	*(*uint64)(unsafe.Pointer(&a.data[argv.value+8])) = a.pid.value
	a.call(unix.SYS_EXECVEAT, a.file(a.files.Init), a.empty(), argv, a.vector(nil), num(unix.AT_EMPTY_PATH))
	return nil
}

// parted is the parent's part of a split, with the restrictions of [run]: it ends if the child has not executed its program, which has
// said why, and otherwise writes down its pid. The result of its clone may be an error.
//
//go:norace
//go:nosplit
//go:nocheckptr
func parted(h *header, c *call, result uintptr) syscall.Errno {
	if int(result) < 0 {
		return syscall.Errno(-int(result))
	}
	for h.errno != 0 {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
	text := unsafe.Add(unsafe.Pointer(h), uintptr(c.args[1])-uintptr(unsafe.Pointer(h)))
	for i := uintptr(pidDigits); i > 0; i-- {
		*(*byte)(unsafe.Add(text, i-1)) = '0' + byte(result%10)
		result /= 10
	}
	return 0
}
