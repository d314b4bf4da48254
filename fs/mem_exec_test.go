package fs

import (
	"maps"
	"slices"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
)

// memExec is an exec that starts and exits when a test says so: the program of a container that nobody else sees, in another one.
type memExec struct {
	engine.Program
	mem *memContainer
	in  *memContainer
}

func (x *memExec) View() *engine.View {
	v := x.mem.View()
	v.Path = x.in.View().Path + "/exec/" + v.Name
	return v
}

func (x *memExec) Start(by engine.Caller) error {
	if !x.in.View().State.Active() {
		return busy("start", x.in.View().Name, x.in.View().State)
	}
	return x.mem.Start(by)
}

func (x *memExec) Inherited() *engine.Config {
	c := x.in.View().Config.Clone()
	c.Spec.Process.Args = nil
	return c
}

func (c *memContainer) Execs() (all []engine.Exec) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(c.execs)) {
		all = append(all, c.execs[name])
	}
	return all
}

func (c *memContainer) Exec(name string) (engine.Exec, bool) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	x, ok := c.execs[name]
	return x, ok
}

// AddExec makes the program by way of a container in an engine of its own.
func (c *memContainer) AddExec(by engine.Caller, name string, o engine.Owner) (engine.Exec, error) {
	if err := engine.ValidateName(name); err != nil {
		return nil, err
	}
	alone := newMemEngine()
	c.e.mu.Lock()
	c.e.next++
	alone.next = 1000 + c.e.next // an identity that nobody else has
	c.e.mu.Unlock()
	made, err := alone.Create(by, nil, name, o)
	if err != nil {
		return nil, err
	}
	x := &memExec{made, made.(*memContainer), c}
	x.mem.view.Config = x.Inherited()
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	if c.execs == nil {
		c.execs = map[string]*memExec{}
	}
	c.execs[name] = x
	return x, nil
}

func (c *memContainer) RemoveExec(_ engine.Caller, x engine.Exec) error {
	v := x.View()
	if v.State.Active() {
		return &engine.Error{Op: "rmdir", File: v.Name, Errno: syscall.EBUSY, Why: "it is " + string(v.State), Cure: "end it first"}
	}
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	delete(c.execs, v.Name)
	return nil
}

// exec finds an exec by its path, for tests.
func (e *memEngine) exec(container, name string) *memContainer {
	x, _ := e.get(container).Exec(name)
	return x.(*memExec).mem
}
