package local

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
)

// bounds keeps logs within log.max. A program writes straight into its log, so nothing can stop it or copy for it; what is too
// old is taken out of the file where it lies, fallocate(2), and the rest stays at its offsets.
//
// A log that nobody writes costs nothing: the kernel tells of the first write, by inotify(7), and only then, until no more
// comes, is the size looked at again and again, as often as the program writes fast.
type bounds struct {
	log  *slog.Logger
	over chan struct{}
	work background

	mu    sync.Mutex
	quiet map[int32]*container // logs that nobody has written lately, by watch descriptor; guarded by mu
	in    *os.File             // guarded by mu; nil once it is over
}

// Times between two looks.
const (
	logPauseMin = 10 * time.Millisecond
	logPauseMax = time.Second
)

func openBounds(log *slog.Logger) (*bounds, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	in := os.NewFile(uintptr(fd), "inotify")
	b := &bounds{log: log, over: make(chan struct{}), in: in, quiet: map[int32]*container{}}
	b.work.Go(func() { b.read(in) })
	return b, nil
}

// read takes what the kernel tells, until it is closed.
func (b *bounds) read(in *os.File) {
	var events [64 * unix.SizeofInotifyEvent]byte
	for {
		n, err := in.Read(events[:])
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				b.log.Error("logs are no longer kept within log.max", "err", err)
			}
			return
		}
		for at := 0; at+unix.SizeofInotifyEvent <= n; at += unix.SizeofInotifyEvent { // files have no names
			wd := int32(binary.NativeEndian.Uint32(events[at:]))
			b.mu.Lock()
			c := b.quiet[wd]
			delete(b.quiet, wd)
			b.mu.Unlock()
			if c != nil {
				c.boundLog()
			}
		}
	}
}

// await has the kernel tell of the next write.
func (b *bounds) await(c *container) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.in == nil {
		return nil
	}
	wd, err := unix.InotifyAddWatch(int(b.in.Fd()), c.logPath(), unix.IN_MODIFY|unix.IN_ONESHOT|unix.IN_DONT_FOLLOW)
	if err == nil {
		b.quiet[int32(wd)] = c
	}
	return err
}

// close ends it. What is written from now on is looked at by the next engine.
func (b *bounds) close() {
	b.mu.Lock()
	b.in.Close()
	b.in = nil
	b.mu.Unlock()
	close(b.over)
	b.work.Wait()
}

// boundLog looks after the log until nobody writes it, unless that is being done.
func (c *container) boundLog() {
	if c.bounding.CompareAndSwap(false, true) {
		c.e.bounds.work.Go(c.followLog)
	}
}

// followLog keeps the log within its bound while it grows.
func (c *container) followLog() {
	pause, last := logPauseMin, int64(-1)
	for {
		limit, active := c.logLimit()
		size, err := c.trimLog(limit)
		if err != nil {
			c.e.log.Warn("a log is not kept within log.max", "container", c.id, "err", err)
		}
		if err != nil || !active || limit == engine.Max {
			c.bounding.Store(false)
			return
		}
		if size == last {
			// Whoever is told of a write from here on finds that nobody looks after it.
			c.bounding.Store(false)
			if err := c.e.bounds.await(c); err != nil {
				c.e.log.Warn("a log is not kept within log.max", "container", c.id, "err", err)
				return
			}
			if size == c.logSize() || !c.bounding.CompareAndSwap(false, true) {
				return
			}
		}
		pause = nextPause(pause, size-last, limit)
		last = size
		select {
		case <-time.After(pause):
		case <-c.e.bounds.over:
			return
		}
	}
}

// nextPause is such that about a quarter of the limit is written meanwhile.
func nextPause(pause time.Duration, grown, limit int64) time.Duration {
	switch {
	case grown > limit/4:
		pause /= 2
	case grown < limit/8:
		pause *= 2
	}
	return min(max(pause, logPauseMin), logPauseMax)
}

func (c *container) logLimit() (limit int64, active bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec.Config.LogMax(), c.state.Alive()
}

func (c *container) logSize() int64 {
	size, _ := (&logReader{name: c.logPath()}).Size()
	return size
}

// pageAlign is what pieces of a file are given back in: the blocks of the usual file systems.
const pageAlign = 4096

// trimLog takes out the oldest of the log when there is more than allowed, and some more, so as not to do it all the time. It
// returns the size, which stays what it is.
func (c *container) trimLog(limit int64) (int64, error) {
	f, err := os.OpenFile(c.logPath(), os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || limit == engine.Max {
		return 0, err
	}
	size := info.Size()
	if size-firstKept(f, size) <= limit {
		return size, nil
	}
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, cutAt(size, limit))
	crash.Point("take out a part of a log")
	return size, os.NewSyscallError("fallocate", err)
}

// cutAt is up to where a log of that size is taken out: whole pages, as many as it takes, and those of an eighth more.
func cutAt(size, limit int64) int64 {
	least := (size - limit + pageAlign - 1) / pageAlign * pageAlign
	return max(least, (size-limit/8*7)/pageAlign*pageAlign)
}

// firstKept is where the kept part of a log begins: what lies before is a hole, and there is no other in a file that is only
// appended to.
func firstKept(f *os.File, size int64) int64 {
	at, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return size
	case err != nil: // of a file system that knows no holes
		return 0
	}
	return at
}
