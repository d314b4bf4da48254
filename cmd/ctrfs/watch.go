package main

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/fs"
)

// lookAgain is how long an unmount may go unnoticed that neither the connection nor the kernel's poll tells of. Linux 6.18
// was seen to skip the latter now and then.
const lookAgain = time.Second

// unmounted returns a channel that is closed when the tree is no longer mounted on dir.
//
// The end of the FUSE connection tells, but it comes only with the last copy of the mount, and every mount namespace that
// was made meanwhile may hold one. So the mount table is watched too: the kernel reports a change of it as an exceptional
// condition on /proc/self/mountinfo (proc_pid_mountinfo(5)).
func unmounted(tree *fs.Server, dir string, log *slog.Logger) (<-chan struct{}, error) {
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	end := sync.OnceFunc(func() { close(ended) })
	go func() {
		tree.Wait()
		end()
	}()
	go func() {
		defer table.Close()
		defer end()
		for {
			mounted, err := isMounted(dir, tree.Device())
			if err != nil {
				log.Error("the mount table cannot be read", "err", err)
			} else if !mounted {
				return
			}
			fds := []unix.PollFd{{Fd: int32(table.Fd()), Events: unix.POLLPRI}}
			if _, err := unix.Poll(fds, int(lookAgain.Milliseconds())); err != nil && err != unix.EINTR {
				log.Error("the mount table cannot be watched", "err", err)
				time.Sleep(lookAgain)
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
