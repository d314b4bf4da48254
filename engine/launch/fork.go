package launch

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The scheduler's own brackets around a system call that blocks: they give the thread's processor to others meanwhile.
//
//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// vfork is clone3(2) for a child that shares the memory and the stack of its parent, which sleeps until the child has
// executed a program or exited. The result is the kernel's: 0 in the child, a pid or a negative errno in the parent. It
// keeps its return address in a register, because the child overwrites the stack below its caller's frame.
//
//go:noescape
func vfork(args *cloneArgs, size uintptr) (result uintptr)

// cloneArgs is struct clone_args of clone3(2), include/uapi/linux/sched.h, version 2 (with cgroup).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// cloneHow is how every child is made: sharing memory instead of copying page tables, with every signal handler of this
// program's taken down by the kernel, and with its pid and pidfd written down before it takes its first step.
const cloneHow = unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_CLEAR_SIGHAND | unix.CLONE_PARENT_SETTID | unix.CLONE_PIDFD

// fork makes the child, which runs the program and never returns, and waits until it shares nothing any more. While it
// does, no signal may reach this thread: a handler would run on the child's stack. The child has no handlers and unblocks
// them for itself.
//
// syscall.ForkLock is not taken. It keeps a descriptor that is open without O_CLOEXEC for a moment from the child, but
// every plan closes what it did not ask for, and a child that hangs would keep the lock.
//
//go:norace
//go:noinline
func (img *Image) fork() syscall.Errno {
	// The arguments lie in the mapping, not on this stack: a stack may move, and the kernel writes through the addresses.
	head, first, args := img.head, &img.calls[0], &img.head.clone
	img.arrange()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &allSignals, &before); err != nil {
		return err.(syscall.Errno)
	}
	entersyscall() // from here to exitsyscall nothing may grow the stack
	result := vfork(args, unsafe.Sizeof(*args))
	if result == 0 {
		syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&noSignals)), 0, unsafe.Sizeof(noSignals.Val[0]), 0, 0)
		for signal := uintptr(1); signal <= 64; signal++ {
			syscall.RawSyscall6(unix.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(&byDefault)), 0, unsafe.Sizeof(noSignals.Val[0]), 0, 0)
		}
		run(head, first)
	}
	exitsyscall()
	unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	if int(result) < 0 {
		return syscall.Errno(-int(result))
	}
	if head.staged != alone {
		// The first child has nothing left but to exit. A parent that waits for all its children may be faster.
		retry(func() error { _, err := unix.Wait4(int(result), nil, 0, nil); return err })
	}
	return 0
}

// arrange fills in the arguments of the clones. Of two children the second is the one that counts; its pidfd reaches this
// process because the first shares its table of descriptors, which the second gets a copy of.
func (img *Image) arrange() {
	h := img.head
	child := &h.clone
	if h.staged != alone {
		h.clone = cloneArgs{flags: cloneHow&^unix.CLONE_PIDFD | unix.CLONE_FILES, exitSignal: uint64(unix.SIGCHLD), parentTID: address(&h.first)}
		if h.staged == copied {
			h.clone.flags &^= unix.CLONE_VM // the parent waits all the same, and a copy is as undumpable
		}
		child = &h.second
		// The exit signal of a sibling is that of its maker, and asking for one is an error.
		*child = cloneArgs{flags: h.again | cloneHow&^unix.CLONE_CLEAR_SIGHAND | unix.CLONE_PARENT}
		if h.staged == copied {
			child.flags &^= unix.CLONE_VM
		}
	} else {
		*child = cloneArgs{flags: h.cloneFlags | cloneHow, exitSignal: uint64(unix.SIGCHLD)}
	}
	child.pidfd, child.parentTID = address(&h.pidfd), address(&h.pid)
	h.hook = cloneArgs{flags: unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_PIDFD, exitSignal: uint64(unix.SIGCHLD), pidfd: address(&h.watch.fd)}
	h.watch.events = unix.POLLIN
	if h.into >= 0 {
		child.flags |= unix.CLONE_INTO_CGROUP
		child.cgroup = uint64(img.fds[h.into])
	}
}

