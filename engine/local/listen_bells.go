package local

import (
	"errors"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// bells ring when something waits on a socket, once each. All are on one epoll(7) descriptor, which is itself in the runtime's poller, so
// that no thread waits. The sockets are not: that would take O_NONBLOCK, which a socket has in common with whoever else holds it, as
// programs do.
type bells struct {
	log   *slog.Logger
	epoll *os.File // immutable
	ended chan struct{}

	mu   sync.Mutex
	last int32           // guarded by mu; the number of the last bell
	all  map[int32]*bell // guarded by mu
}

// bell is on one socket.
type bell struct {
	number int32
	socket *os.File
	ring   func()
}

func newBells(log *slog.Logger) (*bells, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // for the runtime's poller
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	b := &bells{log: log, epoll: os.NewFile(uintptr(fd), "bells"), ended: make(chan struct{}), all: map[int32]*bell{}}
	go b.wait()
	return b, nil
}

// hang has ring called, from a goroutine that must not be held up, when something waits on a socket, or does already.
func (b *bells) hang(socket *os.File, ring func()) (*bell, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	one := &bell{number: b.last, socket: socket, ring: ring}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: one.number}
	err := b.control(func(epoll int) error { return unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, int(socket.Fd()), &event) })
	if err != nil {
		return nil, err
	}
	b.all[one.number] = one
	return one, nil
}

// take takes a bell down, whether or not it has rung, before its socket is closed: others hold that open, and it would go on.
func (b *bells) take(one *bell) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.all, one.number)
	err := b.control(func(epoll int) error { return unix.EpollCtl(epoll, unix.EPOLL_CTL_DEL, int(one.socket.Fd()), nil) })
	if err != nil && !errors.Is(err, os.ErrClosed) {
		b.log.Error("a socket is still watched", "socket", one.socket.Name(), "err", err)
	}
}

// control does something with the descriptor, which stays in the poller.
func (b *bells) control(do func(epoll int) error) error {
	raw, err := b.epoll.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	err = raw.Control(func(fd uintptr) { done = do(int(fd)) })
	return errors.Join(err, done)
}

// wait rings bells until the end.
func (b *bells) wait() {
	defer close(b.ended)
	raw, err := b.epoll.SyscallConn()
	if err != nil {
		b.log.Error("nobody waits for connections", "err", err)
		return
	}
	var events [64]unix.EpollEvent
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			var bad error
			n, bad = unix.EpollWait(int(fd), events[:], 0)
			return n > 0 || bad != nil && bad != unix.EINTR
		})
		if err != nil {
			return // closed
		}
		for _, e := range events[:max(n, 0)] {
			b.mu.Lock()
			one := b.all[e.Fd]
			b.mu.Unlock()
			if one != nil {
				one.ring()
			}
		}
	}
}

// close ends it.
func (b *bells) close() {
	b.epoll.Close()
	<-b.ended
}

// waits reports whether something waits on a socket that nobody has taken.
func waits(socket *os.File) bool {
	p := []unix.PollFd{{Fd: int32(socket.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0 && p[0].Revents&unix.POLLIN != 0
}
