package keeper

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// Back-off between restarts of a server that keeps dying: the first restart is immediate, and a server that lived for a
// while starts afresh.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second
	longLife   = 10 * time.Second
)

// serverExited decides what follows the end of a server. It ends deliberately with status 0 when its mount was unmounted,
// by whomever; everything else is a crash, after which the next one takes over.
func (k *Keeper) serverExited(s *server, status syscall.WaitStatus) {
	k.mu.Lock()
	upgrading := k.upgrading
	k.mu.Unlock()
	if !upgrading { // which hears it out by itself, and has let in nothing new
		k.hearOut(s)
	}
	k.mu.Lock()
	s.out.close()
	s.link.close()
	k.server = nil
	if k.upgrading { // which decides what follows
		k.mu.Unlock()
		s.settle(errUpgrading)
		s.gone <- status
		return
	}
	request := k.last
	request.Again = true
	if !s.ready || status.Exited() && status.ExitStatus() == 0 {
		if !k.restarting {
			k.deaf()
		}
		k.endIfIdle()
		k.mu.Unlock()
		s.settle(errors.New("the server ended before the mount answered; the log has the reason"))
		return
	}
	k.restarting = true
	k.mu.Unlock()
	k.log.Error("the server died; starting another", "status", describe(status))
	k.restart(request, func(error) {})
}

// restart starts a server, again and again until one answers, and tells what became of the first. k.restarting is set.
func (k *Keeper) restart(request Request, first func(error)) {
	pause := time.Duration(0)
	for {
		time.Sleep(pause)
		born := time.Now()
		err := k.Mount(noDeadline, request)
		first(err)
		first = func(error) {}
		if err == nil || errors.Is(err, syscall.EBUSY) || errors.Is(err, errEnding) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.restarting = false
			k.endIfIdle()
			return
		}
		k.log.Error("the server did not come back", "err", err)
		pause = max(firstPause, min(2*pause, lastPause))
		if time.Since(born) > longLife {
			pause = 0
		}
	}
}

// hearLimit is how long each of two things may take that a server leaves behind: what it has said, and launches, which take
// milliseconds unless there are hooks on the way, or the program lies on a dead file server.
const hearLimit = time.Second

// hearOut waits until all is done that a server has asked for, before its successor is told what lives: a program that began to
// run later would be nobody's. A launch that takes too long is ended.
func (k *Keeper) hearOut(s *server) {
	ended := make(chan struct{})
	go func() {
		<-s.heard
		s.starts.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return
	case <-time.After(hearLimit):
	}
	k.mu.Lock()
	for c := range k.launching {
		if pid := c.image.PID(); c.wanted == s && pid > 0 && c.exited == nil { // not yet waited for: no other process has this pid
			k.log.Warn("a launch is ended: the server that wanted it has died", "pid", pid)
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	k.mu.Unlock()
	select {
	case <-ended:
	case <-time.After(hearLimit):
		k.log.Error("a launch does not end; its program, should it ever run, is nobody's")
	}
}

// errEnding is why a server that died is not followed by another.
var errEnding = errors.New("the tree has been unmounted")

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return fmt.Sprintf("exit %d", s.ExitStatus())
}

// End has the server unmount, and starts none again until somebody asks for a mount. The keeper's work is done then, unless
// containers live: it stays their parent.
func (k *Keeper) End() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ending, k.awaited = true, false
	if k.server == nil {
		k.dropWaits()
		k.endIfIdle()
		return
	}
	k.signal(k.server, syscall.SIGTERM)
}

// signal sends a signal to a server, unless it has been waited for: then its pid may be another process's. k.mu is held.
func (k *Keeper) signal(s *server, sig syscall.Signal) {
	if s.reaped {
		return
	}
	if err := syscall.Kill(s.pid, sig); err != nil {
		k.log.Error("the server cannot be ended", "signal", sig, "err", err)
	}
}
