package keeper

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/launch"
)

// A container with a terminal does not write to its log itself: what it writes comes out of the master, which the keeper holds
// and copies. Each terminal has a goroutine, which sleeps while there is nothing to copy, in the one poller that the runtime has
// for all; memory is taken for the moment of a copy only. What nobody copies fast enough stays in the kernel, and the program
// waits for it.
//
// What somebody types at its console (console.go) is typed there. The master is kept for as long as the container runs, also when no process has the terminal open: to close
// it is to hang up, which kills a program that has only closed its own end and may open it again.

// onTerminal says in [message.Status] of a start that two descriptors follow those of the program: the socket that the master
// comes through, and the log.
const onTerminal = 1

// Terminal is what a launch on a terminal needs besides the program. The files stay the caller's.
type Terminal struct {
	Keepers *os.File // the other end of launch.Files.Terminal
	Log     *os.File // opened with O_APPEND
}

// StartOnTerminal is [Client.Start] for a program with a plan.Terminal.
func (c *Client) StartOnTerminal(id string, program *launch.Program, hooks time.Duration, t Terminal, begun func(Running)) error {
	m := message{ID: idBytes(id), Started: int64(hooks), Status: onTerminal}
	return c.start(m, program, []*os.File{t.Keepers, t.Log}, begun)
}

// Resize changes the size of a container's terminal. Errors: ESRCH when there is none.
func (c *Client) Resize(id string, columns, rows uint16) error {
	m := message{Kind: kindResize, ID: idBytes(id), Status: uint32(columns)<<16 | uint32(rows)}
	return c.ask(m, "", nil, func(*message, []int) {})
}

// terminal is the keeper's end of one.
type terminal struct {
	master  *os.File // non-blocking
	log     *os.File
	console *console      // nil where the host has no room for it
	over    chan struct{} // closed when the log has everything
	failed  func(error)   // says that the log cannot be written; the program goes on without

	copying sync.Mutex // held while a chunk is on its way to log and console
	typing  sync.Mutex // held while what was typed is read or written
	typed   []byte     // read from the console and not written yet; guarded by typing
	hungUp  bool       // nobody types any more; only the goroutine that passes on what is typed touches this
}

// newTerminal begins to copy.
func (k *Keeper) newTerminal(id string, master, log *os.File, c *console, typed []byte) *terminal {
	t := &terminal{master: master, log: log, console: c, typed: typed, over: make(chan struct{})}
	var once sync.Once
	t.failed = func(err error) {
		once.Do(func() { k.log.Error("output is lost: the log cannot be written", "id", id, "err", err) })
	}
	go t.copy()
	go t.passTyped()
	return t
}

// lent are the descriptors that came for a terminal.
type lent struct{ socket, log int }

// terminalOf takes them away from those of a program.
func terminalOf(m message, fds []int) (program []int, terminal *lent) {
	n := len(fds) - 2
	if m.Status != onTerminal || n < 0 {
		return fds, nil
	}
	return fds[:n], &lent{fds[n], fds[n+1]}
}

// openTerminal takes the master that a child has sent before it executed its program, and begins to copy. The descriptors stay
// the caller's. It returns nil when there is none, which the program notices as the end of its terminal.
func (k *Keeper) openTerminal(m message, from *lent) *terminal {
	master, err := receiveMaster(from.socket)
	if err != nil {
		k.log.Error("a container is without its terminal", "id", m.id(), "err", err)
		return nil
	}
	copied, err := unix.FcntlInt(uintptr(from.log), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		unix.Close(master)
		k.log.Error("a container is without its terminal", "id", m.id(), "err", os.NewSyscallError("fcntl", err))
		return nil
	}
	c, err := openConsole()
	if err != nil {
		k.log.Warn("a terminal has no console", "id", m.id(), "err", err)
	}
	return k.newTerminal(m.id(), os.NewFile(uintptr(master), "terminal"), os.NewFile(uintptr(copied), "log"), c, nil)
}

