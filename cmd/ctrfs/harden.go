package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// program returns this program as something that can be executed and that nobody can ever write to: a sealed copy in memory,
// memfd_create(2). Keeper and servers run from it, the latter because the keeper starts them from its own /proc/self/exe. An upgrade
// sends the keeper another one, which it takes only if it is sealed.
//
// The one process that shows a container this program is a child on its way to its own: its /proc/self/exe. Runtimes have
// been overwritten by that way (CVE-2019-5736), and by others that led to the file on the disk. The copy has no path, is on no
// mount, and its seals hold against real root too.
//
// The other way to the same end is a detached read-only bind mount of the file, open_tree(2) and mount_setattr(2). It was
// tried beside this one: it saves the 8 MB that the copy takes once for keeper and server together, as their resident size
// does not change (a page of the program counts once in each either way), and the 8 ms that copying takes at each mount. But
// the mount protects only itself: whoever reaches the same inode by another mount writes to it as soon as nobody executes
// it. And while it is executed the file cannot be overwritten, its file system cannot be unmounted, and a server that is
// restarted after a deletion depends on it. With the copy, the file on the disk may be replaced, cut short or deleted: what
// runs does not notice.
func program() (*os.File, error) {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer self.Close()
	// Without MFD_EXEC the kernel (6.3 on) warns, or refuses when vm.memfd_noexec is set; before that it does not know the flag.
	fd, err := unix.MemfdCreate("ctrfs", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate("ctrfs", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("make a copy of the program in memory: %w; if the sysctl vm.memfd_noexec is 2, set it to 1", err)
	}
	defer unix.Close(fd)
	// Its number must be one that no descriptor of the child gets, which are set up before it executes /proc/self/fd/N.
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 64)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	copied := os.NewFile(uintptr(high), fmt.Sprintf("/proc/self/fd/%d", high))
	if _, err := io.Copy(copied, self); err != nil {
		copied.Close()
		return nil, fmt.Errorf("copy the program into memory: %w", err)
	}
	if err := seal(high); err != nil {
		copied.Close()
		return nil, fmt.Errorf("seal the copy of the program: %w", err)
	}
	return copied, nil
}

// seal makes a memfd immutable. F_SEAL_EXEC, of Linux 6.3, keeps its mode too. The kernel says EBUSY while somebody has a page of
// the file in hand, and it waits for no longer than 0.15 s for that (mm/memfd.c, memfd_wait_for_pins): on a machine with much else
// to do, its own lists of pages may take longer.
func seal(fd int) error {
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	for try := 1; ; try++ {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals|unix.F_SEAL_EXEC)
		if err == unix.EINVAL {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
		}
		if err != unix.EBUSY || try == sealTries {
			return err
		}
		time.Sleep(sealPause)
	}
}

// Bounds of the wait for that.
const (
	sealTries = 20
	sealPause = 50 * time.Millisecond
)

// undumpable is the first thing that keeper and server do: nobody attaches to them or reads their memory, descriptors or
// environment by way of /proc without CAP_SYS_PTRACE in the initial user namespace, whatever user they are, and they leave no
// core; PR_SET_DUMPABLE in prctl(2), proc(5). A child on its way borrows the keeper's memory, and so is guarded from its
// first step.
func undumpable() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

// neutral makes what the keeper inherits, and every container from it, independent of whoever mounts. Of the capabilities it
// changes those of this thread, so the caller has locked it and starts the keeper from it.
//
//   - No foreign descriptor, which a shell may have left open.
//   - No inheritable and ambient capabilities, which containers would have too (CVE-2022-24769).
//   - No cores by default. The hard limit stays, for containers that ask for one.
//   - A known umask. What is private is made with its exact mode; but directories for containers, and cgroups, must come out as
//     wide as they are said to be.
//
// Users and groups are set by the caller, with [syscall.SysProcAttr].
func neutral() error {
	if err := unix.CloseRange(3, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return os.NewSyscallError("close_range", err)
	}
	head, data := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
	if err := unix.Capget(&head, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for i := range data {
		data[i].Inheritable = 0 // and ambient with it, which is always a part
	}
	if err := unix.Capset(&head, &data[0]); err != nil {
		return os.NewSyscallError("capset", err)
	}
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	core.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &core); err != nil {
		return os.NewSyscallError("setrlimit", err)
	}
	unix.Umask(0o022)
	return nil
}
