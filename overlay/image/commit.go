package image

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"os"
	"reflect"
	"strings"
	"syscall"
	"time"

	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Commit makes an image of base, or of nothing, and one more layer, which layer writes as a tar. change, unless it is nil, changes the configuration
// that the image has from base; history is what that says of the new layer. The caller holds base.
//
// Errors: those of layer, E2BIG (too many layers), EINTR (ctx), and what the disk says.
func (s *Store) Commit(ctx context.Context, base *Image, layer func(w io.Writer) error, change func(*ocispec.Image), history ocispec.History, p *Progress) (*Held, error) {
	held, err := s.commit(ctx, base, layer, change, history, p)
	return held, task{"commit", "commit", ""}.fail(ctx, err)
}

func (s *Store) commit(ctx context.Context, base *Image, layer func(w io.Writer) error, change func(*ocispec.Image), history ocispec.History, p *Progress) (*Held, error) {
	if base != nil && len(base.Layers) >= layersMax {
		return nil, refused(syscall.E2BIG, "the image would have too many layers", "export it and import its files as one")
	}
	p.change(func(r *Reading) { r.What, r.Layers = stepUnpack, 1 })
	diffID, err := s.unpack(ctx, &stream{size: -1, open: func(ctx context.Context) (io.ReadCloser, error) { return written(ctx, layer), nil }})
	if err != nil {
		return nil, err
	}
	defer s.releasing(diffID)()
	raw, err := newConfig(base, diffID, change, history)
	if err != nil {
		return nil, err
	}
	return s.keepHeld(raw, p)
}

// written is what write writes, to be read. Closing it ends write.
func written(ctx context.Context, write func(w io.Writer) error) io.ReadCloser {
	r, w := io.Pipe()
	stop := context.AfterFunc(ctx, func() { r.CloseWithError(context.Cause(ctx)) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(write(w))
	}()
	return &pipe{PipeReader: r, stop: stop, done: done}
}

type pipe struct {
	*io.PipeReader
	stop func() bool
	done chan struct{}
}

func (p *pipe) Close() error {
	p.stop()
	p.PipeReader.CloseWithError(os.ErrClosed)
	<-p.done
	return nil
}

// newConfig is the configuration of a committed image. What this program does not know of base's stays in it.
func newConfig(base *Image, diffID string, change func(*ocispec.Image), history ocispec.History) ([]byte, error) {
	config := ocispec.Image{Platform: platform, RootFS: ocispec.RootFS{Type: "layers"}}
	old := []byte("{}")
	if base != nil {
		old = base.Raw
		if err := json.Unmarshal(old, &config); err != nil { // a copy, which shares nothing with base
			return nil, err
		}
	}
	if change != nil {
		change(&config)
	}
	now := time.Now().UTC()
	config.Created = &now
	if history.Created == nil {
		history.Created = &now
	}
	history.EmptyLayer = false
	config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, godigest.Digest(diffID))
	config.History = append(config.History, history)
	raw, err := merge(old, &config)
	if err == nil && len(raw) > configMax {
		err = refused(syscall.E2BIG, "the image's configuration would be too large", "")
	}
	return raw, err
}

// merge puts what config says in the place of what old says of the same, key by key.
func merge(old []byte, config *ocispec.Image) ([]byte, error) {
	var all, inner map[string]json.RawMessage
	if err := json.Unmarshal(old, &all); err != nil {
		return nil, err
	}
	if text := all["config"]; text != nil {
		if err := json.Unmarshal(text, &inner); err != nil {
			return nil, err
		}
	}
	// What docker notes of the container that an image was made of is about another one.
	for _, key := range []string{"container", "container_config", "docker_version", "parent", "id"} {
		delete(all, key)
	}
	all, err := replace(all, config)
	if err != nil {
		return nil, err
	}
	if inner, err = replace(inner, &config.Config); err != nil {
		return nil, err
	}
	if all["config"], err = json.Marshal(inner); err != nil {
		return nil, err
	}
	return json.Marshal(all)
}

// replace replaces in object what value has a field for.
func replace(object map[string]json.RawMessage, value any) (map[string]json.RawMessage, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	var fresh map[string]json.RawMessage
	if err := json.Unmarshal(text, &fresh); err != nil {
		return nil, err
	}
	if object == nil {
		object = map[string]json.RawMessage{}
	}
	known := keys(reflect.TypeOf(value).Elem())
	maps.DeleteFunc(object, func(key string, _ json.RawMessage) bool { return known[strings.ToLower(key)] })
	maps.Copy(object, fresh)
	return object, nil
}

// keys returns the names of a structure's fields in JSON, in lower case: reading it, case does not matter.
func keys(t reflect.Type) map[string]bool {
	known := map[string]bool{}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			maps.Copy(known, keys(f.Type))
			continue
		}
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		known[strings.ToLower(key)] = true
	}
	return known
}
