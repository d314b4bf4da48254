package image

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
)

// The states of an [Entry].
const (
	Empty     = "empty"
	Pulling   = "pulling"
	Unpacking = "unpacking"
	Ready     = "ready"
	Failed    = "failed"
)

// Entry is what a name stands for.
type Entry struct {
	Name      string                  `json:"name"`
	State     string                  `json:"state"`
	ID        string                  `json:"id,omitempty"`        // of its image, which is kept as long as the entry says so
	Reference string                  `json:"reference,omitempty"` // what was pulled
	Digest    string                  `json:"digest,omitempty"`    // of the manifest that came with it
	Error     string                  `json:"error,omitempty"`
	Owner     engine.Owner            `json:"owner"`
	Owners    map[string]engine.Owner `json:"owners,omitempty"` // files whose owner or mode somebody changed
	Created   time.Time               `json:"created"`          // of the entry
}

const entryEnd = ".json"

func (s *Store) entryPath(name string) string {
	return filepath.Join(s.dir, entriesDir, name+entryEnd)
}

// loadEntry takes up an entry. What was under way when the last process ended has failed.
func (s *Store) loadEntry(file string) error {
	name, ok := strings.CutSuffix(file, entryEnd)
	if !ok {
		return nil // not ours
	}
	var e Entry
	text, err := os.ReadFile(s.entryPath(name))
	if err == nil {
		err = json.Unmarshal(text, &e)
	}
	if err == nil && e.Name != name {
		err = errors.New("its record is another entry's")
	}
	before := e.State
	switch {
	case err != nil:
		s.log.Error("the entry of an image cannot be read", "entry", name, "err", err)
		e = Entry{Name: name, State: Failed, Error: "its record cannot be read: remove it, or pull it again", Owner: engine.Owner{Mode: 0o755}, Created: time.Now()}
		s.entries[name] = e // the file is left alone: somebody may still read something in it
		return nil
	case e.State == Pulling || e.State == Unpacking:
		e.State, e.Error = Failed, "interrupted: try again"
	}
	if e.ID != "" && s.images[e.ID] == nil {
		e.State, e.Error, e.ID = Failed, "its files are lost, as this machine went down before they had reached the disk: pull it again", ""
	}
	s.entries[name] = e
	if e.State != before {
		return s.keepEntry(&e)
	}
	return nil
}

func (s *Store) keepEntry(e *Entry) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return s.write(s.entryPath(e.Name), append(text, '\n'))
}

// Entries returns all entries, by name.
func (s *Store) Entries() []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.entries), func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
}

// Entry returns an entry, and whether there is one of that name.
func (s *Store) Entry(name string) (Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[name]
	return e, ok
}

// Create makes an entry. The caller has seen to it that the name is one, and makes, saves and removes an entry one at a time.
// Error: EEXIST.
func (s *Store) Create(e Entry) error {
	if err := validName(e.Name); err != nil {
		return err
	}
	if _, ok := s.Entry(e.Name); ok {
		return &engine.Error{Op: "mkdir", File: "images/" + e.Name, Errno: syscall.EEXIST}
	}
	return s.put(e)
}

// Save changes an entry, in memory and on disk or neither. Error: ENOENT.
func (s *Store) Save(e Entry) error {
	if _, ok := s.Entry(e.Name); !ok {
		return &engine.Error{Op: "write", File: "images/" + e.Name, Errno: syscall.ENOENT}
	}
	return s.put(e)
}

func (s *Store) put(e Entry) error {
	e.Owners = maps.Clone(e.Owners)
	if err := s.keepEntry(&e); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries[e.Name] = e
	return nil
}

// Remove forgets an entry. Its image stays until the next [Store.Collect]. Error: ENOENT.
func (s *Store) Remove(name string) error {
	if _, ok := s.Entry(name); !ok {
		return &engine.Error{Op: "rmdir", File: "images/" + name, Errno: syscall.ENOENT}
	}
	err := os.Remove(s.entryPath(name))
	crash.Point("remove an entry of the images")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return keepError(s.entryPath(name), err)
	}
	s.mu.Lock()
	delete(s.entries, name)
	s.mu.Unlock()
	s.touch(s.entryPath(name))
	return nil
}

// validName keeps a name from being a path. What else a name must be is the tree's concern.
func validName(name string) error {
	if name == "" || name[0] == '.' || strings.ContainsAny(name, "/\x00") || len(name)+len(entryEnd) > 255 {
		return engine.Invalid("images", name, "not a name", "use letters, digits, '_', '.' and '-'")
	}
	return nil
}
