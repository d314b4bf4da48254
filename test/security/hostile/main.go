//go:build linux

// Command hostile is what a container's program tries in the security tests. Each attempt is one line on stdout: its name and the
// error, or "done" where nothing stopped it. Should that happen, no harm comes of it: files are opened for writing and not
// written, the time is set to what it is, and the machine is asked to reboot by a number that means nothing.
//
//	hostile tty     push a character into whatever terminal can be reached
//	hostile calls   what no container may do with its own root's capabilities
//	hostile fds     print every descriptor that it was given, and what that is
//	hostile joiner  reach into those who enter its namespaces, until it is killed
//	hostile x32     make a system call of x32
//	hostile reborn PID      be, on the host, another process with the pid of one that has ended; say how it ends
//	hostile lurk    wait for whatever comes into the container, for ever, and say what could be had of it
//	hostile flip NAME...    exchange each NAME with NAME.link, and back, for ever
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempt is one system call that must fail.
type attempt struct {
	name string
	try  func() error
}

// verbs are the attempts of each verb.
var verbs = map[string][]attempt{
	"tty": {
		{"open /dev/tty", func() error { return opens("/dev/tty", unix.O_RDWR) }},
		{"TIOCSTI on stdin", func() error { return push(0) }},
		{"TIOCSTI on stdout", func() error { return push(1) }},
		{"TIOCSTI on stderr", func() error { return push(2) }},
		{"TIOCSTI on /dev/console", func() error { return pushInto("/dev/console") }},
		{"steal stdin as terminal", func() error { return unix.IoctlSetInt(0, unix.TIOCSCTTY, 1) }},
	},
	"x32": {
		{"getpid", func() error { return raw(0x40000000 | unix.SYS_GETPID) }},
	},
	"calls": {
		{"mount", func() error { return unix.Mount("x", "/tmp", "tmpfs", 0, "") }},
		{"mount cgroup", func() error { return unix.Mount("x", "/tmp", "cgroup", 0, "memory") }},
		{"mount cgroup2", func() error { return unix.Mount("x", "/tmp", "cgroup2", 0, "") }},
		{"remount /proc/sys", func() error { return unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND, "") }},
		{"umount a mask", func() error { return unix.Unmount("/proc/kcore", unix.MNT_DETACH) }},
		{"umount /proc", func() error { return unix.Unmount("/proc", unix.MNT_DETACH) }},
		{"fsopen", func() error { return returned(unix.Fsopen("tmpfs", 0)) }},
		{"open_tree clone", func() error { return returned(unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE)) }},
		{"pivot_root", func() error { return unix.PivotRoot("/", "/") }},
		{"setns to itself", func() error { return setns("/proc/self/ns/mnt") }},
		{"init_module", func() error { return unix.InitModule([]byte("x"), "") }},
		{"kexec_load", func() error { return raw(unix.SYS_KEXEC_LOAD) }},
		{"reboot", reboot},
		{"settimeofday", settime},
		{"sethostname", func() error { return unix.Sethostname([]byte("x")) }},
		{"swapon", func() error { return raw(unix.SYS_SWAPON, address("/bin/busybox")) }},
		{"syslog", func() error { return returned(unix.Klogctl(9, nil)) }},
		{"acct", func() error { return raw(unix.SYS_ACCT, 0) }},
		{"open_by_handle_at", handle},
		{"a disk's node", func() error { return node(unix.S_IFBLK, 8, 0) }},
		{"the memory's node", func() error { return node(unix.S_IFCHR, 1, 1) }},
		{"higher file limit", func() error { return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 30, Max: 1 << 30}) }},
		{"lower oom_score_adj", func() error { return writes("/proc/self/oom_score_adj", "-1000") }},
		{"write sysrq-trigger", func() error { return opens("/proc/sysrq-trigger", unix.O_WRONLY) }},
		{"write core_pattern", func() error { return opens("/proc/sys/kernel/core_pattern", unix.O_WRONLY) }},
		{"write modprobe", func() error { return opens("/proc/sys/kernel/modprobe", unix.O_WRONLY) }},
		{"write hostname by sysctl", func() error { return opens("/proc/sys/kernel/hostname", unix.O_WRONLY) }},
		{"write uevent_helper", func() error { return opens("/sys/kernel/uevent_helper", unix.O_WRONLY) }},
		{"write binfmt_misc", func() error { return opens("/proc/sys/fs/binfmt_misc/register", unix.O_WRONLY) }},
		{"write /sys", func() error { return opens("/sys/kernel/mm/ksm/run", unix.O_WRONLY) }},
	},
}

func returned[T any](_ T, err error) error { return err }

