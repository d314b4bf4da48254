package image

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
	"github.com/ctrfs/ctrfs/overlay/archive"
)

// Options say where a store is and how it goes about its work.
type Options struct {
	Dir   string        // STATE/images, made when it is missing
	Spawn archive.Spawn // runs the confined unpacker; nil unpacks in this process, which is for tests
	Log   *slog.Logger  // nil: none

	// Discard takes an entry of a directory away and deletes it in the background, as package overlay's trash does; nil has the
	// store do so itself.
	Discard func(dir *os.File, name string) error

	DockerConfig string              // the file with logins that docker keeps; empty for none
	Mirrors      map[string][]string // registry → where to ask first, see [ParseMirrors]
}

// Image is the content of an image, which never changes.
type Image struct {
	ID      string        // "sha256:…" of Raw: what docker and podman call the image's ID
	Raw     []byte        // the configuration, as it came
	Config  ocispec.Image // what this program understands of it
	Layers  []Layer       // the lowest first
	Size    int64         // of the layers' tars together
	Created time.Time     // as the image says; zero when it does not
	Notes   []string      // what in it could not be had on this host
}

// Layer is an unpacked layer, which images share.
type Layer struct {
	DiffID string   // "sha256:…" of its tar
	Size   int64    // of its tar
	Disk   int64    // about how much of the disk it takes
	Files  int      // how many there are
	Opaque bool     // nothing of the layers below it is to be seen, which overlayfs does not find out by itself
	Path   string   // the directory with its content, as overlayfs wants it
	Notes  []string // what in it could not be had on this host

	exact bool // its tar is made from what the unpacker noted; otherwise it was kept
}

// Held is an image that is kept, used or not, until Release.
type Held struct {
	*Image
	Reference string // what was pulled, in full; empty unless it was
	Digest    string // of the manifest that it came with; likewise

	release func()
}

// Release lets go of the image. A second call does nothing.
func (h *Held) Release() { h.release() }

// Store keeps images.
type Store struct {
	o         Options
	dir       string // absolute
	log       *slog.Logger
	boot      string // of the kernel that runs
	transport http.RoundTripper
	patience  time.Duration               // how long nothing may come; tests are in more of a hurry
	pause     func(try int) time.Duration // before the try after that one
	serial    atomic.Int64                // of names in the directory for what is being deleted
	idle      sync.WaitGroup              // background work
	quit      chan struct{}               // closed by Close

	mu      sync.Mutex
	images  map[string]*Image        // guarded by mu
	layers  map[string]*Layer        // guarded by mu
	entries map[string]Entry         // guarded by mu
	holds   map[string]int           // guarded by mu: by id and by diff id
	busy    map[string]chan struct{} // guarded by mu: closed when the layer is there, or could not be made
	dirty   map[string]bool          // guarded by mu: files to be synced
	fresh   map[string]bool          // guarded by mu: layers that may not have reached the disk
	wake    chan struct{}
	closed  bool // guarded by mu
}

// The directories of a store.
const (
	layersDir  = "layers"
	objectsDir = "objects"
	entriesDir = "entries"
	tmpDir     = "tmp"
)

