package local

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// facts is what the engine must know of this machine for every plan.
type facts struct {
	mountpoint string // an empty directory that only root can reach, for attaching roots in a child's namespace
	lastCap    int
	noFile     uint64
	proc       *os.File // this machine's procfs, O_PATH
	null       *os.File
	rights     rights
}

// learn finds the facts out.
func learn(run string) (facts, error) {
	f := facts{mountpoint: filepath.Join(run, "root")}
	if err := os.MkdirAll(f.mountpoint, 0o700); err != nil {
		return f, err
	}
	text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return f, err
	}
	if _, err := fmt.Sscan(string(text), &f.lastCap); err != nil {
		return f, fmt.Errorf("/proc/sys/kernel/cap_last_cap: %w", err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return f, os.NewSyscallError("getrlimit", err)
	}
	f.noFile = limit.Max
	if f.rights, err = learnRights(); err != nil {
		return f, err
	}
	if f.proc, err = os.OpenFile("/proc", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return f, err
	}
	f.null, err = os.Open(os.DevNull)
	return f, err
}
