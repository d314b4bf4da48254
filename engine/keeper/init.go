package keeper

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/reaper"
)

// siginfo is the part of siginfo_t that waitid(2) fills in, as it is on 64-bit machines.
type siginfo struct {
	_, _, code, _    int32
	pid, uid, status int32
}

// cldExited is CLD_EXITED of sigaction(2).
const cldExited = 1

// take waits for the child that waitid(2) has told of and left there. One that was PID 1 for another program, and exits as a shell
// would that saw it die of a signal, has left the signal in its name, which is read before it is gone.
func take(info *unix.Siginfo) (pid int, status syscall.WaitStatus, err error) {
	child := (*siginfo)(unsafe.Pointer(info))
	name := ""
	if child.code == cldExited && child.status > 128 {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child.pid)) // without it the status is what it is
		name = strings.TrimSuffix(string(text), "\n")
	}
	pid, err = syscall.Wait4(int(child.pid), &status, syscall.WNOHANG, nil)
	return pid, reaper.EndedBy(status, name), err
}
