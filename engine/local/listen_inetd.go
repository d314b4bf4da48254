package local

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/keeper"
	"github.com/ctrfs/ctrfs/engine/launch"
)

// With inetd, the container's PID 1 is the reaper alone, and each connection has a program that enters the container as an exec does, but
// is nobody's to see in exec: it is known by its key to the keeper, and by its pid to ps. A launch of the whole container for each
// would cost several times as much, and could not be: one writable layer is mounted once, and the limits are those of one group.

// call is a program with a connection of its own.
type call struct {
	socket int
	pidfd  *os.File // nil when there was none to be had
}

// callMark begins, in the key of a program, what follows the container's id: no id of an exec does.
const callMark = "/="

// callOf finds the container of a call that the keeper speaks of; nil if it is removed.
func (e *Engine) callOf(key string) (c *container, is bool) {
	id, _, is := strings.Cut(key, callMark)
	if !is {
		return nil, false
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.byID[id], true
}

// callKey is the key of a new call on a socket, which the next server finds in it.
func (c *container) callKey(socket int) string {
	return fmt.Sprintf("%s%s%02x%s", c.id, callMark, socket, strings.ToLower(rand.Text()[:10]))
}

// socketOf is the opposite.
func socketOf(key string) int {
	_, rest, _ := strings.Cut(key, callMark)
	var socket int
	fmt.Sscanf(rest, "%02x", &socket) // else there was an older program; it counts for the first one
	return socket
}

// room is how many more calls there may be on a socket. c.mu is held.
func (c *container) room(socket int) int {
	all := c.rec.Config.Listeners()
	if !c.rec.Config.Inetd() || socket >= len(all) {
		return 0
	}
	n := all[socket].Runs()
	for _, one := range c.ear.calls {
		if one.socket == socket {
			n--
		}
	}
	return n
}

// callsMax is how many programs are started in one go: a stop comes in between.
const callsMax = 8

// takeCalls has programs started for connections, and hearkens for more. The action token is held.
func (c *container) takeCalls() {
	c.mu.Lock()
	sockets := c.ear.sockets
	c.mu.Unlock()
	var failed error
	for n := range callsMax * len(sockets) {
		i := n % len(sockets)
		s := sockets[i]
		c.mu.Lock()
		full := c.room(i) <= 0
		c.mu.Unlock()
		if full || !waits(s) {
			continue
		}
		if err := c.takeCall(i, s); err != nil && !errors.Is(err, syscall.EAGAIN) {
			c.e.log.Warn("a connection gets no program", "container", c.id, "path", c.View().Path, "err", err)
			c.Fail(err)
			failed = err
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if failed == nil {
		c.rec.Bad = 0
		c.hearken()
	} else {
		c.hearkenAfter(c.nextPause())
	}
	c.beginQuiet()
}

// takeCall starts a program with the next connection on a socket.
func (c *container) takeCall(i int, socket *os.File) error {
	c.execs.entering.RLock()
	defer c.execs.entering.RUnlock()
	host, err := c.inhabited()
	s := &entering{view: c.View(), host: host}
	defer s.close()
	if err != nil {
		return err
	}
	if s.around, err = c.inside(host); err != nil {
		return err
	}
	s.x = &exec{c: c} // for what went wrong
	if err = s.lookUpUser(); err != nil {
		return err
	}
	if s.steps, err = c.plannedInside(s.view.Config, s.around.joined, true); err != nil {
		return err
	}
	if s.join, err = host.group.Join(); err != nil {
		return err
	}
	log, err := unix.Open(c.logPath(), appending|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "open", Path: c.logPath(), Err: err}
	}
	s.log = os.NewFile(uintptr(log), c.logPath())
	program, err := launch.Assemble(s.steps, launch.Files{Join: s.around.files, Tasks: s.join.Tasks, Into: s.join.Into,
		Proc: c.e.facts.proc, Null: c.e.facts.null, Log: s.log, Connection: socket})
	if err != nil {
		return err
	}
	err = c.e.keeper.StartOn(c.callKey(i), program, keeper.Connection{Of: c.id, Socket: i, Place: socket}, c.goOnCall)
	if err != nil {
		if errors.Is(err, syscall.EAGAIN) {
			return syscall.EAGAIN
		}
		return s.explain(err)
	}
	if err := s.join.Settle(); err != nil {
		c.e.log.Error("a limit that was set during a start does not hold for what was started", "container", c.id, "err", err)
	}
	return nil
}

// goOnCall takes a call that goes on. It is called before its exit can be.
func (c *container) goOnCall(r keeper.Running) {
	if c == nil { // removed
		if r.PidFD != nil {
			r.PidFD.Close()
		}
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ear.calls == nil {
		c.ear.calls = map[string]*call{}
	}
	c.ear.calls[r.ID] = &call{socketOf(r.ID), r.PidFD}
	c.stopQuiet()
}

// hungUp takes the end of a call.
func (c *container) hungUp(key string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.ear.calls[key]
	if one == nil {
		return
	}
	delete(c.ear.calls, key)
	if one.pidfd != nil {
		one.pidfd.Close()
	}
	if c.state == engine.Running && c.ear.timer == nil && c.room(one.socket) == 1 { // there was none
		c.hearken()
	}
	if len(c.ear.calls) > 0 {
		return
	}
	if c.state == engine.Stopping && c.pidfd != nil { // it was they that were asked
		_ = unix.PidfdSendSignal(int(c.pidfd.Fd()), unix.SIGTERM, nil, 0) // KILL follows
		return
	}
	c.beginQuiet()
}

// hangUp forgets the calls of a run that is over: they are told of as well. c.mu is held.
func (c *container) hangUp() {
	c.stopQuiet()
	for _, one := range c.ear.calls {
		if one.pidfd != nil {
			one.pidfd.Close()
		}
	}
	c.ear.calls = nil
}

// beginQuiet has the container stopped after net.idle if there is no call. c.mu is held.
func (c *container) beginQuiet() {
	c.stopQuiet()
	if c.state != engine.Running || !c.rec.Config.Inetd() || c.rec.Armed == nil || len(c.ear.calls) > 0 || !c.e.automatic.isOpen() {
		return
	}
	started := c.started
	c.ear.quiet = time.AfterFunc(time.Duration(c.rec.Config.Idle())*time.Second, func() { c.silence(started) })
}

// stopQuiet calls that off. c.mu is held.
func (c *container) stopQuiet() {
	if c.ear.quiet != nil {
		c.ear.quiet.Stop()
		c.ear.quiet = nil
	}
}

// silence stops a container without a call. Nobody accepts meanwhile: that takes the action token.
func (c *container) silence(started time.Time) {
	end, err := c.begin("stop")
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ear.quiet != nil {
			c.ear.quiet.Reset(busyPause)
		}
		return
	}
	defer end()
	c.mu.Lock()
	idle := c.state == engine.Running && c.started.Equal(started) && len(c.ear.calls) == 0
	waiting := false
	for _, s := range c.ear.sockets {
		waiting = waiting || waits(s)
	}
	c.mu.Unlock()
	if !idle || waiting { // then its bell rings
		return
	}
	c.noteStop(forIdle)
	if err := c.signal("stop", syscall.SIGTERM); err == nil {
		c.stopping(c.View(), syscall.SIGTERM)
	}
}

// signalStop sends the signal of a stop: to the calls, if there are any, and PID 1 follows with the last of them.
func (c *container) signalStop(sig syscall.Signal) error {
	c.mu.Lock()
	n := 0
	for _, one := range c.ear.calls {
		if one.pidfd != nil && unix.PidfdSendSignal(int(one.pidfd.Fd()), sig, nil, 0) == nil {
			n++
		}
	}
	inetd := c.rec.Config.Inetd()
	c.mu.Unlock()
	switch {
	case n > 0:
		return nil
	case inetd:
		sig = syscall.SIGTERM
	}
	return c.signal("stop", sig)
}

// tireAnew follows a change of net.idle.
func (c *container) tireAnew(old, next *engine.Config) {
	if old.Idle() == next.Idle() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beginTiring()
	c.beginQuiet()
}

// sockets are those that the program gets.
func (s *starting) sockets() []*os.File {
	if s.view.Config.Inetd() {
		return nil
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.c.ear.sockets
}
