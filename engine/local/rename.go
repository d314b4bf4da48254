package local

import (
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
)

// Rename implements [engine.Engine].
func (e *Engine) Rename(by engine.Caller, ec, to engine.Container, name string) error {
	c, ok := ec.(*container)
	if !ok {
		return syscall.EINVAL
	}
	v := c.View()
	if err := engine.ValidateName(name); err != nil {
		return err
	}
	end, err := c.begin("rename")
	if err != nil {
		return err
	}
	defer end()
	parent, _ := to.(*container)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.movable(c, parent, name); err != nil {
		return err
	}
	id := ""
	if parent != nil {
		id = parent.id
	}
	if parent != c.parent {
		if err := c.dropGroup(); err != nil { // a group cannot move; the next start makes it in its new place
			return err
		}
	}
	if err := c.amend(func(r *record) { r.Name, r.Parent = name, id }); err != nil {
		return &engine.Error{Op: "rename", File: v.Path, Value: name, Errno: engine.Errno(err), Err: err}
	}
	delete(e.childrenOf(asContainer(c.parent)), c.name)
	c.mu.Lock()
	c.name = name
	around := c.within
	c.mu.Unlock()
	e.adopt(c, parent)
	c.tellRename(v.Path, around)
	return nil
}

// movable says why a container cannot get a name. e.mu is held.
func (e *Engine) movable(c, parent *container, name string) error {
	refuse := func(errno syscall.Errno, why, cure string) error {
		return &engine.Error{Op: "rename", File: c.path, Value: name, Errno: errno, Why: why, Cure: cure}
	}
	if c.removed || parent != nil && parent.removed {
		return refuse(syscall.ENOENT, "", "")
	}
	if _, taken := e.childrenOf(asContainer(parent))[name]; taken {
		return refuse(syscall.EEXIST, "the name is taken", "remove that container first")
	}
	for p := parent; p != nil; p = p.parent {
		if p == c {
			return refuse(syscall.EINVAL, "it would lie in itself", "")
		}
	}
	if parent != c.parent && c.anyAlive() {
		return refuse(syscall.EBUSY, "it runs, and its processes cannot change their parent group", "stop it first: echo 1 > stop")
	}
	return nil
}

// anyAlive reports whether the container or one below it runs. Engine.mu is held.
func (c *container) anyAlive() bool {
	if c.View().State.Alive() {
		return true
	}
	for _, child := range c.children {
		if child.anyAlive() {
			return true
		}
	}
	return false
}
