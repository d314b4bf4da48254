package keeper

import (
	"encoding/binary"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// readers counts who has consoles open, besides the keeper: by inotify(7), since a terminal does not tell. One instance is for
// all of them, because a user has few.
type readers struct {
	mu    sync.Mutex
	fd    int             // guarded by mu; -1 before the first console, and where there is no inotify
	count map[int]*reader // guarded by mu; by watch
}

// reader is about one console.
type reader struct {
	watch int
	open  int // how many have it open
	came  int // how many have ever opened it
}

var consoleReaders = readers{fd: -1, count: map[int]*reader{}}

// watch begins to count who opens a file that nobody else has open yet.
func (r *readers) watch(file string) (*reader, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fd < 0 {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil, os.NewSyscallError("inotify_init1", err)
		}
		r.fd = fd
	}
	watch, err := unix.InotifyAddWatch(r.fd, file, unix.IN_OPEN|unix.IN_CLOSE)
	if err != nil {
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	one := &reader{watch: watch}
	r.count[watch] = one
	return one, nil
}

// forget ends that.
func (r *readers) forget(one *reader) {
	if one == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.count, one.watch)
	unix.InotifyRmWatch(r.fd, uint32(one.watch))
}

// of returns how many have a console open, and how many have ever opened it.
func (r *readers) of(one *reader) (open, came int) {
	if one == nil {
		return 0, 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var events [4096]byte
	for {
		n, err := unix.Read(r.fd, events[:])
		if err != nil || n <= 0 {
			return one.open, one.came
		}
		r.take(events[:n])
	}
}

// take counts what struct inotify_event says: watch, mask, cookie, length of a name.
func (r *readers) take(events []byte) {
	for len(events) >= unix.SizeofInotifyEvent {
		watch, mask := int(int32(binary.NativeEndian.Uint32(events))), binary.NativeEndian.Uint32(events[4:])
		if one := r.count[watch]; one != nil {
			switch {
			case mask&unix.IN_OPEN != 0:
				one.open++
				one.came++
			case mask&unix.IN_CLOSE != 0:
				one.open--
			}
		}
		events = events[min(len(events), unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(events[12:]))):]
	}
}

// are reports whether so many consoles are watched.
func (r *readers) are(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.count) == n
}
