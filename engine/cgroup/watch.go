package cgroup

import (
	"sync"

	"github.com/ctrfs/ctrfs/engine"
	"golang.org/x/sys/unix"
)

// Watcher waits for what the kernel tells about groups by a descriptor: one epoll(7) and one goroutine for all of them. It
// keeps a thread, once there is something to wait for. The runtime could wait for the epoll descriptor itself, but looks at
// what is ready in it for that, and a pressure trigger is ready once (kernel/sched/psi.c, psi_trigger_poll).
type Watcher struct {
	mu      sync.Mutex
	epoll   int              // under mu; -1 before the first watch and after the end
	wake    int              // under mu; an eventfd(2) that ends the waiting
	last    int32            // under mu; the number of the newest watch
	watches map[int32]*Watch // under mu; nil once closed
	ended   sync.WaitGroup
}

// Watch is one descriptor that is waited for.
type Watch struct {
	w      *Watcher
	id     int32 // not the descriptor: that number is used again, and an event may be on its way
	fd     int
	notify func(gone bool)
}

// NewWatcher makes one that waits for nothing yet. The caller closes it.
func NewWatcher() *Watcher { return &Watcher{epoll: -1, wake: -1, watches: map[int32]*Watch{}} }

// begin makes the epoll set, with the descriptor that ends it. w.mu is held.
func (w *Watcher) begin() (err error) {
	if w.epoll >= 0 {
		return nil
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return err
	}
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		err = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, w.wake, &unix.EpollEvent{Events: unix.EPOLLIN})
	}
	if err != nil {
		w.release()
		return err
	}
	epoll := w.epoll
	w.ended.Go(func() { w.wait(epoll) })
	return nil
}

// release gives back what begin has made. w.mu is held.
func (w *Watcher) release() {
	for _, fd := range []*int{&w.epoll, &w.wake} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
		}
		*fd = -1
	}
}

// wait passes on what happens, until the end.
func (w *Watcher) wait(epoll int) {
	var events [64]unix.EpollEvent
	for {
		n, err := retry(func() (int, error) { return unix.EpollWait(epoll, events[:], -1) })
		if err != nil {
			return // nothing but a descriptor that is none, which is a fault of ours
		}
		for _, e := range events[:n] {
			w.mu.Lock()
			x, closed := w.watches[e.Fd], w.watches == nil
			w.mu.Unlock()
			if closed {
				return
			}
			if x != nil {
				x.notify(e.Events&unix.EPOLLERR != 0)
			}
		}
	}
}

// add waits for a descriptor, which is the watch's from then on. notify is called for each time that it becomes ready, with
// whether EPOLLERR was told, and must not block.
func (w *Watcher) add(fd int, events uint32, notify func(gone bool)) (*Watch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := &Watch{w: w, fd: fd, notify: notify}
	if w.watches == nil {
		_ = unix.Close(fd)
		return x, nil // there is nobody to notify any more
	}
	err := w.begin()
	w.last++
	x.id = w.last
	if err == nil {
		// Edges: nobody has to read a descriptor to make it quiet. What is ready already is an edge, too.
		err = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events | unix.EPOLLET, Fd: x.id})
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, &engine.Error{Op: "watch", File: "cgroup", Errno: engine.Errno(err)}
	}
	w.watches[x.id] = x
	return x, nil
}

// Close ends a watch; a notification may still be on its way. A nil watch is none.
func (x *Watch) Close() {
	if x == nil {
		return
	}
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	if x.w.watches[x.id] == x {
		delete(x.w.watches, x.id)
		_ = unix.Close(x.fd) // which takes it out of the epoll set: nobody else has it
	}
}

// Close ends all watches, and returns when nobody is being notified any more.
func (w *Watcher) Close() {
	w.mu.Lock()
	for _, x := range w.watches {
		_ = unix.Close(x.fd)
	}
	w.watches = nil
	if w.wake >= 0 {
		_, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	w.mu.Unlock()
	w.ended.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.release()
}
