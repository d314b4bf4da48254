package local

import (
	"errors"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
	"github.com/ctrfs/ctrfs/engine/keeper"
)

// A container with net.listen is armed by its start: the sockets are opened here, the keeper holds them (engine/keeper/listen.go), and
// a bell is hung on each. What rings it launches the container. Whenever that ends, and nobody has stopped it, it listens again.
//
//	start ──► listening ── a connection ──► running ── its exit, or net.idle ──► listening … stop ──► exited
//
// Nothing is accepted here. With the style fds the program gets the sockets, and with inetd the keeper accepts, in one step with the
// launch of the program for that connection (listen_inetd.go). So what has not reached a program is in the socket, whoever dies.
//
// That a container is armed is in its record, and the next server gets its sockets from the keeper, or opens them anew when that is
// gone too. docs/listen.md is what people read.

// armed is what a record says of it.
type armed struct {
	Opening bool       `json:"opening,omitempty"` // paths are being bound: it is not armed yet
	Files   []sockFile `json:"files,omitempty"`   // of the sockets that have one
}

// ears are what the engine has for all of them.
type ears struct {
	bells   *bells
	hearing atomic.Bool // the end of recovery has come: exits lead back to listening
	idle    []string    // containers whose sockets the keeper holds for nothing; for recovery
}

// ear is what an armed container hears by.
type ear struct {
	sockets []*os.File          // guarded by container.mu; what the keeper holds, too; nil: lost, or not armed
	bells   []*bell             // guarded by container.mu
	timer   *time.Timer         // guarded by container.mu; of the pause after a run that has taken nothing
	before  map[connection]bool // guarded by container.mu; what waited when the present run was launched
	tire    func()              // guarded by container.mu; ends looking whether it is idle; nil while nobody does
	calls   map[string]*call    // guarded by container.mu; programs with a connection of their own
	quiet   *time.Timer         // guarded by container.mu; from the end of the last one
}

// listens reports whether the container is armed, or on its way back to that.
func (c *container) listens() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec.Armed != nil
}

