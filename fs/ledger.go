package fs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
)

// ledger has the open wait files of a connection that somebody has read, by their handles. When another server is about to take this
// one's place, it is also a file, in which each change is a line, until the server is killed. So the next one knows them all:
//
//	7 k3v…      handle 7 waits for the program with that id
//	7 k3v… 137  it has shown its reader this
//	7           it is closed
type ledger struct {
	mu   sync.Mutex
	open map[uint64]entry // guarded by mu
	file io.Writer        // nil before it is handed over; guarded by mu
}

// entry is whom a handle waits for, and the last text that it has shown, of one line.
type entry struct{ id, shown string }

// set notes what is known of a handle.
func (l *ledger) set(handle uint64, e entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[uint64]entry{}
	}
	l.open[handle] = e
	if l.file != nil {
		l.line(handle, e)
	}
}

// line writes one down, in one write(2), before the reader is answered. l.mu is held. A line that does not get into the file, for which
// there is no memory, costs its reader an error, as without a file.
func (l *ledger) line(handle uint64, e entry) {
	fmt.Fprintln(l.file, strings.TrimRight(fmt.Sprintf("%d %s %s", handle, e.id, strings.TrimSuffix(e.shown, "\n")), " "))
}

// get returns what is known of a handle.
func (l *ledger) get(handle uint64) (e entry, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok = l.open[handle]
	return e, ok
}

// drop forgets a handle that is closed, and says whether it was the last one.
func (l *ledger) drop(handle uint64) (last bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, handle)
	if l.file != nil {
		l.line(handle, entry{})
	}
	return len(l.open) == 0
}

// empty reports whether nobody waits.
func (l *ledger) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open) == 0
}

// name puts the ids of all into a map.
func (l *ledger) name(waits map[string]until) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.open {
		waits[e.id] = nil
	}
}

// handOver writes all down, and from then on each change.
func (l *ledger) handOver(w io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file = w
	for handle, e := range l.open {
		l.line(handle, e)
	}
}

// readLedger reads what a server has left behind, from the beginning of the file. A last line that is cut was of no use any more.
func readLedger(f *os.File) (*ledger, error) {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, maxLedger))
	return &ledger{open: parseLedger(text)}, err
}

// maxLedger bounds what is read of a ledger: no server has more handles open.
const maxLedger = 64 << 20

// parseLedger leaves out lines that are none.
func parseLedger(text []byte) map[uint64]entry {
	open := map[uint64]entry{}
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if !bytes.HasSuffix(line, []byte("\n")) || len(fields) == 0 {
			continue
		}
		handle, err := strconv.ParseUint(string(fields[0]), 10, 64)
		switch {
		case err != nil:
		case len(fields) == 1:
			delete(open, handle)
		case len(fields) == 2:
			open[handle] = entry{id: string(fields[1])}
		default:
			open[handle] = entry{string(fields[1]), string(fields[2]) + "\n"}
		}
	}
	return open
}
