package keeper

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/launch"
)

// launchLimit is how long a child may take to reach its program. It is far beyond any healthy start and bounds what a
// program on a dead file server costs.
const launchLimit = 20 * time.Second

// start launches a container. The first descriptor is the program, the others are what it uses.
func (k *Keeper) start(s *server, m message, fds []int) {
	defer closeAll(fds)
	reply := message{Kind: kindStarted, Seq: m.Seq, ID: m.ID}
	rest, from := terminalOf(m, fds)
	img, err := program(rest)
	var c *child
	if err == nil {
		defer img.Close() // after the answer: the other processors take part in it
		c, err = k.launch(s, m, img, from)
	}
	if err != nil {
		reply.fail(err)
		s.out.put(reply)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	c.executed = true
	if c.exited == nil {
		k.begun(c)
	}
	reply.PID, reply.Started, reply.Finished = int32(c.pid), c.started.UnixNano(), c.terminal.name()
	if pidfd, err := dup(c.pidfd); err == nil {
		s.out.put(reply, pidfd)
	} else {
		s.out.put(reply)
	}
	if c.exited != nil {
		k.record(c, message{Status: uint32(*c.exited)})
	}
}

// program maps the program that came first among the descriptors; the others are those that it uses.
func program(fds []int) (*launch.Image, error) {
	if len(fds) == 0 {
		return nil, fmt.Errorf("a message without a program: %w", syscall.EINVAL)
	}
	return launch.Load(fds[0], fds[1:])
}

// takeTime does what nobody waits for, on a thread of the lowest priority: on a machine with few processors it would otherwise
// be done instead of the launches that it is for.
func (k *Keeper) takeTime() {
	runtime.LockOSThread()
	unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
	for do := range k.later {
		do()
	}
}

// namespaces makes a pair of namespaces for the server.
func (k *Keeper) namespaces(s *server, m message, text string) {
	reply := message{Kind: kindNamespacesMade, Seq: m.Seq}
	uidMap, gidMap, _ := strings.Cut(text, "\x00")
	made, err := launch.Namespaces(min(int(m.Status), len(launch.Kinds)), uidMap, gidMap)
	if err != nil {
		reply.fail(err)
		reply.Step = -1 // of a program that the server does not know
		s.out.put(reply)
		return
	}
	s.out.put(reply, made...)
}

// runInside runs a program that executes nothing.
func (k *Keeper) runInside(s *server, m message, fds []int) {
	defer closeAll(fds)
	reply := message{Kind: kindPerformed, Seq: m.Seq}
	img, err := program(fds)
	if err == nil {
		err = img.Perform(launchLimit)
		img.Close()
	}
	if err != nil {
		reply.fail(err)
	}
	s.out.put(reply)
}

// launch forks the child and waits until it has executed its program. A child that failed has been waited for when launch
// returns, so that its groups are empty.
func (k *Keeper) launch(s *server, m message, img *launch.Image, from *lent) (*child, error) {
	c := &child{id: m.ID, image: img, wanted: s, reaped: make(chan struct{})}
	k.mu.Lock()
	k.launching[c] = true
	k.mu.Unlock()
	launched, err := img.Launch(launchLimit + time.Duration(m.Started))
	k.woken()
	if launched.PidFD >= 0 {
		c.pid, c.pidfd, c.started = launched.PID, os.NewFile(uintptr(launched.PidFD), "pidfd"), time.Now()
	}
	if err == nil && from != nil {
		c.terminal = k.openTerminal(m, from)
	}
	if err != nil && c.pidfd != nil {
		<-c.reaped
		c.pidfd.Close()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.launching, c)
	if err != nil {
		k.endIfIdle()
		return nil, err
	}
	k.children[c.pid] = c
	return c, nil
}
