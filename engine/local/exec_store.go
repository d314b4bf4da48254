package local

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
)

// The execs of a container lie in the directory exec of its own, which is made with the first one and goes with the container:
//
//	STATE/containers/I/ID/exec/XID.record   as a container's record
//	STATE/containers/I/ID/exec/XID.log
//
// They stay until they are removed, as containers do: an unmount, and the death of a server, take away neither what is configured
// nor what became of it. A ctrfs that knows of no execs leaves the directory alone.
const (
	execDir        = "/exec"
	execRecordName = ".record"
	execLog        = ".log"
)

// execRecord is a line of an exec's record file. What is nil or empty is the container's.
type execRecord struct {
	ID        string                  `json:"id"`
	Name      string                  `json:"name"`
	Args      []string                `json:"args,omitempty"`
	Env       []string                `json:"env"` // null is the container's, [] is none
	Cwd       string                  `json:"cwd,omitempty"`
	User      *account                `json:"user,omitempty"` // with an empty text when its numbers are all that is configured
	TTY       bool                    `json:"tty,omitempty"`
	Size      *specs.Box              `json:"size,omitempty"` // of the terminal
	StdinOpen bool                    `json:"stdin.open,omitempty"`
	Owner     engine.Owner            `json:"owner"`
	Owners    map[string]engine.Owner `json:"owners,omitempty"`
	Exit      engine.Exit             `json:"exit"`
	Begun     time.Time               `json:"begun,omitzero"` // a run goes on since then, if the keeper knows of it
}

// over returns the configuration of a container with what the exec says of its process.
func (r *execRecord) over(base *engine.Config) *engine.Config {
	c := base.Clone()
	p := c.Spec.Process
	p.Args, p.Terminal, p.ConsoleSize = r.Args, r.TTY, r.Size
	c.Extension.StdinOpen = r.StdinOpen // its own: the container's is its program's
	if r.Env != nil {
		p.Env = r.Env
	}
	if r.Cwd != "" {
		p.Cwd = r.Cwd
	}
	if r.User != nil {
		umask := p.User.Umask
		p.User, c.Extension.User = r.User.User, r.User.Text
		p.User.Umask = umask
	}
	return c
}

// take is the opposite: what is as in the container is the container's also when that changes.
func (r *execRecord) take(c, base *engine.Config) {
	p, same := c.Spec.Process, base.Spec.Process
	r.Args, r.TTY, r.Size = p.Args, p.Terminal, p.ConsoleSize
	r.StdinOpen = c.Extension.StdinOpen
	r.Env, r.Cwd, r.User = nil, "", nil
	if !slices.Equal(p.Env, same.Env) {
		r.Env = append([]string{}, p.Env...)
	}
	if p.Cwd != same.Cwd {
		r.Cwd = p.Cwd
	}
	if c.User() != base.User() {
		r.User = &account{c.Extension.User, p.User}
	}
}

func (s *store) execPath(id, exec, kind string) string {
	return s.path(id) + execDir + "/" + exec + kind
}

// saveExec appends a record to its file. On failure the old one stands.
func (s *store) saveExec(id string, r *execRecord) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	name := s.execPath(id, r.ID, execRecordName)
	size, err := appendLine(name, line)
	if errors.Is(err, fs.ErrNotExist) { // the first one
		if err = os.Mkdir(s.path(id)+execDir, 0o700); err == nil {
			crash.Point("make the directory of execs")
			size, err = appendLine(name, line)
		}
	}
	if err != nil {
		return keepError(err)
	}
	s.touch(name)
	if size > recordMax {
		return s.write(name, line)
	}
	return nil
}

// removeExec removes an exec's files, the record first: without it there is no exec.
func (s *store) removeExec(id, exec string) error {
	for _, kind := range []string{execRecordName, execLog} {
		if err := unix.Unlink(s.execPath(id, exec, kind)); err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "remove", Path: s.execPath(id, exec, kind), Err: err}
		}
		crash.Point("remove a file of an exec")
	}
	s.touch(s.execPath(id, exec, execRecordName))
	return nil
}

// loadExecs reads the records of a container's execs, and removes what a crash left of others.
func (s *store) loadExecs(id string) map[string]*execRecord {
	dir := s.path(id) + execDir
	entries, err := os.ReadDir(dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.log.Error("the execs of a container cannot be read; they are left alone", "container", id, "err", err)
		}
		return nil
	}
	records, broken := map[string]*execRecord{}, map[string]bool{}
	for _, entry := range entries {
		exec, ok := strings.CutSuffix(entry.Name(), execRecordName)
		if !ok {
			continue
		}
		text, err := readLines(filepath.Join(dir, entry.Name()))
		if err == nil && len(text) == 0 {
			continue // a creation that did not end
		}
		r := new(execRecord)
		if err == nil {
			err = lastLine(text, r)
		}
		if err == nil {
			err = engine.ValidateName(r.Name)
		}
		if err != nil || r.ID != exec {
			s.log.Error("the record of an exec cannot be read; it is left alone", "container", id, "exec", exec, "err", err)
			broken[exec] = true
			continue
		}
		records[r.Name] = r
	}
	for _, entry := range entries {
		exec, _, _ := strings.Cut(entry.Name(), ".")
		known := broken[exec]
		for r := range maps.Values(records) {
			known = known || r.ID == exec
		}
		if !known {
			os.Remove(filepath.Join(dir, entry.Name()))
			crash.Point("remove what is left of an exec")
		}
	}
	return records
}
