package local

import (
	"slices"
	"strconv"

	"github.com/ctrfs/ctrfs/engine"
)

// Events implements [engine.Engine]. Of a container that has just been removed there is nothing to come.
func (e *Engine) Events(of engine.Container) engine.Events {
	c, ok := of.(*container)
	if !ok {
		return e.bus.Subscribe("")
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	s := e.bus.Subscribe(c.id)
	if e.byID[c.id] != c {
		s.Close()
	}
	return s
}

// publish tells those who listen, and waits for none of them. Any lock may be held.
func (e *Engine) publish(x engine.Event) { e.bus.Publish(&x) }

// tell publishes an event of the container. c.mu is held, so that events come in the order of the changes they tell of.
func (c *container) tell(name string, fields ...engine.Field) {
	c.e.publish(engine.Event{Container: c.path, ID: c.id, Within: c.within, Name: name, Fields: fields})
}

// tellAlone is tell for those who do not hold c.mu.
func (c *container) tellAlone(name string, fields ...engine.Field) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tell(name, fields...)
}

// tellRename is told to those around the container's new place and to those around the old one.
func (c *container) tellRename(from string, around []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.e.publish(engine.Event{Container: c.path, ID: c.id, Within: slices.Concat(c.within, around), Name: engine.EventRename,
		Fields: []engine.Field{{Key: "from", Value: from}}})
}

// exitFields say how a run ended, as exit and status do; what there is not is left out.
func exitFields(x engine.Exit) []engine.Field {
	fields := []engine.Field{{Key: "exit", Value: x.Code()}}
	if n, err := strconv.Atoi(x.Code()); err == nil { // else it is unknown
		fields[0].Value = n
	}
	if !x.Unknown && x.Status.Signaled() {
		fields = append(fields, engine.Field{Key: "signal", Value: engine.SignalName(x.Status.Signal())})
	}
	if x.OOM {
		fields = append(fields, engine.Field{Key: "oom", Value: true})
	}
	return fields
}
