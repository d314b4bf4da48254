package local

import (
	"fmt"
	"sync"
	"time"

	"github.com/ctrfs/ctrfs/engine"
)

// errand is something that is done behind whoever asks for it: once more, at most, for all who ask while it is being done.
type errand struct {
	mu    sync.Mutex
	again bool       // guarded by mu; asked for
	doing bool       // guarded by mu
	ends  background // what is being done
}

func (x *errand) ask(do func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.again = true
	if x.doing {
		return
	}
	x.doing = true
	x.ends.Go(func() {
		for x.next() {
			do()
		}
	})
}

// next reports whether somebody has asked since it was last called.
func (x *errand) next() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.doing, x.again = x.again, false
	return x.doing
}

// around lists the container and those that it lies in, the nearest first.
func (c *container) around() (all []*container) {
	c.e.mu.RLock()
	defer c.e.mu.RUnlock()
	for ; c != nil; c = c.parent {
		all = append(all, c)
	}
	return all
}

// watchMemory has the kernel tell when the memory of the container, or of one around it, runs out. Where no limit binds it
// cannot, and costs nothing.
func (c *container) watchMemory() {
	all := c.around()
	limited := false
	for i := len(all) - 1; i >= 0; i-- {
		p := all[i]
		limited = limited || p.View().Config.MemoryMax() != engine.Max
		if limited {
			p.armMemory()
		}
	}
}

// watchRun begins to watch a run: behind its start, which does not wait for that.
func (c *container) watchRun(kills uint64) {
	c.watchMemory()
	c.watchPressure(c.View().Config)
	if kills > 0 {
		c.keepRun()
	}
}

// notePeak keeps the most memory that the last run has used, which the group knows for as long as it is there.
func (c *container) notePeak() {
	text, err := c.ReadControl("memory.peak")
	var peak uint64
	if err == nil {
		_, err = fmt.Sscan(text, &peak)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.rec.Exit.Peak = peak
	}
}

// armMemory is watchMemory for the container alone.
func (c *container) armMemory() {
	c.mu.Lock()
	group, armed := c.group, c.memory != nil
	c.mu.Unlock()
	if group == nil || armed {
		return
	}
	watch, err := group.WatchOOM(c.e.watcher, c.memoryShort)
	if err != nil {
		c.e.log.Warn("nobody will tell at once when memory runs out", "container", c.id, "err", err)
		return
	}
	c.mu.Lock()
	if c.group == group && c.memory == nil {
		c.memory, watch = watch, nil
	}
	c.mu.Unlock()
	watch.Close()
	c.looking.ask(c.lookAtMemory) // it may have run out before
}

// memoryShort is told that memory may have run out. It does not block.
func (c *container) memoryShort() {
	c.shortAt.Store(time.Now().UnixNano())
	c.short.Store(true)
	c.looking.ask(c.lookAtMemory)
}

// Bounds on what the kernel takes between telling that memory has run out and counting the kill, of which there is no other
// sign (mm/memcontrol-v1.c, memcg1_oom_prepare); and on how far apart it tells those whom one limit concerns.
const (
	oomWait     = time.Second
	oomTogether = 50 * time.Millisecond
)

// lookAtMemory finds out what has happened to the container's memory, and acts on it. If the kernel has just told of
// something, it may be about to happen: to this container, or to another one below the same limit.
func (c *container) lookAtMemory() {
	c.mu.Lock()
	group, kills := c.group, c.kills
	c.mu.Unlock()
	if group == nil {
		return
	}
	end := time.Now()
	if c.short.Swap(false) {
		end = end.Add(oomWait)
	}
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		oom, err := group.OOM()
		if err != nil {
			return // the group is gone
		}
		if oom.Kills > kills {
			c.killed(oom.Kills)
			return
		}
		if what := c.View().Config.OOM(); oom.Under && what != engine.OOMKill && !c.shortAbove() {
			c.ranOut(what)
			return
		}
		if time.Now().After(end) {
			return
		}
		time.Sleep(pause)
	}
}

// shortAbove reports whether it is at the limit of a container around this one that memory has run out. That one sees to it.
func (c *container) shortAbove() bool {
	for _, p := range c.around()[1:] {
		p.mu.Lock()
		group := p.group
		p.mu.Unlock()
		if group == nil {
			continue
		}
		if oom, err := group.OOM(); err == nil && oom.Under {
			return true
		}
	}
	return false
}

