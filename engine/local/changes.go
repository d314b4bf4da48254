package local

import (
	"os"
	"sync"
	"time"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/overlay"
)

// changes is the list of what a container has changed, as it was at one moment: in a file without a name, since it may be long.
type changes struct{ file *os.File }

func (l changes) ReadAt(b []byte, off int64) (int, error)   { return l.file.ReadAt(b, off) }
func (l changes) ReadPage(b []byte, off int64) (int, error) { return l.file.ReadAt(b, off) }
func (l changes) Close() error                              { return l.file.Close() }

func (l changes) Size() (int64, error) {
	info, err := l.file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// measured is how long the last list was, so that ls(1) does not compare two trees each time that it is asked for.
type measured struct {
	mu         sync.Mutex
	size       int64
	generation uint64
	until      time.Time // for how long that is near enough
}

// rarely is how many times as long as it took to make a list its size is told.
const rarely = 20

// Changes implements [engine.Container].
func (c *container) Changes() (engine.Log, error) {
	begin, generation := time.Now(), c.Generation()
	file, err := c.e.roots.Spool()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	view, root := c.view(), c.root
	c.mu.Unlock()
	if config := view.Config; config.OwnMounts() {
		var from overlay.Source
		if from, err = c.e.source(config); err == nil {
			err = c.e.roots.Changes(c.id, from, config.RootMode(), root, view.State.Alive(), file)
		}
	}
	list := changes{file}
	var size int64
	if err == nil {
		size, err = list.Size()
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	c.measured.mu.Lock()
	defer c.measured.mu.Unlock()
	c.measured.size, c.measured.generation, c.measured.until = size, generation, time.Now().Add(rarely*time.Since(begin))
	return list, nil
}

// ChangesSize implements [engine.Container].
func (c *container) ChangesSize() (int64, error) {
	c.measured.mu.Lock()
	size, good := c.measured.size, c.measured.generation == c.Generation() && time.Now().Before(c.measured.until)
	c.measured.mu.Unlock()
	if good {
		return size, nil
	}
	list, err := c.Changes()
	if err != nil {
		return 0, err
	}
	defer list.Close()
	return list.Size()
}
