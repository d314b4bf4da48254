package local

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ctrfs/ctrfs/engine/crash"
)

// automatic is what is started without being asked for, so many at a time: a launch may hang, on a dead file server, as long as
// the keeper lets it.
type automatic struct {
	work  background
	slots chan struct{}

	name  string       // of the file that says that the mount starts containers; immutable
	since time.Time    // the time of the mount, or zero if it has started all; immutable
	left  atomic.Int64 // containers of which is not known yet whether the mount starts them, and starts on their way

	mu   sync.Mutex
	open bool // guarded by mu
}

// automaticMax bounds the starts that nobody asks for and that are on their way at one time.
const automaticMax = 8

func newAutomatic() *automatic { return &automatic{slots: make(chan struct{}, automaticMax)} }

func (a *automatic) isOpen() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open
}

func (a *automatic) setOpen(open bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open = open
}

// do does something in the background once there is a slot, unless it is too late.
func (a *automatic) do(start func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.open {
		return
	}
	a.work.Go(func() {
		a.slots <- struct{}{}
		defer func() { <-a.slots }()
		if a.isOpen() {
			start()
		}
	})
}

// close returns when nothing is on its way, and nothing will be.
func (a *automatic) close() {
	a.setOpen(false)
	a.work.Wait()
}

// mountName is the file of the run directory that holds the time of the mount, in nanoseconds since 1970, until all that the mount
// starts has been tried. A server that takes over meanwhile goes on with it.
const mountName = "starting"

// noteMount begins the starts of a mount, or finds that a server before this one has not come to their end.
func (e *Engine) noteMount(name string, again bool) error {
	e.automatic.name = name
	if !again {
		e.automatic.since = time.Now()
		err := os.WriteFile(name, strconv.AppendInt(nil, e.automatic.since.UnixNano(), 10), 0o600)
		crash.Point("note the time of the mount")
		return err
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	nanoseconds, bad := strconv.ParseInt(string(text), 10, 64)
	if err == nil && bad == nil { // else it was killed while it wrote that
		e.automatic.since = time.Unix(0, nanoseconds)
	}
	return err
}

// Automate begins what happens without being asked for: restarts that are due, and after a mount the containers that it starts.
func (e *Engine) Automate() {
	e.automatic.setOpen(true)
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, c := range e.byID {
		c.mu.Lock()
		c.arm()
		c.goOnListening()
		c.mu.Unlock()
	}
	if e.automatic.since.IsZero() {
		return
	}
	e.automatic.left.Add(1)
	for _, c := range e.top {
		e.startAtMount(c)
	}
	e.triedAtMount()
}

// startAtMount starts a container if a mount does, and then those in it: they may want its namespaces. None waits for any but
// those around it. e.mu is held.
func (e *Engine) startAtMount(c *container) {
	e.automatic.left.Add(1)
	e.automatic.do(func() {
		c.startAtMount()
		e.mu.RLock()
		for _, child := range c.children {
			e.startAtMount(child)
		}
		e.mu.RUnlock()
		e.triedAtMount()
	})
}

// triedAtMount notes that one more start of the mount is no longer on its way.
func (e *Engine) triedAtMount() {
	if e.automatic.left.Add(-1) > 0 {
		return
	}
	if err := os.Remove(e.automatic.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.log.Warn("another server would start again what the mount has started", "err", err)
	}
	crash.Point("note that the mount has started all")
}

// startAtMount starts the container, if a mount does.
func (c *container) startAtMount() {
	if !c.wantedAtMount() {
		return
	}
	end, err := c.begin("start")
	if err == nil {
		defer end()
		if !c.wantedAtMount() {
			return
		}
		err = c.launch(onMount)
	}
	if err != nil {
		c.startFailed(onMount, err)
	}
}

// wantedAtMount reports whether the mount is to start the container, which it has not yet.
func (c *container) wantedAtMount() bool {
	c.e.mu.RLock()
	removed := c.removed
	c.e.mu.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case removed, c.state.Active(), !c.rec.RestartAt.IsZero(), c.rec.Exit.Started.After(c.e.automatic.since):
		return false
	case c.rec.Config.Autostart():
		return true
	}
	return c.rec.Started && c.rec.Config.Restart().AtMount(c.rec.Stopped == byUser)
}
