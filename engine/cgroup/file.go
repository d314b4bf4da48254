package cgroup

import (
	"encoding/binary"
	"errors"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
	"golang.org/x/sys/unix"
)

// dir is an open cgroup directory. Its methods are the gate: the only code that makes system calls on cgroup files. They
// take paths relative to it, and fail with an [engine.Error] that carries the whole path.
type dir struct {
	fd   int
	path string // absolute, for errors
}

const noDisk = "there is no such block device, or it is a partition"

// cures tells what an errno means for a file, where the kernel's own words would not help. An empty file is any other.
var cures = []struct {
	file      string
	errno     syscall.Errno
	why, cure string
}{
	{"memory.limit_in_bytes", unix.EBUSY, "more is in use than can be reclaimed", "write a higher limit, or stop something first"},
	{"cpu.cfs_quota_us", unix.EINVAL, "cgroup v1 keeps a nested group's share within its parent's", "write a smaller share here, or a larger one above"},
	{"cpu.cfs_period_us", unix.EINVAL, "cgroup v1 keeps a nested group's share within its parent's", "write a smaller share here, or a larger one above"},
	{"memory.memsw.limit_in_bytes", unix.EBUSY, "more is in use than can be reclaimed", "write a higher limit, or stop something first"},
	{"cpuset.cpus", unix.EINVAL, "the group above has not got all of them, or they do not exist", "write some of what cpuset.cpus.effective shows"},
	{"cpuset.cpus", unix.EBUSY, "cgroup v1 keeps a nested group's processors among its parent's", "change those of the groups below first"},
	{"cpuset.mems", unix.EINVAL, "the group above has not got all of them, or they do not exist", "write some of what the group above has"},
	{"cpuset.mems", unix.EBUSY, "cgroup v1 keeps a nested group's memory nodes among its parent's", "change those of the groups below first"},
	{"io.max", unix.ENODEV, noDisk, "lsblk lists devices by MAJ:MIN"},
	{"blkio.throttle.read_bps_device", unix.ENODEV, noDisk, "lsblk lists devices by MAJ:MIN"},
	{"blkio.throttle.write_bps_device", unix.ENODEV, noDisk, "lsblk lists devices by MAJ:MIN"},
	{"blkio.throttle.read_iops_device", unix.ENODEV, noDisk, "lsblk lists devices by MAJ:MIN"},
	{"blkio.throttle.write_iops_device", unix.ENODEV, noDisk, "lsblk lists devices by MAJ:MIN"},
	{"net_prio.ifpriomap", unix.ENODEV, "the host has no such network interface", "ip link lists those that it has"},
	{"devices.allow", unix.EPERM, "the group around it may not use these", "allow it there first"},
	{"devices.allow", unix.EINVAL, "cgroup v1 cannot allow everything while groups are nested in this one", "stop what is in it, or name the devices"},
	{"devices.deny", unix.EINVAL, "cgroup v1 cannot take everything back while groups are nested in this one", "stop what is in it"},
	{"cgroup.procs", unix.ESRCH, "there is no such process", ""},
	{"cgroup.procs", unix.EBUSY, "cgroup v2 allows no processes in a group whose controllers are enabled for groups below it", ""},
	{"cgroup.procs", unix.EINVAL, "the kernel does not let this process move", "kernel threads and real-time processes stay where they are"},
	{"cgroup.subtree_control", unix.EBUSY, "the group itself holds processes", "move them to a group below it"},
	{"", unix.EROFS, "the cgroup file system is mounted read-only", "mount it for writing"},
	{"", unix.ENODEV, "the group has been removed", ""},
}

// fail describes a failed call on the file at rel.
func (d dir) fail(op, rel, value string, err error) error {
	errno := engine.Errno(err)
	e := &engine.Error{Op: op, File: path.Join(d.path, rel), Value: value, Errno: errno}
	file := path.Base(rel)
	for _, c := range cures {
		if c.errno == errno && (c.file == "" || c.file == file) {
			e.Why, e.Cure = c.why, c.cure
			break
		}
	}
	return e
}

// also returns err together with the error of undoing what came before it, if that failed too; err's errno leads.
func also(err, undo error) error {
	if undo == nil {
		return err
	}
	return &engine.Error{Op: "undo", Errno: engine.Errno(err), Err: errors.Join(err, undo)}
}

// retry repeats a call that a signal interrupted. Go preempts its threads by signals, and v1's memory.limit_in_bytes
// gives up reclaiming with EINTR when one is pending (mm/memcontrol-v1.c, mem_cgroup_resize_max).
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

