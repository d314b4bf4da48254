package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	godigest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/overlay/archive"
)

// tarBlock is the unit of a tar archive.
const tarBlock = 512

// item is a file of an archive that is being made.
type item struct {
	name string
	size int64
	text []byte                                       // its content, or
	fill func(ctx context.Context, w io.Writer) error // what writes that
}

// Export returns an archive of an image, to be written whenever write is called, and its exact size. It is an OCI layout and what
// `docker load` reads at once. Layers are put in as they were before anybody compressed them, so that the image's ID stays. name
// is what it is called in there; empty for nothing.
//
// The caller holds the image, or an entry does. Errors of write: EIO (what is on disk is not the layer any more), EINTR, and those
// of w.
func (s *Store) Export(id, name string) (size int64, write func(ctx context.Context, w io.Writer) error, err error) {
	img, err := s.Image(id)
	if err != nil {
		return 0, nil, err
	}
	items, err := s.items(img, name)
	if err != nil {
		return 0, nil, err
	}
	heads := make([][]byte, len(items))
	for i, it := range items {
		if heads[i], err = tarHead(it.name, it.size); err != nil {
			return 0, nil, err
		}
		size += int64(len(heads[i])) + it.size + padding(it.size)
	}
	size += 2 * tarBlock // which mark the end
	return size, func(ctx context.Context, w io.Writer) error {
		held, err := s.Hold(id)
		if err != nil {
			return err
		}
		defer held.Release()
		return task{"export", "tar", name}.fail(ctx, writeItems(ctx, w, heads, items))
	}, nil
}

func padding(size int64) int64 { return -size & (tarBlock - 1) }

// tarHead is what comes before a file's content. The time is always the same, so that the same image is the same archive.
func tarHead(name string, size int64) ([]byte, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o444, ModTime: time.Unix(0, 0)})
	return b.Bytes(), err
}

func writeItems(ctx context.Context, w io.Writer, heads [][]byte, items []item) error {
	zeros := make([]byte, 2*tarBlock)
	for i, it := range items {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := w.Write(heads[i]); err != nil {
			return err
		}
		var err error
		if it.fill == nil {
			_, err = w.Write(it.text)
		} else {
			err = it.fill(ctx, w)
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(zeros[:padding(it.size)]); err != nil {
			return err
		}
	}
	_, err := w.Write(zeros)
	return err
}

// savedImage is an image in docker's manifest.json.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// items lists what is in an image's archive. The small files come first: some readers look for them only there.
func (s *Store) items(img *Image, called string) ([]item, error) {
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: godigest.Digest(img.ID), Size: int64(len(img.Raw))},
	}
	saved := savedImage{Config: blobName(img.ID)}
	var layers []item
	seen := map[string]bool{}
	for _, l := range img.Layers {
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: godigest.Digest(l.DiffID), Size: l.Size})
		saved.Layers = append(saved.Layers, blobName(l.DiffID))
		if !seen[l.DiffID] {
			seen[l.DiffID] = true
			layers = append(layers, item{name: blobName(l.DiffID), size: l.Size, fill: func(ctx context.Context, w io.Writer) error {
				return s.writeLayer(ctx, &l, w)
			}})
		}
	}
	text, err := json.Marshal(&manifest)
	if err != nil {
		return nil, err
	}
	platform := img.Config.Platform
	platform.OSFeatures = nil
	entry := ocispec.Descriptor{MediaType: manifest.MediaType, Digest: godigest.FromBytes(text), Size: int64(len(text)), Platform: &platform}
	if platform.OS == "" || platform.Architecture == "" {
		entry.Platform = nil
	}
	if tag := tagOf(called); tag != "" {
		saved.RepoTags = []string{tag}
		entry.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
	}
	index := ocispec.Index{Versioned: manifest.Versioned, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{entry}}
	items := []item{{name: ocispec.ImageLayoutFile}, {name: ocispec.ImageIndexFile}, {name: "manifest.json"}}
	for i, v := range []any{ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}, index, []savedImage{saved}} {
		if items[i].text, err = json.Marshal(v); err != nil {
			return nil, err
		}
	}
	items = append(items, item{name: blobName(string(entry.Digest)), text: text}, item{name: blobName(img.ID), text: img.Raw})
	for i := range items {
		items[i].size = int64(len(items[i].text))
	}
	return append(items, layers...), nil
}

// tagOf makes what docker takes for an image's name and tag of a name; empty when it cannot be one.
func tagOf(called string) string {
	if called == "" {
		return ""
	}
	tag, err := name.NewTag(called)
	if err != nil {
		return ""
	}
	return referenceText(tag)
}

// writeLayer writes a layer's tar, and fails if it has not become the one that it was.
func (s *Store) writeLayer(ctx context.Context, l *Layer, w io.Writer) error {
	sum := sha256.New()
	out := &exactly{ctx: ctx, w: io.MultiWriter(sum, w), left: l.Size}
	dir := s.layerDir(l.DiffID)
	var err error
	if l.exact {
		err = rebuild(dir, out)
	} else {
		err = copyFile(filepath.Join(dir, tarFile), out)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case out.err != nil:
		return out.err // of w
	case err != nil, out.left != 0, digestOf(hex.EncodeToString(sum.Sum(nil))) != l.DiffID:
		return &engine.Error{Op: "export", File: "layer", Value: l.DiffID, Errno: syscall.EIO, Err: err,
			Why: "what is on disk is not what was unpacked", Cure: "remove the image and pull it again"}
	}
	return nil
}

func rebuild(dir string, w io.Writer) error {
	files, err := os.Open(filepath.Join(dir, filesDir))
	if err != nil {
		return err
	}
	defer files.Close()
	exact, err := os.Open(filepath.Join(dir, exactFile))
	if err != nil {
		return err
	}
	defer exact.Close()
	return archive.Rebuild(files, exact, w)
}

func copyFile(name string, w io.Writer) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// exactly writes as much as was announced, and until ctx ends.
type exactly struct {
	ctx  context.Context
	w    io.Writer
	left int64
	err  error // of w
}

var errTooMuch = errors.New("it has become longer")

func (e *exactly) Write(p []byte) (int, error) {
	if err := e.ctx.Err(); err != nil {
		return 0, err
	}
	if int64(len(p)) > e.left {
		e.left = -1
		return 0, errTooMuch
	}
	n, err := e.w.Write(p)
	e.left -= int64(n)
	if err != nil {
		e.err = fmt.Errorf("write the archive: %w", err)
	}
	return n, err
}
