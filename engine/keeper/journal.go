package keeper

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// journalName is the journal's file in the state directory.
const journalName = "journal"

// journalMax is the size, in bytes, beyond which a journal with nothing left in it is emptied. Emptying frees a block, which
// a disk mounted with discard takes a tenth of a millisecond for, so it is not done for every exit.
const journalMax = 256 << 10

// journal is a file of what runs, of exits, and of which of them the server has recorded, one line each:
//
//	live ID PID STARTED MARK BOOT
//	exit ID PID STATUS STARTED FINISHED
//	done ID STARTED
//
// with the id in hexadecimal and the times in nanoseconds since 1970. MARK and BOOT tell the process from any other, see [run].
// STATUS is a number, or a word of [fates]. A line is written by one write(2); a torn line, as a power cut or a full disk may
// leave it, is ignored.
type journal struct {
	name  string
	file  *os.File
	size  int64
	limit int64 // of the size, see done
	torn  bool  // the last line may be cut short, and the next one must not continue it
}

// fates are the words for exits of which nobody knows the status, by [message.Errno].
var fates = map[syscall.Errno]string{
	syscall.ECHILD:    "lost", // nobody was there to wait for it
	syscall.ESHUTDOWN: "off",  // the machine has been off meanwhile
}

// openJournal opens or makes the journal and returns what is in it: exits that no server has recorded, and what ran.
func openJournal(state string) (*journal, []message, []run, error) {
	name := filepath.Join(state, journalName)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, nil, nil, err
	}
	exits, runs, err := parseJournal(f)
	if err != nil {
		f.Close()
		return nil, nil, nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, nil, nil, err
	}
	return &journal{name: name, file: f, size: size, limit: journalMax, torn: size > 0}, exits, runs, nil
}

// parseJournal reads every whole line that makes sense and returns the exits that are not done, and the runs that have no exit.
// There is one run of an id at a time, so that the exit of one before it, should it be missing, is nobody's any more.
func parseJournal(r io.Reader) (exits []message, runs []run, err error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var word, id string
		if _, err := fmt.Sscan(lines.Text(), &word, &id); err != nil {
			continue
		}
		raw, err := hex.DecodeString(id)
		if err != nil || len(raw) > idSize {
			continue
		}
		m := message{Kind: kindExit, ID: idBytes(string(raw))}
		switch rest := strings.TrimPrefix(lines.Text(), word+" "+id+" "); word {
		case "live":
			r := run{id: m.ID}
			if n, err := fmt.Sscanf(rest, "%d %d %s %s", &r.pid, &r.started, &r.mark, &r.boot); n == 4 && err == nil {
				runs = append(slices.DeleteFunc(runs, func(old run) bool { return old.id == r.id }), r)
			}
		case "exit":
			if m.parseExit(rest) {
				runs = slices.DeleteFunc(runs, func(r run) bool { return r.id == m.ID && r.started == m.Started })
				exits = append(exits, m)
			}
		case "done":
			if n, err := fmt.Sscanf(rest, "%d", &m.Started); n == 1 && err == nil {
				exits = slices.DeleteFunc(exits, func(e message) bool { return e.ID == m.ID && e.Started == m.Started })
			}
		}
	}
	return exits, runs, lines.Err()
}

// parseExit reads what follows the id, and says whether it makes sense.
func (m *message) parseExit(text string) bool {
	status := ""
	n, err := fmt.Sscanf(text, "%d %s %d %d", &m.PID, &status, &m.Started, &m.Finished)
	if n != 4 || err != nil || m.Finished < m.Started {
		return false
	}
	for errno, word := range fates {
		if status == word {
			m.Errno = uint32(errno)
			return true
		}
	}
	number, err := strconv.ParseUint(status, 10, 32)
	m.Status = uint32(number)
	return err == nil
}

// add appends one exit.
func (j *journal) add(m message) error {
	status, ok := fates[syscall.Errno(m.Errno)]
	if !ok {
		status = strconv.FormatUint(uint64(m.Status), 10)
	}
	return j.append(fmt.Appendf(nil, "exit %x %d %s %d %d\n", m.id(), m.PID, status, m.Started, m.Finished))
}

// begin appends one run.
func (j *journal) begin(r run) error { return j.append(r.line()) }

// done appends that an exit has been recorded. A journal that has grown long is emptied instead, but for what runs, if no other exit
// is waiting.
func (j *journal) done(m message, empty bool, live func() []run) error {
	if !empty || j.size <= j.limit {
		return j.append(fmt.Appendf(nil, "done %x %d\n", m.id(), m.Started))
	}
	var text []byte
	for _, r := range live() {
		text = append(text, r.line()...)
	}
	if len(text) == 0 {
		j.size = 0
		return j.file.Truncate(0)
	}
	j.limit = journalMax + 2*int64(len(text)) // else, with much that runs, it would be written anew for every exit
	return j.replace(text)
}

// replace puts another journal in the place of this one. Whatever kills the keeper meanwhile, one of them is there.
func (j *journal) replace(text []byte) error {
	next, err := os.OpenFile(j.name+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if _, err = next.Write(text); err == nil {
		err = os.Rename(next.Name(), j.name)
	}
	if err != nil {
		next.Close()
		return err
	}
	j.file.Close()
	j.file, j.size, j.torn = next, int64(len(text)), false
	return nil
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
