package local

import (
	"fmt"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/keeper"
	"github.com/ctrfs/ctrfs/engine/plan"
)

// exited takes an exit that the keeper reports. It may be one that an earlier server has recorded but not acknowledged.
func (e *Engine) exited(x keeper.Exit) {
	if c, is := e.callOf(x.ID); is {
		c.hungUp(x.ID)
		e.acknowledge(x)
		return
	}
	if in, is := e.execOf(x.ID); is {
		e.exitedExec(in, x)
		return
	}
	e.mu.RLock()
	c := e.byID[x.ID]
	e.mu.RUnlock()
	if c != nil && (c.take(x) || c.takeAgain(x)) {
		return // acknowledged once it is on disk, and hooks have been told
	}
	e.acknowledge(x)
}

func (e *Engine) acknowledge(x keeper.Exit) {
	if err := e.keeper.Acknowledge(x); err != nil {
		e.log.Warn("an exit is not acknowledged; the keeper will report it again", "container", x.ID, "err", err)
	}
}

// take makes an exit the container's last one, unless it is known already, and leaves the rest to the background: nobody
// who waits for an exit waits for a disk or for a root's teardown.
func (c *container) take(x keeper.Exit) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	stale := c.state.Active() && !c.started.Equal(x.Started)
	if stale || !c.rec.Exit.Finished.Before(x.Finished) {
		return false
	}
	if !c.state.Active() { // a server that died has started it
		if err := placeLate(c.logPath(), x.Finished); err != nil {
			c.e.log.Error("the log of a container is not in its place", "container", c.id, "err", err)
		}
	}
	if c.group != nil {
		if kills, err := c.group.OOMKills(); err == nil {
			c.countKills(kills)
		}
	}
	exit := engine.Exit{Status: poweredOff(c.rec.Config, x.Status), Unknown: x.Unknown, OOM: c.rec.OOM, Started: x.Started, Finished: x.Finished}
	c.rec.OOM, c.rec.Kills = false, 0
	root, pidfd, mounts := c.root, c.pidfd, c.mounts
	c.pid, c.pidfd, c.root, c.mounts, c.steps = 0, nil, nil, nil, nil
	c.unwired()
	unwired := len(c.wires) == 0
	if unwired {
		c.e.networks.ended.Store(c.id, nil) // whoever hears of the exit may have its ports
	}
	c.moveIn(nil)
	if c.reads && !c.rec.Config.Extension.StdinOpen { // under the lock: it may be switched on at any moment
		c.input().drop()
	}
	c.reads, c.console = false, 0
	c.recall(x.Started)
	c.rec.Exit, c.rec.Started, c.rec.KillAt = exit, true, time.Time{}
	c.endLeftovers()
	c.follow(exit, x.Off)
	c.enter(engine.Exited)
	c.tell(engine.EventExit, append(exitFields(exit), c.dueField()...)...)
	c.relisten(exit)
	view := c.view()
	c.settled.Go(func() {
		if unwired {
			c.e.networks.unpublish(c.id)
		}
		if mounts != nil {
			mounts.Close()
		}
		if pidfd != nil {
			pidfd.Close()
		}
		if root != nil {
			root.Close()
		}
		c.notePeak()
		kept := c.recordExit()
		c.stopped(view)
		if kept {
			c.e.acknowledge(x)
		}
	})
	return true
}

// takeAgain has the poststop hooks run for an exit that is on record, but not acknowledged: whether they ran to their end is
// not known.
func (c *container) takeAgain(x keeper.Exit) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	same := !c.state.Active() && c.rec.Exit.Started.Equal(x.Started) && c.rec.Exit.Finished.Equal(x.Finished)
	view := c.view()
	if !same || len(plan.HooksOf(view.Config.Spec.Hooks, plan.Poststop)) == 0 {
		return false
	}
	c.settled.Go(func() {
		c.stopped(view)
		c.e.acknowledge(x)
	})
	return true
}

// stopped runs the poststop hooks of a run, once its poststart hooks have ended.
func (c *container) stopped(v *engine.View) {
	c.greeted.Wait()
	c.runLate(v, plan.Poststop, 0)
}

// recordExit puts the exit on disk, and says whether it is there.
func (c *container) recordExit() bool {
	if err := c.save(); err != nil {
		c.e.log.Error("an exit is not on disk; the keeper's journal still has it", "container", c.id, "err", err)
		return false
	}
	return true
}

// save puts on disk what the record says, unless it is unlinked.
func (c *container) save() error {
	c.saving.Lock()
	defer c.saving.Unlock()
	c.mu.Lock()
	rec := c.rec
	c.mu.Unlock()
	if c.unkept {
		return nil
	}
	return c.e.store.save(&rec)
}

