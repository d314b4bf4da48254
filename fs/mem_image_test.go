package fs

import (
	"bytes"
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ctrfs/ctrfs/engine"
)

// memImage is an image whose content is what a test pulls or writes: bytes that are no archive.
type memImage struct {
	e       *memEngine // its mutex guards everything below
	view    engine.ImageView
	owners  map[string]engine.Owner
	content []byte
	auth    string
	changed chan struct{}
	gen     atomic.Uint64
	users   []string
}

func (e *memEngine) Images() (all []engine.Image) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(e.images)) {
		all = append(all, e.images[name])
	}
	return all
}

func (e *memEngine) Image(name string) (engine.Image, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i, ok := e.images[name]
	return i, ok
}

func (e *memEngine) CreateImage(by engine.Caller, name string, o engine.Owner) (engine.Image, error) {
	if err := engine.ValidateName(name); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.images[name] = &memImage{e: e, view: engine.ImageView{Serial: "image-" + name, Name: name, State: engine.ImageEmpty, Changed: time.Now()},
		owners: map[string]engine.Owner{"": o}, changed: make(chan struct{})}
	return e.images[name], nil
}

func (e *memEngine) RemoveImage(by engine.Caller, i engine.Image) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := i.(*memImage)
	if len(m.users) > 0 {
		return &engine.Error{Op: "rmdir", File: m.view.Name, Errno: syscall.EBUSY, Why: "it is used by " + m.users[0]}
	}
	delete(e.images, m.view.Name)
	return nil
}

func (m *memImage) View() *engine.ImageView {
	m.e.mu.Lock()
	defer m.e.mu.Unlock()
	v := m.view
	return &v
}

func (m *memImage) Generation() uint64 { return m.gen.Load() }

func (m *memImage) Owner(file string) (engine.Owner, bool) {
	m.e.mu.Lock()
	defer m.e.mu.Unlock()
	o, ok := m.owners[file]
	return o, ok
}

func (m *memImage) SetOwner(file string, o engine.Owner) error {
	m.e.mu.Lock()
	defer m.e.mu.Unlock()
	m.owners[file] = o
	return nil
}

// change changes the view, and wakes who waits for that.
func (m *memImage) change(do func(*engine.ImageView)) {
	m.e.mu.Lock()
	defer m.e.mu.Unlock()
	do(&m.view)
	m.gen.Add(1)
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memImage) Fail(err error) { m.change(func(v *engine.ImageView) { v.Failure = err.Error() }) }

func (m *memImage) Progress() string {
	if m.View().State.Busy() {
		return "bytes 12\n"
	}
	return ""
}

func (m *memImage) UsedBy() []string { return m.users }

func (m *memImage) Pull(by engine.Caller, ref string) error {
	if ref == "" {
		return engine.Invalid("pull", ref, "not a reference", "write one")
	}
	m.change(func(v *engine.ImageView) { v.State, v.Reference = engine.ImagePulling, ref })
	return nil
}

// finish ends a pull, or an import, with a content.
func (m *memImage) finish(content string) {
	m.change(func(v *engine.ImageView) {
		m.content = []byte(content)
		v.State, v.Failure = engine.ImageReady, ""
		v.Content = &engine.ImageContent{ID: "sha256:1", Archive: int64(len(content)), Digest: "sha256:2", Config: []byte("{}"), Created: time.Unix(0, 0).UTC(),
			Layers: []engine.ImageLayer{{DiffID: "sha256:3", Size: 5}, {DiffID: "sha256:4", Size: 7}}}
	})
}

func (m *memImage) SetAuth(by engine.Caller, text string) error {
	m.change(func(*engine.ImageView) { m.auth = text })
	return nil
}

func (m *memImage) Wait(ctx context.Context) (engine.ImageState, error) {
	for {
		m.e.mu.Lock()
		state, changed := m.view.State, m.changed
		m.e.mu.Unlock()
		if !state.Busy() {
			return state, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// memSink becomes the content when it is closed.
type memSink struct {
	m *memImage
	bytes.Buffer
}

func (s *memSink) Write(b []byte) (int, error) {
	if strings.HasPrefix(string(b), "bad") {
		return 0, engine.Invalid("tar", "", "not an archive", "write one")
	}
	return s.Buffer.Write(b)
}

func (s *memSink) Close() error {
	s.m.finish(s.String())
	return nil
}

func (m *memImage) Receive(by engine.Caller) (io.WriteCloser, error) {
	if m.View().State.Busy() {
		return nil, &engine.Error{Op: "write", File: "tar", Errno: syscall.EBUSY, Why: "it is being pulled"}
	}
	m.change(func(v *engine.ImageView) { v.State = engine.ImageUnpacking })
	return &memSink{m: m}, nil
}

type memArchive struct{ *bytes.Reader }

func (memArchive) Close() error                              { return nil }
func (memArchive) ReadPage(b []byte, off int64) (int, error) { return 0, syscall.EINVAL }
func (a memArchive) Size() (int64, error)                    { return a.Reader.Size(), nil }

func (m *memImage) Send() (engine.Log, error) {
	m.e.mu.Lock()
	defer m.e.mu.Unlock()
	if m.view.Content == nil {
		return nil, &engine.Error{Op: "read", File: "tar", Errno: syscall.ENOENT, Why: "there is nothing in it"}
	}
	return memArchive{bytes.NewReader(m.content)}, nil
}

// Commit makes an image whose content is the container's command.
func (c *memContainer) Commit(by engine.Caller, image string) error {
	i, err := c.e.CreateImage(by, image, engine.Owner{Mode: 0o755})
	if err == nil {
		i.(*memImage).finish(c.View().Config.Cmd())
	}
	return err
}
