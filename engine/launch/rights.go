package launch

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/plan"
)

// addRights translates the steps that come last: what the program is and may do.
func (a *assembler) addRights(s plan.Step) error {
	switch s := s.(type) {
	case plan.Chdir:
		a.chdir(s)
	case plan.Rlimit:
		limit := unix.Rlimit{Cur: s.Soft, Max: s.Hard}
		a.call(unix.SYS_PRLIMIT64, num(0), num(s.Resource), structure(&a.Program, &limit), num(0))
	case plan.Bound:
		for _, c := range s.Drop {
			a.call(unix.SYS_PRCTL, num(unix.PR_CAPBSET_DROP), num(c))
		}
	case plan.User:
		a.user(s)
	case plan.Capabilities:
		a.capabilities(s)
	case plan.NoNewPrivileges:
		a.call(unix.SYS_PRCTL, num(unix.PR_SET_NO_NEW_PRIVS), num(1))
	case plan.Umask:
		a.call(unix.SYS_UMASK, num(s.Mask))
	case plan.Stdio:
		for fd, f := range []*os.File{a.files.Null, a.files.Log, a.files.Log} {
			a.call(unix.SYS_DUP3, a.file(f), num(fd), num(0))
		}
	case plan.CloseRest:
		a.call(unix.SYS_CLOSE_RANGE, num(3), num(uint32(1<<32-1)), num(unix.CLOSE_RANGE_CLOEXEC))
	case plan.Exec:
		a.execute(s)
	default:
		return fmt.Errorf("a plan with the unknown step %T: %w", s, syscall.EINVAL)
	}
	return nil
}

func (a *assembler) chdir(s plan.Chdir) {
	dirs := a.parents(s.Path)
	a.call(unix.SYS_CHDIR, a.path(s.Path)).on(syscall.ENOENT, 0).okSkip = uint16(len(dirs) + 1)
	for _, d := range dirs {
		a.call(unix.SYS_MKDIRAT, cwd, d, num(0o755)).whatever()
	}
	a.call(unix.SYS_CHDIR, a.path(s.Path))
}

func (a *assembler) user(s plan.User) {
	groups := num(0)
	if len(s.Groups) > 0 {
		groups = a.bytes(rawBytes(s.Groups))
	}
	a.call(unix.SYS_SETGROUPS, num(len(s.Groups)), groups)
	a.call(unix.SYS_SETRESGID, num(s.GID), num(s.GID), num(s.GID))
	a.call(unix.SYS_SETRESUID, num(s.UID), num(s.UID), num(s.UID))
}

func (a *assembler) capabilities(s plan.Capabilities) {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		data[i].Permitted, data[i].Effective = uint32(s.Permitted>>(32*i)), uint32(s.Effective>>(32*i))
	}
	a.call(unix.SYS_PRCTL, num(unix.PR_CAP_AMBIENT), num(unix.PR_CAP_AMBIENT_CLEAR_ALL), num(0), num(0), num(0))
	a.call(unix.SYS_CAPSET, structure(&a.Program, &head), structure(&a.Program, &data))
}
