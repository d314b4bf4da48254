package launch

import (
	"fmt"
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
	Tasks []*os.File // cgroup v1 tasks files
	Into  *os.File   // cgroup v2 directory, or nil
	Net   *os.File   // a new network namespace with lo up
	Roots []*os.File // detached mounts, the root first
	Null  *os.File   // /dev/null, for stdin
	Log   *os.File   // for stdout and stderr
}

// cloneFlags are the namespaces that clone3(2) makes.
var cloneFlags = map[specs.LinuxNamespaceType]uint64{
	specs.PIDNamespace: unix.CLONE_NEWPID, specs.MountNamespace: unix.CLONE_NEWNS, specs.UTSNamespace: unix.CLONE_NEWUTS,
	specs.IPCNamespace: unix.CLONE_NEWIPC,
}

// assembler translates steps into calls.
type assembler struct {
	Program
	files   Files
	devices []arg // the nodes taken from the host, in the order of the plan
	null    arg   // the one of them that is /dev/null
	trees   []tree
}

// tree is a mount of the container's that later steps work in. They find it by its descriptor: by its path they would find
// whatever another container, which may change the same root, has exchanged it with for that moment. A mask on a path that is
// missing is no error, so a mask could be made to miss.
type tree struct {
	at    string
	mount arg
}

// treesAt are the places of such mounts.
var treesAt = []string{"/proc", "/sys", "/dev"}

// within returns the descriptor to begin with on the way to a path inside the root, and what is left of the path.
func (a *assembler) within(p string) (dir, rest arg) {
	for _, t := range a.trees {
		if p == t.at {
			return t.mount, a.path(".")
		}
		if name, ok := strings.CutPrefix(p, t.at+"/"); ok {
			return t.mount, a.path(name)
		}
	}
	return cwd, a.path(p)
}

// Assemble translates a plan. It fails with EINVAL when a value cannot be passed to the kernel at all.
func Assemble(steps []plan.Step, files Files) (*Program, error) {
	a := &assembler{files: files, Program: Program{calls: make([]call, 0, 512), data: make([]byte, 0, 8<<10)}}
	a.into = -1
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
		if _, lasting := s.(plan.TakeDevices); !lasting {
			a.nextReg = results // what a step got is used within the step
		}
	}
	return &a.Program, a.err
}

// add translates one step. Every kind of step is named here.
func (a *assembler) add(s plan.Step) error {
	switch s := s.(type) {
	case plan.Clone:
		for _, ns := range s.Namespaces {
			a.cloneFlags |= cloneFlags[ns]
		}
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
		a.call(unix.SYS_SETNS, a.file(a.files.Net), num(unix.CLONE_NEWNET))
	case plan.Private:
		a.call(unix.SYS_MOUNT, num(0), a.path("/"), num(0), num(unix.MS_REC|unix.MS_PRIVATE), num(0))
	case plan.TakeDevices:
		for _, p := range s.Paths {
			a.devices = append(a.devices, a.clone(cwd, p))
			if p == os.DevNull {
				a.null = a.devices[len(a.devices)-1]
			}
		}
	case plan.Root:
		a.root(s)
	case plan.Attach:
		a.attach(a.file(a.files.Roots[s.Index]), a.target(s.Target, unix.O_DIRECTORY, 0))
	case plan.Mount:
		a.mount(s)
	case plan.DropOldRoot:
		a.call(unix.SYS_UMOUNT2, a.path("."), num(unix.MNT_DETACH))
	case plan.PlaceDevices:
		a.placeDevices(s)
	case plan.Link:
		a.call(unix.SYS_SYMLINKAT, a.path(s.Target), a.directory(path.Dir(s.Path)), a.path(path.Base(s.Path))).on(syscall.EEXIST, 0).on(syscall.EROFS, 0)
	case plan.ReadOnly:
		a.readOnly(s)
	case plan.Mask:
		return a.mask(s)
	default:
		return a.addRights(s)
	}
	return nil
}

