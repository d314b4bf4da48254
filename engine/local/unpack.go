package local

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
	"github.com/ctrfs/ctrfs/engine/seccomp"
	"github.com/ctrfs/ctrfs/overlay"
	"github.com/ctrfs/ctrfs/overlay/archive"
)

// unpackerCaps are what it takes to make files of any owner, in a user namespace whose ids those of the layer are. A whiteout is a
// device node for which nobody needs a right.
var unpackerCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETFCAP"}

// unpackerCalls are the system calls of the Go runtime, and those that make files. What else there is would serve an archive that has
// taken the program over.
var unpackerCalls = []string{
	"arch_prctl", "brk", "clock_gettime", "clock_nanosleep", "close", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "eventfd2",
	"execveat", "exit", "exit_group", "fcntl", "fstat", "futex", "getpid", "getrandom", "getrlimit", "gettid", "lseek", "madvise", "mincore", "mmap",
	"mprotect", "munmap", "nanosleep", "newfstatat", "openat", "pipe2", "prlimit64", "pwrite64", "read", "restart_syscall", "rseq",
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_yield", "set_robust_list", "set_tid_address",
	"setrlimit", "sigaltstack", "tgkill", "write",

	"fchmod", "fchmodat", "fchown", "fchownat", "fsetxattr", "ftruncate", "getdents64", "linkat", "mkdirat", "mknodat", "readlinkat", "symlinkat",
	"umask", "unlinkat", "utimensat",
}

// unpackerFilter lets those through. Threads are all that it can make.
var unpackerFilter = sync.OnceValues(func() (plan.Filter, error) {
	f, err := seccomp.Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: unpackerCalls, Action: specs.ActAllow},
		{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{
			{Index: 0, Value: unix.CLONE_THREAD, ValueTwo: unix.CLONE_THREAD, Op: specs.OpMaskedEqual}}},
		{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: new(uint(syscall.ENOSYS))},
	}})
	if err != nil {
		return plan.Filter{}, err
	}
	size := int(unsafe.Sizeof(unix.SockFilter{}))
	code := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f.Program))), len(f.Program)*size)
	return plan.Filter{Code: code, Flags: uint32(f.Flags), Text: "what unpacking takes"}, nil
})

// unpacker runs what unpacks layers.
func (e *Engine) unpacker() archive.Spawn {
	return func(ctx context.Context, root *os.File, args []string, files []*os.File) error {
		err := e.confine(ctx, root, args, files)
		if err == nil {
			return nil
		}
		return &engine.Error{Op: "unpack", Errno: engine.Errno(err), Err: err}
	}
}

// confine runs this program once more, in quarters of its own and with a directory for its root.
func (e *Engine) confine(ctx context.Context, root *os.File, args []string, files []*os.File) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	q, err := e.stock.take()
	if err != nil {
		return err
	}
	defer e.ids.give(q.first)
	defer q.close()
	place, err := overlay.Workplace(root, &overlay.IDs{Userns: q.user, UID: q.first, GID: q.first})
	if err != nil {
		return err
	}
	defer place.Close()
	self, err := os.Open("/proc/self/exe") // the sealed copy in memory
	if err != nil {
		return err
	}
	defer self.Close()
	words, err := output(1)
	if err != nil {
		return err
	}
	defer words.Close()
	filter, err := unpackerFilter()
	if err != nil {
		return err
	}
	steps, err := plan.Confined(plan.Confinement{Args: append([]string{"ctrfs"}, args...), Files: len(files), Caps: unpackerCaps, Filter: filter,
		Text: "the layer", Mountpoint: e.facts.mountpoint, LastCap: e.facts.lastCap, NoFile: e.facts.noFile})
	if err != nil {
		return err
	}
	program, err := launch.Assemble(steps, launch.Files{Roots: []*os.File{place}, Null: e.facts.null, Log: words, Given: files, Program: self,
		Join: map[specs.LinuxNamespaceType]*os.File{specs.NetworkNamespace: q.net, specs.UserNamespace: q.user}})
	if err != nil {
		return err
	}
	return e.leashed(ctx, program, steps, words)
}

// leashed runs a program until it ends or ctx does, and says how it ended if that was not well.
func (e *Engine) leashed(ctx context.Context, program *launch.Program, steps []plan.Step, words *os.File) error {
	leash, hand, err := os.Pipe()
	if err != nil {
		return err
	}
	defer leash.Close()
	defer hand.Close()
	stop := context.AfterFunc(ctx, func() { hand.Close() })
	defer stop()
	status, err := e.keeper.RunOnLeash(program, leash)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if failure, ok := err.(*launch.Failure); ok && failure.Step < len(steps) {
		return fmt.Errorf("%s: %w", steps[failure.Step], err)
	}
	if err != nil || status == 0 {
		return err
	}
	why := fmt.Sprintf("exit status %d", status.ExitStatus())
	if status.Signaled() {
		why = "killed by " + engine.SignalName(status.Signal())
	}
	if line := firstLine(words, 0); line != "" {
		why += ": " + engine.Quote(line)
	}
	return fmt.Errorf("the confined program failed: %s: %w", why, syscall.ECANCELED)
}
