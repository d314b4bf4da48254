package keeper

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/launch"
)

// run runs a program to its end: a hook on the host. The keeper does not end before it.
func (k *Keeper) run(s *server, m message, fds []int) {
	defer closeAll(fds)
	reply := message{Kind: kindRan, Seq: m.Seq}
	status := syscall.WaitStatus(0)
	img, err := program(fds)
	if err == nil {
		status, err = k.finish(img, time.Duration(m.Started))
		img.Close()
	}
	reply.Status = uint32(status)
	if err != nil {
		reply.fail(err)
	}
	s.out.put(reply)
}

// finish launches a program and waits for its exit, which the reaper learns of as it does of every child's on its way.
func (k *Keeper) finish(img *launch.Image, limit time.Duration) (syscall.WaitStatus, error) {
	over := time.NewTimer(limit)
	defer over.Stop()
	c := &child{image: img, reaped: make(chan struct{})}
	k.mu.Lock()
	k.launching[c] = true
	k.mu.Unlock()
	launched, err := img.Launch(limit)
	k.woken()
	if launched.PidFD >= 0 {
		unix.Close(launched.PidFD)
		if err == nil {
			err = k.awaitEnd(c, over.C)
		}
		<-c.reaped
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.launching, c)
	k.endIfIdle()
	if c.exited == nil || err != nil {
		return 0, err
	}
	return *c.exited, nil
}

// awaitEnd waits until a child has exited, or kills it, and what it has made in its process group.
func (k *Keeper) awaitEnd(c *child, over <-chan time.Time) error {
	select {
	case <-c.reaped:
		return nil
	case <-over:
	}
	k.mu.Lock() // the reaper waits for it: the pid is the child's until then
	defer k.mu.Unlock()
	if c.exited != nil {
		return nil
	}
	pid := c.image.PID()
	if err := unix.Kill(-pid, unix.SIGKILL); err != nil {
		unix.Kill(pid, unix.SIGKILL) // ESRCH: it is not the leader of a group
	}
	return syscall.ETIMEDOUT
}