func raw(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

func address(s string) uintptr { return uintptr(unsafe.Pointer(unsafe.StringData(s + "\x00"))) }

func opens(name string, flags int) error {
	fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func writes(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

// reboot is told that it may when it is told that it asked for nonsense.
func reboot() error {
	err := raw(unix.SYS_REBOOT, unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2, 0x1234)
	if err == unix.EINVAL {
		return nil
	}
	return err
}

func settime() error {
	var now unix.Timeval
	if err := unix.Gettimeofday(&now); err != nil {
		return err
	}
	return unix.Settimeofday(&now)
}

// push pretends that the person at the terminal has typed an x.
func push(fd int) error {
	x := byte('x')
	return raw(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSTI, uintptr(unsafe.Pointer(&x)))
}

func pushInto(name string) error {
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return push(fd)
}

func setns(name string) error {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, 0)
}

// handle opens a file by number instead of by path, as the breakout called shocker did.
func handle() error {
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/", 0)
	if err != nil {
		return err
	}
	dir, err := unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return returned(unix.OpenByHandleAt(dir, h, unix.O_RDONLY))
}

// node makes a device node and opens it. Making it is harmless as long as it cannot be opened.
func node(kind, major, minor uint32) error {
	name := fmt.Sprintf("/tmp/node-%d-%d-%d", kind, major, minor)
	if err := unix.Mknod(name, kind|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return err
	}
	return opens(name, unix.O_RDONLY)
}

// descriptors prints those that are open. It opens nothing itself.
func descriptors() {
	for fd := range 1 << 16 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			continue
		}
		link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		fmt.Println(fd, link, err)
	}
}

// flip exchanges names, each by one atomic call. Not as fast as it goes: renames of directories are serialised on a file system,
// and nothing else would get on.
func flip(names []string) {
	for {
		for _, name := range names {
			unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, name+".link", unix.RENAME_EXCHANGE)
			time.Sleep(200 * time.Microsecond)
		}
	}
}

// lurk tries to get hold of every process that comes, as the first process of a container can that sees who joins it.
func lurk() {
	seen := map[string]bool{}
	fmt.Println("lurking")
	for {
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || pid == os.Getpid() {
				continue
			}
			dir := "/proc/" + e.Name() + "/"
			got := map[string]bool{"trace": raw(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid)) == nil, "memory": opens(dir+"mem", unix.O_RDWR) == nil}
			for _, link := range []string{"exe", "root", "cwd", "ns/mnt"} {
				_, err := os.Readlink(dir + link)
				got[link] = err == nil
			}
			for n := range 24 { // their numbers may show, what is behind them may not
				if fd := fmt.Sprint("fd/", n); opens(dir+fd, unix.O_PATH) == nil {
					got[fd] = true
				}
			}
			text, err := os.ReadFile(dir + "environ")
			got["environment"] = err == nil && len(text) > 0
			if _, err := os.Stat(dir); err == nil && !seen["somebody"] {
				seen["somebody"] = true
				fmt.Println("saw somebody")
			}
			for what, had := range got {
				if had && !seen[what] {
					seen[what] = true
					fmt.Println("had", what)
				}
			}
		}
	}
}

// reborn makes a child with a pid of the caller's choice, clone3(2), that sleeps.
func reborn(pid int32) {
	argv := []*byte{nul("sleep"), nul("1000"), nil}
	program, env := nul("/bin/sleep"), []*byte{nil}
	// struct clone_args of include/uapi/linux/sched.h up to set_tid_size.
	args := struct{ flags, pidfd, child, parent, signal, stack, size, tls, tids, count uint64 }{
		signal: uint64(unix.SIGCHLD), tids: uint64(uintptr(unsafe.Pointer(&pid))), count: 1}
	child, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if child == 0 && errno == 0 {
		unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(program)), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&env[0])))
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
	}
	if errno != 0 {
		fmt.Println("not born:", errno)
		return
	}
	fmt.Println("born")
	var status unix.WaitStatus
	unix.Wait4(int(child), &status, 0, nil)
	fmt.Println("ended", status.Signal())
}

func nul(s string) *byte { return unsafe.StringData(s + "\x00") }

func main() {
	if len(os.Args) == 2 && os.Args[1] == "lurk" {
		lurk()
	}
	if len(os.Args) == 3 && os.Args[1] == "reborn" {
		pid, _ := strconv.Atoi(os.Args[2])
		reborn(int32(pid))
		return
	}
	if len(os.Args) > 2 && os.Args[1] == "flip" {
		flip(os.Args[2:])
	}
	if len(os.Args) == 2 && os.Args[1] == "fds" {
		descriptors()
		return
	}
	if len(os.Args) == 2 && os.Args[1] == "joiner" {
		joiner()
		return
	}
	if len(os.Args) != 2 || verbs[os.Args[1]] == nil {
		fmt.Println("usage: hostile VERB")
		os.Exit(2)
	}
	for _, a := range verbs[os.Args[1]] {
		if err := a.try(); err != nil {
			fmt.Printf("%s: %v\n", a.name, err)
		} else {
			fmt.Printf("%s: done\n", a.name)
		}
	}
}
