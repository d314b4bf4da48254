package local

import (
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/keeper"
	"github.com/ctrfs/ctrfs/engine/launch"
)

// Namespaces that others enter are pinned: the keeper holds them, so that they are the container's from then on, whether it
// runs, has exited or has no program at all, and no process has to sit in them. They are let go when the container is removed,
// or its namespaces are configured anew. A pid namespace cannot be held so: it ends with its first process.

// pinnable are the types of [launch.Kinds], in that order.
var pinnable = []specs.LinuxNamespaceType{specs.UserNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace}

// namespaceKind is a row of [engine.Namespaces].
type namespaceKind = struct {
	Name string
	Type specs.LinuxNamespaceType
}

// pinned opens a pinned namespace of the container.
func (c *container) pinned(kind specs.LinuxNamespaceType) (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pins[kind] == nil {
		return nil, syscall.ESRCH // let go a moment ago
	}
	return dupFile(c.pins[kind])
}

// lend opens a namespace of the container for another one, and pins what can be pinned.
func (c *container) lend(kind namespaceKind) (*os.File, error) {
	c.lending.Lock()
	defer c.lending.Unlock()
	c.mu.Lock()
	pid, pidfd, have := c.pid, c.pidfd, c.pins != nil
	if pidfd != nil {
		pidfd, _ = dupFile(pidfd)
	}
	c.mu.Unlock()
	if pidfd != nil {
		defer pidfd.Close()
	}
	can := false
	for _, t := range pinnable {
		can = can || t == kind.Type
	}
	switch {
	case can && have:
		return c.pinned(kind.Type)
	case pidfd == nil && !can:
		return nil, fmt.Errorf("it does not run, and a %s namespace lasts only as long as the processes in it: %w", kind.Name, syscall.ESRCH)
	case !can:
		return namespaceOf(pid, pidfd, kind.Name)
	}
	if err := c.pin(pid, pidfd); err != nil {
		return nil, err
	}
	return c.pinned(kind.Type)
}

// namespaceOf opens a namespace of a process. The pidfd says afterwards whether it was that process's.
func namespaceOf(pid int, pidfd *os.File, kind string) (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if os.IsNotExist(err) {
		return nil, fmt.Errorf("it has just exited: %w", syscall.ESRCH)
	}
	if err != nil {
		return nil, err
	}
	if err := unix.PidfdSendSignal(int(pidfd.Fd()), 0, nil, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("it has just exited: %w", syscall.ESRCH)
	}
	return f, nil
}

