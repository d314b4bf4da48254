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
	"github.com/ctrfs/ctrfs/engine/keeper"
)

// The standard input of a container, or of an exec, is a FIFO in the run directory, RUN/stdin/ID, which is there while stdin.open is
// 1. The program has its reading end, and the keeper a writing one, so that the program does not see the end of its input between
// two writers, whatever becomes of the server. Nothing is copied: what is not read yet is in the kernel, and its writer waits.

// inputDir is where the FIFOs are.
func (e *Engine) inputDir() string { return filepath.Join(e.runDir, "stdin") }

// input is the standard input of one program.
type input struct {
	e    *Engine
	key  string // the program's, to the keeper
	file string
	end  string // how the program is ended, for people
}

func (c *container) input() input {
	return input{c.e, c.id, filepath.Join(c.e.inputDir(), c.id), "stop it first: echo 1 > stop"}
}

func (x *exec) input() input {
	return input{x.c.e, x.key(), filepath.Join(x.c.e.inputDir(), x.c.id+"."+x.id), "end it first: echo KILL > kill; cat wait"}
}

// Input implements [engine.Program].
func (c *container) Input() (file string, open bool) {
	return c.input().file, c.View().Config.Extension.StdinOpen
}

// Input implements [engine.Program].
func (x *exec) Input() (file string, open bool) {
	return x.input().file, x.View().Config.Extension.StdinOpen
}

// make makes the FIFO. One that is there stays: somebody may wait for a reader.
func (i input) make() error {
	if err := os.Mkdir(i.e.inputDir(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	crash.Point("make the directory of FIFOs")
	err := unix.Mkfifo(i.file, 0o600)
	crash.Point("make a FIFO")
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err = unix.Lstat(i.file, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFIFO {
			err = unix.EEXIST
		}
	}
	if err != nil {
		return &os.PathError{Op: "mkfifo", Path: i.file, Err: err}
	}
	return nil
}

// drop takes it away, if it is there. Whoever has it open goes on.
func (i input) drop() {
	if err := os.Remove(i.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		i.e.log.Warn("a FIFO stays behind", "program", i.key, "err", err)
	}
	crash.Point("remove a FIFO")
}

// open gives a program something to read, if its configuration says so: the result is nil if not. It is the caller's to close, with
// close.
func (i input) open(config *engine.Config) (*os.File, error) {
	if !config.Extension.StdinOpen {
		return nil, nil
	}
	if err := i.make(); err != nil {
		return nil, err
	}
	// Without O_NONBLOCK this end would wait for a writer, and the program is not to notice that it did not.
	r, err := unix.Open(i.file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: i.file, Err: err}
	}
	file := os.NewFile(uintptr(r), i.file)
	if err = os.NewSyscallError("fcntl", unix.SetNonblock(r, false)); err == nil {
		err = i.hold()
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// close follows a start, whatever came of it.
func (i input) close(file *os.File, begun bool) {
	if file == nil {
		return
	}
	file.Close()
	if !begun {
		i.finish()
	}
}

// hold has the keeper keep the input open. Errors: ENXIO when nobody reads it.
func (i input) hold() error {
	w, err := unix.Open(i.file, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: i.file, Err: err}
	}
	f := os.NewFile(uintptr(w), i.file)
	defer f.Close()
	return i.e.keeper.HoldInput(i.key, f)
}

// reopen opens the standard input of a program that runs again, if that is asked for, and refuses for one that has none, which reads
// says, or has closed it.
func (i input) reopen(v *engine.View, next *engine.Config, reads bool) (opened bool, err error) {
	if !v.State.Alive() || !next.Extension.StdinOpen || v.Config.Extension.StdinOpen {
		return false, nil
	}
	busy := func(why string) (bool, error) {
		return false, &engine.Error{Op: "write", File: "stdin.open", Value: "1", Errno: syscall.EBUSY, Why: why, Cure: i.end}
	}
	if !reads {
		return busy("a program gets its standard input when it starts")
	}
	err = i.hold()
	if errors.Is(err, syscall.ENXIO) || errors.Is(err, fs.ErrNotExist) {
		return busy("the program has closed its standard input")
	}
	return err == nil, err
}

// finish is the end of what the program reads.
func (i input) finish() {
	err := i.e.keeper.EndInput(i.key)
	if err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) { // a keeper that has died holds nothing
		i.e.log.Error("the keeper still holds a standard input", "program", i.key, "err", err)
	}
}

// change follows the configuration: the end of input for what runs, and the FIFO for what does not.
func (i input) change(v *engine.View, next *engine.Config) {
	was, is := v.Config.Extension.StdinOpen, next.Extension.StdinOpen
	switch {
	case was == is:
	case is:
		i.remake()
	case v.State.Alive(): // the FIFO stays, for it may be opened again
		i.finish()
	default:
		i.drop()
	}
}

// remake makes it where a start will try it again, and say what is in the way.
func (i input) remake() {
	if err := i.make(); err != nil {
		i.e.log.Error("a standard input cannot be written yet", "program", i.key, "err", err)
	}
}

// recall is what a new server does about one. there says that it has a FIFO. An end of input that is on record is one now, if the
// server before did not live to see to it. That of a program whose keeper has died is held again, unless it has been closed: who has
// read then has found the end, but need not have ended.
func (i input) recall(open, active, there, adopted bool) {
	if there && !(open && active) { // the keeper may not have been told, or a start did not come to its end
		i.finish()
	}
	switch {
	case open:
		i.remake()
	case there && !active:
		i.drop()
	}
	if !open || !adopted {
		return
	}
	if err := i.hold(); err != nil && !errors.Is(err, syscall.ENXIO) && !errors.Is(err, fs.ErrNotExist) {
		i.e.log.Error("a standard input ends with each of its writers", "program", i.key, "err", err)
	}
}

// recoverInputs makes the FIFOs that there should be, and removes the others. Nobody opens one for a run that has begun without.
func (e *Engine) recoverInputs(account keeper.Account) error {
	entries, err := os.ReadDir(e.inputDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	there := map[string]bool{} // and nobody's, as long as it is not asked for
	for _, entry := range entries {
		there[filepath.Join(e.inputDir(), entry.Name())] = true
	}
	adopted := map[string]bool{}
	for _, r := range account.Running {
		adopted[r.ID] = r.Adopted
	}
	recall := func(i input, open, active bool) (reads bool) {
		i.recall(open, active, there[i.file], adopted[i.key])
		delete(there, i.file)
		return open && active
	}
	for _, c := range e.byID {
		c.reads = recall(c.input(), c.rec.Config.Extension.StdinOpen, c.state.Active())
		for _, x := range c.execs.list() {
			x.reads = recall(x.input(), x.rec.StdinOpen, x.state.Active())
		}
	}
	for file := range there {
		os.Remove(file)
		crash.Point("remove a FIFO")
	}
	return nil
}

// removeInputs leaves nothing of what does not run.
func (e *Engine) removeInputs() {
	for _, c := range e.byID {
		if !c.View().State.Alive() {
			c.input().drop()
		}
		for _, x := range c.execs.list() {
			if !x.View().State.Active() {
				x.input().drop()
			}
		}
	}
	os.Remove(e.inputDir()) // unless something runs
}

// readsInput reports whether the program that runs was given a standard input.
func (c *container) readsInput() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reads
}

func (x *exec) readsInput() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.reads
}
