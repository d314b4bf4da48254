package keeper

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A console is a terminal of the host's that stands for the one of a container: what the program writes is shown there too, and
// what somebody types there is typed. Programs for terminals take it for a serial line: screen(1) opens it, socat(1), or two cats.
//
// Nobody has to be there. As long as nobody has it open, only the last screenful is kept, for whoever comes. Then the program waits
// for its reader, as on any terminal; but not for one who takes nothing for a second, until another one comes.
type console struct {
	master *os.File // non-blocking
	slave  *os.File // kept open: the settings of a terminal go with the last who has it open
	number int      // of /dev/pts

	reader  *reader // who has it open
	left    int     // what lay there at the end
	refused int     // of those who have ever come, how many there were when nobody read; only the copying goroutine touches this
}

// consoleWait is how long a reader may take.
const consoleWait = time.Second

// consoleEmpty is how many hundredths of that a terminal has to have been empty at the end: the kernel passes on what was written when a worker
// of its gets to it, which on a busy machine is not at once, and does not tell what is on its way.
const consoleEmpty = 10

// consoleQueue is what a terminal keeps for a reader, N_TTY_BUF_SIZE of drivers/tty/n_tty.c.
const consoleQueue = 4095

// openConsole makes a terminal on the host. Errors: ENOENT without devpts, ENOSPC when it is full.
func openConsole() (*console, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	c := &console{master: os.NewFile(uintptr(fd), "console")}
	slave, err := openPeer(fd)
	if err == nil {
		c.slave = os.NewFile(uintptr(slave), "console")
		c.number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
	}
	if err == nil {
		err = unix.Fchmod(slave, 0o600) // the group tty could type, otherwise
	}
	if err == nil {
		err = makeRaw(slave)
	}
	if err == nil {
		c.reader, err = consoleReaders.watch(c.device())
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("make a console: %w", err)
	}
	return c, nil
}

func (c *console) device() string { return fmt.Sprintf("/dev/pts/%d", c.number) }

func openPeer(master int) (int, error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, err
	}
	const how = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, how)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// makeRaw is cfmakeraw(3): a line that adds and takes away nothing. The container's own terminal does that. An echo would come
// back as if somebody had typed it.
func makeRaw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

// end closes it once those who have it open have read what is there: to close is to hang up, and the rest is lost.
func (c *console) end() {
	if c == nil {
		return
	}
	empty := 0
	for begin := time.Now(); empty < consoleEmpty && time.Since(begin) < consoleWait; time.Sleep(consoleWait / 100) {
		open, came := consoleReaders.of(c.reader)
		if open == 0 || came == c.refused {
			break
		}
		left := c.waiting()
		if empty++; left > 0 { // what the kernel has not passed on to the terminal yet does not count
			empty = 0
		}
		if left != c.left {
			c.left, begin = left, time.Now()
		}
	}
	c.close()
}

func (c *console) close() {
	consoleReaders.forget(c.reader)
	c.master.Close()
	if c.slave != nil {
		c.slave.Close()
	}
}

// show writes what the program has written.
func (c *console) show(text []byte) {
	if c == nil {
		return
	}
	open, came := consoleReaders.of(c.reader)
	if open == 0 || came == c.refused {
		if c.waiting()+len(text) > consoleQueue {
			c.flush()
		}
		c.offer(text)
		return
	}
	c.master.SetWriteDeadline(time.Now().Add(consoleWait))
	if _, err := c.master.Write(text); err != nil {
		c.refused = came
	}
}

// offer writes what there is room for.
func (c *console) offer(text []byte) {
	if raw, err := c.master.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.Write(int(fd), text) })
	}
}

// waiting is how much nobody has read.
func (c *console) waiting() int {
	n, err := unix.IoctlGetInt(int(c.slave.Fd()), unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}

// flush throws that away.
func (c *console) flush() {
	unix.IoctlSetInt(int(c.slave.Fd()), unix.TCFLSH, unix.TCIFLUSH)
}

// name is the number of the terminal's console in /dev/pts and one more, or 0 without, as messages have it.
func (t *terminal) name() int64 {
	if t == nil || t.console == nil {
		return 0
	}
	return int64(t.console.number) + 1
}

// passTyped passes on what is typed, until either end is closed. What is on its way can be found at any moment: an upgrade takes it
// along.
func (t *terminal) passTyped() {
	if t.console == nil {
		return
	}
	in, err := t.console.master.SyscallConn()
	if err != nil {
		return
	}
	out, err := t.master.SyscallConn()
	if err != nil {
		return
	}
	var chunk [256]byte
	for {
		if err := out.Write(t.put); err != nil || t.hungUp {
			return
		}
		if err := in.Read(func(fd uintptr) bool { return t.take(fd, chunk[:]) }); err != nil || t.hungUp {
			return
		}
	}
}

// put writes what was typed, and says whether that is all.
func (t *terminal) put(fd uintptr) bool {
	t.typing.Lock()
	defer t.typing.Unlock()
	for len(t.typed) > 0 {
		n, err := unix.Write(int(fd), t.typed)
		switch {
		case err == unix.EAGAIN:
			return false
		case err == nil:
			t.typed = t.typed[n:]
		case err != unix.EINTR:
			t.hungUp = true
			return true
		}
	}
	return true
}

// take reads what was typed, and says whether there was something.
func (t *terminal) take(fd uintptr, chunk []byte) bool {
	t.typing.Lock()
	defer t.typing.Unlock()
	for {
		n, err := unix.Read(int(fd), chunk)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return false
		case err != nil || n <= 0:
			t.hungUp = true
		default:
			t.typed = chunk[:n]
		}
		return true
	}
}
