package fs

import (
	"sync"
	"time"
)

// memoAge bounds how old the text that a reader gets may be, and so how long after fstat(2) a read still agrees with it.
const memoAge = 10 * time.Millisecond

// memos remembers the texts whose sizes were told lately. A program asks for the size first and reads then; a counter
// that gained a digit in between would be cut by tar and padded by rsync. FUSE carries no handle in GETATTR, so the size
// and the text meet here: GETATTR leaves the text, the first READ of a handle takes it away.
//
// There are few slots, for all files: a text is of use for milliseconds, and `ls -lR` over thousands of containers must
// not leave its texts behind.
type memos struct {
	mu    sync.Mutex
	slots [64]memo
}

// memo is one text, and what must not have changed since it was made.
type memo struct {
	ino   uint64
	stamp stamp
	at    time.Time
	text  string
}

// stamp tells two moments apart: the container's generation, and how many writes the mount has seen. The second makes a
// writer see its own effect also where it is not part of any view, such as a process moved to another group.
type stamp struct{ generation, writes uint64 }

// put remembers the text of a file. stamp was read before the text was made, so that a change in between shows.
func (m *memos) put(ino uint64, s stamp, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slots[ino%uint64(len(m.slots))] = memo{ino, s, time.Now(), text}
}

// get returns the text if it still holds; with take it is the last to do so, and the next reader gets a new text.
func (m *memos) get(ino uint64, s stamp, take bool) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	slot := &m.slots[ino%uint64(len(m.slots))]
	if slot.ino != ino || slot.stamp != s || time.Since(slot.at) > memoAge {
		return "", false
	}
	text := slot.text
	if take {
		*slot = memo{}
	}
	return text, true
}
