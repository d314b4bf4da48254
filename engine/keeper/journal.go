package keeper

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// journalName is the journal's file in the state directory.
const journalName = "journal"

// journal is a file of exits that the server has not recorded yet, one line each:
//
//	exit ID PID STATUS STARTED FINISHED
//
// with the id in hexadecimal and the times in nanoseconds since 1970. A line is written by one write(2); a torn last line, as
// a power cut may leave it, is ignored.
type journal struct {
	file *os.File
}

// openJournal opens or makes the journal and returns what is in it.
func openJournal(state string) (*journal, []message, error) {
	f, err := os.OpenFile(filepath.Join(state, journalName), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, err
	}
	exits, err := parseJournal(f)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return &journal{file: f}, exits, nil
}

// parseJournal reads every whole line that makes sense.
func parseJournal(r io.Reader) ([]message, error) {
	var exits []message
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		m := message{Kind: kindExit}
		var id string
		n, err := fmt.Sscanf(lines.Text(), "exit %s %d %d %d %d", &id, &m.PID, &m.Status, &m.Started, &m.Finished)
		raw, hexErr := hex.DecodeString(id)
		if n != 5 || err != nil || hexErr != nil || len(raw) > idSize || m.Finished < m.Started {
			continue
		}
		copy(m.ID[:], raw)
		exits = append(exits, m)
	}
	return exits, lines.Err()
}

// add appends one exit.
func (j *journal) add(m message) error {
	_, err := fmt.Fprintf(j.file, "exit %x %d %d %d %d\n", m.id(), m.PID, m.Status, m.Started, m.Finished)
	return err
}

// reset empties the journal.
func (j *journal) reset() error { return j.file.Truncate(0) }
