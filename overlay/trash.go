package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/crash"
)

// trash is a directory whose content is being deleted. A tree in it is flattened: a directory that is not empty moves
// up into the trash and becomes an entry like any other. So neither depth nor width costs memory or descriptors,
// however a container has built its tree, nothing is followed, and what a crash interrupts is simply continued.
type trash struct {
	dir  *os.File // immutable
	last atomic.Int64
	stop atomic.Bool
	step int // what the sweep has achieved; only it touches this

	mu    sync.Mutex
	done  chan struct{} // guarded by mu: closed when the sweep that runs has ended; nil when none runs
	again bool          // guarded by mu: something came in since it began
	err   error         // guarded by mu: what the last sweep could not delete
}

// take moves an entry of dir into the trash. Both must be on one file system.
func (t *trash) take(dir *os.File, name string) error {
	if err := t.move(dir, name); err != nil {
		return err
	}
	t.kick()
	return nil
}

// move gives an entry of dir a name in the trash that is free.
func (t *trash) move(dir *os.File, name string) error {
	t.last.CompareAndSwap(0, time.Now().UnixNano())
	for {
		free := strconv.FormatInt(t.last.Add(1), 36)
		err := unix.Renameat2(int(dir.Fd()), name, int(t.dir.Fd()), free, unix.RENAME_NOREPLACE)
		if err != syscall.EEXIST {
			crash.Point("move into the trash")
			return err
		}
	}
}

// kick sees to it that somebody empties the trash.
func (t *trash) kick() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.again = true
	if t.done == nil && !t.stop.Load() {
		t.done = make(chan struct{})
		go t.sweep(t.done)
	}
}

func (t *trash) sweep(done chan struct{}) {
	defer close(done)
	for {
		t.mu.Lock()
		if !t.again || t.stop.Load() {
			t.done = nil
			t.mu.Unlock()
			return
		}
		t.again = false
		t.mu.Unlock()
		err := t.empty()
		t.mu.Lock()
		t.err = err
		t.mu.Unlock()
	}
}

// flush waits for the sweep that runs, if one does.
func (t *trash) flush(ctx context.Context) error {
	for {
		t.mu.Lock()
		done, err := t.done, t.err
		t.mu.Unlock()
		if done == nil {
			return err
		}
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// close ends the sweep that runs after its present system call.
func (t *trash) close() {
	t.stop.Store(true)
	t.mu.Lock()
	done := t.done
	t.mu.Unlock()
	if done != nil {
		<-done
	}
}

// empty goes over the trash until it is empty or a whole round has brought nothing, and returns what stood in the way.
func (t *trash) empty() error {
	for {
		f, err := openat(t.dir, ".", unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		before := t.step
		err = t.each(f, func(name string) error { return t.delete(t.dir, name) })
		f.Close()
		if t.step == before || t.stop.Load() {
			return err
		}
	}
}

// each calls do for every entry of an open directory, and returns the first error.
func (t *trash) each(dir *os.File, do func(name string) error) (first error) {
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if t.stop.Load() {
				return first
			}
			if err := do(name); err != nil && first == nil {
				first = fmt.Errorf("%s: %w", name, err)
			}
		}
		if err == io.EOF {
			return first
		}
		if err != nil {
			return err
		}
	}
}

// delete removes a file of the trash, or a directory after its content has been removed or moved up.
func (t *trash) delete(dir *os.File, name string) error {
	err := t.unlink(dir, name)
	if err != syscall.EISDIR {
		return err
	}
	f, err := openat(dir, name, unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer f.Close()
	stuck := t.each(f, func(child string) error { return t.deleteOrMove(f, child) })
	if err := t.rmdir(dir, name); err != nil {
		return errors.Join(stuck, err)
	}
	return nil
}

func (t *trash) deleteOrMove(dir *os.File, name string) error {
	err := t.unlink(dir, name)
	if err == syscall.EISDIR {
		err = t.rmdir(dir, name)
	}
	if err != syscall.ENOTEMPTY {
		return err
	}
	return t.thawing(dir, name, func() error { return t.move(dir, name) })
}

func (t *trash) unlink(dir *os.File, name string) error {
	return t.thawing(dir, name, func() error { return unix.Unlinkat(int(dir.Fd()), name, 0) })
}

func (t *trash) rmdir(dir *os.File, name string) error {
	return t.thawing(dir, name, func() error { return unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR) })
}

// thawing does a step, if need be without the immutable and append-only flags that may be what forbids it.
func (t *trash) thawing(dir *os.File, name string, do func() error) error {
	err := do()
	if err == syscall.EPERM {
		thaw(dir)
		if entry, openErr := openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW); openErr == nil {
			thaw(entry)
			entry.Close()
		}
		err = do()
	}
	crash.Point("delete from the trash")
	if err == nil {
		t.step++
	}
	return err
}

// The inode flags that forbid deletion, and the request that reads them, as include/uapi/linux/fs.h numbers them;
// x/sys/unix has them for some architectures only.
const (
	frozenFlags  = 0x10 | 0x20 // FS_IMMUTABLE_FL, FS_APPEND_FL
	getFlags     = 0x80086601  // FS_IOC_GETFLAGS: _IOR('f', 1, long)
	setFlags     = 0x40086602  // FS_IOC_SETFLAGS: _IOW('f', 2, long)
	thawableMode = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
)

// thaw clears the flags of a file or directory. Nothing else is opened: a device node of a container's would be a real
// device here.
func thaw(entry *os.File) {
	var st unix.Stat_t
	if unix.Fstat(int(entry.Fd()), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Mode&unix.S_IFMT != unix.S_IFREG {
		return
	}
	f, err := openat(nil, fdPath(entry), thawableMode)
	if err != nil {
		return
	}
	defer f.Close()
	// The flags are an int in spite of the request's number, ioctl_iflags(2).
	flags, err := unix.IoctlGetUint32(int(f.Fd()), getFlags)
	if err == nil && flags&frozenFlags != 0 {
		unix.IoctlSetPointerInt(int(f.Fd()), setFlags, int(flags&^frozenFlags))
	}
}
