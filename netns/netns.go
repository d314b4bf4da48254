// Package netns makes network namespaces ahead of their use.
//
// # Model
//
// A container without a network has a namespace of its own with nothing but lo in it. Making one costs half a millisecond,
// and bringing up lo waits for the kernel's routing lock, which the teardown of other namespaces holds for tens of
// milliseconds. Entering one that is there costs a microsecond. A [Pool] therefore keeps a few ready, made in the
// background by one thread that goes into each new namespace and back.
//
// A namespace is owned by its descriptor: it disappears with the last one, or with the last process in it. It is used
// once, because a container may leave state behind in it: sockets in TIME_WAIT, counters, rules.
//
// # Failure
//
// [Pool.Take] makes a namespace on the spot when none is ready. A thread that cannot go back to where it came from is
// never used again.
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Pool is a stock of ready namespaces.
type Pool struct {
	ready chan *os.File
	quit  chan struct{}
	idle  sync.WaitGroup
}

// NewPool begins to stock size namespaces.
func NewPool(size int) *Pool {
	p := &Pool{ready: make(chan *os.File, size), quit: make(chan struct{})}
	p.idle.Go(p.stock)
	return p
}

// stock keeps the pool full until it is closed, or until the machine refuses: then every Take makes its own, or reports why
// not.
func (p *Pool) stock() {
	for {
		ns, err := New()
		if err != nil {
			return
		}
		select {
		case p.ready <- ns:
		case <-p.quit:
			ns.Close()
			return
		}
	}
}

// Take returns a namespace with lo up, which becomes the caller's. Errors: EPERM, ENOSPC (the limit on namespaces), ENOMEM.
func (p *Pool) Take() (*os.File, error) {
	select {
	case ns := <-p.ready:
		return ns, nil
	default:
		return New()
	}
}

// Close gives back what is in stock. Nobody may Take any more.
func (p *Pool) Close() {
	close(p.quit)
	p.idle.Wait()
	close(p.ready)
	for ns := range p.ready {
		ns.Close()
	}
}

// New makes a namespace with lo up.
func New() (*os.File, error) {
	type result struct {
		ns  *os.File
		err error
	}
	made := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		ns, back, err := makeHere()
		made <- result{ns, err}
		if back {
			runtime.UnlockOSThread() // otherwise the thread ends with this goroutine
		}
	}()
	r := <-made
	return r.ns, r.err
}

// makeHere makes a namespace on this thread, and says whether the thread is back where it was.
func makeHere() (ns *os.File, back bool, err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, true, err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, true, fmt.Errorf("make a network namespace: %w", err)
	}
	ns, err = furnish()
	if e := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); e != nil {
		if ns != nil {
			ns.Close()
		}
		return nil, false, errors.Join(err, fmt.Errorf("leave a network namespace: %w", e))
	}
	return ns, true, err
}

// furnish opens this thread's namespace and brings up lo in it.
func furnish() (*os.File, error) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("bring up lo: %w", err)
	}
	return ns, nil
}