// listen arms the container. The action token is held.
func (c *container) listen(v *engine.View, why occasion) error {
	if v.Config.Inetd() && open(v.Config) {
		return &engine.Error{Op: "start", File: "net.listen", Errno: syscall.EOPNOTSUPP,
			Why:  "without a user namespace, CAP_SYS_PTRACE lets the container's processes reach into whatever enters it, as each connection's program does",
			Cure: "give it ids of its own: echo 'user new' > namespaces; or take the capability away: echo -SYS_PTRACE > caps"}
	}
	c.settled.Wait()
	if err := c.dropStale(); err != nil {
		return err
	}
	forget, err := c.noteOpening(v.Config.Listeners())
	if err != nil {
		return err
	}
	sockets, files, err := c.e.openSockets(v.Config.Listeners())
	if err != nil {
		return errors.Join(err, forget())
	}
	undo := func(err error) error {
		closeFiles(sockets)
		return errors.Join(err, removeSockFiles(files), forget())
	}
	if err := c.e.keeper.Listen(c.id, sockets); err != nil {
		return undo(err)
	}
	c.mu.Lock()
	was := c.rec.restarting
	if c.rec.restarting = (restarting{}); why == onExit {
		c.rec.restarting = restarting{Restarts: was.Restarts, Bad: was.Bad}
	}
	c.arm()
	c.mu.Unlock()
	if err := c.amend(func(r *record) { r.Armed = &armed{Files: files} }); err != nil {
		c.mu.Lock()
		c.rec.restarting = was
		c.arm()
		c.mu.Unlock()
		return undo(errors.Join(err, c.e.keeper.Listen(c.id, nil)))
	}
	if why == onRequest {
		if err := c.emptyLog(); err != nil {
			c.e.log.Error("the log of an earlier run goes on", "container", c.id, "err", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ear.sockets = sockets
	c.failure = ""
	c.enterListening()
	c.hearken()
	return nil
}

// noteOpening has the next server know of paths that are about to be bound; forget takes that back.
func (c *container) noteOpening(all []engine.Listener) (forget func() error, err error) {
	if !slices.ContainsFunc(all, engine.Listener.Path) {
		return func() error { return nil }, nil
	}
	c.mu.Lock()
	was := c.rec.Armed
	c.mu.Unlock()
	forget = func() error { return c.amend(func(r *record) { r.Armed = was }) }
	return forget, c.amend(func(r *record) { r.Armed = &armed{Opening: true} })
}

// dropStale removes the files of sockets that are lost.
func (c *container) dropStale() error {
	c.mu.Lock()
	was := c.rec.Armed
	c.mu.Unlock()
	if was == nil {
		return nil
	}
	return removeSockFiles(was.Files)
}

// emptyLog begins a new log, without a program yet that writes it.
func (c *container) emptyLog() error {
	log, err := openFresh(c.logPath() + fresh)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := unix.Rename(c.logPath()+fresh, c.logPath()); err != nil {
		return &os.PathError{Op: "rename", Path: c.logPath(), Err: err}
	}
	crash.Point("place a log")
	return nil
}

// enterListening is the change of state. c.mu is held.
func (c *container) enterListening() {
	c.enter(engine.Listening)
	c.tell(engine.EventListen, engine.Field{Key: "sockets", Value: len(c.rec.Config.Listeners())})
}

// hearken hangs the bells, where there is something to be woken for: before [Engine.Automate] there is not. c.mu is held.
func (c *container) hearken() {
	c.plug()
	if !c.e.automatic.isOpen() || !c.wakeable() {
		return
	}
	for i, s := range c.ear.sockets {
		if c.state == engine.Running && c.room(i) <= 0 { // it would ring on and on
			continue
		}
		b, err := c.e.ears.bells.hang(s, func() { c.e.automatic.do(c.answer) })
		if err != nil {
			c.e.log.Error("a socket is not watched", "container", c.id, "socket", s.Name(), "err", err)
			continue
		}
		c.ear.bells = append(c.ear.bells, b)
	}
}

// wakeable reports whether a connection has something done. c.mu is held.
func (c *container) wakeable() bool {
	return c.state == engine.Listening || c.state == engine.Running && c.rec.Armed != nil && c.rec.Config.Inetd()
}

// plug takes the bells down. c.mu is held.
func (c *container) plug() {
	for _, b := range c.ear.bells {
		c.e.ears.bells.take(b)
	}
	c.ear.bells = nil
	if c.ear.timer != nil {
		c.ear.timer.Stop()
		c.ear.timer = nil
	}
}

// hearkenAfter is hearken after a pause. c.mu is held.
func (c *container) hearkenAfter(pause time.Duration) {
	c.plug()
	if pause <= 0 {
		c.hearken()
		return
	}
	c.ear.timer = time.AfterFunc(pause, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.hearken()
	})
}

// busyPause is how long a connection waits for another operation on its container.
const busyPause = 50 * time.Millisecond

// answer follows a bell.
func (c *container) answer() {
	end, err := c.begin("start")
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.hearkenAfter(busyPause)
		return
	}
	defer end()
	var before map[connection]bool
	if !c.View().Config.Inetd() { // what is not taken then, its programs do not know of
		before = c.waiting()
	}
	c.mu.Lock()
	c.plug()
	state, wakeable := c.state, c.wakeable()
	c.mu.Unlock()
	switch {
	case !wakeable:
	case state == engine.Running:
		c.takeCalls()
	default:
		c.wake(before)
	}
}

// wake launches the container. The action token is held.
func (c *container) wake(before map[connection]bool) {
	if !c.View().Config.Inetd() {
		c.sobered()
	}
	c.mu.Lock()
	c.ear.before = before
	c.mu.Unlock()
	if err := c.launch(onConnection); err != nil {
		c.wakeFailed(err)
		return
	}
	if c.View().Config.Inetd() {
		c.takeCalls()
	}
}

// sobered has the sockets block again, as they do at first: a program before may have had it otherwise, and the next one finds that.
func (c *container) sobered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.ear.sockets {
		if err := unix.SetNonblock(int(s.Fd()), false); err != nil {
			c.e.log.Warn("a socket does not block", "container", c.id, "socket", s.Name(), "err", err)
		}
	}
}

