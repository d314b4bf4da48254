package launch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The runtime's own hooks around a fork, the ones that syscall.forkExec uses: they block every signal in the parent, and
// in the child take down the Go signal handlers, which must not run there.
//
//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

// cloneArgs is struct clone_args of clone3(2), include/uapi/linux/sched.h, version 2 (with cgroup).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// fork makes the child, which runs the program and never returns. syscall.ForkLock keeps a descriptor that another
// goroutine has just opened without O_CLOEXEC from being seen by the child.
//
//go:norace
//go:noinline
func (img *Image) fork() (Child, syscall.Errno) {
	// The arguments lie in the mapping, not on this stack: a stack may move, and the kernel writes through the address.
	head, first, args := img.head, &img.calls[0], &img.head.clone
	*args = cloneArgs{flags: head.cloneFlags | unix.CLONE_PIDFD, exitSignal: uint64(unix.SIGCHLD),
		pidfd: uint64(uintptr(unsafe.Pointer(&head.pidfd)))}
	if head.into >= 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(img.fds[head.into])
	}
	syscall.ForkLock.Lock()
	runtimeBeforeFork()
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if errno == 0 && pid == 0 {
		runtimeAfterForkInChild()
		run(head, first)
	}
	runtimeAfterFork()
	syscall.ForkLock.Unlock()
	return Child{PID: int(pid), PidFD: int(head.pidfd)}, errno
}

// run executes the program in the child. It stands alone: another thread of the parent may have held any lock of the
// runtime when the child was made, so nothing here may allocate, grow the stack, or be instrumented.
//
//go:norace
//go:nosplit
//go:nocheckptr
func run(h *header, first *call) {
	for i := uint32(0); i < h.calls; {
		h.at = i
		c := (*call)(unsafe.Add(unsafe.Pointer(first), uintptr(i)*unsafe.Sizeof(call{})))
		var errno syscall.Errno
		if c.nr == failNow {
			errno = syscall.Errno(h.remembered)
			if errno == 0 {
				errno = syscall.Errno(c.args[0])
			}
		} else {
			for k := range c.args {
				if c.kinds[k] == register {
					c.args[k] = h.reg[c.args[k]%registers]
				}
			}
			var r uintptr
			r, _, errno = syscall.RawSyscall6(uintptr(c.nr), uintptr(c.args[0]), uintptr(c.args[1]), uintptr(c.args[2]),
				uintptr(c.args[3]), uintptr(c.args[4]), uintptr(c.args[5]))
			if errno == 0 {
				if c.store > 0 {
					h.reg[(c.store-1)%registers] = uint64(r)
				}
				i += 1 + uint32(c.okSkip)
				continue
			}
		}
		skip, pass := uint32(0), false
		for k := uint8(0); k < c.nrules && k < uint8(len(c.rules)); k++ {
			rule := &c.rules[k]
			if rule.errno == 0 || syscall.Errno(rule.errno) == errno {
				if rule.remember {
					h.remembered = uint32(errno)
				}
				skip, pass = uint32(rule.skip), true
				break
			}
		}
		if !pass {
			h.errno = uint32(errno)
			break
		}
		i += 1 + skip
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}
