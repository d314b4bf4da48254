package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ctrfs/ctrfs/engine"
)

// A program that gets sockets is stopped when it has been idle for net.idle seconds. The kernel counts the connections that it has, but
// not those that have come and gone between two looks: they cost processor time, and a program that uses more than a little is not idle.
// With datagrams, for which there is nothing to count, one that uses any is not.
//
// To lose none, the program is frozen, looked at once more, and only then told to stop. What connects from there on waits in the socket,
// which the keeper holds, and launches it again. One that does not end by stop.timeout is killed in a moment without connections, too.

const (
	idleLook  = time.Second // between two looks, or a quarter of net.idle
	idleShare = 200         // of the time between: so much processor time is nothing
)

// beginTiring begins to look whether the present run is idle, in place of whoever does. c.mu is held.
func (c *container) beginTiring() {
	c.untire()
	config := c.rec.Config
	if c.rec.Armed == nil || c.pidfd == nil || config.Inetd() || config.Idle() == 0 || c.ear.sockets == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.ear.tire = cancel
	go c.keepTiring(ctx, time.Duration(config.Idle())*time.Second, c.started)
}

// keepTiring looks again and again, until the run is over, or has been stopped.
func (c *container) keepTiring(ctx context.Context, limit time.Duration, started time.Time) {
	ticker := time.NewTicker(min(idleLook, limit/4))
	defer ticker.Stop()
	busy := time.Now()
	used, _ := c.usage()
	for last := busy; ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		before := used
		var known bool
		used, known = c.usage()
		now := time.Now()
		spare := now.Sub(last) / idleShare
		last = now
		if v := c.View(); v.State != engine.Running || !known || used-before > c.pardon(v, spare) || c.busy(v) {
			busy = now
			continue
		}
		if now.Sub(busy) >= limit && c.retire(ctx, started) {
			return
		}
	}
}

// pardon is how much processor time between two looks is nothing.
func (c *container) pardon(v *engine.View, spare time.Duration) time.Duration {
	for _, l := range v.Config.Listeners() {
		if !l.Stream() {
			return 0
		}
	}
	return spare
}

// usage is the processor time of the container's group.
func (c *container) usage() (time.Duration, bool) {
	text, err := c.ReadControl("cpu.stat")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(text) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key == "usage_usec" {
			n, err := strconv.ParseInt(value, 10, 64)
			return time.Duration(n) * time.Microsecond, err == nil
		}
	}
	return 0, false
}

// busy reports whether there is a connection, or whether that is not known.
func (c *container) busy(v *engine.View) bool {
	c.mu.Lock()
	sockets := c.ear.sockets
	c.mu.Unlock()
	now, err := count(v.Config.Listeners(), sockets)
	if err != nil {
		c.e.log.Warn("connections cannot be counted; the container is taken to be busy", "container", c.id, "err", err)
	}
	return err != nil || now.open > 0 || len(now.waiting) > 0
}

// waiting is what nobody has taken yet.
func (c *container) waiting() map[connection]bool {
	c.mu.Lock()
	config, sockets := c.rec.Config, c.ear.sockets
	c.mu.Unlock()
	now, err := count(config.Listeners(), sockets)
	if err != nil {
		return nil
	}
	return now.waiting
}

// retire stops an idle program, unless it has got something to do at the last moment.
func (c *container) retire(ctx context.Context, started time.Time) (done bool) {
	end, err := c.begin("stop")
	if err != nil {
		return false
	}
	defer end()
	v := c.View()
	if ctx.Err() != nil || v.State != engine.Running || !v.Started.Equal(started) {
		return true
	}
	sig, err := stopSignal(v)
	if err != nil {
		return false
	}
	thaw, err := c.quieten()
	if err != nil {
		c.e.log.Warn("an idle container is not stopped", "container", c.id, "err", err)
		return false
	}
	if !c.busy(v) {
		c.noteStop(forIdle)
		if err = c.signalProgram(v, sig); err == nil {
			c.stopping(v, sig)
			done = true
		}
	}
	if err := errors.Join(err, thaw()); err != nil && c.View().State.Alive() {
		c.e.log.Error("an idle container is not as it was", "container", c.id, "err", err)
	}
	return done
}