// addRights translates the steps that come last: what the program is and may do.
func (a *assembler) addRights(s plan.Step) error {
	switch s := s.(type) {
	case plan.Chdir:
		a.call(unix.SYS_FCHDIR, a.target(s.Path, unix.O_DIRECTORY, 0))
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

// cwd is AT_FDCWD: the working directory of the child is the new root from plan.Root on.
var cwd = arg{number, uint64(unix.AT_FDCWD & (1<<64 - 1))}

// empty is the empty path, for calls that act on a descriptor.
func (a *assembler) empty() arg { return a.path("") }

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

// clone makes a detached copy of the mount at a path below dir, or of dir itself when the path is empty.
func (a *assembler) clone(dir arg, p string) arg {
	return a.result(a.call(unix.SYS_OPEN_TREE, dir, a.path(p), num(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)))
}

// attach moves a detached mount onto a descriptor.
func (a *assembler) attach(mount, target arg) *call {
	return a.call(unix.SYS_MOVE_MOUNT, mount, a.empty(), target, a.empty(), num(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// root makes the prepared mount the root directory. After pivot_root(".", ".") the old root lies on top of the new one, out
// of the reach of every path: lookups begin at the new root itself, and absolute symbolic links stay inside it.
func (a *assembler) root(s plan.Root) {
	root := a.file(a.files.Roots[0])
	a.call(unix.SYS_MOVE_MOUNT, root, a.empty(), cwd, a.path(s.Mountpoint), num(unix.MOVE_MOUNT_F_EMPTY_PATH))
	a.call(unix.SYS_FCHDIR, root)
	a.call(unix.SYS_PIVOT_ROOT, a.path("."), a.path("."))
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

// directory opens a directory inside the root.
func (a *assembler) directory(p string) arg {
	how, size := a.openHow(unix.O_DIRECTORY, 0)
	at, rest := a.within(p)
	return a.result(a.call(unix.SYS_OPENAT2, at, rest, how, size))
}

// target opens a path inside the root to mount on, or to work in. A missing directory is made: the first attempt skips the
// making when it succeeds.
func (a *assembler) target(p string, flags, resolve uint64) arg {
	how, size := a.openHow(flags, resolve)
	levels := parents(p)
	at, rest := a.within(p)
	first := a.call(unix.SYS_OPENAT2, at, rest, how, size).on(syscall.ENOENT, 0)
	first.okSkip = uint16(2*len(levels) + 1)
	out := a.result(first)
	a.makeDirs(levels)
	return a.call(unix.SYS_OPENAT2, at, rest, how, size).into(out)
}

// makeDirs makes the directories of a path that are missing, two calls each: topmost first, and each by its name in the one
// above it. What cannot be made is noticed when it is opened.
func (a *assembler) makeDirs(levels []string) {
	how, size := a.openHow(unix.O_DIRECTORY, 0)
	above := a.free()
	for _, p := range levels {
		at, rest := a.within(path.Dir(p))
		a.call(unix.SYS_OPENAT2, at, rest, how, size).on(0, 1).into(above)
		a.call(unix.SYS_MKDIRAT, above, a.path(path.Base(p)), num(0o755)).whatever()
	}
}

// parents are the paths of p and of every directory above it, topmost first.
func parents(p string) []string {
	var out []string
	at := "/"
	for name := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		at = path.Join(at, name)
		out = append(out, at)
	}
	return out
}

// mount makes a file system and attaches it.
func (a *assembler) mount(s plan.Mount) {
	kept := arg{register, uint64(a.nextReg - 1)} // if it is to be one of the trees
	var resolve uint64
	if s.Strict {
		resolve = unix.RESOLVE_NO_SYMLINKS
	}
	target := a.target(s.Target, unix.O_DIRECTORY, resolve)
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
	mount := a.call(unix.SYS_FSMOUNT, fs, num(unix.FSMOUNT_CLOEXEC), num(s.Attr))
	if !slices.Contains(treesAt, s.Target) {
		a.attach(a.result(mount), target)
		return
	}
	mount.into(kept)
	a.attach(kept, target)
	a.trees = slices.Insert(a.trees, 0, tree{s.Target, kept}) // it hides an earlier one
}

// placeDevices makes an empty file for each node and mounts the host's node on it.
func (a *assembler) placeDevices(s plan.PlaceDevices) {
	how, size := a.openHow(unix.O_NOFOLLOW, 0)
	var dir arg
	for i, p := range s.Paths {
		if i == 0 || path.Dir(p) != path.Dir(s.Paths[i-1]) {
			dir = a.directory(path.Dir(p))
		}
		name := a.path(path.Base(p))
		a.call(unix.SYS_MKNODAT, dir, name, num(unix.S_IFREG|0o666), num(0)).on(syscall.EEXIST, 0).on(syscall.EROFS, 0)
		node := a.result(a.call(unix.SYS_OPENAT2, dir, name, how, size))
		a.attach(a.devices[i], node)
	}
}

func (a *assembler) readOnly(s plan.ReadOnly) {
	how, size := a.openHow(0, 0)
	at, rest := a.within(s.Path)
	a.call(unix.SYS_OPENAT2, at, rest, how, size).on(syscall.ENOENT, 4).on(syscall.ENOTDIR, 4)
	target := a.result(&a.calls[len(a.calls)-1])
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	tree := a.result(a.call(unix.SYS_OPEN_TREE, target, a.empty(),
		num(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)))
	a.call(unix.SYS_MOUNT_SETATTR, tree, a.empty(), num(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE), structure(&a.Program, &attr), num(unsafe.Sizeof(attr)))
	a.attach(tree, target)
	a.call(unix.SYS_CLOSE, tree)
}

// mask hides a path, a directory or something else, if it is there. The null that hides is the one that was taken from the host,
// by its descriptor: a path to it would find whatever another container has put there (CVE-2025-31133).
func (a *assembler) mask(s plan.Mask) error {
	if a.null.kind != register {
		return fmt.Errorf("a plan that masks %s but has not taken %s: %w", s.Path, os.DevNull, syscall.EINVAL)
	}
	how, size := a.openHow(unix.O_DIRECTORY, 0)
	at, rest := a.within(s.Path)
	dir := a.result(a.call(unix.SYS_OPENAT2, at, rest, how, size).on(syscall.ENOENT, 7).on(syscall.ENOTDIR, 4))
	fs := a.result(a.call(unix.SYS_FSOPEN, a.path("tmpfs"), num(unix.FSOPEN_CLOEXEC)))
	a.call(unix.SYS_FSCONFIG, fs, num(unix.FSCONFIG_CMD_CREATE), num(0), num(0), num(0))
	mount := a.result(a.call(unix.SYS_FSMOUNT, fs, num(unix.FSMOUNT_CLOEXEC),
		num(unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)))
	a.attach(mount, dir).okSkip = 3
	how, size = a.openHow(0, 0)
	file := a.result(a.call(unix.SYS_OPENAT2, at, rest, how, size).on(syscall.ENOENT, 2).on(syscall.ENOTDIR, 2))
	a.attach(a.clone(a.null, ""), file)
	return nil
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

// execute tries each candidate as execvp(3) does: the next one when there is no such file, and a file that may not be
// executed is reported only if no later one could be.
func (a *assembler) execute(s plan.Exec) {
	argv, envp := a.vector(s.Args), a.vector(s.Env)
	a.exec = uint32(len(a.calls))
	for _, c := range s.Candidates {
		a.call(unix.SYS_EXECVE, a.path(c), argv, envp).on(syscall.ENOENT, 0).on(syscall.ENOTDIR, 0).orElse(syscall.EACCES)
	}
	a.call(failNow, num(int(syscall.ENOENT)))
}
