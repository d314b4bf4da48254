package local

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/keeper"
	"github.com/ctrfs/ctrfs/engine/launch"
)

// openTerminal makes the way by which the terminal's master comes to the keeper, if there is to be a terminal.
func (s *starting) openTerminal() (err error) {
	s.terminal, s.keepers, err = terminalPair(s.view.Config)
	return err
}

// terminalPair makes the child's end of that way and the keeper's.
func terminalPair(config *engine.Config) (child, keepers *os.File, err error) {
	if _, wanted := config.Terminal(); !wanted {
		return nil, nil, nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(pair[0]), "terminal"), os.NewFile(uintptr(pair[1]), "terminal"), nil
}

func (s *starting) closeTerminal() { closeFiles([]*os.File{s.terminal, s.keepers}) }

// send has the keeper launch the program.
func (s *starting) send(program *launch.Program, hooks time.Duration) error {
	k, id := s.c.e.keeper, s.c.id
	if s.terminal == nil {
		return k.Start(id, program, hooks, s.executed)
	}
	return k.StartOnTerminal(id, program, hooks, keeper.Terminal{Keepers: s.keepers, Log: s.log}, s.executed)
}

// Console implements [engine.Program].
func (c *container) Console() (device string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return consoleDevice(c.console)
}

// Console implements [engine.Program].
func (x *exec) Console() (device string, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return consoleDevice(x.console)
}

// consoleDevice is the terminal that the keeper knows by a number in /dev/pts, and one more.
func consoleDevice(number int) (device string, ok bool) {
	return fmt.Sprintf("/dev/pts/%d", number-1), number > 0
}

// resize changes the size of the terminal of what runs.
func (c *container) resize(old, next *engine.Config) {
	if c.View().State.Alive() {
		c.e.resize(c.id, old, next)
	}
}

// resize changes the size of a terminal. The configuration stands whatever comes of it: a program that has just exited needs no
// size.
func (e *Engine) resize(id string, old, next *engine.Config) {
	size, wanted := next.Terminal()
	if before, _ := old.Terminal(); !wanted || size == before {
		return
	}
	if err := e.keeper.Resize(id, size.Columns, size.Rows); err != nil && engine.Errno(err) != syscall.ESRCH {
		e.log.Error("a terminal does not have the size that is configured", "program", id, "err", err)
	}
}
