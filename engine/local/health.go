package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"syscall"
	"time"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/launch"
)

// lookAfter begins to look after the health of the present run, or to do it in another way, or ends it when nothing runs. c.mu is
// held.
func (c *container) lookAfter() {
	if c.unlook != nil {
		c.unlook()
		c.unlook = nil
	}
	h := c.rec.Config.Health()
	c.health = engine.HealthView{}
	if c.pidfd == nil || len(h.Cmd) == 0 {
		return
	}
	c.health.State = engine.HealthStarting
	ctx, cancel := context.WithCancel(context.Background())
	c.unlook = cancel
	started := c.started
	go c.keepLooking(ctx, h, started)
}

// lookAway ends looking after all that run, as the engine does.
func (e *Engine) lookAway() {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, c := range e.byID {
		c.mu.Lock()
		if c.unlook != nil {
			c.unlook()
		}
		c.mu.Unlock()
	}
}

// lookAnew follows a change of the configuration.
func (c *container) lookAnew(old, next *engine.Config) {
	if reflect.DeepEqual(old.Extension.Health, next.Extension.Health) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lookAfter()
	c.touched()
}

// keepLooking looks again and again, until somebody else does, or nobody.
func (c *container) keepLooking(ctx context.Context, h engine.Health, started time.Time) {
	for {
		timer := time.NewTimer(time.Duration(h.Interval) * time.Second)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if c.View().State != engine.Running { // what is paused cannot be asked, and what stops need not be
			continue
		}
		last, err := c.examine(h)
		if errors.Is(err, syscall.EBUSY) {
			continue // it has just exited, or is frozen
		}
		if c.noteHealth(ctx, h, last, time.Since(started)) {
			c.actOnHealth(h)
		}
	}
}

// noteHealth takes what a look has found, and says whether that calls for action.
func (c *container) noteHealth(ctx context.Context, h engine.Health, last string, age time.Duration) (act bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil {
		return false
	}
	was := c.health.State
	c.health = c.health.After(h, last, age)
	c.touched()
	if c.health.State != was {
		c.tell(engine.EventHealth, engine.Field{Key: "health", Value: c.health.State}, engine.Field{Key: "failures", Value: c.health.Failures},
			engine.Field{Key: "last", Value: last})
	}
	return c.health.State == engine.HealthUnhealthy && h.Action != engine.HealthNone
}

// actOnHealth does what the action says. When it cannot, because something else is being done, the next look leads here again.
func (c *container) actOnHealth(h engine.Health) {
	wish := forHealth
	if h.Action == engine.HealthRestart {
		wish = toRestart
	}
	if err := c.stop(wish); err != nil {
		c.e.log.Warn("an unhealthy container is not stopped", "container", c.id, "err", err)
		c.Fail(err)
	}
}

// examine runs the program once, with the container's own rights and user, and says how that ended. An error is that of a container
// in which nothing can be run.
func (c *container) examine(h engine.Health) (string, error) {
	host, err := c.inhabited()
	s := &entering{view: c.View(), host: host}
	defer s.close()
	if err != nil {
		return "", err
	}
	config := s.view.Config.Clone()
	config.Spec.Process.Args, config.Spec.Process.Terminal, config.Spec.Process.ConsoleSize = h.Cmd, false, nil
	s.view.Config = config
	if open(config) {
		return "cannot be run: without a user namespace, CAP_SYS_PTRACE lets the container reach into what enters it", nil
	}
	if s.around, err = c.inside(host); err == nil {
		err = s.lookUpUser()
	}
	if err == nil {
		s.steps, err = c.plannedInside(s.view.Config, s.around.joined, false)
	}
	if err == nil {
		s.join, err = host.group.Join()
	}
	if err == nil {
		s.log, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	var program *launch.Program
	if err == nil {
		program, err = launch.Assemble(s.steps, launch.Files{Join: s.around.files, Tasks: s.join.Tasks, Into: s.join.Into,
			Proc: c.e.facts.proc, Null: c.e.facts.null, Log: s.log})
	}
	var status syscall.WaitStatus
	if err == nil {
		status, err = c.e.keeper.Run(program, time.Duration(h.Timeout)*time.Second)
		err = errors.Join(err, s.join.Settle())
	}
	switch {
	case errors.Is(err, syscall.ETIMEDOUT):
		return fmt.Sprintf("no end within %d s", h.Timeout), nil
	case err != nil:
		return "cannot be run: " + err.Error(), nil
	}
	return engine.Exit{Status: status, Finished: time.Now()}.Code(), nil
}
