package launch

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/plan"
)

// firstGiven is the first descriptor that a program gets besides the standard ones.
const firstGiven = 3

// give makes the descriptors. The numbers that they are to have may be those that others of them come with: first all get one that is
// beyond. The program's comes after them, and is gone when it runs.
func (a *assembler) give(s plan.Give) error {
	if len(a.files.Given) != s.Files || a.files.Program == nil {
		return fmt.Errorf("a plan with %d descriptors and a program, of which %d are there: %w", s.Files, len(a.files.Given), syscall.EINVAL)
	}
	beyond := firstGiven + s.Files + 1
	var from []arg
	for _, f := range append(a.files.Given[:s.Files:s.Files], a.files.Program) {
		from = append(from, a.result(a.call(unix.SYS_FCNTL, a.file(f), num(unix.F_DUPFD_CLOEXEC), num(beyond))))
	}
	for i, f := range from {
		flags := 0
		if i == s.Files {
			flags = unix.O_CLOEXEC
		}
		a.call(unix.SYS_DUP3, f, num(firstGiven+i), num(flags))
	}
	a.call(unix.SYS_CLOSE_RANGE, num(beyond), num(uint32(1<<32-1)), num(0))
	return nil
}

// executeFile executes the program.
func (a *assembler) executeFile(s plan.ExecFile) {
	argv, envp := a.vector(s.Args), a.vector(nil)
	a.exec = uint32(len(a.calls))
	a.call(unix.SYS_EXECVEAT, num(firstGiven+len(a.files.Given)), a.empty(), argv, envp, num(unix.AT_EMPTY_PATH))
}
