package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
)

// The standard input of a container is a FIFO in the run directory, RUN/stdin/ID, which is there while stdin.open is 1. The
// program has its reading end, and the keeper a writing one, so that the program does not see the end of its input between two
// writers, whatever becomes of the server. Nothing is copied: what is not read yet is in the kernel, and its writer waits.

// inputDir is where the FIFOs are.
func (e *Engine) inputDir() string { return filepath.Join(e.runDir, "stdin") }

func (c *container) inputPath() string { return filepath.Join(c.e.inputDir(), c.id) }

// Input implements [engine.Container].
func (c *container) Input() (file string, open bool) {
	return c.inputPath(), c.View().Config.Extension.StdinOpen
}

// makeInput makes the FIFO. One that is there stays: somebody may wait for a reader.
func (c *container) makeInput() error {
	if err := os.Mkdir(c.e.inputDir(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	crash.Point("make the directory of FIFOs")
	err := unix.Mkfifo(c.inputPath(), 0o600)
	crash.Point("make a FIFO")
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err = unix.Lstat(c.inputPath(), &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFIFO {
			err = unix.EEXIST
		}
	}
	if err != nil {
		return &os.PathError{Op: "mkfifo", Path: c.inputPath(), Err: err}
	}
	return nil
}

// dropInput takes it away, if it is there. Whoever has it open goes on.
func (c *container) dropInput() {
	if err := os.Remove(c.inputPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.e.log.Warn("a FIFO stays behind", "container", c.id, "err", err)
	}
	crash.Point("remove a FIFO")
}

// openInput gives the program something to read, if it is to have that.
func (s *starting) openInput() error {
	c := s.c
	if !s.view.Config.Extension.StdinOpen {
		return nil
	}
	if err := c.makeInput(); err != nil {
		return err
	}
	// Without O_NONBLOCK this end would wait for a writer, and the program is not to notice that it did not.
	r, err := unix.Open(c.inputPath(), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: c.inputPath(), Err: err}
	}
	s.input = os.NewFile(uintptr(r), c.inputPath())
	if err := unix.SetNonblock(r, false); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	return c.holdInput()
}

func (s *starting) closeInput() {
	if s.input == nil {
		return
	}
	s.input.Close()
	if s.begun {
		return
	}
	s.c.endInput()
}

// holdInput has the keeper keep the input open. Errors: ENXIO when nobody reads it.
func (c *container) holdInput() error {
	w, err := unix.Open(c.inputPath(), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: c.inputPath(), Err: err}
	}
	f := os.NewFile(uintptr(w), c.inputPath())
	defer f.Close()
	return c.e.keeper.HoldInput(c.id, f)
}

// reopenInput opens the standard input of a program that runs again, if that is asked for, and refuses for one that has none, or
// has closed it.
func (c *container) reopenInput(v *engine.View, next *engine.Config) (opened bool, err error) {
	if !v.State.Active() || !next.Extension.StdinOpen || v.Config.Extension.StdinOpen {
		return false, nil
	}
	busy := func(why string) (bool, error) {
		return false, &engine.Error{Op: "write", File: "stdin.open", Value: "1", Errno: syscall.EBUSY, Why: why, Cure: "stop it first: echo 1 > stop"}
	}
	c.mu.Lock()
	reads := c.reads
	c.mu.Unlock()
	if !reads {
		return busy("a program gets its standard input when it starts")
	}
	err = c.holdInput()
	if errors.Is(err, syscall.ENXIO) || errors.Is(err, fs.ErrNotExist) {
		return busy("the program has closed its standard input")
	}
	return err == nil, err
}

// endInput is the end of what the program reads.
func (c *container) endInput() {
	if err := c.e.keeper.EndInput(c.id); err != nil {
		c.e.log.Error("the keeper still holds a standard input", "container", c.id, "err", err)
	}
}

// changeInput follows the configuration: the end of input for what runs, and the FIFO for what does not.
func (c *container) changeInput(v *engine.View, next *engine.Config) {
	was, is := v.Config.Extension.StdinOpen, next.Extension.StdinOpen
	switch {
	case was == is:
	case is:
		if err := c.makeInput(); err != nil { // the start tries it again, and says so
			c.e.log.Error("a standard input cannot be written yet", "container", c.id, "err", err)
		}
	case v.State.Active(): // the FIFO stays, for it may be opened again
		c.endInput()
	default:
		c.dropInput()
	}
}

// recoverInputs makes the FIFOs that there should be, and removes the others. An end of input that is on record is one now, if the
// server before this one did not live to see to it.
func (e *Engine) recoverInputs() error {
	entries, err := os.ReadDir(e.inputDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		c := e.byID[entry.Name()]
		switch {
		case c == nil:
			os.Remove(filepath.Join(e.inputDir(), entry.Name()))
			crash.Point("remove a FIFO")
		case !c.state.Active():
			c.endInput() // of a start that did not come to its end
			if !c.rec.Config.Extension.StdinOpen {
				c.dropInput()
			}
		case !c.rec.Config.Extension.StdinOpen:
			c.endInput() // the keeper may not have been told
		}
	}
	for _, c := range e.byID {
		if c.rec.Config.Extension.StdinOpen {
			// Nobody opens it for a run that has begun without.
			c.reads = c.state.Active()
			if err := c.makeInput(); err != nil {
				e.log.Error("a standard input cannot be written", "container", c.id, "err", err)
			}
		}
	}
	return nil
}

// removeInputs leaves nothing of what does not run.
func (e *Engine) removeInputs() {
	entries, _ := os.ReadDir(e.inputDir())
	for _, entry := range entries {
		if c := e.byID[entry.Name()]; c == nil || !c.View().State.Active() {
			os.Remove(filepath.Join(e.inputDir(), entry.Name()))
			crash.Point("remove a FIFO")
		}
	}
	os.Remove(e.inputDir()) // unless something runs
}
