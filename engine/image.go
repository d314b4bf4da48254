package engine

import (
	"context"
	"io"
	"time"
)

// ImageState is where an image is in its life: the content of its state file.
type ImageState string

// The states of an image, as abi.md defines them. One that is ready and is being replaced is pulling or unpacking again; what it was
// goes on being what containers start from.
const (
	ImageEmpty     ImageState = "empty"
	ImagePulling   ImageState = "pulling"   // it is fetched, and unpacked meanwhile
	ImageUnpacking ImageState = "unpacking" // an archive is read, or a container committed
	ImageReady     ImageState = "ready"
	ImageFailed    ImageState = "failed"
)

// Busy reports whether the state is one that ends by itself.
func (s ImageState) Busy() bool { return s == ImagePulling || s == ImageUnpacking }

// ImageView is one consistent moment of an image. It is a copy: nobody changes it afterwards.
type ImageView struct {
	Serial    string // identity of the entry, not of what it holds
	Name      string
	State     ImageState
	Reference string // what it was pulled as, or committed from; empty for an archive
	Failure   string // the content of the error file, without the newline
	Content   *ImageContent
	Changed   time.Time
}

// ImageContent is what an image is. It never changes: another content has another ID.
type ImageContent struct {
	ID       string // "sha256:…" of its configuration, as docker counts
	Digest   string // "sha256:…" of the manifest that it came with; empty when it came with none
	Config   []byte // the configuration, OCI image specification (config.md), as it came
	Layers   []ImageLayer
	Created  time.Time // as the configuration says; zero when it does not
	Notes    []string  // what was left out in unpacking, and why
	Defaults ImageDefaults
	Archive  int64 // bytes of what [Image.Send] opens
}

// ImageLayer is one layer of an image, the lowest first.
type ImageLayer struct {
	DiffID string // "sha256:…" of the uncompressed archive
	Size   int64  // bytes of that
}

// Size is the length of all layers, unpacked as archives, in bytes.
func (c *ImageContent) Size() (n int64) {
	for _, l := range c.Layers {
		n += l.Size
	}
	return n
}

// Image is an entry of images/. Its methods may be called concurrently; none but Wait blocks for longer than the file system and the
// kernel take.
type Image interface {
	View() *ImageView
	// Generation changes whenever the view does.
	Generation() uint64
	// Owner and SetOwner are as those of a [Program].
	Owner(file string) (Owner, bool)
	SetOwner(file string, o Owner) error
	// Fail puts the sentence of a refused operation into the error file.
	Fail(err error)
	// Progress tells what is being done at this moment, in lines KEY VALUE; empty when nothing is.
	Progress() string
	// UsedBy lists the containers that were given this image, by their paths.
	UsedBy() []string

	// Pull begins to fetch the image from a registry. Errors: EINVAL (ref), EBUSY (another pull or import is under way).
	Pull(by Caller, ref string) error
	// SetAuth sets what the registry is told about who asks: "USER PASSWORD", or nothing.
	SetAuth(by Caller, text string) error
	// Wait blocks until the state is one that lasts. It ends early with ctx's error.
	Wait(ctx context.Context) (ImageState, error)
	// Receive takes an archive, which its writer ends with Close; then the import begins. Errors: EBUSY.
	Receive(by Caller) (io.WriteCloser, error)
	// Send opens the image as an archive, whose size is true. Errors: ENOENT (there is no content).
	Send() (Log, error)
}

// Images is what an engine knows about images.
type Images interface {
	// Images lists them, sorted by name.
	Images() []Image
	// Image finds one of them.
	Image(name string) (Image, bool)
	// CreateImage makes an empty one. Errors: EINVAL (name), EEXIST, ENOSPC, EPERM.
	CreateImage(by Caller, name string, owner Owner) (Image, error)
	// RemoveImage removes one. Errors: EBUSY while containers use it, or something is under way.
	RemoveImage(by Caller, i Image) error
}
