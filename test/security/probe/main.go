//go:build linux

// Command probe prints what a program can see and do where it runs, one thing a line, as amicontained does. It is run inside a
// container by the security tests, which compare with the surface that is wanted.
//
//	probe PID NAMESPACE...   the number of a process outside, and the host's namespaces as readlink(1) of /proc/PID/ns shows them
//
// Nothing that it tries does harm where it succeeds: it sends signal 0, opens without writing, and gives arguments that are wrong.
package main

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// section prints a heading and what follows it, each line indented.
func section(name string, lines ...string) {
	fmt.Println(name)
	for _, line := range lines {
		fmt.Println("  " + line)
	}
}

// outcome is the result of an attempt in a word: the kernel's name of the error, or "allowed".
func outcome(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return "allowed"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// call makes a system call with numbers and pointers as they are.
func call(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	fd, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return errno
	}
	if nr == unix.SYS_CLONE && fd == 0 { // there are two of us now
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	if returnsFile[nr] {
		unix.Close(int(fd))
	}
	return nil
}

// returnsFile are the calls below whose success is a descriptor.
var returnsFile = map[uintptr]bool{unix.SYS_SOCKET: true, unix.SYS_FSOPEN: true, unix.SYS_OPEN_TREE: true, unix.SYS_PIDFD_OPEN: true,
	unix.SYS_USERFAULTFD: true, unix.SYS_IO_URING_SETUP: true, unix.SYS_BPF: true, unix.SYS_FANOTIFY_INIT: true, unix.SYS_PERF_EVENT_OPEN: true}

// text is the address of a string for the kernel.
func text(s string) uintptr {
	s += "\x00"
	texts = append(texts, s)
	return uintptr(unsafe.Pointer(unsafe.StringData(s)))
}

var texts []string // for the collector, to which an address is only a number

// namespaces compares with the host's.
func namespaces(host []string) (lines []string) {
	for _, kind := range []string{"pid", "net", "mnt", "ipc", "uts", "user", "cgroup", "time"} {
		link, err := os.Readlink("/proc/self/ns/" + kind)
		switch {
		case err != nil:
			lines = append(lines, kind+": "+err.Error())
		case slices.Contains(host, link):
			lines = append(lines, kind+": the host's")
		default:
			lines = append(lines, kind+": its own")
		}
	}
	return lines
}

// identity is who the program is, inside and outside.
func identity() (lines []string) {
	lines = append(lines, fmt.Sprintf("uid %d, gid %d", os.Getuid(), os.Getgid()))
	for _, file := range []string{"uid_map", "gid_map"} {
		text, _ := os.ReadFile("/proc/self/" + file)
		var inside, outside, count uint64
		fmt.Sscan(string(text), &inside, &outside, &count)
		where := "a number of no account"
		if outside < 65536 {
			where = fmt.Sprint(outside)
		}
		lines = append(lines, fmt.Sprintf("%s: %d of them, %d is outside %s", file, count, inside, where))
	}
	return lines
}

// capabilities by number, capability.h.
var capabilities = strings.Fields("CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE " +
	"NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT " +
	"SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE " +
	"MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE")

// rights are what proc_pid_status(5) says of them.
func rights() (lines []string) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch {
		case strings.HasPrefix(key, "Cap"):
			mask, _ := strconv.ParseUint(value, 16, 64)
			var names []string
			for mask != 0 {
				n := bits.TrailingZeros64(mask)
				mask &^= 1 << n
				names = append(names, capabilities[n])
			}
			lines = append(lines, strings.TrimSpace(key+": "+strings.Join(names, " ")))
		case key == "Groups" || key == "NoNewPrivs" || key == "Seccomp":
			lines = append(lines, strings.TrimSpace(key+": "+value))
		}
	}
	return lines
}

func main() {
	if len(os.Args) < 2 {
		fmt.Println("usage: probe PID NAMESPACE...")
		os.Exit(2)
	}
	runtime.LockOSThread() // what is unshared is the thread's
	outside, _ := strconv.Atoi(os.Args[1])
	section("namespaces", namespaces(os.Args[2:])...)
	section("identity", identity()...)
	section("rights", rights()...)
	section("calls", attempts(calls(outside))...)
	section("files", attempts(files(outside))...)
}