func address[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

// retry repeats a call that a signal has interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// byDefault is struct sigaction of the kernel with SIG_DFL. The kernel has taken down the handlers, but a signal that is ignored
// stays so across clone(2) and execve(2), and a keeper may well have been started with some: by nohup, or by a shell's &.
var byDefault [4]uint64

// The kernel leaves SIGKILL and SIGSTOP out of any mask by itself.
var allSignals, noSignals = unix.Sigset_t{Val: [16]uint64{^uint64(0)}}, unix.Sigset_t{}

// patience is how often openat2(2) is tried: confined to a directory, it gives up on a path with ".." in it, or in one of its
// links, when anything on the machine was mounted or renamed meanwhile.
const patience = 128

// run executes the program in the child. It stands alone, on a stack and in a memory that belong to the parent: nothing
// here may allocate, grow the stack, write a pointer, or be instrumented.
//
//go:norace
//go:nosplit
//go:nocheckptr
func run(h *header, first *call) {
	for i := uint32(0); i < h.calls; {
		h.at = i
		c := (*call)(unsafe.Add(unsafe.Pointer(first), uintptr(i)*unsafe.Sizeof(call{})))
		var errno syscall.Errno
		switch c.nr {
		case failNow:
			errno = syscall.Errno(h.remembered)
			if errno == 0 {
				errno = syscall.Errno(c.args[0])
			}
		case cloneAgain:
			// When the first child comes back from here, the second has used this frame too: only the result can be trusted.
			result := vfork(&h.second, unsafe.Sizeof(h.second))
			if int(result) > 0 {
				for {
					syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
				}
			}
			if result == 0 {
				i++
				continue
			}
			errno = syscall.Errno(-int(result))
		case spawn:
			h.spawned = i
			result := vfork(&h.hook, unsafe.Sizeof(h.hook))
			if result == 0 {
				i++
				continue
			}
			// The hook has used this frame, too: what it has changed is found anew.
			i = h.spawned
			c = (*call)(unsafe.Add(unsafe.Pointer(first), uintptr(i)*unsafe.Sizeof(call{})))
			if errno = await(h, c, result); errno == 0 {
				i += 1 + uint32(c.args[0])
				continue
			}
		case splitOff:
			h.spawned = i
			result := vfork(&h.hook, unsafe.Sizeof(h.hook))
			if result == 0 {
				i++
				continue
			}
			i = h.spawned // as above
			c = (*call)(unsafe.Add(unsafe.Pointer(first), uintptr(i)*unsafe.Sizeof(call{})))
			if errno = parted(h, c, result); errno == 0 {
				i += 1 + uint32(c.args[0])
				continue
			}
		case ownPID:
			writePID(h, c)
			i++
			continue
		case expect:
			if h.reg[c.args[0]%registers] == c.args[1] {
				i++
				continue
			}
			errno = syscall.Errno(c.args[2])
		default:
			for k := range c.args {
				if c.kinds[k] == register {
					c.args[k] = h.reg[c.args[k]%registers]
				}
			}
			var r uintptr
			for range patience {
				r, _, errno = syscall.RawSyscall6(uintptr(c.nr), uintptr(c.args[0]), uintptr(c.args[1]), uintptr(c.args[2]),
					uintptr(c.args[3]), uintptr(c.args[4]), uintptr(c.args[5]))
				if errno != syscall.EAGAIN || c.nr != unix.SYS_OPENAT2 {
					break
				}
			}
			if errno == 0 {
				if c.store > 0 {
					h.reg[(c.store-1)%registers] = uint64(r)
				}
				i += 1 + uint32(c.okSkip)
				continue
			}
		}
		skip, pass := forgiven(h, c, errno)
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

// forgiven looks up the rule for an error, with the restrictions of [run]: how many calls to skip, if it lets the error pass.
//
//go:norace
//go:nosplit
//go:nocheckptr
func forgiven(h *header, c *call, errno syscall.Errno) (skip uint32, pass bool) {
	for k := uint8(0); k < c.nrules && k < uint8(len(c.rules)); k++ {
		rule := &c.rules[k]
		if rule.errno == 0 || syscall.Errno(rule.errno) == errno {
			if rule.remember {
				h.remembered = uint32(errno)
			}
			return uint32(rule.skip), true
		}
	}
	return 0, false
}
