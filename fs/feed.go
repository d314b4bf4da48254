package fs

import (
	"context"
	"sync"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// quiet is what a program that walks a tree reads from a stream that goes on: an empty line, which is no event, and st_size
// tells its length. The size is not 0 because busybox would then not read at all.
const quiet = "\n"

// walking marks the open(2) of a program that opens whatever it meets: grep -r and tar say O_NONBLOCK, cp -r O_NOFOLLOW,
// neither of which is needed for a file that was named. They are not held up for as long as nothing happens.
const walking = syscall.O_NONBLOCK | syscall.O_NOFOLLOW

// feed is an open stream that goes on. It looks like a file that begins where it was opened and grows, of which the last few
// lines can be read again: bash's read takes more than a line and seeks back to its end, and so does head(1). FOPEN_STREAM
// would forbid the seeking, which head takes for an error.
type feed struct {
	events engine.Events // immutable

	mu     sync.Mutex // not held while a read blocks
	begin  int64      // under mu; offset of window
	window []byte     // under mu; the text that can be read (again)
}

// newFeed opens a row's stream. What happens from now on will be read, whenever that is.
func newFeed(r *row, s source, flags uint32) *feed {
	f := &feed{events: r.feed(s)}
	if flags&walking != 0 {
		f.events.Close()
		f.window = []byte(quiet)
	}
	return f
}

// read gives what is there from off on, or else waits for the next event. It never fills a READ of the largest size, for the
// kernel would then send another one on behalf of the same read(2), and that one would wait.
func (f *feed) read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if len(dest) == maxRead {
		dest = dest[:maxRead-1]
	}
	n, ok := f.show(dest, off)
	if n > 0 || !ok || len(dest) == 0 {
		if !ok {
			return nil, syscall.ESPIPE
		}
		return fuse.ReadResultData(dest[:n]), 0
	}
	e, err := f.events.Next(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, syscall.EINTR
	}
	if err == nil { // else it has ended
		f.add(e, len(dest))
	}
	n, _ = f.show(dest, off)
	return fuse.ReadResultData(dest[:n]), 0
}

// show copies what there is from off on. Who has sought beyond the end goes on there. It is false for text that is forgotten.
func (f *feed) show(dest []byte, off int64) (n int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off > f.begin+int64(len(f.window)) {
		f.begin, f.window = off, nil
	}
	if off < f.begin {
		return 0, false
	}
	return copy(dest, f.window[off-f.begin:]), true
}

// add appends an event, and those that have happened meanwhile, until there is enough for a read.
func (f *feed) add(e *engine.Event, enough int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.window) - maxRead; n > 0 {
		f.window, f.begin = append([]byte(nil), f.window[n:]...), f.begin+int64(n)
	}
	for before := len(f.window); e != nil; e = f.events.Try() {
		f.window = append(append(f.window, e.JSON()...), '\n')
		if len(f.window)-before >= enough {
			return
		}
	}
}
