package local

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
	"github.com/ctrfs/ctrfs/overlay"
)

// storeVersion is the version of the layout below, in the file "version" of the state directory.
//
//	STATE/version            this number
//	STATE/instance           eight hexadecimal digits that name this instance's cgroups
//	STATE/root.json          owner of the mount's own directory
//	STATE/containers/I/ID/   one container: record, log, execs, and package overlay's layer; where exactly says overlay.Home
//
// A container exists while its record does: making it is the last step of mkdir, and rmdir begins by moving the directory
// into package overlay's trash, by one rename(2). A directory without a record is what a crash left of either.
//
// A record file holds one JSON object a line, and the last whole line counts. A change is one line appended by one write(2):
// no new file, no rename, a fifth of the cost, and as atomic, since a line that a crash or a full disk cut short is not a
// whole one. The file is written anew when it has grown long.
const storeVersion = "3\n"

// Stores are the versions that this program can read.
func Stores() []string { return []string{storeVersion} }

const (
	recordMax = 64 << 10               // bytes, beyond which a record file is written anew
	syncPause = 500 * time.Millisecond // half of what a power cut may take back
)

// record is a line of a record file.
type record struct {
	ID      string                  `json:"id"`
	Name    string                  `json:"name"`
	Parent  string                  `json:"parent,omitempty"` // id; empty below the mount itself
	Config  *engine.Config          `json:"config"`
	Owner   engine.Owner            `json:"owner"`
	Owners  map[string]engine.Owner `json:"owners,omitempty"` // files whose owner or mode somebody changed
	Exit    engine.Exit             `json:"exit"`
	Leases  map[string][]netip.Addr `json:"leases,omitempty"`   // its addresses in networks; replaced, never changed
	First   uint32                  `json:"first_id,omitempty"` // of its range of host ids; 0 when it has none
	Found   *account                `json:"found,omitempty"`    // the user that its last start looked up
	Started bool                    `json:"started"`            // it has run at least once
	Begun   time.Time               `json:"begun,omitzero"`     // the run that the rest is about; the last one may not be on disk yet
	KillAt  time.Time               `json:"kill_at,omitzero"`   // a stop is under way, and this is when KILL follows
	OOM     bool                    `json:"oom,omitempty"`      // memory has run out in the present run
	Kills   uint64                  `json:"kills,omitempty"`    // OOM kills in its group that have been told, while it runs
	restarting

	Armed *armed `json:"armed,omitempty"` // it listens, or did when it was launched; replaced, never changed

	Committing bool `json:"committing,omitempty"` // a commit has frozen it
}

// store keeps records in the state directory: each one atomically, surviving a crash of the process at once and a power
// cut within a second.
type store struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex
	dirty map[string]bool // paths that are to be synced; guarded by mu
	wake  chan struct{}
	quit  chan struct{}
	idle  sync.WaitGroup
}

// openStore opens or makes the state directory.
func openStore(dir string, log *slog.Logger) (*store, error) {
	s := &store{dir: dir, log: log, dirty: map[string]bool{}, wake: make(chan struct{}, 1), quit: make(chan struct{})}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := s.checkVersion(); err != nil {
		return nil, err
	}
	s.idle.Go(s.syncLoop)
	return s, nil
}

func (s *store) checkVersion() error {
	name := filepath.Join(s.dir, "version")
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return s.write(name, []byte(storeVersion))
	}
	if err == nil && string(text) != storeVersion {
		return &engine.Error{Op: "open", File: name, Value: string(text), Errno: syscall.EINVAL,
			Why: "the state directory is of another version of ctrfs", Cure: "use that version, or another --state"}
	}
	return err
}

func (s *store) path(id string) string       { return s.dir + "/" + overlay.Home(id) }
func (s *store) recordPath(id string) string { return s.path(id) + "/record" }
func (s *store) logPath(id string) string    { return s.path(id) + "/log" }

// instance returns the name of this state directory's cgroups, made once.
func (s *store) instance(invent func() string) (string, error) {
	name := filepath.Join(s.dir, "instance")
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		text = []byte(invent())
		err = s.write(name, text)
	}
	return string(text), err
}

// save appends a record to its file. On failure the old one stands.
func (s *store) save(r *record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	name := s.recordPath(r.ID)
	size, err := appendLine(name, line)
	if err != nil {
		return keepError(err)
	}
	s.touch(name)
	if size > recordMax {
		return s.write(name, line)
	}
	return nil
}

