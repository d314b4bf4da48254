package launch

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/plan"
	"github.com/ctrfs/ctrfs/engine/reaper"
)

// listen makes the descriptors as give does, and has the child write its pid down: nobody else knows what it is in its own namespace.
func (a *assembler) listen(s plan.Listen) error {
	if len(a.files.Sockets) != s.Sockets || s.Sockets == 0 {
		return fmt.Errorf("a plan with %d sockets, of which %d are there: %w", s.Sockets, len(a.files.Sockets), syscall.EINVAL)
	}
	beyond := firstGiven + s.Sockets
	var from []arg
	for _, f := range a.files.Sockets {
		from = append(from, a.result(a.call(unix.SYS_FCNTL, a.file(f), num(unix.F_DUPFD_CLOEXEC), num(beyond))))
	}
	for i, f := range from {
		a.call(unix.SYS_DUP3, f, num(firstGiven+i), num(0))
	}
	a.call(unix.SYS_CLOSE_RANGE, num(beyond), num(uint32(1<<32-1)), num(0))
	text := a.path(plan.ListenPID) // the very string of the environment
	a.call(ownPID, arg{text.kind, text.value + uint64(plan.ListenDigitsAt)})
	return nil
}

// await executes the reaper. It takes signals from the beginning, and gets no program to wait for.
func (a *assembler) await() error {
	if a.files.Init == nil {
		return fmt.Errorf("a plan with a reaper, and no file of it: %w", syscall.EINVAL)
	}
	a.call(unix.SYS_RT_SIGPROCMASK, num(unix.SIG_SETMASK), a.bytes(rawBytes(allSignals.Val[:1])), num(0), num(unsafe.Sizeof(allSignals.Val[0])))
	a.exec = uint32(len(a.calls))
	a.call(unix.SYS_EXECVEAT, a.file(a.files.Init), a.empty(), a.vector([]string{reaper.Name, reaper.Nobody}), a.vector(nil), num(unix.AT_EMPTY_PATH))
	return nil
}

// writePID writes the child's pid in decimal, and ends the text there, with the restrictions of [run]: a leading zero would make it octal
// to some.
//
//go:norace
//go:nosplit
//go:nocheckptr
func writePID(h *header, c *call) {
	pid, _, _ := syscall.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
	text := unsafe.Add(unsafe.Pointer(h), uintptr(c.args[0])-uintptr(unsafe.Pointer(h)))
	size := uintptr(0)
	for n := pid; n > 0; n /= 10 {
		size++
	}
	*(*byte)(unsafe.Add(text, size)) = 0
	for ; size > 0; size-- {
		*(*byte)(unsafe.Add(text, size-1)) = '0' + byte(pid%10)
		pid /= 10
	}
}
