package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/reaper"
)

// A program outlives the keeper that started it. Its parent is then whoever takes in orphans, and the next keeper can neither
// wait for it nor rely on its pid, which may be another one's. So each run is in the journal with what tells its process from every
// other one; the next keeper opens that, which keeps the status of its exit, and is told by the kernel when there is one.
//
// What the dead keeper held is gone: the masters of terminals, whose programs are hung up, the writing ends of standard inputs, and
// namespaces that no process was in.

// run is what the journal says of one that runs.
type run struct {
	id      [idSize]byte
	pid     int
	started int64
	mark    string // tells the process from others of the same boot: [markOf]
	boot    string
}

func (r run) line() []byte {
	m := message{ID: r.id}
	return fmt.Appendf(nil, "live %x %d %d %s %s\n", m.id(), r.pid, r.started, r.mark, r.boot)
}

// isAdopted says in [message.Status] of one that runs that it has another parent.
const isAdopted = 1

// bootID tells one boot of the machine from the next.
func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text)), err
}

// pidfsMagic is PID_FS_MAGIC of statfs(2): since Linux 6.9 pidfds have inodes, of which no two processes of a boot have the same.
const pidfsMagic = 0x50494446

// markOf returns what tells a process from every other one that has had, or will have, its pid: the inode of its pidfd, and before
// Linux 6.9 the time of its start, in ticks since the boot.
func markOf(pidfd, pid int) (string, error) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := unix.Fstatfs(pidfd, &fs); err != nil {
		return "", os.NewSyscallError("fstatfs", err)
	}
	if fs.Type == pidfsMagic {
		if err := unix.Fstat(pidfd, &st); err != nil {
			return "", os.NewSyscallError("fstat", err)
		}
		return fmt.Sprintf("inode:%d", st.Ino), nil
	}
	stat, err := statOf(pid)
	if err != nil {
		return "", err
	}
	return "ticks:" + stat[statStart], nil
}

// Fields of proc_pid_stat(5), counted from the state, which is its third.
const (
	statState = 0
	statStart = 22 - 3
	statExit  = 52 - 3
)

// statOf reads the fields from the state on. The name before it may hold anything.
func statOf(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) <= statExit {
		return nil, fmt.Errorf("/proc/%d/stat ends early: %w", pid, syscall.EBADMSG)
	}
	return fields, nil
}

// begun journals that a program runs. k.mu is held.
func (k *Keeper) begun(c *child) {
	var err error
	if c.mark, err = markOf(int(c.pidfd.Fd()), c.pid); err == nil {
		err = k.journal.begin(k.runOf(c))
	}
	if err != nil {
		m := message{ID: c.id}
		k.log.Error("a run is not in the journal; it ends if the keeper dies", "id", m.id(), "err", err)
	}
}

func (k *Keeper) runOf(c *child) run {
	return run{id: c.id, pid: c.pid, started: c.started.UnixNano(), mark: c.mark, boot: k.boot}
}

// runs are those that a new journal has to hold. k.mu is held.
func (k *Keeper) runs() (runs []run) {
	for c := range k.living {
		if c.mark != "" {
			runs = append(runs, k.runOf(c))
		}
	}
	return runs
}

// adopt takes in what an earlier keeper has started, or notes that it has ended meanwhile. An error is about this keeper, and says
// nothing of the program. k.mu is held.
func (k *Keeper) adopt(r run) error {
	m := message{Kind: kindExit, ID: r.id, PID: int32(r.pid), Started: r.started, Finished: max(time.Now().UnixNano(), r.started)}
	if r.boot != k.boot {
		m.Errno = uint32(syscall.ESHUTDOWN)
		k.note(m)
		return nil
	}
	pidfd, err := r.open()
	if errors.Is(err, syscall.ESRCH) {
		m.Errno = uint32(syscall.ECHILD)
		k.note(m)
		k.log.Warn("a program has ended while there was no keeper; nobody knows how", "id", m.id(), "pid", r.pid)
		return nil
	}
	if err != nil {
		return err
	}
	c := &child{id: r.id, pid: r.pid, pidfd: pidfd, started: time.Unix(0, r.started), mark: r.mark, adopted: true, executed: true}
	if err := k.takeIn(c); err != nil {
		pidfd.Close()
		return err
	}
	k.log.Info("adopted what a keeper before has started", "id", m.id(), "pid", r.pid)
	return nil
}