func openDir(name string) (dir, error) {
	fd, err := retry(func() (int, error) { return unix.Open(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return dir{}, dir{path: name}.fail("open", "", "", err)
	}
	return dir{fd, name}, nil
}

func (d dir) close() { _ = unix.Close(d.fd) }

// open opens the file or directory at rel. The caller owns the descriptor. Cgroup file systems have no links; O_NOFOLLOW
// says so where another file system has been mounted on one.
func (d dir) open(rel string, flags int) (int, error) {
	fd, err := retry(func() (int, error) { return unix.Openat(d.fd, rel, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0) })
	if err != nil {
		return -1, d.fail("open", rel, "", err)
	}
	return fd, nil
}

// read returns the whole text of a file.
func (d dir) read(rel string) (string, error) {
	fd, err := d.open(rel, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	// One call reads almost every file whole; only a long cgroup.procs takes more. A file that leaves room in the first buffer
	// is at its end, and is not asked again: the kernel writes these texts into a page and gives what it has been asked for
	// (fs/seq_file.c, seq_read_iter), so that only beyond a page a call may give less.
	var first [1024]byte
	for buf := first[:0]; ; {
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, cap(buf))
		}
		n, err := retry(func() (int, error) { return unix.Read(fd, buf[len(buf):cap(buf)]) })
		if err != nil {
			return "", d.fail("read", rel, "", err)
		}
		buf = buf[:len(buf)+n]
		if n == 0 || len(buf) < len(first) {
			return string(buf), nil
		}
	}
}

// write writes values to a file, each in one call, which the kernel takes as one command. There is no O_CREAT: a file that is not
// there is a feature that is not there.
func (d dir) write(rel string, values ...string) error {
	fd, err := retry(func() (int, error) { return unix.Openat(d.fd, rel, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0) })
	if err != nil {
		return d.fail("write", rel, strings.Join(values, "\n"), err)
	}
	defer unix.Close(fd)
	for _, value := range values {
		if _, err := retry(func() (int, error) { return unix.Write(fd, []byte(value)) }); err != nil {
			return d.fail("write", rel, value, err)
		}
		crash.Point("write to a group")
	}
	return nil
}

// mkdir makes a group. Its mode lets everybody read: who may look at a container is decided in the tree that users see.
func (d dir) mkdir(rel string) error {
	if err := unix.Mkdirat(d.fd, rel, 0o755); err != nil {
		return d.fail("mkdir", rel, "", err)
	}
	crash.Point("make a group")
	return nil
}

// exists reports whether there is a directory at rel.
func (d dir) exists(rel string) bool {
	var st unix.Stat_t
	return unix.Fstatat(d.fd, rel, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// subdirs lists the groups directly below rel; of a directory that is gone, none.
func (d dir) subdirs(rel string) ([]string, error) {
	var st unix.Stat_t
	err := unix.Fstatat(d.fd, rel, &st, unix.AT_SYMLINK_NOFOLLOW)
	// The link count of a kernfs directory is 2 and its subdirectories (fs/kernfs/inode.c, kernfs_refresh_inode). The
	// files, some thirty, need not be listed to know that there is nothing else.
	if err == unix.ENOENT || err == nil && st.Nlink == 2 {
		return nil, nil
	}
	if err != nil {
		return nil, d.fail("stat", rel, "", err)
	}
	fd, err := d.open(rel, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	names, buf := []string(nil), make([]byte, 8192)
	for {
		n, err := retry(func() (int, error) { return unix.ReadDirent(fd, buf) })
		if err != nil {
			return nil, d.fail("read", rel, "", err)
		}
		if n <= 0 {
			break
		}
		names = appendDirs(names, buf[:n])
	}
	slices.Sort(names)
	return names, nil
}

// appendDirs appends the names of the directories in what getdents64(2) filled in: struct linux_dirent64, whose type spares
// a stat(2) of each of some thirty files.
func appendDirs(names []string, entries []byte) []string {
	const header = int(unsafe.Offsetof(unix.Dirent{}.Name))
	for len(entries) > header {
		size := int(binary.NativeEndian.Uint16(entries[unsafe.Offsetof(unix.Dirent{}.Reclen):]))
		kind := entries[unsafe.Offsetof(unix.Dirent{}.Type)]
		name, _, _ := strings.Cut(string(entries[header:size]), "\x00")
		if kind == unix.DT_DIR && name != "." && name != ".." {
			names = append(names, name)
		}
		entries = entries[size:]
	}
	return names
}

// below lists the group at rel and all groups below it, parents first, as paths relative to d.
func (d dir) below(rel string) ([]string, error) {
	all := []string{rel}
	for i := 0; i < len(all); i++ {
		names, err := d.subdirs(all[i])
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			all = append(all, path.Join(all[i], name))
		}
	}
	return all, nil
}

// readBelow returns the texts of one file of the group at rel and of all groups below it, one after the other.
func (d dir) readBelow(rel, file string) (string, error) {
	groups, err := d.below(rel)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for i, group := range groups {
		text, err := d.read(path.Join(group, file))
		// A group below may vanish meanwhile, and a threaded one answers EOPNOTSUPP: its domain lists the processes.
		gone := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP)
		if err != nil && (i == 0 || !gone) {
			return "", err
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// removeWait bounds how long a directory may stay busy. A task leaves its group only after its last context switch, a
// moment after its parent could wait for it (kernel/cgroup/cgroup.c, cgroup_task_dead), and a killed one has yet to die.
const removeWait = 250 * time.Millisecond

// rmdir removes the group at rel and all below it; one that is gone already is fine. Errors: EBUSY.
func (d dir) rmdir(rel string) error {
	err := unix.ENOENT
	remove := func() (bool, error) {
		err, _ = unix.Unlinkat(d.fd, rel, unix.AT_REMOVEDIR).(unix.Errno)
		return err != unix.EBUSY, nil
	}
	// Trying comes first: almost always the group is empty and has nothing below it, and this is all that it costs.
	if gone, _ := remove(); !gone {
		names, errList := d.subdirs(rel)
		if errList != nil {
			return errList
		}
		for _, name := range names {
			if err := d.rmdir(path.Join(rel, name)); err != nil {
				return err
			}
		}
		_, _ = until(removeWait, remove)
	}
	if err == 0 || err == unix.ENOENT {
		crash.Point("remove a group")
		return nil
	}
	return d.fail("rmdir", rel, "", err)
}

// until polls, since the kernel tells none of these ends through a descriptor without holding it back for milliseconds. It
// calls done, less and less often, until it says true, fails, or the time is over; then it returns false.
func until(limit time.Duration, done func() (bool, error)) (bool, error) {
	deadline := time.Now().Add(limit)
	for pause := 20 * time.Microsecond; ; pause = min(2*pause, 5*time.Millisecond) {
		if ok, err := done(); ok || err != nil {
			return ok, err
		}
		if time.Now().After(deadline) {
			return false, nil
		}
		time.Sleep(pause)
	}
}