// killed takes note that the kernel has killed, and kills the rest where they live and die together.
func (c *container) killed(kills uint64) {
	c.mu.Lock()
	known := !c.countKills(kills)
	c.mu.Unlock()
	if known {
		return
	}
	if whole := c.together(); whole != nil {
		whole.killTogether()
	}
	c.keepRun()
}

// countKills takes the number of all OOM kills in the group, and tells of those that are new. c.mu is held.
func (c *container) countKills(kills uint64) bool {
	if kills <= c.kills {
		return false
	}
	fresh := kills - c.kills
	c.kills = kills
	if c.pidfd != nil {
		c.rec.OOM, c.rec.Kills = true, kills
	}
	c.touched()
	c.tell(engine.EventOOM, engine.Field{Key: "action", Value: string(engine.OOMKill)}, engine.Field{Key: "kills", Value: fresh})
	return true
}

// together finds the outermost container with memory.oom.group that the limit concerned at which one of this container's
// processes was killed: the kernel has told them all at once. v2 does by itself what follows.
func (c *container) together() (whole *container) {
	if c.e.host.OOMGroup() {
		return nil
	}
	at := c.shortAt.Load()
	for _, p := range c.around() {
		if p != c && p.shortAt.Load() < at-int64(oomTogether) {
			break
		}
		if p.View().Config.MemoryOOMGroup() {
			whole = p
		}
	}
	return whole
}

// killTogether kills everything in the container. As with v2's memory.oom.group, each one's memory has run out.
func (c *container) killTogether() {
	c.mu.Lock()
	group := c.group
	c.mu.Unlock()
	if group == nil {
		return
	}
	for _, m := range c.family() {
		m.mu.Lock()
		m.rec.OOM = m.rec.OOM || m.pidfd != nil
		m.mu.Unlock()
	}
	if err := group.Kill(); err != nil {
		c.e.log.Error("not all of a container that should die together is killed", "container", c.id, "err", err)
	}
}

// ranOut does what memory.oom says where the killer is held.
func (c *container) ranOut(what engine.OOM) {
	c.mu.Lock()
	if c.rec.OOM && (c.state == engine.Paused || c.state == engine.Stopping) {
		c.mu.Unlock()
		return // it has been told, by this server or the one before
	}
	c.rec.OOM = c.rec.OOM || c.pidfd != nil
	c.touched()
	c.tell(engine.EventOOM, engine.Field{Key: "action", Value: string(what)})
	c.mu.Unlock()
	c.keepRun()
	for _, m := range c.concerned(what) {
		if err := m.holdUp(what); err != nil {
			c.e.log.Error("a container without memory is not held up", "container", m.id, "action", what, "err", err)
			m.Fail(err)
			time.AfterFunc(oomWait, func() { c.looking.ask(c.lookAtMemory) }) // another operation was in the way
		}
	}
}

// concerned lists whom an action on a container meets: freezing is the group's, and reaches what is below it.
func (c *container) concerned(what engine.OOM) []*container {
	if what == engine.OOMFreeze {
		return []*container{c}
	}
	return c.family()
}

// holdUp freezes or stops one container.
func (c *container) holdUp(what engine.OOM) error {
	if what == engine.OOMStop {
		if state := c.View().State; !state.Active() || state == engine.Stopping {
			return nil
		}
		return c.stop(byItself)
	}
	end, err := c.begin("freeze")
	if err != nil {
		return err
	}
	defer end()
	if c.View().Config.OOM() != engine.OOMFreeze {
		return nil // it has just been changed, and the kernel kills
	}
	return c.freeze("1")
}

// keepRun puts on disk what only the present run knows, so that another server does not forget it.
func (c *container) keepRun() {
	if err := c.save(); err != nil {
		c.e.log.Warn("that memory has run out is not on disk; another server would not know", "container", c.id, "err", err)
	}
}

// rewatch follows a change of the configuration: a limit binds those below as well.
func (c *container) rewatch(old, next *engine.Config) {
	if old.MemoryMax() != next.MemoryMax() || old.OOM() != next.OOM() {
		for _, m := range c.family() {
			m.watchMemory()
			m.looking.ask(m.lookAtMemory)
		}
	}
	c.watchPressure(next)
}

// unwatch ends all that the kernel was asked to tell of the container's group.
func (c *container) unwatch() {
	c.mu.Lock()
	memory, triggers := c.memory, c.triggers
	c.memory, c.triggers = nil, nil
	c.mu.Unlock()
	memory.Close()
	for _, t := range triggers {
		t.watch.Close()
	}
}
