package local

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/overlay"
	"github.com/ctrfs/ctrfs/overlay/image"
)

// images are the entries of images/, over the store of what they hold. An entry stands for a content, and a container for the content
// that its image's entry stood for when it was given to it; contents that neither names are collected.
type images struct {
	e     *Engine
	store *image.Store
	tidy  errand // the collection

	mu  sync.Mutex        // taken before that of an entry
	all map[string]*entry // guarded by mu
}

const (
	imagesDir    = "images"                    // the store's directory in the state directory
	mirrorsFile  = "mirrors"                   // beside it; whoever runs this machine may write it, see [image.ParseMirrors]
	dockerConfig = "/root/.docker/config.json" // where root's docker and podman keep logins
)

// entry is one of them. It implements [engine.Image].
type entry struct {
	in     *images
	serial string // immutable

	generation atomic.Uint64

	mu      sync.Mutex
	rec     image.Entry          // guarded by mu
	content *engine.ImageContent // guarded by mu; of rec.ID, or nil
	failure string               // guarded by mu; rec.Error, or what was refused since
	auth    image.Auth           // guarded by mu; in memory only, as it is a secret
	changed time.Time            // guarded by mu
	moved   chan struct{}        // guarded by mu; closed and replaced when the state changes
	job     *job                 // guarded by mu; what is under way, or nil
	removed bool                 // guarded by mu
}

// openImages opens the store, and takes up its entries.
func (e *Engine) openImages(state string) error {
	mirrors, err := readMirrors(filepath.Join(state, mirrorsFile))
	if err != nil {
		return err
	}
	store, err := image.Open(image.Options{Dir: filepath.Join(state, imagesDir), Spawn: e.unpacker(), Log: e.log, Discard: e.roots.TakeAway,
		DockerConfig: dockerConfig, Mirrors: mirrors})
	if err != nil {
		return err
	}
	e.images = &images{e: e, store: store, all: map[string]*entry{}}
	for _, rec := range store.Entries() {
		e.images.all[rec.Name] = e.images.newEntry(rec)
	}
	return nil
}

// readMirrors reads that file, which need not be there.
func readMirrors(name string) (map[string][]string, error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return image.ParseMirrors(string(text))
}

func (s *images) newEntry(rec image.Entry) *entry {
	i := &entry{in: s, serial: "image:" + rec.Name + ":" + rec.Created.Format(time.RFC3339Nano), rec: rec, failure: rec.Error, changed: time.Now(),
		moved: make(chan struct{})}
	i.content = s.contentOf(&rec)
	return i
}

// contentOf describes what an entry stands for, if it stands for something.
func (s *images) contentOf(rec *image.Entry) *engine.ImageContent {
	if rec.ID == "" {
		return nil
	}
	img, err := s.store.Image(rec.ID)
	if err != nil {
		s.e.log.Error("an image has lost its content", "image", rec.Name, "err", err)
		return nil
	}
	c := &engine.ImageContent{ID: img.ID, Digest: rec.Digest, Config: img.Raw, Created: img.Created, Notes: img.Notes, Defaults: defaultsOf(img)}
	for _, l := range img.Layers {
		c.Layers = append(c.Layers, engine.ImageLayer{DiffID: l.DiffID, Size: l.Size})
	}
	if c.Archive, _, err = s.store.Export(rec.ID, rec.Name); err != nil {
		s.e.log.Error("an image has no archive", "image", rec.Name, "err", err)
	}
	return c
}

// defaultsOf is what an image says about its program.
func defaultsOf(img *image.Image) engine.ImageDefaults {
	c := &img.Config.Config
	return engine.ImageDefaults{Cmd: slices.Concat(c.Entrypoint, c.Cmd), Env: c.Env, Cwd: c.WorkingDir, User: c.User, StopSignal: c.StopSignal}
}

// close ends what is under way, and the store.
func (s *images) close() {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.all))
	s.mu.Unlock()
	for _, i := range all {
		if done, was := i.stop(errClosing); was {
			<-done
		}
	}
	s.tidy.ends.Wait()
	if err := s.store.Close(); err != nil {
		s.e.log.Warn("images", "err", err)
	}
}