// takeIn begins to watch what is adopted. k.mu is held.
func (k *Keeper) takeIn(c *child) error {
	watched, err := k.runOf(c).open()
	if errors.Is(err, syscall.ESRCH) { // it has just been reaped, and the descriptor that there is tells of that
		watched, err = dup(c.pidfd)
	}
	if err != nil {
		return err
	}
	k.adopted[c] = true
	go k.watch(c, watched)
	return nil
}

// open opens the process, unless it is another one by now, or none: ESRCH. It does not block, so that the runtime's poller takes it.
func (r run) open() (*os.File, error) {
	fd, err := unix.PidfdOpen(r.pid, unix.PIDFD_NONBLOCK)
	if err == unix.EINVAL || err == unix.ENOENT { // the pid is that of another process's thread
		err = unix.ESRCH
	}
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	mark, err := markOf(fd, r.pid)
	if errors.Is(err, os.ErrNotExist) || err == nil && mark != r.mark {
		err = syscall.ESRCH
	}
	// The time of a start is read by the pid, which was the descriptor's as long as that can be asked.
	if err == nil {
		err = unix.PidfdSendSignal(fd, 0, nil, 0)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// watch waits for the end of what was adopted. No thread waits with it.
func (k *Keeper) watch(c *child, pidfd *os.File) {
	defer pidfd.Close()
	m := message{Errno: uint32(syscall.ECHILD)}
	raw, err := pidfd.SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(p, 0)
			return err == nil && n > 0
		})
	}
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			if status, ok := ended(int(fd), c.pid); ok {
				m = message{Status: uint32(status)}
			}
		})
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.log.Error("a program that was adopted is not watched any more", "pid", c.pid, "err", err)
	}
	k.record(c, m)
}

// ended returns the wait status of a process that has ended and is not the keeper's child. As long as nobody has waited for it,
// proc_pid_stat(5) tells; afterwards the kernel does, from Linux 6.15 on, whoever has had it open.
func ended(pidfd, pid int) (status syscall.WaitStatus, ok bool) {
	stat, err := statOf(pid)
	if err == nil && (stat[statState] == "Z" || stat[statState] == "X") {
		number, bad := strconv.ParseUint(stat[statExit], 10, 32)
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // as [take] does
		if bad == nil && unix.PidfdSendSignal(pidfd, 0, nil, 0) == nil {
			return reaper.EndedBy(syscall.WaitStatus(number), strings.TrimSuffix(string(name), "\n")), true
		}
	}
	return exitInfo(pidfd)
}

// Of include/uapi/linux/pidfd.h.
const (
	pidfdGetInfo      = 0xc040ff0b // PIDFD_GET_INFO, _IOWR(0xFF, 11, struct pidfd_info) with the size that it had at first
	pidfdInfoExit     = 1 << 3
	pidfdInfoSize     = 64
	pidfdInfoExitCode = 60
)

// exitInfo asks the kernel for the wait status of a process that somebody has waited for.
func exitInfo(pidfd int) (syscall.WaitStatus, bool) {
	info := [pidfdInfoSize / 8]uint64{pidfdInfoExit}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), pidfdGetInfo, uintptr(unsafe.Pointer(&info))); errno != 0 {
		return 0, false
	}
	if info[0]&pidfdInfoExit == 0 {
		return 0, false
	}
	bytes := (*[pidfdInfoSize]byte)(unsafe.Pointer(&info))
	return syscall.WaitStatus(binary.NativeEndian.Uint32(bytes[pidfdInfoExitCode:])), true
}
