package launch

import (
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/plan"
)

// Files are the descriptors that a plan needs. They stay the caller's; a program refers to them until it has been sent.
type Files struct {
	Tasks   []*os.File                            // cgroup v1 tasks files
	Into    *os.File                              // cgroup v2 directory, or nil
	Net     *os.File                              // a new network namespace with lo up
	Join    map[specs.LinuxNamespaceType]*os.File // namespaces to enter: those of plan.Join
	Roots   []*os.File                            // detached mounts, the root first
	Devices []*os.File                            // detached mounts of device nodes, in the order of the plan: Nodes.Take
	Mounts  *os.File                              // the mount namespace to enter: that of plan.EnterMounts
	Binds   []*os.File                            // prepared trees: those of plan.Bind
	Proc    *os.File                              // the host's procfs: that of plan.HostProc
	Null    *os.File                              // /dev/null, for stdin
	Input   *os.File                              // for stdin in its place, if the plan says so
	Log     *os.File                              // for stdout and stderr
	// Terminal is a socket by which the master of the terminal goes to the keeper; for plan.Terminal.
	Terminal *os.File
	Hooks    Hooks      // what hooks need
	Init     *os.File   // reaper.File, for plan.Reaper
	Given    []*os.File // those of plan.Give
	Program  *os.File   // that of plan.ExecFile
	Sockets  []*os.File // those of plan.Listen
	// Connection stands for what the keeper accepts; for plan.Stdio.
	Connection *os.File
}

// cloneFlags are the flags of namespaces in clone3(2) and setns(2).
var cloneFlags = map[specs.LinuxNamespaceType]uint64{
	specs.PIDNamespace: unix.CLONE_NEWPID, specs.MountNamespace: unix.CLONE_NEWNS, specs.UTSNamespace: unix.CLONE_NEWUTS,
	specs.IPCNamespace: unix.CLONE_NEWIPC, specs.NetworkNamespace: unix.CLONE_NEWNET, specs.UserNamespace: unix.CLONE_NEWUSER,
	specs.CgroupNamespace: unix.CLONE_NEWCGROUP, specs.TimeNamespace: unix.CLONE_NEWTIME,
}

// assembler translates steps into calls.
type assembler struct {
	Program
	files    Files
	null     *arg           // the mount of the null device
	proc     arg            // a procfs of our own, unattached, or the host's
	hostProc bool           // it is the host's
	labels   map[string]arg // attribute files of security modules
	borrowed map[string]arg // the mounts taken from the host, by type
	slave    arg            // the program's end of its terminal
	trees    []tree
	pid      arg   // the text of the program's pid, for a reaper
	parted   int   // the call that makes the program's process then
	kept     uint8 // registers that later steps use
	awaits   bool  // the last step is plan.Await
}

// Assemble translates a plan. It fails with EINVAL when a value cannot be passed to the kernel at all.
func Assemble(steps []plan.Step, files Files) (*Program, error) {
	a := &assembler{files: files, borrowed: map[string]arg{}, Program: Program{calls: make([]call, 0, 512), data: make([]byte, 0, 8<<10)}}
	a.into = -1
	a.awaits = len(steps) > 0 && steps[len(steps)-1] == plan.Step(plan.Await{})
	for i, s := range steps {
		a.step = uint16(i)
		results := a.nextReg
		if m, ok := s.(plan.Mount); ok && slices.Contains(treesAt, m.Target) {
			a.free() // for the mount, in mount
			results++
		}
		if err := a.add(s); err != nil {
			return nil, err
		}
		if !lasting(s) {
			a.nextReg = max(results, a.kept) // what a step got is used within the step
		}
	}
	if err := a.withInit(steps); err != nil {
		return nil, err
	}
	return &a.Program, a.err
}