// collect has contents deleted that nobody names, behind the caller's back.
func (s *images) collect() {
	s.tidy.ask(func() {
		if err := s.store.Collect(s.e.uses); err != nil {
			s.e.log.Warn("an image that nobody uses stays", "err", err)
		}
	})
}

// uses reports whether a container has that content. It takes Engine.mu and those of containers.
func (e *Engine) uses(id string) bool {
	if len(e.broken) > 0 {
		return true // who knows what those containers have
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, c := range e.byID {
		if use := c.View().Config.Extension.Image; use != nil && use.ID == id {
			return true
		}
	}
	return false
}

// Images implements [engine.Images].
func (e *Engine) Images() []engine.Image {
	s := e.images
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]engine.Image, 0, len(s.all))
	for _, name := range slices.Sorted(maps.Keys(s.all)) {
		out = append(out, s.all[name])
	}
	return out
}

// Image implements [engine.Images].
func (e *Engine) Image(name string) (engine.Image, bool) {
	i := e.images.entry(name)
	return i, i != nil
}

func (s *images) entry(name string) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[name]
}

// CreateImage implements [engine.Images].
func (e *Engine) CreateImage(by engine.Caller, name string, owner engine.Owner) (engine.Image, error) {
	if err := rootOnly(by, "mkdir", "images/"+name); err != nil {
		return nil, err
	}
	if err := engine.ValidateName(name); err != nil {
		return nil, err
	}
	s := e.images
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := image.Entry{Name: name, State: image.Empty, Owner: owner, Created: time.Now()}
	if err := s.store.Create(rec); err != nil {
		return nil, err
	}
	i := s.newEntry(rec)
	s.all[name] = i
	return i, nil
}

// RemoveImage implements [engine.Images].
func (e *Engine) RemoveImage(by engine.Caller, ei engine.Image) error {
	i, ok := ei.(*entry)
	if !ok {
		return syscall.EINVAL
	}
	name := i.View().Name
	if err := rootOnly(by, "rmdir", "images/"+name); err != nil {
		return err
	}
	busy := func(why, cure string) error {
		return &engine.Error{Op: "rmdir", File: "images/" + name, Errno: syscall.EBUSY, Why: why, Cure: cure}
	}
	if users := i.UsedBy(); len(users) > 0 {
		return busy("it is the image of "+strings.Join(users, ", "), "remove those containers, or empty their image, first")
	}
	s := e.images
	s.mu.Lock()
	defer s.mu.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.removed {
		return &engine.Error{Op: "rmdir", File: "images/" + name, Errno: syscall.ENOENT}
	}
	if i.job != nil {
		return busy("it is "+i.rec.State, "wait for it, or stop that: echo > images/"+name+"/pull")
	}
	if err := s.store.Remove(name); err != nil {
		return err
	}
	i.removed = true
	delete(s.all, name)
	s.collect()
	return nil
}

// View implements [engine.Image].
func (i *entry) View() *engine.ImageView {
	i.mu.Lock()
	defer i.mu.Unlock()
	return &engine.ImageView{Serial: i.serial, Name: i.rec.Name, State: engine.ImageState(i.rec.State), Reference: i.rec.Reference,
		Failure: i.failure, Content: i.content, Changed: i.changed}
}

// Generation implements [engine.Image].
func (i *entry) Generation() uint64 { return i.generation.Load() }

// touched notes a change. i.mu is held.
func (i *entry) touched() {
	i.generation.Add(1)
	i.changed = time.Now()
}

// Owner implements [engine.Image].
func (i *entry) Owner(file string) (engine.Owner, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return ownerIn(i.rec.Owner, i.rec.Owners, file)
}

// SetOwner implements [engine.Image].
func (i *entry) SetOwner(file string, o engine.Owner) error {
	return i.amend(func(rec *image.Entry) { setOwner(&rec.Owner, &rec.Owners, file, o) })
}

