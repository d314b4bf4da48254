package local

import (
	"time"

	"github.com/ctrfs/ctrfs/engine"
)

// restarting is what a record says of starts that nobody asks for.
type restarting struct {
	Restarts  int       `json:"restarts,omitempty"`   // by the policy, since somebody started it
	Bad       int       `json:"bad_runs,omitempty"`   // how many runs in a row were short
	RestartAt time.Time `json:"restart_at,omitzero"`  // a restart is due, and this is when
	Stopped   ended     `json:"stopped_by,omitempty"` // who has ended the last run
}

// ended says at whose wish a run ends. As long as it is somebody's, no restart follows.
type ended string

const (
	byItself  ended = ""       // or killed, or for lack of memory
	byUser    ended = "user"   //
	forUmount ended = "umount" // by the user too, for as long as there is no mount
	forHealth ended = "health" // action stop of health
	forIdle   ended = "idle"   // net.idle: it listens again
	toRestart ended = "again"  // action restart of it: a restart follows, whatever the policy
)

// occasion is why a container is started.
type occasion int

const (
	onRequest occasion = iota // begins a new log
	onMount
	onExit // the restart policy
	onConnection
)

// follow decides whether an exit is followed by a restart. What ran when the machine was switched off, a mount starts, if anything
// does. c.mu is held.
func (c *container) follow(x engine.Exit, off bool) {
	c.lookAfter()
	if off || c.overheard() { // which leads back to listening
		return
	}
	if c.rec.Stopped == toRestart {
		c.rec.Stopped = byItself
		c.schedule(engine.GoodRun(x.Finished.Sub(x.Started)))
		return
	}
	if c.rec.Stopped == byItself && c.rec.Config.Restart().After(x, c.rec.Restarts) {
		c.schedule(engine.GoodRun(x.Finished.Sub(x.Started)))
	}
}

// schedule makes a restart due. c.mu is held.
func (c *container) schedule(good bool) {
	if good {
		c.rec.Bad = 0
	}
	c.rec.RestartAt = time.Now().Add(engine.Backoff(c.rec.Bad))
	c.rec.Bad++
	c.arm()
}

// arm has the restart that is due take place in time. Before [Engine.Automate] and after [Engine.Close] it does nothing: the
// record says what is due. c.mu is held.
func (c *container) arm() {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	at := c.rec.RestartAt
	if at.IsZero() || !c.e.automatic.isOpen() {
		return
	}
	// A clock that was set back makes nobody wait longer than the longest pause.
	c.timer = time.AfterFunc(min(time.Until(at), engine.Backoff(c.rec.Bad)), func() {
		c.e.automatic.do(func() { c.restart(at) })
	})
}

// callOff takes back a restart that is due, and says whether there was one. c.mu is held.
func (c *container) callOff() bool {
	if c.rec.RestartAt.IsZero() {
		return false
	}
	c.rec.RestartAt = time.Time{}
	c.arm()
	c.enter(c.state) // those who wait for it
	return true
}

// restart starts the container, unless that was called off, or somebody else has started it.
func (c *container) restart(at time.Time) {
	end, err := c.begin("restart")
	c.mu.Lock()
	due := c.rec.RestartAt.Equal(at)
	if due && err != nil { // something else is done to it, which may well end the restart
		c.arm()
	}
	c.mu.Unlock()
	if err != nil {
		return
	}
	defer end()
	if !due {
		return
	}
	if err := c.launch(onExit); err != nil {
		c.startFailed(onExit, err)
	}
}

// startFailed notes that nobody's start has failed. It counts as a run that has failed at once: the policy says what follows.
func (c *container) startFailed(why occasion, err error) {
	c.e.log.Warn("a container that should start by itself does not", "container", c.id, "path", c.View().Path, "err", err)
	c.mu.Lock()
	if why == onExit {
		c.rec.Restarts++
	}
	c.failure = err.Error()
	c.rec.RestartAt = time.Time{}
	if c.rec.Armed != nil || c.rec.Config.Restart().After(engine.Exit{Unknown: true}, c.rec.Restarts) {
		c.schedule(false)
	}
	c.tell(engine.EventRestart, c.restartFields(engine.Field{Key: "error", Value: c.failure})...)
	c.enter(c.state)
	c.mu.Unlock()
	if err := c.save(); err != nil {
		c.e.log.Warn("that a restart has failed is not on disk; another server would try again", "container", c.id, "err", err)
	}
}

// restartFields are those of a restart event. c.mu is held.
func (c *container) restartFields(more ...engine.Field) []engine.Field {
	return append(append([]engine.Field{{Key: "restarts", Value: c.rec.Restarts}}, more...), c.dueField()...)
}

// dueField says when the next restart is, if there is one. c.mu is held.
func (c *container) dueField() []engine.Field {
	if c.rec.RestartAt.IsZero() {
		return nil
	}
	return []engine.Field{{Key: "restart_at", Value: c.rec.RestartAt.Format(time.RFC3339Nano)}}
}

// recall notes the beginning of a run whose server did not live to have it on disk: if a restart was due, this is it, and else
// somebody has started the container, and what ended the run before does not count any more. c.mu is held.
func (c *container) recall(started time.Time) {
	if c.rec.Begun.Equal(started) {
		return
	}
	c.rec.Begun = started
	switch {
	case !c.rec.RestartAt.IsZero():
		c.rec.Restarts++
		c.rec.RestartAt = time.Time{}
	case c.rec.KillAt.IsZero(): // else it is being stopped, and the record is of a ctrfs that did not write down the beginning
		c.rec.restarting = restarting{}
	}
}

// noteStart counts a run that has begun, and has on disk what a mount after a power cut has to know. c.mu is held.
func (c *container) noteStart(why occasion) {
	was := c.rec.restarting
	switch now := &c.rec.restarting; why {
	case onExit:
		now.Restarts++
	case onConnection:
		now.Stopped = byItself
	default:
		*now = restarting{}
	}
	c.rec.RestartAt = time.Time{}
	c.arm()
	if c.rec.restarting != was || c.rec.Config.Restart().When != engine.RestartNo && !c.rec.Started {
		c.settled.Go(func() {
			if err := c.save(); err != nil {
				c.e.log.Warn("that a container was started is not on disk; a mount after a power cut would not know", "container", c.id, "err", err)
			}
		})
	}
	if why == onExit {
		c.tell(engine.EventRestart, c.restartFields()...)
	}
}

// noteStop notes before a stop whose wish it is, since the program may be gone before anything else can be noted, and calls off
// what is due. running says that there is something to stop.
func (c *container) noteStop(wish ended) (running, calledOff bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	running = c.pidfd != nil
	calledOff = wish != byItself && c.callOff()
	if wish != byItself && (running || calledOff) {
		c.rec.Stopped = wish
	}
	return running, calledOff
}

// reconsider calls off a restart that a new policy does not want.
func (c *container) reconsider(old, next *engine.Config) error {
	if old.Restart() == next.Restart() {
		return nil
	}
	c.mu.Lock()
	off := !next.Restart().After(c.rec.Exit, c.rec.Restarts) && c.callOff()
	c.mu.Unlock()
	if off {
		return c.keep()
	}
	return nil
}