// add translates one step. Every kind of step is named here.
func (a *assembler) add(s plan.Step) error {
	switch s := s.(type) {
	case plan.EnterMounts:
		a.call(unix.SYS_SETNS, a.file(a.files.Mounts), num(unix.CLONE_NEWNS))
	case plan.Detach:
		a.detach(s)
	case plan.Leave:
		a.leave()
	case plan.Fork:
		a.staged = shared
		if s.Copy {
			a.staged = copied
		}
	case plan.Join:
		a.call(unix.SYS_SETNS, a.file(a.files.Join[s.Type]), num(cloneFlags[s.Type]))
	case plan.Clone:
		a.clones(s)
	case plan.BecomeRoot:
		a.user(plan.User{})
	case plan.Guard:
		a.call(unix.SYS_PRCTL, num(unix.PR_SET_DUMPABLE), num(0))
		a.call(unix.SYS_KEYCTL, num(unix.KEYCTL_JOIN_SESSION_KEYRING), num(0)).on(syscall.ENOSYS, 0)
	case plan.JoinCgroup:
		a.joinCgroup()
	case plan.CgroupNamespace:
		a.call(unix.SYS_UNSHARE, num(unix.CLONE_NEWCGROUP))
	case plan.Session:
		a.call(unix.SYS_SETSID)
	case plan.Hostname:
		a.call(unix.SYS_SETHOSTNAME, a.path(s.Name), num(len(s.Name)))
	case plan.Network:
		a.network(s)
	case plan.TimeNamespace:
		a.timeNamespace(s)
	case plan.Domainname:
		a.call(unix.SYS_SETDOMAINNAME, a.path(s.Name), num(len(s.Name)))
	case plan.RootPropagation:
		a.rootPropagation(s)
	case plan.Personality:
		a.call(unix.SYS_PERSONALITY, num(s.Persona))
	case plan.Borrow:
		a.borrow(s)
	case plan.PlaceBorrowed:
		a.attach(a.borrowed[s.Type], a.directory(s.Target, unix.RESOLVE_NO_SYMLINKS))
		a.remember(s.Target, a.borrowed[s.Type])
	case plan.AsMounted:
		a.call(unix.SYS_CHDIR, a.path("/"))
	case plan.Private:
		a.call(unix.SYS_MOUNT, num(0), a.path("/"), num(0), num(unix.MS_REC|unix.MS_PRIVATE), num(0))
	case plan.PlaceRoot:
		a.placeRoot(s)
	case plan.Root:
		a.root(s)
	case plan.Attach:
		a.attach(a.file(a.files.Roots[s.Index]), a.directory(s.Target, 0))
	case plan.Mount:
		a.mount(s)
	case plan.Bind:
		a.bind(s)
	case plan.DropOldRoot:
		a.call(unix.SYS_UMOUNT2, a.path("."), num(unix.MNT_DETACH))
	default:
		return a.addFiles(s)
	}
	return nil
}

// cwd is AT_FDCWD: the working directory of the child is the new root from plan.Root on.
var cwd = arg{number, uint64(unix.AT_FDCWD & (1<<64 - 1))}

// empty is the empty path, for calls that act on a descriptor.
func (a *assembler) empty() arg { return a.path("") }

// clones makes the child: the only one, or the second.
func (a *assembler) clones(s plan.Clone) {
	var flags uint64
	for _, ns := range s.Namespaces {
		flags |= cloneFlags[ns]
	}
	if a.staged == alone {
		a.cloneFlags = flags
		return
	}
	a.again = flags
	a.call(cloneAgain)
}

// borrow takes a read-only clone of the host's own mount, with what is mounted below it.
func (a *assembler) borrow(s plan.Borrow) {
	tree := a.result(a.call(unix.SYS_OPEN_TREE, cwd, a.path(s.Path), num(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)))
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NODEV}
	a.call(unix.SYS_MOUNT_SETATTR, tree, a.empty(), num(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE), structure(&a.Program, &attr), num(unsafe.Sizeof(attr)))
	a.borrowed[s.Type] = tree
}

// joinCgroup writes the literal 0, which means the writing task itself. That is the one way into a v1 group that takes no
// global lock: writing a pid costs an RCU grace period, several milliseconds on an idle machine.
func (a *assembler) joinCgroup() {
	if a.files.Into != nil {
		a.into = int32(a.file(a.files.Into).value)
	}
	for _, f := range a.files.Tasks {
		a.call(unix.SYS_WRITE, a.file(f), a.path("0"), num(1))
	}
}

