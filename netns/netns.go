package netns

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// New makes a namespace with lo up, which becomes the caller's. Errors: EPERM, ENOSPC (the limit on namespaces), ENOMEM.
func New() (*os.File, error) {
	var ns *os.File
	err := visit(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		return nil
	}, func() (err error) {
		if ns, err = here(); err != nil {
			return err
		}
		return raiseByName("lo")
	})
	if err != nil && ns != nil {
		err = errors.Join(err, ns.Close())
		ns = nil
	}
	return ns, err
}

// raiseByName brings a link of this thread's namespace up, netdevice(7). One request does it; by rtnetlink it takes two, and a
// socket for each.
func raiseByName(link string) error {
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