// killIdle ends what has not ended by itself after that, in a moment when nobody would notice. Who stops it meanwhile does not wait for
// such a moment.
func (c *container) killIdle(started time.Time) {
	for ; ; time.Sleep(idleLook) {
		end, err := c.begin("stop")
		if err != nil {
			continue
		}
		c.mu.Lock()
		same, idle, config := c.state == engine.Stopping && c.started.Equal(started), c.rec.Stopped == forIdle, c.rec.Config
		c.mu.Unlock()
		if same && idle {
			err = c.killStill()
		}
		end()
		if same && !idle {
			c.killLater(started, time.Now().Add(time.Duration(config.StopTimeout())*time.Second))
		}
		if !same || !idle {
			return
		}
		if err != nil && c.View().State.Alive() {
			c.e.log.Error("a container that should stop cannot be killed", "container", c.id, "err", err)
		}
	}
}

// killStill kills the program if it has no connection. The action token is held.
func (c *container) killStill() error {
	thaw, err := c.quieten()
	if err != nil {
		return err
	}
	if !c.busy(c.View()) {
		err = c.killAll()
	}
	return errors.Join(err, thaw())
}

// killAll kills what runs in the container, each by itself: what died with PID 1 only would go on for a moment, and might accept. It is
// frozen, so nobody forks.
func (c *container) killAll() error {
	c.mu.Lock()
	group := c.group
	c.mu.Unlock()
	if group == nil {
		return nil // it has just exited
	}
	pids, err := group.OwnProcs()
	for _, pid := range pids {
		killIn(group, pid, syscall.SIGKILL)
	}
	return errors.Join(err, c.signal("stop", syscall.SIGKILL))
}

// signalProgram sends a signal to the program itself, while it is frozen: by way of a reaper it would come later, when it may have
// accepted again. The reaper ends as it does.
func (c *container) signalProgram(v *engine.View, sig syscall.Signal) error {
	c.mu.Lock()
	group := c.group
	c.mu.Unlock()
	if v.Config.Init() && group != nil {
		for _, pid := range programOf(v.PID) {
			if killIn(group, pid, sig) {
				return nil
			}
		}
	}
	return c.signal("stop", sig)
}

// programOf finds the child of a reaper that it has been told is the program.
func programOf(reaper int) []int {
	dir := fmt.Sprintf("/proc/%d/", reaper)
	line, err := os.ReadFile(dir + "cmdline")
	args := strings.Split(string(line), "\x00")
	if err != nil || len(args) < 2 {
		return nil
	}
	wanted := strings.TrimLeft(args[1], "0") // as it counts
	children, err := os.ReadFile(dir + fmt.Sprintf("task/%d/children", reaper))
	if err != nil { // the kernel does not tell
		return nil
	}
	for text := range strings.FieldsSeq(string(children)) {
		status, err := os.ReadFile("/proc/" + text + "/status")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
				f := strings.Fields(ids)
				if pid, err := strconv.Atoi(text); err == nil && len(f) > 0 && f[len(f)-1] == wanted {
					return []int{pid}
				}
			}
		}
	}
	return nil
}

// quieten freezes the program without anybody noticing. It is on record, so that the next server thaws it.
func (c *container) quieten() (thaw func() error, err error) {
	group, _, err := c.ensureGroup()
	if err != nil {
		return nil, err
	}
	release, err := c.holdExecs()
	if err != nil {
		return nil, err
	}
	if err := c.amend(func(r *record) { r.Committing = true }); err != nil {
		release()
		return nil, err
	}
	thaw = func() error {
		defer release()
		return errors.Join(group.Write("cgroup.freeze", "0"), c.amend(func(r *record) { r.Committing = false }))
	}
	if err := group.Write("cgroup.freeze", "1"); err != nil {
		return nil, errors.Join(err, thaw())
	}
	return thaw, nil
}