// Open opens or makes a store and puts right what an earlier process was in the middle of: half-made layers go, an entry whose
// pull was under way has failed. Nothing else is deleted before [Store.Collect].
func Open(o Options) (*Store, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, openError(o.Dir, err)
	}
	for _, name := range []string{"", layersDir, objectsDir, entriesDir, tmpDir} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(name, 0o700); err != nil {
			return nil, openError(name, err)
		}
		// So that no user of the host reaches the set-user-ID files of a layer.
		if err := os.Chmod(name, 0o700); err != nil {
			return nil, openError(name, err)
		}
	}
	crash.Point("open the images")
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, openError(dir, err)
	}
	if o.Spawn == nil {
		o.Spawn = archive.Unconfined
	}
	s := &Store{o: o, dir: dir, log: o.Log, boot: strings.TrimSpace(string(boot)), patience: 30 * time.Second, pause: backOff,
		quit: make(chan struct{}), wake: make(chan struct{}, 1),
		images: map[string]*Image{}, layers: map[string]*Layer{}, entries: map[string]Entry{}, holds: map[string]int{},
		busy: map[string]chan struct{}{}, dirty: map[string]bool{}, fresh: map[string]bool{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.transport = newTransport(s)
	s.serial.Store(time.Now().UnixNano()) // names of an earlier process may still be there
	if err := s.load(); err != nil {
		return nil, openError(dir, err)
	}
	s.idle.Go(s.syncLoop)
	s.nudge()
	return s, nil
}

func openError(path string, err error) error {
	return &engine.Error{Op: "open", File: path, Errno: engine.Errno(err), Err: err,
		Cure: "name a state directory on a local disk with --state"}
}

// Close waits for what is being written to reach the disk. Pulls and imports must have ended.
func (s *Store) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if !closed {
		close(s.quit)
	}
	s.idle.Wait()
	if t, ok := s.transport.(*steady); ok {
		t.inner.CloseIdleConnections()
	}
	return nil
}

// load reads what is on disk.
func (s *Store) load() error {
	if err := s.each(tmpDir, func(name string) error { return s.drop(tmpDir, name) }); err != nil {
		return err
	}
	if err := s.each(layersDir, s.loadLayer); err != nil {
		return err
	}
	if err := s.each(objectsDir, s.loadObject); err != nil {
		return err
	}
	return s.each(entriesDir, s.loadEntry)
}

// each calls do for every name in a directory of the store.
func (s *Store) each(dir string, do func(name string) error) error {
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	for _, e := range entries {
		if err := do(e.Name()); err != nil {
			return err
		}
	}
	return err
}

// layerRecord is the file record.json of a layer.
type layerRecord struct {
	DiffID string   `json:"diff_id"`
	Size   int64    `json:"size"`
	Disk   int64    `json:"disk"`
	Files  int      `json:"files"`
	Exact  bool     `json:"exact"`
	Opaque bool     `json:"opaque,omitempty"`
	Notes  []string `json:"notes,omitempty"`
	// Boot is the kernel that ran when the layer was unpacked, until all of it has reached the disk. After a power cut there
	// is another one, and nobody knows what of the layer was written.
	Boot string `json:"boot,omitempty"`
}

// loadLayer takes up a layer, or drops it when it cannot be relied upon.
func (s *Store) loadLayer(name string) error {
	var r layerRecord
	text, err := os.ReadFile(filepath.Join(s.dir, layersDir, name, recordFile))
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	switch {
	case err != nil:
	case !isDigest(r.DiffID) || r.DiffID != digestOf(name):
		err = errors.New("its record is another layer's")
	case r.Boot != "" && r.Boot != s.boot:
		err = errors.New("this machine went down before it had reached the disk")
	}
	if err != nil {
		s.log.Error("a layer is lost", "layer", name, "err", err)
		return s.drop(layersDir, name)
	}
	if r.Boot != "" {
		s.fresh[r.DiffID] = true
	}
	s.layers[r.DiffID] = s.layer(&r)
	return nil
}

func (s *Store) layer(r *layerRecord) *Layer {
	return &Layer{DiffID: r.DiffID, Size: r.Size, Disk: r.Disk, Files: r.Files, Opaque: r.Opaque, Notes: r.Notes, exact: r.Exact,
		Path: filepath.Join(s.layerDir(r.DiffID), filesDir)}
}

func (s *Store) layerDir(diffID string) string { return filepath.Join(s.dir, layersDir, hexOf(diffID)) }

// loadObject takes up an image, or drops it when its layers are not all there: then it was being deleted, or is lost.
func (s *Store) loadObject(name string) error {
	raw, err := os.ReadFile(filepath.Join(s.dir, objectsDir, name))
	var img *Image
	if err == nil && digest(raw) != digestOf(name) {
		err = syscall.EBADMSG
	}
	if err == nil {
		img, err = s.image(raw)
	}
	if err != nil {
		s.log.Error("an image is lost", "image", name, "err", err)
		return s.drop(objectsDir, name)
	}
	s.images[img.ID] = img
	return nil
}