// pin takes the namespaces of the container's process, or makes them when there is none, and has the keeper hold them.
// c.lending is held.
func (c *container) pin(pid int, pidfd *os.File) error {
	var files []*os.File
	var err error
	if pidfd == nil {
		files, err = c.makePins()
	} else {
		for _, k := range launch.Kinds {
			var f *os.File
			if f, err = namespaceOf(pid, pidfd, k.Name); err != nil {
				break
			}
			files = append(files, f)
		}
	}
	if err == nil {
		err = c.e.keeper.Pin(c.id, files)
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		if pidfd == nil { // the links that it was given have gone with the namespace
			c.mu.Lock()
			c.unwired()
			c.mu.Unlock()
			c.e.networks.unpublish(c.id)
		}
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pins = pinMap(files)
	c.touched()
	return nil
}

// pinAgain pins what a keeper that has died has held for those who run, and whose namespaces others have entered. Of a container
// without a process, nothing is left to be pinned: whoever entered its namespaces goes on in them, and its next start makes new ones.
func (e *Engine) pinAgain(account keeper.Account) {
	for _, r := range account.Running {
		c := e.byID[r.ID]
		if c == nil || !r.Adopted {
			continue
		}
		for _, n := range engine.Namespaces {
			lender, ok := c.other(c.rec.Config.Namespace(n.Type).Container)
			if !ok || lender == c || !slices.Contains(pinnable, n.Type) || !sameNamespace(c.pid, lender.pid, n.Name) {
				continue
			}
			if f, err := lender.lend(n); err != nil {
				e.log.Warn("a namespace that others have entered ends with its container", "container", lender.id, "err", err)
			} else {
				f.Close()
			}
		}
	}
}

// sameNamespace reports whether two processes are in the same namespace of a kind.
func sameNamespace(one, other int, kind string) bool {
	a, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", one, kind))
	b, bad := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", other, kind))
	return err == nil && bad == nil && a == b
}

func pinMap(files []*os.File) map[specs.LinuxNamespaceType]*os.File {
	pins := map[specs.LinuxNamespaceType]*os.File{}
	for i, f := range files {
		pins[pinnable[i]] = f
	}
	return pins
}

// makePins makes namespaces for a container that has no process yet.
func (c *container) makePins() ([]*os.File, error) {
	config := c.View().Config
	for _, t := range pinnable {
		if !config.Namespace(t).New() {
			return nil, fmt.Errorf("its %s namespace is not its own, and it does not run: %w", t, syscall.ESRCH)
		}
	}
	uids, gids := uidMap(config), gidMap(config)
	if uids == "" && gids == "" {
		first, err := c.takeRange()
		if err != nil {
			return nil, err
		}
		uids, gids = mapping(first), mapping(first)
	}
	files, err := c.e.keeper.Namespaces(len(pinnable), uids, gids, false)
	if err != nil {
		return nil, err
	}
	if err := c.wirePins(config, files[slices.Index(pinnable, specs.NetworkNamespace)]); err != nil {
		closeFiles(files)
		return nil, err
	}
	return files, nil
}

// wirePins has a network namespace without a process join the container's networks.
func (c *container) wirePins(config *engine.Config, ns *os.File) error {
	networks, err := c.networksOf(config)
	if err != nil || len(networks) == 0 {
		return err
	}
	wires, err := c.wireUp(config, networks, ns, nil)
	if err != nil {
		return err
	}
	if err := c.e.networks.publish(c.id, config, wires); err != nil {
		c.unlease(wires)
		return err
	}
	c.mu.Lock()
	c.wired(wires)
	c.mu.Unlock()
	return c.keep()
}

// takeRange gives the container a range of ids for good, unless it has one.
func (c *container) takeRange() (uint32, error) {
	c.mu.Lock()
	first := c.rec.First
	c.mu.Unlock()
	if first != 0 {
		return first, nil
	}
	first, err := c.e.ids.take()
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	c.rec.First = first
	c.mu.Unlock()
	if err := c.keep(); err != nil {
		c.mu.Lock()
		c.rec.First = 0
		c.mu.Unlock()
		c.e.ids.give(first)
		return 0, err
	}
	return first, nil
}

// guest names a container that lives in the user namespace of c, whose ids must not become another one's meanwhile; "" is
// nobody. e.mu is held.
func (e *Engine) guest(c *container) string {
	c.mu.Lock()
	first, lent := c.rec.First, c.pins != nil
	c.mu.Unlock()
	if c.guests.Load() > 0 {
		return "a container that is just starting"
	}
	if first == 0 || !lent && !e.orphans { // a keeper that has died held what they entered
		return ""
	}
	for _, other := range e.byID {
		if v := other.View(); other != c && v.State.Active() && firstOf(v.PID) == first {
			return v.Path
		}
	}
	return ""
}

// sameNamespaces reports whether two configurations ask for the same namespaces, so that what is pinned stays right.
func sameNamespaces(a, b *engine.Config) bool {
	for _, n := range engine.Namespaces {
		if a.Namespace(n.Type) != b.Namespace(n.Type) {
			return false
		}
	}
	return uidMap(a) == uidMap(b) && gidMap(a) == gidMap(b)
}

// unpin lets go of what is pinned.
func (c *container) unpin() {
	c.mu.Lock()
	pins := c.pins
	c.pins = nil
	idle := c.pid == 0
	if pins != nil && idle {
		c.unwired()
	}
	c.mu.Unlock()
	if pins == nil {
		return
	}
	if idle {
		c.e.networks.unpublish(c.id)
	}
	for _, f := range pins {
		f.Close()
	}
	if err := c.e.keeper.Unpin(c.id); err != nil {
		c.e.log.Warn("the keeper still holds namespaces", "container", c.id, "err", err)
	}
}

// NamespaceLink implements [engine.Container]: where the namespace of a kind is to be found, of the running container or a
// pinned one.
func (c *container) NamespaceLink(kind string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pid != 0 {
		return fmt.Sprintf("/proc/%d/ns/%s", c.pid, kind), true
	}
	for _, n := range engine.Namespaces {
		if n.Name == kind && c.pins[n.Type] != nil {
			return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), c.pins[n.Type].Fd()), true
		}
	}
	return "", false
}
