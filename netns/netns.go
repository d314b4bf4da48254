// Package netns makes network namespaces ahead of their use.
//
// # Model
//
// A container without a network has a namespace of its own with nothing but lo in it. Making one costs half a millisecond,
// and bringing up lo waits for the kernel's routing lock, which the teardown of other namespaces holds for tens of
// milliseconds. Entering one that is there costs a microsecond. A [Pool] therefore keeps a few ready, made several at a time
// in the background by one thread that goes into each new namespace and back.
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
	"time"

	"golang.org/x/sys/unix"
)

// Pool is a stock of ready namespaces.
type Pool struct {
	ready chan *os.File
	low   chan struct{} // a Take left less than half
	quit  chan struct{}
	idle  sync.WaitGroup
}

// NewPool begins to stock size namespaces.
func NewPool(size int) *Pool {
	p := &Pool{ready: make(chan *os.File, size), low: make(chan struct{}, 1), quit: make(chan struct{})}
	p.low <- struct{}{}
	p.idle.Go(p.stock)
	return p
}

// restockPause is how long the pool waits before it is filled again, so that this happens after a start and not during it.
const restockPause = 3 * time.Millisecond

// stock fills the pool whenever it is half empty, until it is closed or the machine refuses: then every Take makes its own,
// or reports why not. It has a thread to itself, of the lowest priority, which ends with it.
func (p *Pool) stock() {
	runtime.LockOSThread()
	unix.Setpriority(unix.PRIO_PROCESS, 0, 19) // nobody waits for the stock
	for {
		select {
		case <-p.low:
		case <-p.quit:
			return
		}
		for len(p.ready) < cap(p.ready) {
			ns, back, err := makeHere()
			if err != nil {
				if !back {
					p.idle.Go(p.stock) // on a thread that is where it belongs
				}
				return
			}
			p.ready <- ns // nobody else puts any in
		}
	}
}

// Take returns a namespace with lo up, which becomes the caller's. Errors: EPERM, ENOSPC (the limit on namespaces), ENOMEM.
func (p *Pool) Take() (*os.File, error) {
	if len(p.ready) <= cap(p.ready)/2 {
		time.AfterFunc(restockPause, func() {
			select {
			case p.low <- struct{}{}:
			default:
			}
		})
	}
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
	if err := raise("lo"); err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// raise brings a link of this thread's namespace up, netdevice(7). One request does it; by rtnetlink it takes two, and a
// socket for each.
func raise(link string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring up %s: %w", link, err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq(link)
	if err != nil {
		return fmt.Errorf("bring up %s: %w", link, err)
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bring up %s: %w", link, err)
	}
	return nil
}
