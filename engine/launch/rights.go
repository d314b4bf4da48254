package launch

import (
	"fmt"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/plan"
)

// addRights translates the steps that say what the program is and may do.
func (a *assembler) addRights(s plan.Step) error {
	switch s := s.(type) {
	case plan.OOMScore:
		a.writeFile(a.path("/proc/self/oom_score_adj"), strconv.Itoa(s.Adjust))
	case plan.HostProc:
		a.proc, a.hostProc = a.file(a.files.Proc), true
	case plan.OpenProc:
		a.openProc()
	case plan.Sysctl:
		a.sysctl(s)
	case plan.OpenLabel:
		a.openLabel(s)
	case plan.Label:
		return a.label(s)
	case plan.Chdir:
		at := a.existing
		if !s.Exists {
			at = a.directory
		}
		a.call(unix.SYS_FCHDIR, at(s.Path, 0))
	case plan.Rlimit:
		limit := unix.Rlimit{Cur: s.Soft, Max: s.Hard}
		a.call(unix.SYS_PRLIMIT64, num(0), num(s.Resource), structure(&a.Program, &limit), num(0))
	case plan.Umask:
		a.call(unix.SYS_UMASK, num(s.Mask))
	case plan.Stdio:
		return a.stdio(s)
	case plan.CloseRest:
		flags := 0
		if a.awaits { // by the execution, which needs one of them
			flags = unix.CLOSE_RANGE_CLOEXEC
		}
		a.call(unix.SYS_CLOSE_RANGE, num(3), num(uint32(1<<32-1)), num(flags))
	case plan.Listen:
		return a.listen(s)
	case plan.Await:
		return a.await()
	case plan.Bound:
		for _, c := range s.Drop {
			a.call(unix.SYS_PRCTL, num(unix.PR_CAPBSET_DROP), num(c))
		}
	case plan.User:
		a.user(s)
	case plan.Capabilities:
		a.capabilities(s)
	case plan.NoNewPrivileges:
		a.call(unix.SYS_PRCTL, num(unix.PR_SET_NO_NEW_PRIVS), num(1), num(0), num(0), num(0))
	case plan.Seccomp:
		a.seccomp(s)
	case plan.Reaper:
		a.split()
	case plan.Exec:
		a.execute(s)
	case plan.Give:
		return a.give(s)
	case plan.ExecFile:
		a.executeFile(s)
	case plan.Hooks:
		a.meet()
	case plan.Hook:
		return a.hook(s)
	default:
		return fmt.Errorf("a plan with the unknown step %T: %w", s, syscall.EINVAL)
	}
	return nil
}

// lasting reports whether later steps use what this one gets.
func lasting(s plan.Step) bool {
	switch s.(type) {
	case plan.OpenProc, plan.OpenLabel, plan.Borrow, plan.Terminal:
		return true
	}
	return false
}

// writeFile writes a whole file of the host's.
func (a *assembler) writeFile(name arg, text string) {
	f := a.result(a.call(unix.SYS_OPENAT, cwd, name, num(unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW)))
	a.call(unix.SYS_WRITE, f, a.path(text), num(len(text)))
	a.call(unix.SYS_CLOSE, f)
}

// openProc makes a procfs and attaches it nowhere.
func (a *assembler) openProc() {
	fs := a.call(unix.SYS_FSOPEN, a.path("proc"), num(unix.FSOPEN_CLOEXEC))
	a.proc = a.result(fs)
	a.call(unix.SYS_FSCONFIG, a.proc, num(unix.FSCONFIG_CMD_CREATE), num(0), num(0), num(0))
	mount := a.call(unix.SYS_FSMOUNT, a.proc, num(unix.FSMOUNT_CLOEXEC), num(unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC))
	a.proc = a.result(mount)
}

// sysctl writes one kernel parameter. The lookup cannot leave the procfs that [assembler.openProc] made, whatever the name.
func (a *assembler) sysctl(s plan.Sysctl) {
	how := unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS}
	f := a.result(a.call(unix.SYS_OPENAT2, a.proc, a.path(s.Path), structure(&a.Program, &how), num(unsafe.Sizeof(how))))
	a.call(unix.SYS_WRITE, f, a.path(s.Value), num(len(s.Value)))
	a.call(unix.SYS_CLOSE, f)
}

