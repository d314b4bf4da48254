//go:build linux && 386

// Command compat is the command probe for the 32-bit system calls, which a 64-bit kernel offers too: by other numbers, and
// socket(2) in two ways. It prints one attempt a line, with its outcome, and does no harm where one succeeds.
package main

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

func text(s string) uintptr {
	s += "\x00"
	texts = append(texts, s)
	return uintptr(unsafe.Pointer(unsafe.StringData(s)))
}

var texts []string // for the collector, to which an address is only a number

// socketcall is socket(2) as it was before Linux 4.3: its arguments lie in memory, where no filter sees them.
func socketcall(family uint32) error {
	args := [3]uint32{family, unix.SOCK_SEQPACKET, 0}
	if family == unix.AF_INET {
		args[1] = unix.SOCK_STREAM
	}
	const socket = 1
	_, _, errno := unix.Syscall(unix.SYS_SOCKETCALL, socket, uintptr(unsafe.Pointer(&args)), 0)
	return result(errno)
}

func result(errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

func main() {
	runtime.LockOSThread() // what is unshared is the thread's
	here := ^uintptr(99)   // AT_FDCWD, -100
	for _, c := range []struct {
		name string
		nr   uintptr
		args [6]uintptr
	}{
		{"unshare user", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER}},
		{"unshare mnt", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWNS}},
		{"unshare net", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWNET}},
		{"clone into a user namespace", unix.SYS_CLONE, [6]uintptr{unix.CLONE_NEWUSER}},
		{"clone into a mount namespace", unix.SYS_CLONE, [6]uintptr{unix.CLONE_NEWNS}},
		{"clone3", unix.SYS_CLONE3, [6]uintptr{}},
		{"setns", unix.SYS_SETNS, [6]uintptr{}},
		{"mount", unix.SYS_MOUNT, [6]uintptr{text("x"), text("/tmp"), text("tmpfs")}},
		{"umount", unix.SYS_UMOUNT, [6]uintptr{text("/proc/keys")}},
		{"umount2", unix.SYS_UMOUNT2, [6]uintptr{text("/proc/keys"), unix.MNT_DETACH}},
		{"pivot_root", unix.SYS_PIVOT_ROOT, [6]uintptr{text("/"), text("/")}},
		{"fsopen", unix.SYS_FSOPEN, [6]uintptr{text("tmpfs")}},
		{"open_tree", unix.SYS_OPEN_TREE, [6]uintptr{here, text("/"), unix.OPEN_TREE_CLONE}},
		{"move_mount", unix.SYS_MOVE_MOUNT, [6]uintptr{}},
		{"mount_setattr", unix.SYS_MOUNT_SETATTR, [6]uintptr{}},
		{"keyctl", unix.SYS_KEYCTL, [6]uintptr{unix.KEYCTL_GET_KEYRING_ID}},
		{"add_key", unix.SYS_ADD_KEY, [6]uintptr{}},
		{"request_key", unix.SYS_REQUEST_KEY, [6]uintptr{}},
		{"bpf", unix.SYS_BPF, [6]uintptr{}},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uintptr{1, text(string(make([]byte, 120)))}},
		{"userfaultfd", unix.SYS_USERFAULTFD, [6]uintptr{}},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uintptr{}},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [6]uintptr{}},
		{"init_module", unix.SYS_INIT_MODULE, [6]uintptr{}},
		{"kexec_load", unix.SYS_KEXEC_LOAD, [6]uintptr{}},
		{"reboot", unix.SYS_REBOOT, [6]uintptr{}},
		{"swapon", unix.SYS_SWAPON, [6]uintptr{text("/no-such-file")}},
		{"acct", unix.SYS_ACCT, [6]uintptr{text("/no-such-file")}},
		{"syslog", unix.SYS_SYSLOG, [6]uintptr{5}},
		{"settimeofday", unix.SYS_SETTIMEOFDAY, [6]uintptr{1}},
		{"clock_settime64", unix.SYS_CLOCK_SETTIME64, [6]uintptr{unix.CLOCK_REALTIME, 1}},
		{"iopl", unix.SYS_IOPL, [6]uintptr{3}},
		{"ioperm", unix.SYS_IOPERM, [6]uintptr{0x80, 1, 1}},
		{"vm86", unix.SYS_VM86, [6]uintptr{}},
		{"sethostname", unix.SYS_SETHOSTNAME, [6]uintptr{text("x"), 1}},
		{"personality", unix.SYS_PERSONALITY, [6]uintptr{0x0040000}},
		{"socket AF_ALG", unix.SYS_SOCKET, [6]uintptr{unix.AF_ALG, unix.SOCK_SEQPACKET}},
		{"socket AF_VSOCK", unix.SYS_SOCKET, [6]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM}},
		{"socket AF_INET", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_STREAM}},
	} {
		pid, _, errno := unix.Syscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if c.nr == unix.SYS_CLONE && errno == 0 && pid == 0 { // there are two of us now
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		report(c.name, result(errno))
	}
	report("socketcall AF_ALG", socketcall(unix.AF_ALG))
	report("socketcall AF_VSOCK", socketcall(unix.AF_VSOCK))
	report("socketcall AF_INET", socketcall(unix.AF_INET))
}

func report(name string, err error) {
	if errno, ok := err.(unix.Errno); ok {
		fmt.Printf("%s: %s\n", name, unix.ErrnoName(errno))
	} else {
		fmt.Printf("%s: allowed\n", name)
	}
}
