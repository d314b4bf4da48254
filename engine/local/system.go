package local

import (
	"fmt"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// sigShutdown is SIGRTMIN+3, with which systemd(1) powers off.
const sigShutdown = syscall.Signal(34 + 3)

// shutdowns are the signals that have the first process of a system shut it down, by the program that it is. Neither takes TERM
// for that: the one executes itself anew, and the other reboots.
var shutdowns = []struct {
	program string
	only    func(*engine.Config) bool
	signal  syscall.Signal
}{
	{"systemd", func(*engine.Config) bool { return true }, sigShutdown},
	{"busybox", (*engine.Config).Boots, syscall.SIGUSR2}, // which is many other programs, too
}

// stopSignal is what stop sends: what the configuration says, where that is not the default that a system does not understand.
// The name of the program is the container's to choose; it decides about a signal to itself.
func stopSignal(v *engine.View) (syscall.Signal, error) {
	sig, err := engine.ParseSignal("stop.signal", v.Config.StopSignal())
	if err != nil || sig != syscall.SIGTERM || v.Config.Init() {
		return sig, err
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", v.PID))
	if err != nil {
		return sig, nil // it is just exiting
	}
	for _, s := range shutdowns {
		if path.Base(strings.TrimSuffix(exe, " (deleted)")) == s.program && s.only(v.Config) {
			return s.signal, nil
		}
	}
	return sig, nil
}

// poweredOff turns the end that the kernel gives PID 1 of a namespace whose system has been powered off, reboot(2), into the
// success that it is. PID 1 can die of INT in no other way: pid_namespaces(7). HUP, which tells of a reboot, stays an end that a
// restart policy takes for a reason to start it again.
func poweredOff(c *engine.Config, status syscall.WaitStatus) syscall.WaitStatus {
	if c.Namespace(specs.PIDNamespace).New() && !c.Init() && status.Signaled() && status.Signal() == syscall.SIGINT {
		return 0
	}
	return status
}

// delegate gives the container its own part of the cgroup hierarchy, if it is to arrange that itself.
func (s *starting) delegate(config *engine.Config) error {
	if !config.Delegates() {
		return nil
	}
	uid, gid := 0, 0
	if ids := s.around.ids; ids != nil {
		uid, gid = int(ids.UID), int(ids.GID)
	}
	return s.group.Delegate(uid, gid)
}
