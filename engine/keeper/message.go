package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/crash"
	"github.com/ctrfs/ctrfs/engine/launch"
)

// kind says what a message means.
type kind uint32

const (
	kindRunning kind = iota + 1
	kindExit
	kindListed
	kindReady
	kindFailed
	kindStart
	kindStarted
	kindAck
	kindNamespaces
	kindNamespacesMade
	kindPin
	kindUnpin
	kindPinned
	kindPerform
	kindPerformed
	kindRun
	kindRan
	kindResize
	kindResized
	kindInput
	kindLinger
	kindWaits
	kindLingers
	kindListen
	kindListening
	kindListens
	kindAccept
)

// told names what a server tells the keeper, for package crash.
var told = [...]string{kindReady: "tell the keeper: ready", kindFailed: "tell the keeper: failed", kindStart: "tell the keeper: start",
	kindAck: "tell the keeper: recorded", kindNamespaces: "stock namespaces", kindPin: "tell the keeper: pin", kindUnpin: "tell the keeper: unpin",
	kindPerform: "tell the keeper: perform", kindRun: "tell the keeper: run", kindResize: "tell the keeper: resize", kindInput: "tell the keeper: input",
	kindWaits: "tell the keeper: waits", kindLingers: "tell the keeper: all waits", kindListen: "tell the keeper: listen",
	kindAccept: "tell the keeper: accept"}

// idSize bounds the length of a container's id in a message, or of an exec's, which to the keeper is the same.
const idSize = 32

// message is one packet. All numbers are in the machine's byte order: both ends are on it.
type message struct {
	Kind     kind
	Seq      uint32 // matches kindStarted to kindStart
	ID       [idSize]byte
	PID      int32  // of a container; 1 with kindNamespaces: there is time; with kindAccept which socket
	Status   uint32 // wait status; how many namespaces are wanted; [onTerminal]; [onLeash]; a size, columns above rows; [isAdopted]; with kindAccept which file
	Errno    uint32 // of what failed; of an exit without a status, see [fates]
	Step     int32
	Started  int64 // nanoseconds since 1970; how many a program may take, or the hooks on the way to it
	Finished int64 // of one that runs: [terminal.name]
}

// messageSize is the length of the fixed part; a text may follow.
var messageSize = binary.Size(message{})

// maxText bounds the text of kindFailed.
const maxText = 4096

// maxPassed is the kernel's own bound on descriptors in one packet, SCM_MAX_FD.
const maxPassed = 253

func idBytes(id string) (b [idSize]byte) {
	copy(b[:], id)
	return b
}

func (m *message) id() string {
	n := 0
	for n < idSize && m.ID[n] != 0 {
		n++
	}
	return string(m.ID[:n])
}

// fail puts an error into an answer.
func (m *message) fail(err error) {
	m.Step, m.Errno = -1, uint32(syscall.EIO)
	if f, ok := errors.AsType[*launch.Failure](err); ok {
		m.Step, m.Errno, m.Status = int32(f.Step), uint32(f.Errno), uint32(f.Status)
	} else if no, ok := errors.AsType[syscall.Errno](err); ok {
		m.Errno = uint32(no)
	}
}

// link is one end of the socket pair. Many may send, one receives.
type link struct {
	conn *net.UnixConn
	in   []byte // what receive reads into
	oob  []byte
}

// newLink takes over the socket f.
func newLink(f *os.File) (*link, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("descriptor %s is not a unix socket: %w", f.Name(), syscall.ENOTSOCK)
	}
	return &link{conn: u, in: make([]byte, messageSize+maxText), oob: make([]byte, unix.CmsgSpace(maxPassed*4))}, nil
}

func (l *link) close() error { return l.conn.Close() }

// encode makes the bytes of one packet and its control message.
func encode(m *message, text string, files []*os.File) (b, oob []byte, err error) {
	b, err = binary.Append(make([]byte, 0, messageSize+len(text)), binary.NativeEndian, m)
	if err != nil {
		return nil, nil, err
	}
	b = append(b, text[:min(len(text), maxText)]...)
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	return b, oob, nil
}

// send writes one packet. The descriptors stay the caller's.
func (l *link) send(m *message, text string, files []*os.File) error {
	b, oob, err := encode(m, text, files)
	if err != nil {
		return err
	}
	_, _, err = l.conn.WriteMsgUnix(b, oob, nil)
	crash.Point(told[m.Kind])
	return err
}

// trySend writes one packet if that takes no waiting: otherwise the error is EAGAIN.
func (l *link) trySend(m *message, files []*os.File) error {
	b, oob, err := encode(m, "", files)
	if err != nil {
		return err
	}
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), b, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	})
	return errors.Join(err, sent)
}

// receive reads one packet. The descriptors, close-on-exec, become the caller's. io.EOF means that the other end is gone.
func (l *link) receive(m *message) (text string, fds []int, err error) {
	b, oob := l.in, l.oob
	n, oobn, flags, _, err := l.conn.ReadMsgUnix(b, oob)
	if err != nil {
		if errors.Is(err, syscall.ECONNRESET) {
			err = io.EOF
		}
		return "", nil, err
	}
	fds, err = passed(oob[:oobn])
	switch {
	case err != nil:
	case n == 0 && oobn == 0:
		err = io.EOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || n < messageSize:
		err = fmt.Errorf("a packet of %d bytes, flags %#x: %w", n, flags, syscall.EBADMSG)
	default:
		_, err = binary.Decode(b[:n], binary.NativeEndian, m)
	}
	if err != nil {
		closeAll(fds)
		return "", nil, err
	}
	return string(b[messageSize:n]), fds, nil
}

// passed extracts the descriptors of a control message.
func passed(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			closeAll(fds)
			return nil, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// outbox sends messages in order without ever making its user wait for the other end: at once when there is room, which is
// nearly always, and otherwise by a goroutine that does the waiting.
type outbox struct {
	link *link
	wake chan struct{}

	mu     sync.Mutex
	queue  []outgoing // guarded by mu
	busy   bool       // the goroutine is sending; guarded by mu
	closed bool       // guarded by mu
}

type outgoing struct {
	m     message
	files []*os.File // closed once sent
}

func newOutbox(l *link) *outbox {
	o := &outbox{link: l, wake: make(chan struct{}, 1)}
	go o.run()
	return o
}

// put sends or queues a message; the files become the outbox's.
func (o *outbox) put(m message, files ...*os.File) {
	o.mu.Lock()
	defer o.mu.Unlock()
	atOnce := len(o.queue) == 0 && !o.busy && !o.closed
	if o.closed || atOnce && !errors.Is(o.link.trySend(&m, files), unix.EAGAIN) {
		closeFiles(files) // sent, or the server is gone, as the reading side will notice
		return
	}
	o.queue = append(o.queue, outgoing{m, files})
	o.poke()
}

func (o *outbox) run() {
	for range o.wake {
		o.mu.Lock()
		queue := o.queue
		o.queue, o.busy = nil, true
		o.mu.Unlock()
		for _, q := range queue {
			// An error means that the server is gone. The reading side notices too, and the next server is told all.
			_ = o.link.send(&q.m, "", q.files)
			closeFiles(q.files)
		}
		o.mu.Lock()
		o.busy = false
		if len(o.queue) > 0 && !o.closed {
			o.poke()
		}
		o.mu.Unlock()
	}
}

// poke wakes the goroutine. o.mu is held: nobody closes the channel meanwhile.
func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// close drops what is queued and ends the sender.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.closed = true
	for _, q := range o.queue {
		closeFiles(q.files)
	}
	o.queue = nil
	close(o.wake)
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func dup(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
