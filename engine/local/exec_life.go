package local

import (
	"os"
	"syscall"
	"time"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
	"github.com/ctrfs/ctrfs/engine/keeper"
)

// plantExecs makes the execs of a container from their records.
func (c *container) plantExecs() {
	for name, r := range c.e.store.loadExecs(c.id) {
		if c.execs.byName == nil {
			c.execs.byName = map[string]*exec{}
		}
		c.execs.byName[name] = newExec(c, *r)
	}
}

// exitedExec takes an exit that the keeper reports, of an exec that may be removed: x is nil then.
func (e *Engine) exitedExec(x *exec, exit keeper.Exit) {
	if x == nil || !x.take(exit) {
		e.acknowledge(exit)
	}
}

// take makes an exit the last one, unless it is known already, and leaves the rest to the background.
func (x *exec) take(k keeper.Exit) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	stale := x.state.Active() && !x.started.Equal(k.Started)
	if stale || !x.rec.Exit.Finished.Before(k.Finished) {
		return false
	}
	if !x.state.Active() { // a server that died has started it
		if err := placeLate(x.logPath(), k.Finished); err != nil {
			x.c.e.log.Error("the log of an exec is not in its place", "exec", x.key(), "err", err)
		}
	}
	pidfd := x.pidfd
	x.pid, x.pidfd, x.plan = 0, nil, ""
	if x.reads && !x.rec.StdinOpen { // under the lock, as of a container
		x.input().drop()
	}
	x.reads, x.console = false, 0
	x.rec.Exit, x.rec.Begun = engine.Exit{Status: k.Status, Unknown: k.Unknown, Started: k.Started, Finished: k.Finished}, time.Time{}
	x.enter(engine.Exited)
	x.settled.Go(func() {
		if pidfd != nil {
			pidfd.Close()
		}
		if x.save() {
			x.c.e.acknowledge(k)
		}
	})
	return true
}

// resumeExec takes an exec that lives, as the keeper says.
func (e *Engine) resumeExec(x *exec, r keeper.Running) {
	if x == nil {
		e.log.Error("the keeper knows an exec that has no record", "exec", r.ID, "pid", r.PID)
		if r.PidFD != nil {
			r.PidFD.Close()
		}
		return
	}
	x.mu.Lock()
	x.pid, x.pidfd, x.started, x.console = r.PID, r.PidFD, r.Started, r.Console
	x.enter(engine.Running)
	x.mu.Unlock()
	// As with containers: whatever waits for its place is this run's, if the server died between the launch and that.
	if err := os.Rename(x.logPath()+fresh, x.logPath()); err != nil && !os.IsNotExist(err) {
		e.log.Error("the log of a running exec is not in its place", "exec", r.ID, "err", err)
	}
	crash.Point("place a log")
}

// holdExecs keeps programs from entering the container, and those below it, until they are released.
func (c *container) holdExecs() (release func(), err error) {
	var held []*container
	release = func() {
		for _, m := range held {
			m.execs.entering.Unlock()
		}
	}
	end := time.Now().Add(actionLimit)
	for _, m := range c.family() {
		for !m.execs.entering.TryLock() {
			if time.Now().After(end) {
				release()
				return nil, &engine.Error{Op: "write", File: "cgroup.freeze", Value: "1", Errno: syscall.EBUSY,
					Why: "a program is on its way into " + m.View().Path, Cure: "try again"}
			}
			time.Sleep(holdPause)
		}
		held = append(held, m)
	}
	return release, nil
}

// holdPause is a part of the time that a program is on its way.
const holdPause = 200 * time.Microsecond

// loseExecs says of runs that nobody knows to go on, nor how they ended, that this is so: the keeper died, too.
func (c *container) loseExecs() {
	for _, x := range c.execs.list() {
		x.mu.Lock()
		if !x.state.Active() && !x.rec.Begun.IsZero() {
			x.rec.Exit = engine.Exit{Unknown: true, Started: x.rec.Begun, Finished: time.Now()}
			x.rec.Begun = time.Time{}
			x.enter(engine.Exited)
			x.settled.Go(func() { x.save() })
		}
		x.mu.Unlock()
	}
}
