package local

import (
	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/cgroup"
)

// watchPressure arms the triggers of a configuration, and disarms others.
func (c *container) watchPressure(config *engine.Config) {
	for _, file := range engine.Pressures {
		if err := c.armPressure(file, config.Pressure(file)); err != nil {
			c.e.log.Error("a pressure trigger is not armed", "container", c.id, "err", err)
			c.Fail(err)
		}
	}
}

// trigger is one that is armed.
type trigger struct {
	text  string
	watch *cgroup.Watch
}

// armPressure makes text the trigger of one file, or with "" takes it away. What is armed already stays, with the window that
// has begun.
func (c *container) armPressure(file, text string) (err error) {
	c.mu.Lock()
	group, armed := c.group, c.triggers[file]
	c.mu.Unlock()
	if group == nil || armed.text == text {
		return nil
	}
	next := trigger{text: text}
	if text != "" {
		next.watch, err = group.WatchPressure(c.e.watcher, file, text, func() { c.tellPressure(file, text) })
		if err != nil {
			return err
		}
	}
	c.mu.Lock()
	if c.triggers == nil {
		c.triggers = map[string]trigger{}
	}
	armed, c.triggers[file] = c.triggers[file], next
	c.mu.Unlock()
	armed.watch.Close()
	return nil
}

// tellPressure publishes that a trigger has fired.
func (c *container) tellPressure(file, trigger string) {
	c.tellAlone(engine.EventPressure, engine.Field{Key: "file", Value: file}, engine.Field{Key: "trigger", Value: trigger})
}
