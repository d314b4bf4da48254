//go:build linux

package main

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempt is one thing that is tried.
type attempt struct {
	name string
	try  func() error
}

func attempts(list []attempt) (lines []string) {
	for _, a := range list {
		lines = append(lines, a.name+": "+outcome(a.try()))
	}
	return lines
}

// calls are system calls that have been a way out of containers, or would be one, and some that programs need.
func calls(outside int) []attempt {
	pid := uintptr(outside)
	one := []byte{0}
	iov := unix.Iovec{Base: &one[0], Len: 1}
	remote := unix.RemoteIovec{Base: uintptr(unsafe.Pointer(&one[0])), Len: 1}
	event := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
	plain := func(nr uintptr, args ...uintptr) func() error { return func() error { return call(nr, args...) } }
	here := ^uintptr(99) // AT_FDCWD, -100
	return []attempt{
		{"unshare user", plain(unix.SYS_UNSHARE, unix.CLONE_NEWUSER)},
		{"unshare mnt", plain(unix.SYS_UNSHARE, unix.CLONE_NEWNS)},
		{"unshare net", plain(unix.SYS_UNSHARE, unix.CLONE_NEWNET)},
		{"unshare pid", plain(unix.SYS_UNSHARE, unix.CLONE_NEWPID)},
		{"unshare cgroup", plain(unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP)},
		{"clone into a user namespace", plain(unix.SYS_CLONE, unix.CLONE_NEWUSER)},
		{"clone3", plain(unix.SYS_CLONE3)},
		{"setns", plain(unix.SYS_SETNS)},
		{"mount", plain(unix.SYS_MOUNT, text("x"), text("/tmp"), text("tmpfs"))},
		{"umount2", plain(unix.SYS_UMOUNT2, text("/proc/keys"), unix.MNT_DETACH)},
		{"pivot_root", plain(unix.SYS_PIVOT_ROOT, text("/"), text("/"))},
		{"fsopen", plain(unix.SYS_FSOPEN, text("tmpfs"))},
		{"fsconfig", plain(unix.SYS_FSCONFIG)},
		{"fsmount", plain(unix.SYS_FSMOUNT)},
		{"open_tree", plain(unix.SYS_OPEN_TREE, here, text("/"), unix.OPEN_TREE_CLONE)},
		{"move_mount", plain(unix.SYS_MOVE_MOUNT)},
		{"mount_setattr", plain(unix.SYS_MOUNT_SETATTR)},
		{"chroot", plain(unix.SYS_CHROOT, text("/"))},
		{"keyctl", plain(unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID)},
		{"add_key", plain(unix.SYS_ADD_KEY)},
		{"request_key", plain(unix.SYS_REQUEST_KEY)},
		{"bpf", plain(unix.SYS_BPF)},
		{"io_uring_setup", plain(unix.SYS_IO_URING_SETUP, 1, text("\x00"+string(make([]byte, 120))))},
		{"userfaultfd", plain(unix.SYS_USERFAULTFD)},
		{"perf_event_open", plain(unix.SYS_PERF_EVENT_OPEN, uintptr(unsafe.Pointer(&event)), 0, ^uintptr(0), ^uintptr(0))},
		{"fanotify_init", plain(unix.SYS_FANOTIFY_INIT)},
		{"socket AF_ALG", plain(unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET)},
		{"socket AF_VSOCK", plain(unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM)},
		{"socket AF_INET", plain(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM)},
		{"socket AF_INET raw", plain(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
		{"TIOCSTI", plain(unix.SYS_IOCTL, 0, unix.TIOCSTI, text("x"))},
		{"signal a process outside", plain(unix.SYS_KILL, pid)},
		{"trace a process outside", plain(unix.SYS_PTRACE, unix.PTRACE_SEIZE, pid)},
		{"read the memory of a process outside", plain(unix.SYS_PROCESS_VM_READV, pid, uintptr(unsafe.Pointer(&iov)), 1, uintptr(unsafe.Pointer(&remote)), 1)},
		{"pidfd_open of a process outside", plain(unix.SYS_PIDFD_OPEN, pid)},
		{"init_module", plain(unix.SYS_INIT_MODULE)},
		{"finit_module", plain(unix.SYS_FINIT_MODULE, 0)},
		{"delete_module", plain(unix.SYS_DELETE_MODULE, text("no-such-module"))},
		{"kexec_load", plain(unix.SYS_KEXEC_LOAD)},
		{"reboot", plain(unix.SYS_REBOOT)},
		{"open_by_handle_at", plain(unix.SYS_OPEN_BY_HANDLE_AT)},
		{"syslog", plain(unix.SYS_SYSLOG, 5)},
		{"acct", plain(unix.SYS_ACCT, text("/no-such-file"))},
		{"swapon", plain(unix.SYS_SWAPON, text("/no-such-file"))},
		{"settimeofday", plain(unix.SYS_SETTIMEOFDAY, 1)},
		{"sethostname", plain(unix.SYS_SETHOSTNAME, text("x"), 1)},
		{"personality", plain(unix.SYS_PERSONALITY, 0x0040000)},
		{"quotactl", plain(unix.SYS_QUOTACTL)},
		{"mknod of a disk", func() error { return unix.Mknod("/tmp/disk", unix.S_IFBLK|0o600, 0x800) }},
		{"chown to 65536", func() error { return unix.Chown("/tmp", 65536, 0) }},
		{"setuid 1000 and back", func() error {
			if err := unix.Setresuid(-1, 1000, -1); err != nil {
				return err
			}
			return unix.Setresuid(-1, 0, -1)
		}},
	}
}

// opening is an attempt to open a file, without more.
func opening(name string, flags int) attempt {
	how := "read "
	if flags != unix.O_RDONLY {
		how = "write "
	}
	return attempt{how + name, func() error {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}}
}

// files are what the host has in the container's sight.
func files(outside int) (list []attempt) {
	for _, name := range []string{"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches",
		"/proc/sys/net/ipv4/ip_forward", "/sys/kernel/rcu_expedited", "/sys/fs/cgroup/cgroup.procs", "/cgroup/cgroup.procs",
		"/proc/self/oom_score_adj", "/dev/mem", "/dev/kmsg", "/dev/fuse", "/dev/null"} {
		list = append(list, opening(name, unix.O_WRONLY))
	}
	for _, name := range []string{"/private", "/shown/private"} {
		list = append(list, opening(name, unix.O_RDONLY))
	}
	return append(list,
		attempt{"make a group", func() error { return unix.Mkdir("/cgroup/x", 0o755) }},
		attempt{"see a process outside", func() error { return returned(os.Stat(fmt.Sprintf("/proc/%d", outside))) }},
		attempt{"lower its oom_score_adj", func() error {
			return os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
		}},
	)
}

func returned[T any](_ T, err error) error { return err }
