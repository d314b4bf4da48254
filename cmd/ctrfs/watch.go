package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// unmounted returns a channel that is closed when the mount with that device number is no longer on dir.
//
// The end of the FUSE connection would not tell: it comes only when the last copy of the mount is gone, and every mount
// namespace that was made meanwhile may hold one. The kernel reports a change of the mount table as an exceptional
// condition on /proc/self/mountinfo (proc_pid_mountinfo(5)).
func unmounted(dir string, dev uint64, log *slog.Logger) (<-chan struct{}, error) {
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer table.Close()
		defer close(ended)
		for {
			mounted, err := isMounted(dir, dev)
			if err != nil {
				log.Error("the mount table cannot be read", "err", err)
			} else if !mounted {
				return
			}
			fds := []unix.PollFd{{Fd: int32(table.Fd()), Events: unix.POLLPRI}}
			if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
				log.Error("the mount table cannot be watched; an unmount goes unnoticed", "err", err)
				select {}
			}
		}
	}()
	return ended, nil
}

// isMounted reports whether that very mount is on dir, at the top or below another one.
func isMounted(dir string, dev uint64) (bool, error) {
	mounts, err := mountsOn(dir)
	if err != nil {
		return false, err
	}
	for _, m := range mounts {
		if unix.Mkdev(uint32(m.Major), uint32(m.Minor)) == dev {
			return true, nil
		}
	}
	return false, nil
}

// mountsOn lists what is mounted on dir, the lowest first.
func mountsOn(dir string) ([]*mountinfo.Info, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != dir, false })
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	return mounts, nil
}