// detach unmounts what the configuration has mounted. The program has had the time to put links on the way there, by which this
// would take away what masks a file or makes /proc/sys read-only; so it goes to the place through none. umount2(2) takes a path
// only, whose last part is in the directory that it goes to.
func (a *assembler) detach(s plan.Detach) {
	how, size := a.openHow(unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	root := a.result(a.open("/", how, size))
	dir := a.result(a.open(path.Dir(s.Target), how, size))
	a.call(unix.SYS_FCHDIR, dir)
	a.call(unix.SYS_UMOUNT2, a.path(path.Base(s.Target)), num(unix.UMOUNT_NOFOLLOW))
	a.call(unix.SYS_FCHDIR, root)
}

// attach moves a detached mount onto a descriptor.
func (a *assembler) attach(mount, target arg) *call {
	return a.call(unix.SYS_MOVE_MOUNT, mount, a.empty(), target, a.empty(), num(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// root makes the prepared mount the root directory. After pivot_root(".", ".") the old root lies on top of the new one, out
// of the reach of every path: lookups begin at the new root itself, and absolute symbolic links stay inside it.
func (a *assembler) root(s plan.Root) {
	if !s.Placed {
		a.placeRoot(plan.PlaceRoot{Mountpoint: s.Mountpoint})
	}
	a.call(unix.SYS_PIVOT_ROOT, a.path("."), a.path("."))
}

// placeRoot attaches the prepared mount, and makes it the working directory.
func (a *assembler) placeRoot(s plan.PlaceRoot) {
	root := a.file(a.files.Roots[0])
	a.call(unix.SYS_MOVE_MOUNT, root, a.empty(), cwd, a.path(s.Mountpoint), num(unix.MOVE_MOUNT_F_EMPTY_PATH))
	a.call(unix.SYS_FCHDIR, root)
}

// openHow is struct open_how of openat2(2). A root belongs to somebody who may be hostile, and whom its other containers let
// change it meanwhile. So no other call takes a path inside it: each takes a descriptor that openat2 gave, and at most one name.
// RESOLVE_IN_ROOT keeps symbolic links inside, and refuses the magic ones of procfs, by which a path would lead to what the
// child has open of the host's, or of the keeper's: a working directory /proc/self/fd/7 is how others were broken out of
// (CVE-2024-21626).
func (a *assembler) openHow(flags, resolve uint64) (how, size arg) {
	h := unix.OpenHow{Flags: flags | unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve | unix.RESOLVE_IN_ROOT}
	return structure(&a.Program, &h), num(unsafe.Sizeof(h))
}

// mount makes a file system and attaches it.
func (a *assembler) mount(s plan.Mount) {
	made := a.free() // first, so that it can be kept without the others
	if slices.Contains(treesAt, s.Target) {
		a.kept = a.nextReg
		defer a.remember(s.Target, made)
	}
	var resolve uint64
	if s.Strict {
		resolve = unix.RESOLVE_NO_SYMLINKS
	}
	var target arg
	if s.Exists {
		target = a.existing(s.Target, unix.O_DIRECTORY)
	} else {
		target = a.directory(s.Target, resolve)
	}
	fs := a.result(a.call(unix.SYS_FSOPEN, a.path(s.Type), num(unix.FSOPEN_CLOEXEC)))
	if s.Source != "" {
		a.call(unix.SYS_FSCONFIG, fs, num(unix.FSCONFIG_SET_STRING), a.path("source"), a.path(s.Source), num(0))
	}
	for _, o := range s.Options {
		if key, value, ok := strings.Cut(o, "="); ok {
			a.call(unix.SYS_FSCONFIG, fs, num(unix.FSCONFIG_SET_STRING), a.path(key), a.path(value), num(0))
		} else {
			a.call(unix.SYS_FSCONFIG, fs, num(unix.FSCONFIG_SET_FLAG), a.path(key), num(0), num(0))
		}
	}
	a.call(unix.SYS_FSCONFIG, fs, num(unix.FSCONFIG_CMD_CREATE), num(0), num(0), num(0))
	mount := a.call(unix.SYS_FSMOUNT, fs, num(unix.FSMOUNT_CLOEXEC), num(s.Attr)).into(made)
	a.attach(mount, target)
	if s.Propagation != 0 {
		a.propagate(mount, s.Propagation)
	}
}

// execute tries each candidate as execvp(3) does: the next one when there is no such file, and a file that may not be
// executed is reported only if no later one could be.
func (a *assembler) execute(s plan.Exec) {
	argv, envp := a.vector(s.Args), a.vector(s.Env)
	if a.parted > 0 { // it does not outlive PID 1, also where that is none; the filter may forbid it to say so
		a.call(unix.SYS_PRCTL, num(unix.PR_SET_PDEATHSIG), num(unix.SIGKILL)).on(0, 0)
	}
	a.exec = uint32(len(a.calls))
	for _, c := range s.Candidates {
		a.call(unix.SYS_EXECVE, a.path(c), argv, envp).on(syscall.ENOENT, 0).on(syscall.ENOTDIR, 0).orElse(syscall.EACCES)
	}
	a.call(failNow, num(int(syscall.ENOENT)))
}