// signal sends a signal to PID 1.
func (c *container) signal(op string, sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pidfd == nil {
		return &engine.Error{Op: op, File: c.path, Errno: syscall.EBUSY, Why: "nothing runs in it", Cure: "start it first: echo 1 > start"}
	}
	err := unix.PidfdSendSignal(int(c.pidfd.Fd()), sig, nil, 0)
	if err != nil && err != unix.ESRCH { // it is just exiting
		return &engine.Error{Op: op, File: c.path, Value: engine.SignalName(sig), Errno: engine.Errno(err)}
	}
	return nil
}

// Kill implements [engine.Container].
func (c *container) Kill(by engine.Caller, sig syscall.Signal) error { return c.signal("kill", sig) }

// Stop implements [engine.Container].
func (c *container) Stop(by engine.Caller, back bool) error {
	if back {
		return c.stop(forUmount)
	}
	return c.stop(byUser)
}

// stop stops the container at somebody's wish.
func (c *container) stop(wish ended) error {
	end, err := c.begin("stop")
	if err != nil {
		return err
	}
	defer end()
	v := c.View()
	sig, err := stopSignal(v)
	if err != nil {
		return err
	}
	if v.State == engine.Paused { // a frozen program cannot obey
		if err := c.freeze("0"); err != nil {
			return err
		}
	}
	was, calledOff := c.noteStop(wish)
	if done, err := c.stopListening(wish); done {
		return err
	}
	if calledOff {
		return c.keep()
	}
	if err := c.signalStop(sig); err != nil {
		if was { // it has just exited, and is not started again
			return c.keep()
		}
		return err
	}
	if !c.stopping(v, sig) {
		return nil // stopping already, or it has just exited
	}
	return c.keep()
}

// stopping follows the signal of a stop, unless one is under way: KILL comes after the timeout. The action token is held.
func (c *container) stopping(v *engine.View, sig syscall.Signal) bool {
	killAt := time.Now().Add(time.Duration(v.Config.StopTimeout()) * time.Second)
	c.mu.Lock()
	running, started := c.state.To(engine.Stopping), c.started
	if running {
		c.rec.KillAt = killAt
		c.enter(engine.Stopping)
		c.tell(engine.EventStop, engine.Field{Key: "signal", Value: engine.SignalName(sig)},
			engine.Field{Key: "timeout", Value: v.Config.StopTimeout()})
	}
	c.mu.Unlock()
	if running {
		c.killLater(started, killAt)
	}
	return running
}

// keep writes the record as it is. The action token is held.
func (c *container) keep() error { return c.amend(func(*record) {}) }

// killLater kills a run that has not ended by then.
func (c *container) killLater(started, at time.Time) {
	time.AfterFunc(time.Until(at), func() {
		c.mu.Lock()
		same, idle := c.state == engine.Stopping && c.started.Equal(started), c.rec.Stopped == forIdle
		c.mu.Unlock()
		if same && idle {
			c.killIdle(started)
		}
		if !same || idle {
			return
		}
		if err := c.signal("stop", syscall.SIGKILL); err != nil {
			c.e.log.Error("a container that should stop cannot be killed", "container", c.id, "err", err)
		}
	})
}

// ReadControl implements [engine.Container]. Without a group, which comes with the first start, the files read as those of
// an empty group.
func (c *container) ReadControl(file string) (string, error) {
	c.mu.Lock()
	group, peak := c.group, c.rec.Exit.Peak
	c.mu.Unlock()
	if group != nil {
		return group.Read(file)
	}
	if file == "memory.peak" && peak != 0 { // the group went with the last mount
		return fmt.Sprintf("%d\n", peak), nil
	}
	c.e.mu.RLock()
	parent := c.parent
	c.e.mu.RUnlock()
	if parent != nil && file == "cpuset.cpus.effective" { // which it will inherit
		return parent.ReadControl(file)
	}
	return c.e.groups.Empty(file)
}

// WriteControl implements [engine.Container].
func (c *container) WriteControl(by engine.Caller, file, value string) error {
	if err := c.mayControl(by, file, value); err != nil {
		return err
	}
	end, err := c.begin("write")
	if err != nil {
		return err
	}
	defer end()
	if file == "cgroup.freeze" {
		return c.freeze(strings.TrimSpace(value))
	}
	group, _, err := c.ensureGroup()
	if err != nil {
		return err
	}
	return group.Write(file, value)
}

// freeze freezes or thaws, and changes the state accordingly. The action token is held.
func (c *container) freeze(value string) error {
	if value != "0" && value != "1" {
		return engine.Invalid("cgroup.freeze", value, "neither 0 nor 1", "write 1 to pause, 0 to resume")
	}
	group, _, err := c.ensureGroup()
	if err != nil {
		return err
	}
	if value == "1" {
		release, err := c.holdExecs()
		if err != nil {
			return err
		}
		defer release()
	}
	if err := group.Write("cgroup.freeze", value); err != nil {
		return err
	}
	next, event := engine.Paused, engine.EventFreeze
	if value == "0" {
		next, event = engine.Running, engine.EventThaw
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != engine.Stopping && c.state.To(next) && c.pidfd != nil {
		c.enter(next)
		c.tell(event)
		c.hearken()
	}
	return nil
}