// receiveMaster receives a descriptor and checks that it is the master of a terminal (5:2) in a devpts, which nothing blocks.
func receiveMaster(socket int) (int, error) {
	var text [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	_, oobn, _, _, err := unix.Recvmsg(socket, text[:], oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("recvmsg", err)
	}
	fds, err := passed(oob[:oobn])
	if err != nil {
		return -1, err
	}
	if len(fds) == 1 && isMaster(fds[0]) {
		return fds[0], nil
	}
	closeAll(fds)
	return -1, fmt.Errorf("%d descriptors instead of a terminal's: %w", len(fds), syscall.EBADMSG)
}

func isMaster(fd int) bool {
	var st unix.Stat_t
	var fs unix.Statfs_t
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_NONBLOCK != 0 &&
		unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(5, 2) &&
		unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.DEVPTS_SUPER_MAGIC
}

// chunks are for copying: the kernel hands out no more than this at once (N_TTY_BUF_SIZE).
var chunks = sync.Pool{New: func() any { return new([4096]byte) }}

// leftMax bounds what is copied after the exit: more than a terminal can hold (tty_buffer.c takes 640 KiB), so that a program
// that was left behind and goes on writing delays nobody.
const leftMax = 1 << 20

// copy runs until [terminal.end], and copies what is there then.
func (t *terminal) copy() {
	defer close(t.over)
	defer t.log.Close()
	defer t.master.Close()
	defer func() { go t.console.end() }()
	raw, err := t.master.SyscallConn()
	if err != nil {
		t.failed(err)
		return
	}
	for raw.Read(func(fd uintptr) bool { return t.move(fd) > 0 }) == nil {
	}
	for left := leftMax; left > 0; {
		n := 0
		if raw.Control(func(fd uintptr) { n = t.move(fd) }) != nil || n == 0 {
			return
		}
		left -= n
	}
}

// move copies one chunk: 0 when there is none at the moment. An error is no more than that. EIO says that no process has the
// terminal open, which may change. To find nothing is to know that nothing is on its way: before the kernel says so, it
// finishes what was written (n_tty_read).
func (t *terminal) move(fd uintptr) int {
	chunk := chunks.Get().(*[4096]byte)
	defer chunks.Put(chunk)
	t.copying.Lock()
	defer t.copying.Unlock()
	for {
		n, err := unix.Read(int(fd), chunk[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return 0
		}
		if _, err := t.log.Write(chunk[:n]); err != nil {
			t.failed(err)
		}
		t.console.show(chunk[:n])
		return n
	}
}

// endLimit is how long an exit waits for a log on a disk that does not answer.
const endLimit = 5 * time.Second

// end has the rest copied, and waits for it.
func (t *terminal) end() error {
	if err := t.master.SetReadDeadline(time.Unix(1, 0)); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	select {
	case <-t.over:
		return nil
	case <-time.After(endLimit):
		return fmt.Errorf("the log does not take the rest: %w", syscall.ETIMEDOUT)
	}
}

// report tells of an exit, at once or when the log has what was written before it. k.mu is held.
func (k *Keeper) report(c *child, m message) {
	if c.terminal == nil {
		k.tell(m)
		return
	}
	k.emptying++
	go k.tellLast(c.terminal, m)
}

// tell tells the server. Without one, the next is told all. k.mu is held.
func (k *Keeper) tell(m message) {
	if k.server != nil {
		k.server.out.put(m)
	} else {
		k.endIfIdle()
	}
}

// tellLast tells of an exit when the log has what the program wrote before it.
func (k *Keeper) tellLast(t *terminal, m message) {
	if err := t.end(); err != nil {
		k.log.Error("an exit is reported before the end of the output", "id", m.id(), "err", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.emptying--
	k.tell(m)
}

// resize changes the size of a terminal; the kernel tells the programs on it with SIGWINCH.
func (k *Keeper) resize(s *server, m message) {
	reply := message{Kind: kindResized, Seq: m.Seq}
	if err := k.terminal(m.ID).resize(uint16(m.Status>>16), uint16(m.Status)); err != nil {
		reply.fail(err)
		reply.Step = -1
	}
	s.out.put(reply)
}

// terminal finds a container's, or nil.
func (k *Keeper) terminal(id [idSize]byte) *terminal {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.living {
		if c.id == id && c.terminal != nil {
			return c.terminal
		}
	}
	return nil
}

func (t *terminal) resize(columns, rows uint16) error {
	if t == nil {
		return syscall.ESRCH
	}
	raw, err := t.master.SyscallConn()
	if err != nil {
		return syscall.ESRCH
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
	})
	if err != nil { // it has just been closed
		return syscall.ESRCH
	}
	return failed
}
