// Package netns makes network namespaces that the host's user namespace owns, for containers that do without one of their own.
//
// A namespace is owned by its descriptor: it disappears with the last one, or with the last process in it. It is used once,
// because a container may leave state behind in it: sockets in TIME_WAIT, counters, rules.
//
// Every other container's network namespace is made together with its user namespace, see launch.Namespaces.
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// New makes a namespace with lo up, which becomes the caller's. The work is done on a thread that goes there and back; one that
// cannot come back is never used again. Errors: EPERM, ENOSPC (the limit on namespaces), ENOMEM.
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