// image makes an image of its configuration and the layers that are there. The caller holds mu, or is the only one yet.
func (s *Store) image(raw []byte) (*Image, error) {
	config, err := parseConfig(raw)
	if err != nil {
		return nil, err
	}
	img := &Image{ID: digest(raw), Raw: raw, Config: *config}
	if config.Created != nil {
		img.Created = *config.Created
	}
	for _, d := range config.RootFS.DiffIDs {
		l := s.layers[string(d)]
		if l == nil {
			return nil, &engine.Error{Op: "open", File: "image", Value: img.ID, Errno: syscall.ENOENT, Why: "a layer is missing: " + string(d)}
		}
		img.Layers = append(img.Layers, *l)
		img.Size += l.Size
		for _, note := range l.Notes {
			if !slices.Contains(img.Notes, note) {
				img.Notes = append(img.Notes, note)
			}
		}
	}
	return img, nil
}

// LayersDir is the directory below which all layers are.
func (s *Store) LayersDir() string { return filepath.Join(s.dir, layersDir) }

// Image returns an image. Error: ENOENT.
func (s *Store) Image(id string) (*Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if img := s.images[id]; img != nil {
		return img, nil
	}
	return nil, &engine.Error{Op: "open", File: "image", Value: id, Errno: syscall.ENOENT, Why: "there is no such image"}
}

// Hold returns an image and keeps it until Release. Error: ENOENT.
func (s *Store) Hold(id string) (*Held, error) {
	img, err := s.Image(id)
	if err != nil {
		return nil, err
	}
	release := s.hold(id)
	if _, err := s.Image(id); err != nil { // collected in between
		release()
		return nil, err
	}
	return &Held{Image: img, release: release}, nil
}

// hold keeps images and layers, by id, also those that are not there yet.
func (s *Store) hold(ids ...string) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.holds[id]++
	}
	return s.releasing(ids...)
}

// releasing returns what undoes one hold of each.
func (s *Store) releasing(ids ...string) func() {
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, id := range ids {
			if s.holds[id]--; s.holds[id] == 0 {
				delete(s.holds, id)
			}
		}
	})
}

// Collect deletes the images that no entry names, nothing holds and used does not know, and then the layers that no image
// has. used is asked under the store's lock: it must not call the store.
func (s *Store) Collect(used func(id string) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := map[string]bool{}
	for _, e := range s.entries {
		keep[e.ID] = true
	}
	var err error
	needed := map[string]bool{}
	for id, img := range s.images {
		if !keep[id] && s.holds[id] == 0 && (used == nil || !used(id)) {
			if e := s.drop(objectsDir, hexOf(id)); e != nil {
				err = errors.Join(err, e)
			} else {
				delete(s.images, id)
				continue
			}
		}
		for _, l := range img.Layers {
			needed[l.DiffID] = true
		}
	}
	for diffID := range s.layers {
		if needed[diffID] || s.holds[diffID] > 0 {
			continue
		}
		if e := s.drop(layersDir, hexOf(diffID)); e != nil {
			err = errors.Join(err, e)
			continue
		}
		delete(s.layers, diffID)
		delete(s.fresh, diffID)
	}
	return err
}

// drop takes an entry of a directory of the store away, by one rename, and has it deleted.
func (s *Store) drop(dir, name string) error {
	parent, err := os.Open(filepath.Join(s.dir, dir))
	if err != nil {
		return err
	}
	defer parent.Close()
	if s.o.Discard != nil {
		err := s.o.Discard(parent, name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	path := filepath.Join(parent.Name(), name)
	if dir != tmpDir {
		gone := filepath.Join(s.dir, tmpDir, "gone-"+strconv.FormatInt(s.serial.Add(1), 36))
		err := os.Rename(path, gone)
		crash.Point("take from the images")
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		path = gone
	}
	s.idle.Go(func() {
		err := os.RemoveAll(path)
		crash.Point("delete from the images")
		if err != nil {
			s.log.Error("not deleted", "path", path, "err", err)
		}
	})
	return nil
}
