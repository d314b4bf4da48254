package local

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/overlay"
)

// teardown closes the roots of containers that have exited. The end of an overlay syncs the whole file system that its layer
// is on, sync_filesystem() of fs/overlayfs/super.c: a few milliseconds on an idle disk, seconds on a busy one, and none of it
// is of use to a container that is removed at once. So the roots wait for a lull, and then one thread of the lowest priority
// ends them one by one: most of their files are gone again by then, and never reach the disk.
type teardown struct {
	mu    sync.Mutex
	queue []*ending   // guarded by mu
	timer *time.Timer // guarded by mu; until the lull; nil while nothing waits
	since time.Time   // guarded by mu; when the first of the queue came
	ends  background
}

// ending is one root's.
type ending struct {
	once sync.Once
	root *overlay.Root
}

// A root is closed lull after the last exit, or lullLimit after its own.
const (
	lull      = 100 * time.Millisecond
	lullLimit = time.Second
)

// later takes a root to close.
func (t *teardown) later(root *overlay.Root) *ending {
	x := &ending{root: root}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = append(t.queue, x)
	switch {
	case t.timer == nil:
		t.since = time.Now()
		t.timer = time.AfterFunc(lull, func() { t.ends.Go(t.drain) })
	case time.Since(t.since) < lullLimit:
		t.timer.Reset(lull)
	}
	return x
}

// now closes the root, unless that is done. Whoever comes second waits for the first.
func (x *ending) now() {
	x.once.Do(func() {
		x.root.Close()
		x.root = nil
	})
}

// drain closes what has come until now.
func (t *teardown) drain() {
	runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
	unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19)
	for _, x := range t.take() {
		x.now()
	}
}

func (t *teardown) take() []*ending {
	t.mu.Lock()
	defer t.mu.Unlock()
	queue := t.queue
	t.queue, t.timer = nil, nil
	return queue
}

// flush closes all of them, at once.
func (t *teardown) flush() {
	for _, x := range t.take() {
		x.now()
	}
	t.ends.Wait()
}

// vacate ends the last run's root: the same layer cannot be mounted twice.
func (c *container) vacate() {
	c.mu.Lock()
	last := c.ending
	c.ending = nil
	c.mu.Unlock()
	if last != nil {
		last.now()
	}
}