// amend changes the record: on disk first, then in memory.
func (i *entry) amend(change func(*image.Entry)) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.amendHeld(change)
}

// amendHeld is [entry.amend] for who holds i.mu.
func (i *entry) amendHeld(change func(*image.Entry)) error {
	if i.removed {
		return syscall.ENOENT
	}
	next := i.rec
	change(&next)
	if err := i.in.store.Save(next); err != nil {
		return err
	}
	if next.State != i.rec.State {
		close(i.moved)
		i.moved = make(chan struct{})
	}
	if next.ID != i.rec.ID || next.Digest != i.rec.Digest {
		i.content = i.in.contentOf(&next)
	}
	i.rec = next
	i.touched()
	return nil
}

// Fail implements [engine.Image].
func (i *entry) Fail(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.failure = err.Error()
	i.touched()
}

// UsedBy implements [engine.Image].
func (i *entry) UsedBy() (paths []string) {
	name := i.View().Name
	e := i.in.e
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, c := range e.byID {
		if v := c.View(); v.Config.Image() == name {
			paths = append(paths, v.Path)
		}
	}
	slices.Sort(paths)
	return paths
}

// Wait implements [engine.Image].
func (i *entry) Wait(ctx context.Context) (engine.ImageState, error) {
	for {
		i.mu.Lock()
		state, moved := engine.ImageState(i.rec.State), i.moved
		i.mu.Unlock()
		if !state.Busy() {
			return state, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// pin replaces the image's name in a configuration, if somebody has written it, by what it stands for. release lets that go; by then
// the configuration is a container's, or it is not.
func (s *images) pin(old, next *engine.Config) (release func(), err error) {
	use := next.Extension.Image
	if use == nil || use == old.Extension.Image {
		return func() {}, nil
	}
	id := use.ID
	if id == "" || s.unknown(id) {
		if id, err = s.stands(use.Name); err != nil {
			return nil, err
		}
	}
	held, err := s.store.Hold(id)
	if err != nil {
		return nil, err
	}
	if err := next.UseImage(engine.ImageUse{Name: use.Name, ID: id, Defaults: defaultsOf(held.Image)}); err != nil {
		held.Release()
		return nil, err
	}
	return held.Release, nil
}

// source is what a container's image is made of, for package overlay: the uppermost layer first, and none that cannot be seen.
func (s *images) source(use *engine.ImageUse) (overlay.Source, error) {
	img, err := s.store.Image(use.ID)
	if err != nil {
		return overlay.Source{}, &engine.Error{Op: "start", File: "image", Value: use.Name, Errno: syscall.ENOENT, Err: err,
			Cure: "what it stood for is lost; write the image's name again"}
	}
	from := overlay.Source{Base: s.store.LayersDir()}
	for _, l := range slices.Backward(img.Layers) {
		from.Layers = append(from.Layers, l.Path)
		if l.Opaque {
			break
		}
	}
	return from, nil
}

func (s *images) unknown(id string) bool {
	_, err := s.store.Image(id)
	return err != nil
}

// stands returns what a name stands for.
func (s *images) stands(name string) (id string, err error) {
	refuse := func(errno syscall.Errno, why, cure string) error {
		return &engine.Error{Op: "write", File: "image", Value: name, Errno: errno, Why: why, Cure: cure}
	}
	i := s.entry(name)
	if i == nil {
		return "", refuse(syscall.ENOENT, "there is no such image", "mkdir images/"+name+", and write a reference into its pull")
	}
	v := i.View()
	switch {
	case v.Content != nil:
		return v.Content.ID, nil
	case v.State.Busy():
		return "", refuse(syscall.EBUSY, "it is "+string(v.State), "wait for it: cat images/"+name+"/wait")
	case v.State == engine.ImageFailed:
		return "", refuse(syscall.ENOENT, "there is nothing in it, as that failed: "+v.Failure, "fill it again")
	}
	return "", refuse(syscall.ENOENT, "there is nothing in it", "write a reference into images/"+name+"/pull, or an archive into tar")
}
