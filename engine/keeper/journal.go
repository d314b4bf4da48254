package keeper

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// journalName is the journal's file in the state directory.
const journalName = "journal"

// journalMax is the size, in bytes, beyond which a journal with nothing left in it is emptied. Emptying frees a block, which
// a disk mounted with discard takes a tenth of a millisecond for, so it is not done for every exit.
const journalMax = 256 << 10

// journal is a file of exits, and of which of them the server has recorded, one line each:
//
//	exit ID PID STATUS STARTED FINISHED
//	done ID STARTED
//
// with the id in hexadecimal and the times in nanoseconds since 1970. A line is written by one write(2); a torn line, as
// a power cut or a full disk may leave it, is ignored.
type journal struct {
	file *os.File
	size int64
	torn bool // the last line may be cut short, and the next one must not continue it
}

// openJournal opens or makes the journal and returns what is in it.
func openJournal(state string) (*journal, []message, error) {
	f, err := os.OpenFile(filepath.Join(state, journalName), os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, nil, err
	}
	exits, err := parseJournal(f)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return &journal{file: f, size: size, torn: size > 0}, exits, nil
}

// parseJournal reads every whole line that makes sense and returns the exits that are not done.
func parseJournal(r io.Reader) ([]message, error) {
	var exits []message
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var word, id string
		m := message{Kind: kindExit}
		if _, err := fmt.Sscan(lines.Text(), &word, &id); err != nil {
			continue
		}
		raw, err := hex.DecodeString(id)
		if err != nil || len(raw) > idSize {
			continue
		}
		copy(m.ID[:], raw)
		rest := strings.TrimPrefix(lines.Text(), word+" "+id+" ")
		switch word {
		case "exit":
			n, err := fmt.Sscanf(rest, "%d %d %d %d", &m.PID, &m.Status, &m.Started, &m.Finished)
			if n == 4 && err == nil && m.Finished >= m.Started {
				exits = append(exits, m)
			}
		case "done":
			if n, err := fmt.Sscanf(rest, "%d", &m.Started); n == 1 && err == nil {
				exits = slices.DeleteFunc(exits, func(e message) bool { return e.ID == m.ID && e.Started == m.Started })
			}
		}
	}
	return exits, lines.Err()
}

// add appends one exit.
func (j *journal) add(m message) error {
	return j.append(fmt.Appendf(nil, "exit %x %d %d %d %d\n", m.id(), m.PID, m.Status, m.Started, m.Finished))
}

// done appends that an exit has been recorded. empty says that no other is waiting.
func (j *journal) done(m message, empty bool) error {
	if empty && j.size > journalMax {
		j.size = 0
		return j.file.Truncate(0)
	}
	return j.append(fmt.Appendf(nil, "done %x %d\n", m.id(), m.Started))
}

func (j *journal) append(line []byte) error {
	if j.torn {
		line = append([]byte("\n"), line...)
	}
	n, err := j.file.Write(line)
	j.size += int64(n)
	j.torn = err != nil
	return err
}
