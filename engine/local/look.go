package local

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/ctrfs/ctrfs/engine"
)

// A container that does not run has no root. Whoever follows its link root gets one that can be looked at: a mount that is
// attached nowhere and held here for a while. It is gone before anything changes what it shows; whoever stands in it then
// keeps it, and sees what the kernel makes of that.

// lookTime is how long a root is held for whoever has followed the link, and looksMax how many are, of all containers: each takes a
// descriptor, and a loop device where the root or the layer is in a file.
const (
	lookTime = time.Minute
	looksMax = 32
)

// looks are the roots that are held.
type looks struct {
	mu   sync.Mutex
	held []held // guarded by mu; the newest last
}

type held struct {
	c    *container
	root *os.File
	over *time.Timer
}

// drop lets go of the root of a container; of all for nil.
func (l *looks) drop(c *container) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = slices.DeleteFunc(l.held, func(h held) bool {
		if c == nil || h.c == c {
			h.over.Stop()
			h.root.Close()
			return true
		}
		return false
	})
}

// find returns the path of a root that is held. l.mu is held.
func (l *looks) find(c *container) (string, bool) {
	for _, h := range l.held {
		if h.c == c {
			return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.root.Fd()), true
		}
	}
	return "", false
}

// Root implements [engine.Container].
func (c *container) Root() (string, bool) {
	v := c.View()
	if v.PID != 0 {
		return fmt.Sprintf("/proc/%d/root", v.PID), true
	}
	if !v.Config.OwnMounts() || v.State.Alive() {
		return "", false
	}
	c.e.looks.mu.Lock()
	defer c.e.looks.mu.Unlock()
	if path, ok := c.e.looks.find(c); ok {
		return path, true
	}
	return fmt.Sprintf("/proc/%d/fd/00", os.Getpid()), true // about as long as the true one
}

// OpenRoot implements [engine.Container].
func (c *container) OpenRoot() (string, error) {
	if v := c.View(); v.State.Active() && v.PID != 0 {
		return fmt.Sprintf("/proc/%d/root", v.PID), nil
	}
	end, err := c.begin("read") // it does not start meanwhile
	if err != nil {
		return "", err
	}
	defer end()
	v := c.View()
	if v.State.Alive() {
		return fmt.Sprintf("/proc/%d/root", v.PID), nil
	}
	if !v.Config.OwnMounts() {
		return "", &engine.Error{Op: "read", File: "root", Errno: syscall.ENOENT, Why: "it has no root of its own"}
	}
	c.settled.Wait() // the last run's root may still be going
	l := &c.e.looks
	l.mu.Lock()
	path, ok := l.find(c)
	l.mu.Unlock()
	if ok {
		return path, nil
	}
	from, err := c.e.source(v.Config)
	if err != nil {
		return "", err
	}
	root, err := c.e.roots.Look(c.id, from, v.Config.RootMode())
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.held) >= looksMax {
		l.held[0].over.Stop()
		l.held[0].root.Close()
		l.held = slices.Delete(l.held, 0, 1)
	}
	l.held = append(l.held, held{c, root, time.AfterFunc(lookTime, func() { l.drop(c) })})
	path, _ = l.find(c)
	return path, nil
}
