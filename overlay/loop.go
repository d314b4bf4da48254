package overlay

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Loop devices show a file to the kernel as a disk, loop(4). Each is cleared by the kernel when nobody uses it any more, be it a
// mount in a container or a descriptor here, so none outlives what it was made for, whoever dies.
//
// One file must never be behind two devices of which one writes: each would be a file system of its own, with a memory of
// its own of what the file contains. So whoever wants a file looks for the device that it has, and only then takes one, under a
// lock that all ctrfs of this machine share. Two mounts of one device are one file system to the kernel.

const loopControl = "/dev/loop-control"

// loopPatience is how long a device may be in somebody's way that is about to go: the mount of a container that has just ended.
const loopPatience = 300 * time.Millisecond

// busyLoop is the error of a file that is behind a loop device already, which does not suit.
type busyLoop struct {
	device string
	why    string
}

func (e *busyLoop) Error() string { return e.why + " already, by " + e.device }
func (e *busyLoop) Unwrap() error { return syscall.EBUSY }

// loopDevice opens the loop device of a file, which it gets if it has none. The caller closes it once it is mounted.
func loopDevice(file *os.File, readOnly bool) (*os.File, error) {
	control, err := openat(nil, loopControl, unix.O_RDWR)
	if err != nil {
		return nil, fmt.Errorf("no loop devices: %w: %w", syscall.EOPNOTSUPP, err)
	}
	defer control.Close() // and the lock goes
	for end := time.Now().Add(loopPatience); ; time.Sleep(5 * time.Millisecond) {
		device, err := tryLoop(control, file, readOnly)
		if busy := errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EWOULDBLOCK); !busy || time.Now().After(end) {
			return device, err
		}
	}
}

// tryLoop does it once.
func tryLoop(control, file *os.File, readOnly bool) (*os.File, error) {
	if err := unix.Flock(int(control.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%s is locked: %w", loopControl, err)
	}
	defer unix.Flock(int(control.Fd()), unix.LOCK_UN)
	device, info, err := findLoop(file)
	if err != nil || device != nil {
		if device != nil && (info.Flags&unix.LO_FLAGS_READ_ONLY != 0) != readOnly {
			device.Close()
			why := "it is written to"
			if !readOnly {
				why = "it is in use as a root that does not change"
			}
			return nil, &busyLoop{device.Name(), why}
		}
		return device, err
	}
	number, err := retry(func() (int, error) { return unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE) })
	if err != nil {
		return nil, fmt.Errorf("no loop device is free: %w", err)
	}
	config := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	access := unix.O_RDWR
	if readOnly {
		access = unix.O_RDONLY
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	if device, err = openat(nil, fmt.Sprint("/dev/loop", number), access); err != nil {
		return nil, err
	}
	// EBUSY: somebody else, who knows nothing of the lock, has been faster.
	if err := unix.IoctlLoopConfigure(int(device.Fd()), &config); err != nil {
		device.Close()
		return nil, fmt.Errorf("%s: %w", device.Name(), err)
	}
	return device, nil
}

// findLoop opens the loop device that all of a file is behind, or returns nil. A path would not tell: files move.
func findLoop(file *os.File) (*os.File, *unix.LoopInfo64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return nil, nil, err
	}
	names, err := os.ReadDir("/sys/block")
	if err != nil {
		return nil, nil, err
	}
	for _, e := range names {
		if !strings.HasPrefix(e.Name(), "loop") {
			continue
		}
		if _, err := os.Lstat("/sys/block/" + e.Name() + "/loop"); err != nil {
			continue // nothing is behind it
		}
		device, err := openat(nil, "/dev/"+e.Name(), unix.O_RDONLY)
		if err != nil {
			continue // just removed
		}
		info, err := unix.IoctlLoopGetStatus64(int(device.Fd()))
		if err == nil && info.Device == st.Dev && info.Inode == st.Ino && info.Offset == 0 && info.Sizelimit == 0 {
			return device, info, nil
		}
		device.Close()
	}
	return nil, nil, nil
}