// ofProc is where a file of procfs is found: at its path while the host's tree is in sight, or by the descriptor of plan.HostProc.
func (a *assembler) ofProc(name string) (dir, at arg) {
	if a.hostProc {
		return a.proc, a.path(name)
	}
	return cwd, a.path("/proc/" + name)
}

// openLabel opens the file that says how the next execution is labelled. The kernels before 5.8 have only the one that all
// modules share, and SELinux has no other to this day.
func (a *assembler) openLabel(s plan.OpenLabel) {
	how := num(unix.O_WRONLY | unix.O_CLOEXEC)
	dir, own := a.ofProc("self/attr/" + s.Module + "/exec")
	first := a.call(unix.SYS_OPENAT, dir, own, how).on(syscall.ENOENT, 0)
	first.okSkip = 1
	f := a.result(first)
	dir, common := a.ofProc("self/attr/exec")
	a.call(unix.SYS_OPENAT, dir, common, how).store = uint8(f.value) + 1
	if a.labels == nil {
		a.labels = map[string]arg{}
	}
	a.labels[s.Module] = f
}

// labelWords is what a module wants to read before a label.
var labelWords = map[string]string{"apparmor": "exec "}

func (a *assembler) label(s plan.Label) error {
	f, ok := a.labels[s.Module]
	if !ok {
		return fmt.Errorf("a plan with a %s label and no file for it: %w", s.Module, syscall.EINVAL)
	}
	text := labelWords[s.Module] + s.Text
	a.call(unix.SYS_WRITE, f, a.path(text), num(len(text)))
	return nil
}

// user changes all ids. The kernel sets the dumpable flag anew then, to what the host has chosen in fs.suid_dumpable: it is
// cleared again, since the child still shares its memory with the keeper.
func (a *assembler) user(s plan.User) {
	if s.KeepCaps {
		a.call(unix.SYS_PRCTL, num(unix.PR_SET_KEEPCAPS), num(1), num(0), num(0), num(0))
	}
	groups := num(0)
	if len(s.Groups) > 0 {
		groups = a.bytes(rawBytes(s.Groups))
	}
	a.call(unix.SYS_SETGROUPS, num(len(s.Groups)), groups)
	a.call(unix.SYS_SETRESGID, num(s.GID), num(s.GID), num(s.GID))
	a.call(unix.SYS_SETRESUID, num(s.UID), num(s.UID), num(s.UID))
	a.call(unix.SYS_PRCTL, num(unix.PR_SET_DUMPABLE), num(0))
}

// capabilities sets the sets. The ambient one comes last: it takes only what is permitted and inheritable already.
func (a *assembler) capabilities(s plan.Capabilities) {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		data[i].Permitted, data[i].Effective = uint32(s.Permitted>>(32*i)), uint32(s.Effective>>(32*i))
		data[i].Inheritable = uint32(s.Inheritable >> (32 * i))
	}
	a.call(unix.SYS_PRCTL, num(unix.PR_CAP_AMBIENT), num(unix.PR_CAP_AMBIENT_CLEAR_ALL), num(0), num(0), num(0))
	a.call(unix.SYS_CAPSET, structure(&a.Program, &head), a.bytes(rawBytes(data[:])))
	for i := range 64 {
		if s.Ambient&(1<<i) != 0 {
			a.call(unix.SYS_PRCTL, num(unix.PR_CAP_AMBIENT), num(unix.PR_CAP_AMBIENT_RAISE), num(i), num(0), num(0))
		}
	}
}

// seccomp installs a filter on the child alone: its only thread.
func (a *assembler) seccomp(s plan.Seccomp) {
	code := a.bytes(s.Code)
	prog := a.bytes(rawBytes([]uint64{uint64(len(s.Code) / 8), code.value})) // struct sock_fprog: a count, padded, and a pointer
	a.relocs = append(a.relocs, uint32(prog.value)+8)
	a.call(unix.SYS_SECCOMP, num(unix.SECCOMP_SET_MODE_FILTER), num(s.Flags), prog)
}