// keepError says what a failed write was for.
func keepError(err error) error { return fmt.Errorf("keep it in the state directory: %w", err) }

// appendLine appends to a file that exists and returns its new size. What a failed write has written is cut off again.
func appendLine(name string, line []byte) (int64, error) {
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	crash.Point("open a record")
	n, err := unix.Write(fd, line)
	crash.Point("append to a record")
	if err == nil && n < len(line) {
		err = unix.ENOSPC
	}
	if err != nil {
		err = errors.Join(err, unix.Ftruncate(fd, st.Size))
		crash.Point("take back a part of a record")
		return 0, err
	}
	return st.Size + int64(n), nil
}

// readLines reads a record file, for a server that begins. What follows the last whole line is cut off: the next one would continue
// it, and be no record. A file without a whole line is left alone.
func readLines(name string) ([]byte, error) {
	text, err := os.ReadFile(name)
	whole := text[:bytes.LastIndexByte(text, '\n')+1]
	if err != nil || len(whole) == 0 {
		return text, err
	}
	if len(whole) < len(text) {
		err = os.Truncate(name, int64(len(whole)))
		crash.Point("cut off a part of a record")
	}
	return whole, err
}

// lastLine reads the last whole line of a record file into r.
func lastLine(text []byte, r any) error {
	end := bytes.LastIndexByte(text, '\n')
	if end < 0 {
		return io.ErrUnexpectedEOF
	}
	return json.Unmarshal(text[bytes.LastIndexByte(text[:end], '\n')+1:end], r)
}

// parseRecord returns the last whole line of a record file that holds a record of that container.
func parseRecord(id string, text []byte) (*record, error) {
	r := new(record)
	if err := lastLine(text, r); err != nil {
		return nil, err
	}
	if r.ID != id || r.Config == nil {
		return nil, fmt.Errorf("the record of %q lies with %q: %w", r.ID, id, syscall.EINVAL)
	}
	r.Config = r.Config.Clone() // makes every structure that the settings rely on
	return r, engine.ValidateName(r.Name)
}

// write replaces a file atomically. The caller is the only writer of that file.
func (s *store) write(name string, text []byte) error {
	next := name + fresh
	err := os.WriteFile(next, text, 0o600)
	crash.Point("write a file anew")
	if err == nil {
		err = os.Rename(next, name)
		crash.Point("replace a file")
	}
	if err != nil {
		os.Remove(next)
		crash.Point("drop a file's new text")
		return keepError(err)
	}
	s.touch(name)
	return nil
}

// fresh ends the name of a file that will take another's place.
const fresh = ".new"

// load reads the records of the containers with these ids. broken are those whose record cannot be read: they are left
// alone. What has no record is in neither: a creation or a removal that did not end.
func (s *store) load(ids []string) (records []*record, broken []string) {
	for _, id := range ids {
		text, err := readLines(s.recordPath(id))
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(text) == 0 {
			continue
		}
		var r *record
		if err == nil {
			r, err = parseRecord(id, text)
		}
		if err != nil {
			s.log.Error("a container's record cannot be read; it is left alone", "id", id, "err", err)
			broken = append(broken, id)
			continue
		}
		records = append(records, r)
	}
	return records, broken
}

// touch has a path synced soon.
func (s *store) touch(name string) {
	s.mu.Lock()
	s.dirty[name] = true
	s.dirty[filepath.Dir(name)] = true
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// syncLoop writes to the disk what has changed, at most twice a second.
func (s *store) syncLoop() {
	for {
		select {
		case <-s.wake:
		case <-s.quit:
			s.sync()
			return
		}
		select {
		case <-time.After(syncPause):
		case <-s.quit:
		}
		s.sync()
	}
}

func (s *store) sync() {
	s.mu.Lock()
	dirty := s.dirty
	s.dirty = map[string]bool{}
	s.mu.Unlock()
	for name := range dirty {
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue // removed meanwhile
		}
		if err := unix.Fsync(fd); err != nil {
			s.log.Error("not synced to disk; a power cut may take it back", "file", name, "err", err)
		}
		crash.Point("sync")
		unix.Close(fd)
	}
}

// close syncs what is left.
func (s *store) close() {
	close(s.quit)
	s.idle.Wait()
}
