package keeper

import (
	"os"
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
		over := time.NewTimer(time.Duration(m.Started))
		status, err = k.finish(img, time.Duration(m.Started), over.C)
		over.Stop()
		img.Close()
	}
	reply.Status = uint32(status)
	if err != nil {
		reply.fail(err)
	}
	s.out.put(reply)
}

// runOnLeash runs a program to its end, or until nobody holds the other end of the pipe that came last among the descriptors: until
// the server wants it no more, or has died. Nothing waits for it meanwhile, as an upgrade would: it dies with the server.
func (k *Keeper) runOnLeash(s *server, m message, fds []int) {
	reply := message{Kind: kindRan, Seq: m.Seq}
	var status syscall.WaitStatus
	err := error(syscall.EINVAL)
	if last := len(fds) - 1; last > 0 {
		unix.SetNonblock(fds[last], true) // Close ends a Read then
		leash := os.NewFile(uintptr(fds[last]), "leash")
		fds = fds[:last]
		broken := make(chan time.Time)
		go func() {
			leash.Read(make([]byte, 1))
			close(broken)
		}()
		var img *launch.Image
		if img, err = program(fds); err == nil {
			status, err = k.finish(img, launchLimit, broken)
			img.Close()
		}
		leash.Close()
	}
	closeAll(fds) // before the answer: these are the last ones, and who reads at the other end waits for that
	reply.Status = uint32(status)
	if err != nil {
		reply.fail(err)
	}
	s.out.put(reply)
}

// finish launches a program and waits for its exit, which the reaper learns of as it does of every child's on its way. When over
// speaks, it is killed.
func (k *Keeper) finish(img *launch.Image, limit time.Duration, over <-chan time.Time) (syscall.WaitStatus, error) {
	c := &child{image: img, reaped: make(chan struct{})}
	k.mu.Lock()
	k.launching[c] = true
	k.mu.Unlock()
	launched, err := img.Launch(limit)
	k.woken()
	if launched.PidFD >= 0 {
		unix.Close(launched.PidFD)
		if err == nil {
			k.settled(c)
			err = k.awaitEnd(c, over)
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

// onLeash says in [message.Status] of a run that the last descriptor is a pipe, and whoever holds its other end the program's.
const onLeash = 1

// settled: a program that runs to its end is not on its way any more. It is a child that no server is told of, see exited. One that
// has ended already is none: its number may be another's.
func (k *Keeper) settled(c *child) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.exited != nil {
		return
	}
	delete(k.launching, c)
	c.pid = c.image.PID()
	k.children[c.pid] = c
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