// wakeFailed notes that a connection has launched nothing. It waits, and so does the next try.
func (c *container) wakeFailed(err error) {
	c.e.log.Warn("a connection does not launch its container", "container", c.id, "path", c.View().Path, "err", err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = err.Error()
	c.touched()
	c.tell(engine.EventListen, engine.Field{Key: "error", Value: c.failure})
	c.hearkenAfter(c.nextPause())
}

// nextPause is the pause after one more failure in a row. c.mu is held.
func (c *container) nextPause() time.Duration {
	pause := engine.Backoff(c.rec.Bad)
	c.rec.Bad++
	return pause
}

// overheard says whether the exit of an armed container leads back to listening; it may be lost for a moment what it listens on. c.mu is
// held.
func (c *container) overheard() bool {
	switch c.rec.Stopped {
	case byItself, toRestart, forIdle:
		return c.rec.Armed != nil
	}
	return false
}

// relisten follows an exit. A run that has taken none of the connections which it was launched for would be followed by another such
// one at once: then there is a pause. c.mu is held.
func (c *container) relisten(x engine.Exit) {
	c.untire()
	c.hangUp()
	before := c.ear.before
	c.ear.before = nil
	if !c.overheard() || !c.e.ears.hearing.Load() { // the end of recovery sees to it
		return
	}
	c.rec.Stopped = byItself
	if c.ear.sockets == nil {
		c.rec.RestartAt = time.Now() // opens them anew
		c.arm()
		return
	}
	c.enterListening()
	if len(before) == 0 {
		c.rec.Bad = 0
		c.hearken()
		return
	}
	go c.hearkenAgain(before, x.Status == 0)
}

// hearkenAgain looks what a run has taken. Of datagrams that cannot be told, if they are alike: one that ended well has.
func (c *container) hearkenAgain(before map[connection]bool, well bool) {
	now := c.waiting()
	c.mu.Lock()
	defer c.mu.Unlock()
	for one := range before {
		all := c.rec.Config.Listeners()
		if well && one.socket < len(all) && !all[one.socket].Stream() {
			delete(now, one)
		}
	}
	if sameWait(before, now) {
		c.hearkenAfter(c.nextPause())
		return
	}
	c.rec.Bad = 0
	c.hearken()
}

// untire ends looking whether it is idle. c.mu is held.
func (c *container) untire() {
	if c.ear.tire != nil {
		c.ear.tire()
		c.ear.tire = nil
	}
}

// disarm closes the sockets, before anyone is told that the container does not listen. The action token is held.
func (c *container) disarm() {
	c.mu.Lock()
	was := c.rec.Armed
	c.rec.Armed = nil
	c.plug()
	sockets := c.ear.sockets
	c.ear.sockets = nil
	c.untire()
	c.mu.Unlock()
	if was == nil {
		return
	}
	closeFiles(sockets)
	if err := c.e.keeper.Listen(c.id, nil); err != nil {
		c.e.log.Error("the keeper still holds sockets", "container", c.id, "err", err)
	}
	if err := removeSockFiles(was.Files); err != nil {
		c.e.log.Warn("the file of a socket stays behind", "container", c.id, "err", err)
	}
}

// stopListening is a stop at somebody's wish: it disarms, and that is all where nothing runs. The action token is held.
func (c *container) stopListening(wish ended) (done bool, err error) {
	if wish != byUser && wish != forUmount && wish != forHealth || !c.listens() {
		return false, nil
	}
	c.mu.Lock()
	was, again := c.rec.Armed, c.rec.Config.Restart().AtMount(false)
	c.mu.Unlock()
	c.disarm()
	c.mu.Lock()
	if wish == forUmount && again { // the next mount arms it
		c.rec.Armed = &armed{Files: was.Files}
	}
	idle := c.state == engine.Listening
	if idle {
		c.rec.Stopped = wish
		next := engine.Created
		if c.rec.Started {
			next = engine.Exited
		}
		c.enter(next)
		c.tell(engine.EventStop)
	}
	c.mu.Unlock()
	if !idle {
		return false, nil
	}
	return true, c.keep()
}

// recoverEars gives the armed containers the sockets that the keeper has held, before exits lead back to them, and has it close all
// others.
func (e *Engine) recoverEars(account keeper.Account) {
	for id, sockets := range account.Sockets {
		c := e.byID[id]
		if c != nil && c.rec.Armed != nil && !c.rec.Armed.Opening && len(sockets) == len(c.rec.Config.Listeners()) {
			c.ear.sockets = sockets
			continue
		}
		closeFiles(sockets)
		e.ears.idle = append(e.ears.idle, id)
	}
}

// recoverListening goes on with what is armed and does not run. The keeper answers by now.
func (e *Engine) recoverListening() {
	for _, id := range e.ears.idle {
		if err := e.keeper.Listen(id, nil); err != nil {
			e.log.Error("the keeper still holds sockets", "container", id, "err", err)
		}
	}
	e.ears.hearing.Store(true)
	for _, c := range e.byID {
		if c.rec.Armed != nil && c.rec.Armed.Opening {
			if err := errors.Join(bury(c.rec.Config.Listeners()), c.amend(func(r *record) { r.Armed = nil })); err != nil {
				e.log.Warn("the file of a socket stays behind", "container", c.id, "err", err)
			}
		}
		if s := c.rec.Stopped; !c.state.Active() && c.rec.Armed != nil && (s == byUser || s == forHealth) { // that did not come to its end
			c.disarm()
			continue
		}
		c.mu.Lock()
		switch {
		case c.rec.Armed == nil:
		case c.state.Active():
			if c.ear.sockets == nil {
				e.log.Warn("the sockets of a container are lost with the keeper; when its program ends, they are opened anew", "container", c.id)
			}
		case c.ear.sockets != nil:
			c.enter(engine.Listening)
		case c.rec.RestartAt.IsZero():
			e.log.Info("the sockets of a container are opened anew", "container", c.id)
			c.rec.RestartAt = time.Now() // when things begin by themselves
		}
		c.mu.Unlock()
	}
}

// goOnListening is what begins with [Engine.Automate]. c.mu is held.
func (c *container) goOnListening() {
	if c.rec.Armed == nil {
		return
	}
	c.hearken()
	c.beginTiring()
	c.beginQuiet()
}

// deafen closes what an engine holds at its end. Nobody listens for those that do not run, and the files of their sockets go; who runs has
// the sockets, and the keeper holds them for the next mount.
func (c *container) deafen() {
	c.mu.Lock()
	c.plug()
	tired := c.ear.tire != nil
	c.untire()
	c.stopQuiet()
	c.mu.Unlock()
	if tired { // somebody may just be looking, with the program frozen
		if end, err := c.begin("umount"); err == nil {
			end()
		}
	}
	c.mu.Lock()
	closeFiles(c.ear.sockets)
	c.ear.sockets = nil
	was, alive := c.rec.Armed, c.pidfd != nil
	c.mu.Unlock()
	if was == nil || alive {
		return
	}
	if err := c.e.keeper.Listen(c.id, nil); err != nil {
		c.e.log.Warn("the keeper still holds sockets", "container", c.id, "err", err)
	}
	if err := removeSockFiles(was.Files); err != nil {
		c.e.log.Warn("the file of a socket stays behind", "container", c.id, "err", err)
	}
}
